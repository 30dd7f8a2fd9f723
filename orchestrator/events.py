"""Reads and checks the events that a runner sends for its attempt; ``orchestrator.record`` stores them.

A runner is not trusted: each line is decoded and checked before any is stored, for what stands in the record is read by
people, programs and SQL.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from orchestrator.problems import Conflict, NotFound, RequestInvalid
from schema.events import AnyEvent, CommandEvent, JobEvent, StageEvent, decoder
from schema.states import FINAL_JOB_STATES, JobState

GONE: Final = "attempt_gone"
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_NAME_LENGTH_MAXIMUM: Final = 1000
_INTEGER_MAXIMUM: Final = 2**31 - 1
_OUTPUTS_MAXIMUM: Final = 1000


class Batch:
    """Checked events of one attempt, in order, with the bytes that they came as."""

    def __init__(self, first_seq: int, data: bytes, events: Sequence[AnyEvent]) -> None:
        self.first_seq = first_seq
        self.next_seq = first_seq + len(events)
        self.data = data
        self.events = events

    @property
    def final(self) -> JobEvent | None:
        last = self.events[-1]
        return last if isinstance(last, JobEvent) and last.state in FINAL_JOB_STATES else None

    @property
    def number(self) -> int | None:
        """The job's number, where an event names it."""
        return next((event.number for event in self.events if isinstance(event, JobEvent)), None)

    def without_last(self) -> Batch | None:
        """Leave out the last event; None where there is no other."""
        if len(self.events) == 1:
            return None
        start = self.data.rindex(b"\n", 0, -1) + 1
        return Batch(self.first_seq, self.data[:start], self.events[:-1])

    def since(self, seq: int) -> Batch:
        """Leave out what comes before ``seq``."""
        count = seq - self.first_seq
        start = 0
        for _ in range(count):
            start = self.data.index(b"\n", start) + 1
        return Batch(seq, self.data[start:], self.events[count:])


def parse(data: bytes, *, job: UUID, attempt: int, first_seq: int) -> Batch:
    """Read and check a batch.

    :raises RequestInvalid: for anything that is not the events ``first_seq``, ``first_seq + 1``, ... of this attempt.
    """
    if first_seq < 1:
        raise invalid(f"`first_seq` is {first_seq}, and events are numbered from 1")
    if not data.endswith(b"\n"):
        raise invalid("a batch is one or more lines, and the last one ends with a newline too")
    # Looked for plainly first: the pattern takes ten times as long over a batch as all other checks together.
    if b"\\u0000" in data and _NUL.search(data):
        raise invalid("a text holds a NUL character (\\u0000), which Postgres cannot store")
    try:
        data.decode("utf-8")  # the decoder looks into no unknown field, and Postgres does
        events = decoder.decode_lines(data)
    except UnicodeDecodeError as error:
        raise invalid("the batch is not UTF-8") from error
    except msgspec.DecodeError as error:
        raise invalid(f"a line is no event: {error}") from error
    if data.count(b"\n") != len(events):
        raise invalid("the batch has more lines than events: each event is one line")
    _check(events, str(job), attempt, first_seq)
    return Batch(first_seq, data, events)


def unknown_attempt(job: object, attempt: int) -> NotFound:
    return NotFound(f"there is no job {job}, or it has no attempt {attempt}", code="attempt_unknown")


def gone(job: UUID, attempt: int) -> Conflict:
    """Say that an attempt is not the sender's: what it sends changes nothing."""
    return Conflict(
        f"attempt {attempt} of job {job} is not this runner's, or no longer: it ended, or its lease ran out",
        code=GONE,
        hint="Stop the attempt and report nothing more of it.",
    )


def gap(job: UUID, attempt: int, next_seq: int, came: int) -> Conflict:
    return Conflict(
        f"events of job {job} attempt {attempt} are missing: {next_seq} is next, and {came} came",
        code="events_gap",
        hint=f"Send the events from {next_seq} on.",
    )


def _check(events: Sequence[AnyEvent], job: str, attempt: int, first_seq: int) -> None:
    at = None
    for seq, event in enumerate(events, first_seq):
        if event.seq != seq:
            raise invalid(f"event {event.seq} stands where {seq} is next: events are numbered without a gap")
        if event.job != job or event.attempt != attempt:
            raise invalid(
                f"event {seq} is of job `{event.job}` attempt {event.attempt}, not of the attempt it was sent for"
            )
        if event.at != at:
            at = event.at
            _check_time(event)
        match event:
            case StageEvent() if not 0 < len(event.stage) <= _NAME_LENGTH_MAXIMUM:
                raise invalid(f"event {seq} has a stage without a name, or with one that is too long")
            case StageEvent() if event.outputs is not msgspec.UNSET and len(event.outputs) > _OUTPUTS_MAXIMUM:
                raise invalid(f"event {seq} has more than {_OUTPUTS_MAXIMUM} outputs")
            case CommandEvent() if event.code is not None and abs(event.code) > _INTEGER_MAXIMUM:
                raise invalid(f"event {seq} has the exit code {event.code}")
            case JobEvent():
                _check_job(event, is_last=seq == first_seq + len(events) - 1)
            case _:
                pass


def _check_time(event: AnyEvent) -> None:
    try:
        if len(event.at) <= 40 and datetime.fromisoformat(event.at).tzinfo is not None:
            return
    except ValueError:
        pass
    raise invalid(f"event {event.seq} has the time `{event.at[:40]}`, which is not RFC 3339")


def _check_job(event: JobEvent, *, is_last: bool) -> None:
    if event.id != event.job:
        raise invalid(f"event {event.seq} names the job `{event.id}` in its `id`")
    reported: JobState = event.state
    if reported == "queued":
        raise invalid(f"event {event.seq} says the job is {reported}: that is not for a runner to say")
    if reported in FINAL_JOB_STATES and not is_last:
        raise invalid(f"event {event.seq} ends the job, and others follow it")


def invalid(message: str) -> RequestInvalid:
    return RequestInvalid(message, code="events_invalid")
