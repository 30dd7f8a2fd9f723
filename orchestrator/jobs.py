"""Jobs as users see them: look, list, cancel, retry. ``orchestrator.submissions`` queues them.

The rules of the queue stand in functions of the database, which psql's schema ``control`` calls as well: what they
refuse is an error with a stable code, see ``orchestrator.problems``.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import msgspec

from orchestrator import pipelines, reports
from orchestrator.database import Database, Row
from orchestrator.notifications import Notifications
from orchestrator.problems import NotFound
from orchestrator.rights import Visible
from orchestrator.sql import jobs as sql
from orchestrator.sql import shells as shells_sql
from orchestrator.sql import workspaces as workspaces_sql
from orchestrator.tokens import moment
from schema import times
from schema.definition import InputValue
from schema.errors import ErrorInfo
from schema.states import JobState
from schema.wire import Job, JobList, Output, Resume, Stage, Trigger

NUMBER_DIGITS_MAXIMUM: Final = 18
_CANCEL_STEP: Final = 500
_NUMBER_MAXIMUM: Final = 2**63 - 1


async def _waits_for(database: Database, job: UUID, state: str) -> str | None:
    match state:
        case "queued":
            return await database.value(sql.JOB_WAITS_FOR, job)
        case "running":
            return await database.value(sql.JOB_WAITS_FOR_APPROVAL, job)
        case _:
            return None


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
    outputs = [
        Output(stage=told["name"], name=name, value=value)
        for told in await database.rows(sql.OUTPUTS_OF_JOB, job)
        for name, value in msgspec.json.decode(told["outputs"], type=dict[str, Any]).items()
    ]
    tests = await reports.summary(database, job)
    waits_for = await _waits_for(database, job, row["state"])
    kept = await database.row(workspaces_sql.WORKSPACE_OF_JOB, job)
    containers = await database.row(shells_sql.CONTAINERS_OF_JOB, job) if row["finished_at"] else None
    return msgspec.structs.replace(
        _job(row),
        stages=stages,
        outputs=outputs,
        tests=tests,
        waits_for=waits_for,
        workspace_kept_until=None if kept is None else times.rfc3339(kept["expires_at"]),
        containers_kept_until=None if containers is None else times.rfc3339(containers["expires_at"]),
    )


async def listed(
    database: Database,
    visible: Visible,
    *,
    state: JobState | None,
    pipeline: str | None,
    limit: int,
    before: int | None,
) -> JobList:
    """List jobs of pipelines that may be seen, the newest first."""
    below = _NUMBER_MAXIMUM if before is None else min(before, _NUMBER_MAXIMUM)
    named = [] if pipeline is None else [pipeline]
    if visible.is_everything:
        rows = await database.rows(sql.jobs_list(state, of_pipeline=bool(named)), below, limit + 1, *named)
    else:
        statement = sql.jobs_list_visible(state, of_pipeline=bool(named))
        rows = await database.rows(statement, below, limit + 1, visible.held, visible.within, *named)
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


async def cancel_queued(database: Database, notifications: Notifications, pipeline: str | None, actor: str) -> int:
    """Cancel all jobs that wait, of one pipeline or of all, in steps; give how many there were."""
    chosen = None if pipeline is None else (await pipelines.find(database, pipeline, None))["pipeline_id"]
    count = 0
    while rows := await database.rows(sql.JOBS_CANCEL_QUEUED, chosen, _CANCEL_STEP, None if count else actor):
        count += len(rows)
        for row in rows:
            notifications.job_told(row["id"])
    return count


async def retry(
    database: Database,
    notifications: Notifications,
    job: UUID,
    actor: str,
    *,
    from_stage: str | None = None,
    without_workspace: bool = False,
) -> Job:
    """Queue a job that ended once more, as its next attempt, which may begin with a later stage.

    :raises NotFound: when there is none, or it has no such stage.
    :raises Conflict: when it has not ended, has not come so far, or its workspace was not kept.
    """
    if from_stage is None:
        place: int = await database.value(sql.JOB_RETRY, job, actor)
    else:
        stage = from_stage.replace("\0", "\N{REPLACEMENT CHARACTER}")
        place = await database.value(sql.JOB_RESUME, job, actor, stage, without_workspace)
    notifications.job_told(job)
    notifications.queued(place)
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
        resume=None if row["resume"] is None else msgspec.json.decode(row["resume"], type=Resume),
        trigger=None if row["trigger"] is None else msgspec.json.decode(row["trigger"], type=Trigger),
    )


def _error(text: str | None) -> ErrorInfo | None:
    return None if text is None else msgspec.json.decode(text, type=ErrorInfo)
