"""Jobs as users see them: submit, look, list, cancel, retry.

The rules of the queue stand in functions of the database, which psql's schema ``control`` calls as well: what they
refuse is an error with a stable code, see ``orchestrator.problems``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from orchestrator import pipelines
from orchestrator.database import Connection, Database, Row
from orchestrator.notifications import Notifications
from orchestrator.problems import NotFound, Refusal, RequestInvalid
from orchestrator.sql import jobs as sql
from orchestrator.tokens import moment
from orchestrator.versions import decode_definition
from schema import times, tracing
from schema.definition import PRIORITY_MAXIMUM, InputsInvalid, InputValue, PipelineDefinition, resolve_inputs
from schema.errors import ErrorInfo
from schema.ids import uuid7
from schema.states import JobState
from schema.wire import Job, JobList, JobSubmit, JobSubmitted, Stage

KEY_LENGTH_MAXIMUM: Final = 200
NUMBER_DIGITS_MAXIMUM: Final = 18
BATCH_MAXIMUM: Final = 10_000
SECONDS_MAXIMUM: Final = 366 * 86400.0
PLACES_A_PRIORITY: Final = 1000
_CANCEL_STEP: Final = 500
_NUMBER_MAXIMUM: Final = 2**63 - 1


async def resolve(database: Database, reference: str) -> UUID:
    """Find a job's id by its number or id, as a path names it. An id is not looked up.

    :raises NotFound: when it can be neither, or no job has that number.
    """
    if reference.isascii() and reference.isdigit() and len(reference) <= NUMBER_DIGITS_MAXIMUM:
        found = await database.value(sql.JOB_BY_NUMBER, int(reference))
        if found is not None:
            return found
        raise unknown(reference)
    try:
        return UUID(reference)
    except ValueError:
        raise unknown(reference) from None


def unknown(reference: object) -> NotFound:
    return NotFound(f"there is no job `{str(reference)[:60]}`", code="job_unknown", hint="`moonyard jobs` lists jobs.")


async def submit(database: Database, notifications: Notifications, message: JobSubmit) -> Job:
    """Queue a job, or find the one that an earlier submit with the same idempotency key queued.

    :raises NotFound: when there is no such pipeline or version.
    :raises InputsInvalid: naming all that is wrong with the inputs; nothing is stored.
    :raises Conflict: when the key was used for something else.
    """
    wanted = await _checked(database, [message])
    [row] = await database.rows(sql.JOBS_SUBMIT, _encoded(wanted))
    if not row["fresh"]:
        return await get(database, row["id"])
    only = wanted[0]
    notifications.queued(only.place(row["number"]))
    if only.is_parked:
        return await get(database, row["id"])
    return Job(
        id=str(row["id"]),
        number=row["number"],
        pipeline=only.pipeline,
        version=only.version,
        inputs=only.inputs,
        state="queued",
        attempt=0,
        created_at=times.rfc3339(row["created_at"]),
        priority=only.priority,
    )


async def submit_all(
    database: Database, notifications: Notifications, messages: Sequence[JobSubmit]
) -> list[JobSubmitted]:
    """Queue jobs: all of them, or none.

    :raises RequestInvalid: for none, or more than 10,000.
    :raises MoonyardError: as ``submit``, saying which of the jobs is wrong.
    """
    if not 0 < len(messages) <= BATCH_MAXIMUM:
        raise RequestInvalid(f"a batch has 1 to {BATCH_MAXIMUM:,} jobs, and this one has {len(messages):,}")
    wanted = await _checked(database, messages)
    rows = await database.rows(sql.JOBS_SUBMIT, _encoded(wanted))
    notifications.queued(min(asked.place(row["number"]) for row, asked in zip(rows, wanted, strict=True)))
    return [
        JobSubmitted(id=str(row["id"]), number=row["number"], pipeline=asked.pipeline, fresh=row["fresh"])
        for row, asked in zip(rows, wanted, strict=True)
    ]


async def submit_within(connection: Connection, database: Database, message: JobSubmit) -> UUID:
    """Queue a job within a transaction; whoever commits it tells that a job was queued."""
    wanted = await _checked(database, [message])
    [row] = await connection.fetch(sql.JOBS_SUBMIT, _encoded(wanted))
    job: UUID = row["id"]
    return job


class _Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A job to be queued, after all checks."""

    pipeline: str
    version: str
    definition: PipelineDefinition
    inputs: dict[str, InputValue]
    priority: int
    is_parked: bool
    row: dict[str, Any]

    def place(self, number: int) -> int:
        """Give its place in the queue, as the index of queued jobs has it."""
        return number - PLACES_A_PRIORITY * self.priority


