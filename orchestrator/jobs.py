"""Jobs as users see them: submit, look, list, cancel."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from orchestrator import pipelines
from orchestrator.database import Database, Row
from orchestrator.notifications import Notifications
from orchestrator.problems import Conflict, NotFound, RequestInvalid
from orchestrator.sql import jobs as sql
from orchestrator.tokens import moment
from orchestrator.versions import decode_definition
from schema import times
from schema.definition import InputValue, resolve_inputs
from schema.errors import ErrorInfo
from schema.ids import uuid7
from schema.states import JobState
from schema.wire import Job, JobList, JobSubmit, Stage

KEY_LENGTH_MAXIMUM: Final = 200
NUMBER_DIGITS_MAXIMUM: Final = 18
_NUMBER_MAXIMUM: Final = 2**63 - 1
_TRIES: Final = 5


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
    """
    key = message.idempotency_key
    if key is not None and (not 0 < len(key) <= KEY_LENGTH_MAXIMUM or "\0" in key):
        raise RequestInvalid(f"`idempotency_key` has to have 1 to {KEY_LENGTH_MAXIMUM} characters, and no NUL")
    version = await pipelines.find(database, message.pipeline, message.version)
    inputs = resolve_inputs(decode_definition(version["definition"]), dict(message.inputs))
    for name, value in inputs.items():
        if isinstance(value, str) and "\0" in value:
            raise RequestInvalid(f"input `{name}` holds a NUL character, which Postgres cannot store")
    job = uuid7()
    row = await database.row(
        sql.JOB_SUBMIT, job, version["pipeline_id"], version["version_id"], msgspec.json.encode(inputs).decode(), key
    )
    if row is None:
        earlier = await database.value(sql.JOB_OF_KEY, version["pipeline_id"], key)
        return await get(database, earlier)
    notifications.queued()
    return Job(
        id=str(job),
        number=row["number"],
        pipeline=version["name"],
        version=version["sha256"],
        inputs=inputs,
        state="queued",
        attempt=0,
        created_at=times.rfc3339(row["created_at"]),
    )


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
    return msgspec.structs.replace(_job(row), stages=stages)


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


async def cancel(database: Database, notifications: Notifications, job: UUID) -> Job:
    """Cancel a job: at once while it is queued; while it runs, its runner is told.

    :raises NotFound: when there is none.
    :raises Conflict: when it has ended otherwise already.
    """
    for _ in range(_TRIES):
        if await _cancel_queued(database, job):
            notifications.job_told(job)
            return await get(database, job)
        runner = await database.value(sql.JOB_CANCEL_RUNNING, job)
        if runner is not None:
            notifications.runner_called(runner)
            return await get(database, job)
        found = await get(database, job)
        if found.state == "cancelled":
            return found
        if found.finished_at is not None:
            raise Conflict(f"job {found.number} {found.state} already", code="job_finished")
        # It went from one state to the other between the two looks.
    raise Conflict(f"job {job} changes too fast to be cancelled", code="busy", hint="Try again.")


async def _cancel_queued(database: Database, job: UUID) -> bool:
    try:
        return await database.value(sql.JOB_CANCEL_QUEUED, job) is not None
    except asyncpg.UniqueViolationError:
        # It came back to the queue at this moment, and its record has a line more than the statement saw.
        return False


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
    )


def _error(text: str | None) -> ErrorInfo | None:
    return None if text is None else msgspec.json.decode(text, type=ErrorInfo)
