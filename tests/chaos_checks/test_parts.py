"""What parts say and how they end; what stands where; how large it grows, and how long things took."""

from __future__ import annotations

import base64
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from tests.chaos import recovery, secrecy, service_logs, tables
from tests.chaos.faults import Happened
from tests.chaos.figures import Figures, TableSize
from tests.chaos.processes import Service
from tests.chaos.review import Review
from tests.chaos_checks.ran import broken, ran
from tests.cli.command import environment
from tests.orchestrator.installation import DEADLINE_SECONDS, Installation
from tests.postgres import psql


def plain(token: str) -> str:
    return f"it is {token}"


def in_base64(token: str) -> str:
    return base64.b64encode(f"Authorization: {token} and so on".encode()).decode()


def in_hexadecimal(token: str) -> str:
    return token.encode().hex()


async def test_a_token_that_stands_where_it_should_not_is_found_in_any_usual_form(
    installation: Installation, tmp_path: Path
) -> None:
    log = tmp_path / "runner.log"
    log.write_text("nothing\n")
    secrets = {"the admin's token": installation.admin_secret}

    def found() -> list[str]:
        return list(secrecy.places(installation.url, {"runner 1": log}, secrets))

    forms: list[Callable[[str], str]] = [plain, in_base64, in_hexadecimal]
    assert found() == []
    for form in forms:
        log.write_text(f"it said {form(installation.admin_secret)}\n")
        assert [text.split(",")[0] for text in found()] == ["the admin's token stands in runner 1"]
    log.write_text("nothing\n")
    for form in forms:
        told = form(installation.admin_secret)
        psql(installation.url, "UPDATE moonyard.tokens SET name = :'told'", told=told)
        assert [text.split(",")[0] for text in found()] == ["the admin's token stands in the database"]


async def test_parts_that_end_by_themselves_or_drain_badly_are_told_from_those_that_do_well(tmp_path: Path) -> None:
    scripts = {
        "good": "trap 'exit 0' TERM; echo ready; while true; do sleep 0.01; done",
        "bad": "trap 'exit 3' TERM; echo ready; while true; do sleep 0.01; done",
        "crashing": "echo ready; exit 4",
    }
    services = {
        name: Service(name, ["sh", "-c", script], environment(), tmp_path / f"{name}.log", ready_seconds=0)
        for name, script in scripts.items()
    }
    async with anyio.create_task_group() as tasks:
        for service in services.values():
            tasks.start_soon(service.keep_running)
        with anyio.fail_after(DEADLINE_SECONDS):
            for service in services.values():
                while not service.log.exists() or "ready" not in service.log.read_text():  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                if service.name != "crashing":
                    service.send(signal.SIGTERM)
                while not service.ends:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    for name, wrong in (("good", set[str]()), ("bad", {"drains_wrong"}), ("crashing", {"crashes"})):
        figures = Figures()
        service_logs.judge_ends([services[name]], [], figures)
        assert broken(figures) == wrong, name


def test_a_stack_trace_in_a_log_is_a_defect(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("job x attempt 2 was stopped: gone\njob y attempt 1 is no longer ours\nall is well\n")
    figures = Figures()
    service_logs.judge_texts([log], figures)
    assert (broken(figures), figures.stale_stopped) == (set(), 2)
    log.write_text("Traceback (most recent call last):\n  ...\n")
    service_logs.judge_texts([log], figures)
    assert broken(figures) == {"defects"}


def test_a_table_that_grows_on_is_told_from_one_that_has_found_its_size() -> None:
    mib = 1024 * 1024
    grown = [min(place, 40) * mib for place in range(101)]
    growing = [place * mib for place in range(101)]
    samples = [
        tables.Sample(float(at), {"settled": settled, "growing": grows})
        for at, (settled, grows) in enumerate(zip(grown, growing, strict=True))
    ]
    sizes = tables.sizes(samples)
    assert sizes["settled"] == TableSize(middle_bytes=40 * mib, late_bytes=40 * mib, end_bytes=40 * mib)
    assert [text.split()[0] for text in tables.growing(sizes)] == ["growing"]
    assert tables.sizes([]) == {}
    assert tables.sizes(samples[:1])["settled"].late_bytes == samples[0].sizes["settled"]


async def test_recovery_is_the_time_until_something_that_began_afterwards_has_succeeded(
    installation: Installation,
) -> None:
    job = await ran(installation)
    review = Review(installation.url, job.ledger, [], Figures())
    await review.look()
    [ended] = review.ended.values()
    begin = ended.attempts[-1].started_at
    before, between, after = ((begin + timedelta(seconds=seconds)).timestamp() for seconds in (-1000, -1e-5, 1000))
    faults = [
        Happened(kind="a", target="postgres", at=before),
        Happened(kind="b", target="runner", at=between),
        Happened(kind="c", target="postgres", at=between),
        Happened(kind="d", target="runner", at=after),
    ]
    found = recovery.by_fault(faults, [ended])
    # The job was submitted before the last attempt on the runner began.
    assert list(found) == ["a", "b"]
    assert found["a"].p50 == pytest.approx((ended.finished_at.timestamp() - before), abs=0.01)
    lost = recovery.of_lost_attempts([ended])
    assert lost is not None
    assert lost.count == 1