async def _checked(database: Database, messages: Sequence[JobSubmit]) -> list[_Wanted]:
    versions: dict[tuple[str, str | None], tuple[Row, PipelineDefinition]] = {}
    wanted: list[_Wanted] = []
    for place, message in enumerate(messages, 1):
        try:
            _check(message)
            known = versions.get((message.pipeline, message.version))
            if known is None:
                found = await pipelines.find(database, message.pipeline, message.version)
                known = versions[message.pipeline, message.version] = found, decode_definition(found["definition"])
            wanted.append(_wanted(place, message, *known))
        except (Refusal, InputsInvalid) as error:
            if len(messages) == 1:
                raise
            kind = type(error) if isinstance(error, Refusal) else RequestInvalid
            raise kind(
                f"job {place} of the batch: {error.message}; none of the {len(messages)} jobs was queued",
                code=error.code,
                hint=error.hint,
            ) from error
    return wanted


def _check(message: JobSubmit) -> None:
    key = message.idempotency_key
    if key is not None and (not 0 < len(key) <= KEY_LENGTH_MAXIMUM or "\0" in key):
        raise RequestInvalid(f"`idempotency_key` has to have 1 to {KEY_LENGTH_MAXIMUM} characters, and no NUL")
    if message.priority is not None and abs(message.priority) > PRIORITY_MAXIMUM:
        raise RequestInvalid(
            f"`priority` is {message.priority}, and goes from -{PRIORITY_MAXIMUM} to {PRIORITY_MAXIMUM}"
        )
    for name, seconds in (("delay", message.delay), ("queue_timeout", message.queue_timeout)):
        if seconds is not None and not (math.isfinite(seconds) and 0 < seconds <= SECONDS_MAXIMUM):
            raise RequestInvalid(f"`{name}` is {seconds}: expected seconds, more than 0, at most a year")
    if message.not_before is not None:
        if message.delay is not None:
            raise RequestInvalid("`delay` and `not_before` say the same in two ways: give one of them")
        _check_time(message.not_before)


def _check_time(text: str) -> None:
    try:
        if len(text) <= 40 and datetime.fromisoformat(text).tzinfo is not None:
            return
    except ValueError:
        pass
    raise RequestInvalid(
        f"`not_before` is `{text[:40]}`, and has to be a time with its zone, such as 2026-11-24T18:00:00Z"
    )


def _wanted(place: int, message: JobSubmit, version: Row, definition: PipelineDefinition) -> _Wanted:
    inputs = resolve_inputs(definition, dict(message.inputs))
    for name, value in inputs.items():
        if isinstance(value, str) and "\0" in value:
            raise RequestInvalid(f"input `{name}` holds a NUL character, which Postgres cannot store")
    row: dict[str, Any] = {
        "place": place,
        "id": uuid7(),
        "pipeline_id": version["pipeline_id"],
        "version_id": version["version_id"],
        "inputs": inputs,
        "priority": message.priority,
        "delay": message.delay,
        "not_before": message.not_before,
        "queue_timeout": message.queue_timeout,
        "traceparent": tracing.parent.get(),
    }
    if message.idempotency_key is not None:
        asked = {
            "version": message.version,
            "inputs": message.inputs,
            "priority": message.priority,
            "delay": message.delay,
            "not_before": message.not_before,
            "queue_timeout": message.queue_timeout,
        }
        row["idempotency_key"] = message.idempotency_key
        row["request"] = {name: value for name, value in asked.items() if value is not None}
    return _Wanted(
        pipeline=version["name"],
        version=version["sha256"],
        definition=definition,
        inputs=inputs,
        priority=definition.priority if message.priority is None else message.priority,
        is_parked=definition.concurrency is not None or message.delay is not None or message.not_before is not None,
        row=row,
    )


