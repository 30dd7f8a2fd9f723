"""Takes the events that a runner sends for its attempt: checks them whole, stores them once, applies what they mean.

A batch says the ``seq`` of its first event. What is stored already is passed over, so a batch may come as often as its
sender is unsure; what would leave a gap is refused. Storing the lines and applying them (stages, commands, the job's
end) is one statement, acknowledged after its commit.

A runner is not trusted: each line is decoded and checked before any is stored, for what stands in the record is read by
people, programs and SQL.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from orchestrator.database import Database
from orchestrator.notifications import Notifications
from orchestrator.problems import Conflict, NotFound, RequestInvalid
from orchestrator.sql import events as sql
from schema.events import AnyEvent, CommandEvent, JobEvent, StageEvent, decoder
from schema.states import FINAL_JOB_STATES, JobState

GONE: Final = "attempt_gone"
_TRIES: Final = 5
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_NAME_LENGTH_MAXIMUM: Final = 1000
_INTEGER_MAXIMUM: Final = 2**31 - 1


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
        raise _invalid(f"`first_seq` is {first_seq}, and events are numbered from 1")
    if not data.endswith(b"\n"):
        raise _invalid("a batch is one or more lines, and the last one ends with a newline too")
    # Looked for plainly first: the pattern takes ten times as long over a batch as all other checks together.
    if b"\\u0000" in data and _NUL.search(data):
        raise _invalid("a text holds a NUL character (\\u0000), which Postgres cannot store")
    try:
        data.decode("utf-8")  # the decoder looks into no unknown field, and Postgres does
        events = decoder.decode_lines(data)
    except UnicodeDecodeError as error:
        raise _invalid("the batch is not UTF-8") from error
    except msgspec.DecodeError as error:
        raise _invalid(f"a line is no event: {error}") from error
    if data.count(b"\n") != len(events):
        raise _invalid("the batch has more lines than events: each event is one line")
    _check(events, str(job), attempt, first_seq)
    return Batch(first_seq, data, events)


async def store(
    database: Database, notifications: Notifications, runner: UUID, job: UUID, attempt: int, batch: Batch
) -> int:
    """Store and apply a batch; give the ``seq`` below which all is stored.

    :raises Conflict: when the attempt is not, or no longer, this runner's, or events before the batch are missing.
    """
    for _ in range(_TRIES):
        if await _store(database, runner, job, attempt, batch):
            notifications.job_told(job)
            return batch.next_seq
        next_seq = await _stored(database, runner, job, attempt, batch)
        if next_seq >= batch.next_seq:
            return next_seq
        if next_seq > batch.first_seq:
            batch = batch.since(next_seq)
    raise Conflict(f"the events of job {job} attempt {attempt} are being sent twice at the same moment", code="busy")


async def _store(database: Database, runner: UUID, job: UUID, attempt: int, batch: Batch) -> bool:
    final = batch.final
    error = None if final is None or final.error is None else _json(final.error)
    stored = await database.value(
        sql.EVENTS_STORE,
        job,
        attempt,
        runner,
        batch.first_seq,
        batch.next_seq,
        None if final is None else final.state,
        len(batch.data),
        batch.data.decode(),
        _json(_stages(batch.events)),
        _json(_commands(batch.events)),
        error,
        batch.number,
    )
    return bool(stored)


async def _stored(database: Database, runner: UUID, job: UUID, attempt: int, batch: Batch) -> int:
    """Say why a batch was not stored, or how far the record goes."""
    row = await database.row(sql.ATTEMPT_LOOK, job, attempt)
    if row is None:
        raise unknown_attempt(job, attempt)
    if row["runner_id"] != runner or row["state"] == "lost":
        raise gone(job, attempt)
    next_seq: int = row["next_seq"]
    if next_seq >= batch.next_seq:
        return next_seq
    if row["state"] != "running":
        raise gone(job, attempt)
    if batch.number not in {None, row["number"]}:
        raise _invalid(f"job {job} has number {row['number']}, not {batch.number}")
    if batch.first_seq > next_seq:
        raise Conflict(
            f"events of job {job} attempt {attempt} are missing: {next_seq} is next, and {batch.first_seq} came",
            code="events_gap",
            hint=f"Send the events from {next_seq} on.",
        )
    return next_seq


def unknown_attempt(job: object, attempt: int) -> NotFound:
    return NotFound(f"there is no job {job}, or it has no attempt {attempt}", code="attempt_unknown")


def gone(job: UUID, attempt: int) -> Conflict:
    """Say that an attempt is not the sender's: what it sends changes nothing."""
    return Conflict(
        f"attempt {attempt} of job {job} is not this runner's, or no longer: it ended, or its lease ran out",
        code=GONE,
        hint="Stop the attempt and report nothing more of it.",
    )


def _check(events: Sequence[AnyEvent], job: str, attempt: int, first_seq: int) -> None:
    at = None
    for seq, event in enumerate(events, first_seq):
        if event.seq != seq:
            raise _invalid(f"event {event.seq} stands where {seq} is next: events are numbered without a gap")
        if event.job != job or event.attempt != attempt:
            raise _invalid(
                f"event {seq} is of job `{event.job}` attempt {event.attempt}, not of the attempt it was sent for"
            )
        if event.at != at:
            at = event.at
            _check_time(event)
        match event:
            case StageEvent() if not 0 < len(event.stage) <= _NAME_LENGTH_MAXIMUM:
                raise _invalid(f"event {seq} has a stage without a name, or with one that is too long")
            case CommandEvent() if event.code is not None and abs(event.code) > _INTEGER_MAXIMUM:
                raise _invalid(f"event {seq} has the exit code {event.code}")
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
    raise _invalid(f"event {event.seq} has the time `{event.at[:40]}`, which is not RFC 3339")


def _check_job(event: JobEvent, *, is_last: bool) -> None:
    if event.id != event.job:
        raise _invalid(f"event {event.seq} names the job `{event.id}` in its `id`")
    reported: JobState = event.state
    if reported in {"queued", "lost"}:
        raise _invalid(f"event {event.seq} says the job is {reported}: that is not for a runner to say")
    if reported in FINAL_JOB_STATES and not is_last:
        raise _invalid(f"event {event.seq} ends the job, and others follow it")


def _stages(events: Sequence[AnyEvent]) -> list[dict[str, Any]]:
    """Sum up what the events say of each stage."""
    stages: dict[str, dict[str, Any]] = {}
    for event in events:
        if not isinstance(event, StageEvent):
            continue
        stage = stages.setdefault(
            event.stage, {"name": event.stage, "first_seq": event.seq, "container": None, "started_at": None}
        )
        stage |= {"state": event.state, "error": event.error, "finished_at": None}
        stage["container"] = event.container or stage["container"]
        if event.state == "running":
            stage["started_at"] = event.at
        else:
            stage["finished_at"] = event.at
    return list(stages.values())


def _commands(events: Sequence[AnyEvent]) -> list[dict[str, Any]]:
    return [
        {
            "seq": event.seq,
            "stage": event.stage,
            "argv": event.argv,
            "container": event.container,
            "code": event.code,
            "duration": event.duration,
            "at": event.at,
            "error": event.error,
        }
        for event in events
        if isinstance(event, CommandEvent)
    ]


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _invalid(message: str) -> RequestInvalid:
    return RequestInvalid(message, code="events_invalid")
