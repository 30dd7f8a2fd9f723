"""Benchmarks report in one shape; what they measure is for `make bench`, not for tests."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import crowd, idle, logs, modules, queue, redact
from bench.__main__ import BENCHMARKS
from bench.postgres import Cluster
from bench.report import Report, percentile, report, table
from tests import postgres

CHECKOUT = Path(__file__).resolve().parent.parent


def test_a_percentile_is_one_of_the_values():
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert percentile(values, 50) == 3.0
    assert percentile(values, 99) == 5.0
    assert percentile(values, 1) == 1.0
    assert percentile([7.0], 50) == 7.0


def test_a_report_has_the_figures_and_where_they_came_from():
    made = report("x", {"a_ms": 1.23456, "b": None, "c": 2}, quick=True, how="once", notes={"b": "no such peer"})
    assert made["a_ms"] == 1.235
    assert made["b"] is None
    assert made["c"] == 2
    assert made["cpus"] >= 1
    assert made["quick"] is True
    assert {"moonyard", "python", "kernel", "podman"} <= set(made["versions"])


def test_a_missing_figure_needs_a_reason():
    with pytest.raises(AssertionError, match="b_ms"):
        report("x", {"b_ms": None}, quick=True, how="once", notes={})


def test_the_table_shows_each_figure_with_its_note():
    made = report("x", {"a_ms": 1.5, "b_ms": None}, quick=False, how="once", notes={"b_ms": "no such peer"})
    shown = table(made)
    assert re.search(r"a_ms +1\.5\n", shown)
    assert re.search(r"b_ms +- +no such peer", shown)
    assert "how: once" in shown


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_is_explained(name: str):
    page = (CHECKOUT / "bench" / "README.md").read_text(encoding="utf-8")
    assert f"\n## {name}\n" in page
    source = (CHECKOUT / "bench" / f"{name}.py").read_text(encoding="utf-8")
    figures = re.findall(
        r'^            "(\w+)": ', source.partition("return report(")[2].partition("},")[0], re.MULTILINE
    )
    assert figures
    assert {figure for figure in figures if f"`{figure}`" not in page} == set()


def test_an_unknown_benchmark_is_refused_with_those_that_exist():
    done = subprocess.run(
        [sys.executable, "-m", "bench", "speed"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    for name in BENCHMARKS:
        assert name in done.stderr


FACTS = {"name", "quick", "cpus", "versions", "how", "notes"}


def figures(result: Report) -> set[str]:
    """Give the figures' names, having seen that the result can be printed, and that what is missing has a reason."""
    printed = json.loads(json.dumps(result))
    assert set(printed) >= FACTS
    for figure in set(printed) - FACTS:
        assert printed[figure] is not None or printed["notes"][figure]
        assert printed[figure] is None or isinstance(printed[figure], int | float)
    return set(printed) - FACTS


def test_a_benchmark_prints_exactly_one_json_object():
    done = subprocess.run(
        [sys.executable, "-m", "bench", "submit", "--quick", "--json"],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    [line] = done.stdout.splitlines()
    assert figures(json.loads(line)) == {"single_per_s", "batch_per_s"}


def test_the_queue_is_measured_with_history_and_beside_a_transaction(postgres_cluster: postgres.Cluster):
    plan = queue.Plan(
        rounds=1,
        lot=100,
        lot_procrastinate=10,
        finished=300,
        queued=100,
        pickup_seconds=0.3,
        baseline_seconds=0.2,
        transaction_seconds=0.4,
        peers=False,
    )
    result = queue.measured(plan, Cluster(postgres_cluster.url()), quick=True)
    assert figures(result) == {
        "per_s",
        "pgqueuer_per_s",
        "procrastinate_per_s",
        "ratio_pgqueuer",
        "pickup_p50_ms",
        "pickup_p99_ms",
        "ratio_with_history",
        "ratio_with_open_transaction",
        "pgqueuer_ratio_with_open_transaction",
    }
    missing = {figure for figure in figures(result) if result[figure] is None}
    assert missing == {figure for figure in figures(result) if "pgqueuer" in figure or "procrastinate" in figure}


def test_of_runners_that_wait_one_is_woken_by_a_job(postgres_cluster: postgres.Cluster):
    plan = idle.Plan(runners=20, idle_seconds=0.2, wakes=3)
    result = idle.measured(plan, Cluster(postgres_cluster.url()), quick=True)
    assert figures(result) == {"runners", "cpu_percent", "kib_per_runner", "wake_p50_ms"}
    assert result["runners"] == 20


def test_many_jobs_at_once_on_one_runner_go_well_and_nothing_is_left_of_them():
    result = crowd.measure(quick=True)
    assert figures(result) == {"jobs", "errors", "jobs_s", "left_after_5_s", "gone_s"}
    assert (result["jobs"], result["errors"]) == (8, 0)


def test_a_log_is_measured_to_its_end_and_line_by_line():
    result = logs.measured(logs.Plan(rounds=1, blocks=2, ticks=5, more_blocks=0), quick=True)
    assert figures(result) == {
        "mb_per_s",
        "raw_exec_mb_per_s",
        "ratio",
        "past_limit_ratio",
        "tail_p50_ms",
        "tail_p99_ms",
        "peak_rss_mb",
    }


def test_redaction_is_measured_alone_and_through_installations():
    result = redact.measured(redact.Plan(rounds=1, scan_bytes=8 * 1024 * 1024, blocks=1), quick=True)
    assert figures(result) == {"mb_per_s_100_secrets", "mb_per_s_no_secret", "ratio_log_throughput"}


def test_calls_files_and_archives_of_modules_are_measured():
    result = modules.measure(quick=True)
    assert figures(result) == {"call_us", "fs_ratio", "archive_ratio"}
    assert all(result[figure] > 0 for figure in figures(result))