def _encoded(wanted: Sequence[_Wanted]) -> str:
    return msgspec.json.encode([asked.row for asked in wanted]).decode()


async def get(database: Database, job: UUID) -> Job:
    """Give a job with the stages of its newest attempt.

    :raises NotFound: when there is none.
    """
    row = await database.row(sql.JOB_GET, job)
    if row is None:
        raise unknown(job)
    stages = [
        Stage(
            name=stage["name"],
            state=stage["state"],
            container=stage["container"],
            started_at=moment(stage["started_at"]),
            finished_at=moment(stage["finished_at"]),
            error=_error(stage["error"]),
        )
        for stage in await database.rows(sql.STAGES_OF_JOB, job)
    ]
    waits_for = await database.value(sql.JOB_WAITS_FOR, job) if row["state"] == "queued" else None
    return msgspec.structs.replace(_job(row), stages=stages, waits_for=waits_for)


async def listed(
    database: Database, *, state: JobState | None, pipeline: str | None, limit: int, before: int | None
) -> JobList:
    """List jobs, the newest first."""
    below = _NUMBER_MAXIMUM if before is None else min(before, _NUMBER_MAXIMUM)
    match state:
        case "queued":
            rows = await database.rows(sql.JOBS_LIST_QUEUED, pipeline, below, limit + 1)
        case "running":
            rows = await database.rows(sql.JOBS_LIST_RUNNING, pipeline, below, limit + 1)
        case _:
            rows = await database.rows(sql.JOBS_LIST, pipeline, below, limit + 1, state)
    page = [_job(row) for row in rows[:limit]]
    return JobList(jobs=page, before=page[-1].number if len(rows) > limit else None)


async def cancel(
    database: Database, notifications: Notifications, job: UUID, actor: str, *, force: bool = False
) -> Job:
    """Cancel a job: at once while it is queued; while it runs, its runner is told, which with force waits for nothing.

    :raises NotFound: when there is none.
    :raises Conflict: when it has ended otherwise already.
    """
    [row] = await database.rows(sql.JOB_CANCEL, job, actor, force)
    if row["runner"] is not None:
        notifications.runner_called(row["runner"])
    notifications.job_told(job)
    return await get(database, job)


async def cancel_queued(database: Database, notifications: Notifications, pipeline: str | None) -> int:
    """Cancel all jobs that wait, of one pipeline or of all, in steps; give how many there were."""
    chosen = None if pipeline is None else (await pipelines.find(database, pipeline, None))["pipeline_id"]
    count = 0
    while rows := await database.rows(sql.JOBS_CANCEL_QUEUED, chosen, _CANCEL_STEP):
        count += len(rows)
        for row in rows:
            notifications.job_told(row["id"])
    return count


async def retry(database: Database, notifications: Notifications, job: UUID, actor: str) -> Job:
    """Queue a job that ended once more, as its next attempt.

    :raises NotFound: when there is none.
    :raises Conflict: when it has not ended.
    """
    await database.rows(sql.JOB_RETRY, job, actor)
    notifications.job_told(job)
    notifications.queued()
    return await get(database, job)


def _job(row: Row) -> Job:
    return Job(
        id=str(row["id"]),
        number=row["number"],
        pipeline=row["pipeline"],
        version=row["version"],
        inputs=msgspec.json.decode(row["inputs"], type=dict[str, InputValue]),
        state=row["state"],
        attempt=row["attempt"],
        created_at=times.rfc3339(row["created_at"]),
        started_at=moment(row["started_at"]),
        finished_at=moment(row["finished_at"]),
        cancel_requested_at=moment(row["cancel_requested_at"]),
        error=_error(row["error"]),
        runner=row["runner"],
        priority=row["priority"],
        not_before=moment(row["not_before"]),
        concurrency_group=row["concurrency_group"],
    )


def _error(text: str | None) -> ErrorInfo | None:
    return None if text is None else msgspec.json.decode(text, type=ErrorInfo)
