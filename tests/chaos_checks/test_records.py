"""Records that are not as they have to be, made event by event."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from schema.events import AnyEvent, CommandEvent, JobEvent, LogEvent, StageEvent
from schema.states import JobState, StageState
from tests.chaos import records
from tests.chaos.figures import MUST_BE_ZERO
from tests.chaos.pipelines import Order
from tests.chaos.records import Told

ORDER = Order(key="k", kind="lua", count=3)
COMMON: dict[str, Any] = {"at": "2026-01-01T00:00:00.000Z", "job": "j"}


def told(
    *events: AnyEvent, state: str = "succeeded", attempt: int = 1, stages: dict[tuple[int, str], str] | None = None
) -> Told:
    """A record that was stored as it was told, but for the events' numbers, which are put in."""
    numbered: list[AnyEvent] = []
    for event in events:
        seq = 1 + sum(other.attempt == event.attempt for other in numbered)
        numbered.append(msgspec.structs.replace(event, seq=event.seq or seq))
    states = dict.fromkeys(range(1, attempt), "lost") | {attempt: state}
    if stages is None:
        stages = {(number, "s"): states[number].replace("lost", "cancelled") for number in states}
    commands = {(event.attempt, event.seq): event.code for event in numbered if isinstance(event, CommandEvent)}
    return Told(
        number=7, state=state, attempt=attempt, events=numbered, attempts=states, stages=stages, commands=commands
    )


def job(state: JobState, attempt: int = 1, seq: int = 0) -> JobEvent:
    return JobEvent(**COMMON, attempt=attempt, seq=seq, id="j", number=7, state=state)


def stage(state: StageState, attempt: int = 1) -> StageEvent:
    return StageEvent(**COMMON, attempt=attempt, seq=0, stage="s", state=state)


def line(number: int, attempt: int = 1) -> LogEvent:
    text = f"k lua {number}"
    return LogEvent(**COMMON, attempt=attempt, seq=0, stage="s", level="info", source="lua", text=text)


def command() -> CommandEvent:
    return CommandEvent(**COMMON, attempt=1, seq=0, stage="s", argv=["x"], container="c", code=0, duration=0.1)


SUBMITTED = job("queued", 0)
BEGIN = (SUBMITTED, job("running"), stage("running"))
LINES = (line(1), line(2), line(3))
END = (stage("succeeded"), job("succeeded"))
CANCELLED = job("cancelled")
LOST = (*BEGIN, line(1), line(2), job("queued"), job("running", 2), stage("running", 2))
AGAIN = (line(1, 2), line(2, 2), line(3, 2), stage("succeeded", 2), job("succeeded", 2))


@pytest.mark.parametrize(
    "record",
    [
        told(*BEGIN, *LINES, *END),
        told(*LOST, *AGAIN, attempt=2),
        told(*LOST, job("cancelled", 2), state="cancelled", attempt=2),
        told(SUBMITTED, job("cancelled", 0), state="cancelled", attempt=0, stages={}),
        told(*BEGIN, *LINES, command(), *END),
    ],
)  # fmt: skip
def test_a_record_as_it_has_to_be_is_not_complained_about(record: Told) -> None:
    assert list(records.judge(record, ORDER)) == []


ROWS_LACK_A_COMMAND = msgspec.structs.replace(told(*BEGIN, *LINES, command(), *END), commands={})


@pytest.mark.parametrize(
    ("record", "figures"),
    [
        (told(*BEGIN, line(1), line(3), *END), {"log_lines_missing"}),
        (told(*BEGIN, *LINES, line(3), *END), {"log_lines_doubled"}),
        (told(*BEGIN, line(2), line(1), line(3), *END), {"records_disordered"}),
        (told(*BEGIN, line(1), line(3), CANCELLED, state="cancelled"), {"log_lines_missing", "log_lines_doubled"}),
        (told(*BEGIN, *LINES, stage("succeeded"), job("succeeded", seq=9)), {"records_disordered"}),
        (told(*BEGIN, *LINES, *END, job("succeeded")), {"records_disordered"}),
        (told(*BEGIN, *LINES, *END, state="failed", stages={(1, "s"): "succeeded"}), {"records_disordered"}),
        (told(*BEGIN, *LINES, stage("succeeded")), {"records_disordered"}),
        (told(*LOST, line(3), *AGAIN, attempt=2), {"stale_accepted", "records_disordered"}),
        (told(*LOST[:5], *LOST[6:], *AGAIN, attempt=2), {"stale_accepted"}),
        (told(*BEGIN, *LINES, *END, stages={(1, "s"): "running"}), {"rows_wrong"}),
        (told(*BEGIN, *LINES, *END, stages={}), {"rows_wrong"}),
        (ROWS_LACK_A_COMMAND, {"rows_wrong"}),
        (msgspec.structs.replace(told(*BEGIN, *LINES, *END), attempts={1: "lost"}), {"rows_wrong"}),
        (told(state="succeeded", stages={}), {"records_disordered", "log_lines_missing"}),
    ],
)  # fmt: skip
def test_each_fault_of_a_record_is_told_under_its_name(record: Told, figures: set[str]) -> None:
    told_under = {wrong.figure for wrong in records.judge(record, ORDER)}
    assert told_under == figures <= set(MUST_BE_ZERO)


def test_what_a_job_found_beyond_its_own_is_told_and_is_no_log_line() -> None:
    found = LogEvent(**COMMON, attempt=1, seq=0, stage="s", level="info", source="stdout", text="k found /run/podman")
    [wrong] = records.judge(told(*BEGIN, *LINES, found, *END), ORDER)
    assert (wrong.figure, wrong.count) == ("reached_too_far", 1)
