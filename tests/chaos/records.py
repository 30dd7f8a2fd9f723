"""Judges what stands of one job in Postgres: its record, event by event, and the rows that were made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from schema.events import AnyEvent, CommandEvent, JobEvent, LogEvent, StageEvent
from schema.states import FINAL_JOB_STATES
from tests.chaos.pipelines import FOUND, Order

SAID_BY_JOBS = frozenset({"lua", "stdout"})


class Wrong(msgspec.Struct, frozen=True):
    """Something that must not be."""

    figure: str
    count: int
    text: str


class Told(msgspec.Struct, kw_only=True):
    """What Postgres holds of a job."""

    number: int
    state: str
    attempt: int
    events: Sequence[AnyEvent]
    attempts: dict[int, str] = {}
    """States by number."""
    stages: dict[tuple[int, str], str] = {}
    """States by attempt and name."""
    commands: dict[tuple[int, int], int | None] = {}
    """Exit codes by attempt and seq."""


def judge(told: Told, order: Order) -> Iterator[Wrong]:
    """List what is wrong with a job that has ended."""
    by_attempt: dict[int, list[AnyEvent]] = {}
    for event in told.events:
        by_attempt.setdefault(event.attempt, []).append(event)
    problems = [*_order_problems(told, by_attempt)]
    if problems:
        yield Wrong("records_disordered", 1, f"the record of job {told.number}: {'; '.join(problems)}")
    for attempt in sorted({*by_attempt, told.attempt}):
        events = by_attempt.get(attempt, [])
        yield from _after_the_end(told, attempt, events)
        yield from _texts(told, order, attempt, events)
    problems = [*_row_problems(told)]
    if problems:
        yield Wrong("rows_wrong", 1, f"the rows of job {told.number}: {'; '.join(problems)}")


def _order_problems(told: Told, by_attempt: dict[int, list[AnyEvent]]) -> Iterator[str]:
    if not told.events:
        yield "it is empty"
        return
    if [event.attempt for event in told.events] != sorted(event.attempt for event in told.events):
        yield "attempts are mixed"
    if sorted(by_attempt) != list(range(told.attempt + 1)):
        yield f"it has the attempts {sorted(by_attempt)}, and the newest is {told.attempt}"
    finals = [event for event in told.events if isinstance(event, JobEvent) and event.state in FINAL_JOB_STATES]
    if finals != [told.events[-1]] or finals[0].state != told.state:
        yield f"its final events are {finals}, the last is {told.events[-1]}, the state {told.state}"
    for attempt, events in by_attempt.items():
        numbers = [event.seq for event in events]
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"attempt {attempt} has events {numbers}"


def _after_the_end(told: Told, attempt: int, events: list[AnyEvent]) -> Iterator[Wrong]:
    """See that an attempt that was not the last is over with the word that its job is queued again.

    What stands behind that was told by a runner whose attempt was no longer live.
    """
    if attempt >= told.attempt:
        return
    ends = [place for place, event in enumerate(events) if isinstance(event, JobEvent) and event.state == "queued"]
    if ends != [len(events) - 1]:
        text = f"job {told.number} attempt {attempt} goes on after its end: {events[ends[0] + 1 :] if ends else events}"
        yield Wrong("stale_accepted", 1, text[:1000])


def _texts(told: Told, order: Order, attempt: int, events: list[AnyEvent]) -> Iterator[Wrong]:
    texts = [event.text for event in events if isinstance(event, LogEvent) and event.source in SAID_BY_JOBS]
    beyond = [text for text in texts if text.startswith(f"{order.key} {FOUND} ")]
    if beyond:
        yield Wrong("reached_too_far", len(beyond), f"job {told.number}: {beyond[:5]}")
        texts = [text for text in texts if text not in beyond]
    expected = order.texts()
    if attempt != told.attempt or told.state != "succeeded":
        expected = expected[: len(set(texts))]  # as far as it came: a beginning, without holes
    missing = Counter(expected) - Counter(texts)
    doubled = Counter(texts) - Counter(expected)
    where = f"job {told.number} attempt {attempt}"
    if missing:
        yield Wrong("log_lines_missing", missing.total(), f"{where}: {list(missing)[:5]}")
    if doubled:
        yield Wrong("log_lines_doubled", doubled.total(), f"{where}: {list(doubled)[:5]}")
    if texts != expected and not missing and not doubled:
        yield Wrong("records_disordered", 1, f"{where} has its lines in another order")


def _row_problems(told: Told) -> Iterator[str]:
    """Compare the rows with the events that they were made of."""
    states: dict[tuple[int, str], str] = {}
    commands: dict[tuple[int, int], int | None] = {}
    for event in told.events:
        match event:
            case StageEvent():
                states[event.attempt, event.stage] = event.state
            case CommandEvent():
                commands[event.attempt, event.seq] = event.code
            case _:
                pass
    # An attempt that was lost could not say what became of its stage.
    states = {stage: "cancelled" if state == "running" else state for stage, state in states.items()}
    if told.stages != states:
        yield f"stages {told.stages}, told {states}"
    if told.commands != commands:
        yield f"commands {told.commands}, told {commands}"
    wanted = dict.fromkeys(range(1, told.attempt), "lost")
    if told.attempt and told.state != "cancelled":
        wanted[told.attempt] = told.state
    said = {number: state for number, state in told.attempts.items() if number in wanted}
    if said != wanted:
        yield f"attempts {told.attempts}, wanted {wanted}"


def lines_of(events: Sequence[AnyEvent]) -> int:
    """Count the lines that the job itself said."""
    return sum(isinstance(event, LogEvent) and event.source in SAID_BY_JOBS for event in events)
