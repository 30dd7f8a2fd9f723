"""Benchmarks report in one shape; what they measure is for `make bench`, not for tests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import BENCHMARKS
from bench.report import percentile, report, table

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
