"""Routes for those who run the queue: batches, retries, pauses, draining."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from litestar import Request, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from orchestrator import access, jobs, parts, pipelines, releases
from orchestrator.access import needs
from orchestrator.sql import pauses as pauses_sql
from orchestrator.sql import tokens as tokens_sql
from schema.permissions import Permission
from schema.wire import Job, JobsCancel, JobsCancelled, JobsSubmit, JobsSubmitted, Pause, Paused, RunnersDrained

AnyRequest = Request[Any, Any, Any]
BATCH_BYTES_MAXIMUM: Final = 64 * 1024 * 1024


@post(
    "/v1/jobs/batch",
    opt=needs("run"),
    tags=["jobs"],
    status_code=201,
    request_max_body_size=BATCH_BYTES_MAXIMUM,
)
async def jobs_submit(request: AnyRequest, data: JSONBody[JobsSubmit]) -> JobsSubmitted:
    """Queue up to 10,000 jobs: all of them, or none."""
    here = parts.of(request)
    async with pipelines.naming_near(here.database, access.visible(request, "view")):
        for pipeline in {job.pipeline for job in data.jobs}:
            access.require_on(request, "run", pipeline, pipelines.unknown(pipeline))
        return JobsSubmitted(jobs=await here.submissions.submit_all(data.jobs, parts.actor(request)))


@post("/v1/jobs/cancel", opt=needs("cancel"), tags=["jobs"], status_code=200)
async def jobs_cancel(request: AnyRequest, data: JSONBody[JobsCancel]) -> JobsCancelled:
    """Cancel all jobs that wait, of one pipeline or of all."""
    here = parts.of(request)
    _require(request, "cancel", data.pipeline)
    actor = parts.actor(request)
    return JobsCancelled(cancelled=await jobs.cancel_queued(here.database, here.notifications, data.pipeline, actor))


@post("/v1/jobs/{job:str}/retry", opt=needs("run"), tags=["jobs"], status_code=200)
async def job_retry(
    request: AnyRequest,
    job: FromPath[str],
    from_stage: Annotated[str | None, QueryParameter(name="from")] = None,
    without_workspace: FromQuery[bool] = False,
) -> Job:
    """Queue a job that ended once more, as its next attempt; `from` names a stage to begin with."""
    here = parts.of(request)
    found = await access.job(request, job, "run")
    return await jobs.retry(
        here.database,
        here.notifications,
        found,
        parts.actor(request),
        from_stage=from_stage,
        without_workspace=without_workspace,
    )


@post("/v1/queue/pause", opt=needs("manage-queue"), tags=["queue"], status_code=200)
async def queue_pause(request: AnyRequest, data: JSONBody[Pause]) -> Paused:
    """Let the jobs of a pipeline wait, or all; what runs goes on."""
    here = parts.of(request)
    _require(request, "manage-queue", data.pipeline)
    await here.database.rows(pauses_sql.PAUSE, data.pipeline, parts.actor(request))
    return Paused(pipeline=data.pipeline, paused=True)


@post("/v1/queue/resume", opt=needs("manage-queue"), tags=["queue"], status_code=200)
async def queue_resume(request: AnyRequest, data: JSONBody[Pause]) -> Paused:
    """End a pause."""
    here = parts.of(request)
    _require(request, "manage-queue", data.pipeline)
    await here.database.rows(pauses_sql.RESUME, data.pipeline, parts.actor(request))
    await releases.release(here.database, here.notifications)
    here.notifications.queued()
    return Paused(pipeline=data.pipeline, paused=False)


@post("/v1/runners/{runner:str}/drain", opt=needs("manage-runners"), tags=["runners"], status_code=200)
async def runner_drain(request: AnyRequest, runner: FromPath[str]) -> RunnersDrained:
    """Let no more jobs go to the runners of a name or id; what runs goes on."""
    return await _drain(request, runner, is_drained=True)


@post("/v1/runners/{runner:str}/undrain", opt=needs("manage-runners"), tags=["runners"], status_code=200)
async def runner_undrain(request: AnyRequest, runner: FromPath[str]) -> RunnersDrained:
    """Let jobs go to runners again."""
    return await _drain(request, runner, is_drained=False)


def _require(request: AnyRequest, permission: Permission, pipeline: str | None) -> None:
    """See that a permission is held for a pipeline, or where none is named for all."""
    if pipeline is None:
        access.require(request, permission)
    else:
        access.require_on(request, permission, pipeline, pipelines.unknown(pipeline))


async def _drain(request: AnyRequest, runner: str, *, is_drained: bool) -> RunnersDrained:
    here = parts.of(request)
    rows = await here.database.rows(tokens_sql.RUNNER_DRAIN, runner, is_drained, parts.actor(request))
    runners: list[UUID] = [row["id"] for row in rows]
    for drained in runners:
        here.notifications.runner_called(drained)
    return RunnersDrained(runners=[str(drained) for drained in runners])


HANDLERS: Final[list[HTTPRouteHandler]] = [
    jobs_submit,
    jobs_cancel,
    job_retry,
    queue_pause,
    queue_resume,
    runner_drain,
    runner_undrain,
]
