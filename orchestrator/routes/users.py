"""Routes for people: pipelines, jobs, artifacts, tokens, the list of runners, health."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote
from uuid import UUID

import anyio
from litestar import Request, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from litestar.response import Stream

from orchestrator import access, artifacts, following, jobs, parts, pipelines, plugins, reports, tokens
from orchestrator.access import PEOPLE, PUBLIC, needs
from orchestrator.problems import Forbidden, NotFound, RequestInvalid, TooLarge
from orchestrator.sql import health as health_sql
from orchestrator.sql import tokens as tokens_sql
from plugins.sources import SentSources
from schema import database, times
from schema.states import JobState
from schema.wire import (
    EVENTS_MEDIA_TYPE,
    SOURCE_BYTES_MAXIMUM,
    ArtifactList,
    Health,
    Job,
    JobList,
    JobSubmit,
    JobTestList,
    PipelineList,
    PipelinePush,
    PipelineVersion,
    Runner,
    RunnerList,
    TestState,
    Token,
    TokenCreate,
    TokenList,
)

AnyRequest = Request[Any, Any, Any]
VersionQuery = Annotated[str | None, QueryParameter(name="version")]
SENT_LENGTH_MAXIMUM: Final = 4 * 1024 * 1024
"""Of all plugins that come with one pipeline."""
PUSH_BYTES_MAXIMUM: Final = 6 * (SOURCE_BYTES_MAXIMUM + SENT_LENGTH_MAXIMUM) + 64 * 1024
"""A character may take six in JSON."""
FILENAME_LENGTH_MAXIMUM: Final = 255
HEALTH_SECONDS: Final = 3.0


@get("/v1/health", opt=PUBLIC, tags=["health"])
async def health(request: AnyRequest) -> Health:
    """Say whether this replica can work."""
    here = parts.of(request)
    version: str | None = None
    with anyio.move_on_after(HEALTH_SECONDS) as scope:
        version = await here.database.value(health_sql.SCHEMA_VERSION)
    if scope.cancelled_caught:
        raise database.unavailable(here.database.url, TimeoutError())
    return Health(
        status="draining" if here.draining.is_set() else "ok",
        version=importlib.metadata.version("moonyard"),
        schema_version=version or "none",
    )


@post(
    "/v1/pipelines",
    opt=needs("push"),
    tags=["pipelines"],
    status_code=200,
    request_max_body_size=PUSH_BYTES_MAXIMUM,
)
async def pipeline_push(request: AnyRequest, data: JSONBody[PipelinePush]) -> PipelineVersion:
    """Check a pipeline file and make it its pipeline's newest version."""
    here = parts.of(request)
    size = len(data.source.encode())
    if size > SOURCE_BYTES_MAXIMUM:
        raise TooLarge(f"a pipeline file has at most {SOURCE_BYTES_MAXIMUM} bytes, and this one has {size}")
    filename = data.filename
    if not 0 < len(filename) <= FILENAME_LENGTH_MAXIMUM or "/" in filename or not filename.isprintable():
        raise RequestInvalid(f"`filename` is {filename[:60]!r}: expected a file's name without folders")
    if "\0" in data.source:
        raise RequestInvalid(
            f"pipeline file `{filename}` holds a NUL character: it is not Lua", code="pipeline_invalid"
        )
    if sum(len(text) for files in data.plugins.values() for text in files.values()) > SENT_LENGTH_MAXIMUM:
        raise TooLarge(f"the plugins that come with a pipeline have at most {SENT_LENGTH_MAXIMUM} characters")
    known = plugins.catalogue(here.database, here.settings.plugin_folder, SentSources(data.plugins))
    loaded = await here.checker.check(filename, data.source, known)
    access.require(request, "push", loaded.definition.name)
    return await pipelines.store(
        here.database, filename, data.source, loaded.definition, actor=parts.actor(request), resolved=loaded.resolved
    )


@get("/v1/pipelines", opt=needs("view"), tags=["pipelines"])
async def pipeline_list(request: AnyRequest) -> PipelineList:
    """List pipelines with their newest versions."""
    visible = access.visible(request, "view")
    return PipelineList(pipelines=await pipelines.listed(parts.of(request).database, visible))


@get("/v1/pipelines/{name:str}", opt=needs("view"), tags=["pipelines"])
async def pipeline_show(
    request: AnyRequest, name: FromPath[str], pipeline_version: VersionQuery = None
) -> PipelineVersion:
    """Show a version of a pipeline with its source, by default the newest."""
    here = parts.of(request).database
    async with pipelines.naming_near(here, access.visible(request, "view")):
        access.require_on(request, "view", name, pipelines.unknown(name))
        return await pipelines.shown(here, name, pipeline_version)


@post("/v1/jobs", opt=needs("run"), tags=["jobs"], status_code=201)
async def job_submit(request: AnyRequest, data: JSONBody[JobSubmit]) -> Job:
    """Queue a job."""
    here = parts.of(request)
    async with pipelines.naming_near(here.database, access.visible(request, "view")):
        access.require_on(request, "run", data.pipeline, pipelines.unknown(data.pipeline))
        return await here.submissions.submit(data, parts.actor(request))


@get("/v1/jobs", opt=needs("view"), tags=["jobs"])
async def job_list(
    request: AnyRequest,
    job_state: Annotated[JobState | None, QueryParameter(name="state")] = None,
    pipeline: FromQuery[str | None] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 20,
    before: Annotated[int | None, QueryParameter(ge=1)] = None,
) -> JobList:
    """List jobs, the newest first; `before` of an answer asks for the next page."""
    return await jobs.listed(
        parts.of(request).database,
        access.visible(request, "view"),
        state=job_state,
        pipeline=None if pipeline is None else pipeline.replace("\0", ""),
        limit=limit,
        before=before,
    )


@get("/v1/jobs/{job:str}", opt=needs("view"), tags=["jobs"])
async def job_show(request: AnyRequest, job: FromPath[str]) -> Job:
    """Show a job with its stages, by number or id."""
    return await jobs.get(parts.of(request).database, await access.job(request, job, "view"))


@post("/v1/jobs/{job:str}/cancel", opt=needs("cancel"), tags=["jobs"], status_code=200)
async def job_cancel(request: AnyRequest, job: FromPath[str], force: FromQuery[bool] = False) -> Job:
    """Cancel a job: at once while it is queued; while it runs, its runner stops it, with `force` at once."""
    here = parts.of(request)
    found = await access.job(request, job, "cancel")
    return await jobs.cancel(here.database, here.notifications, found, parts.actor(request), force=force)


@get("/v1/jobs/{job:str}/events", opt=needs("read-logs"), tags=["jobs"], media_type=EVENTS_MEDIA_TYPE)
async def job_events(
    request: AnyRequest, job: FromPath[str], follow: FromQuery[bool] = False, after: FromQuery[str | None] = None
) -> Stream:
    """Give the job's events as JSON lines; with `follow`, go on until the last one. `after` is ATTEMPT.SEQ."""
    here = parts.of(request)
    found = await access.job(request, job, "read-logs")
    position = following.Position.after(after)
    await jobs.get(here.database, found)
    lines = (
        following.follow(
            here.database,
            here.notifications,
            here.draining,
            found,
            position,
            lambda: access.still_may(request, "read-logs", found),
        )
        if follow
        else following.read(here.database, found, position)
    )
    return Stream(lines, media_type=EVENTS_MEDIA_TYPE, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


@get("/v1/jobs/{job:str}/artifacts", opt=needs("read-artifacts"), tags=["artifacts"])
async def artifact_list(request: AnyRequest, job: FromPath[str]) -> ArtifactList:
    """List what a job kept."""
    here = parts.of(request).database
    found = await access.job(request, job, "read-artifacts")
    await jobs.get(here, found)
    return ArtifactList(artifacts=await artifacts.listed(here, found))


@get("/v1/jobs/{job:str}/artifacts/{name:path}", opt=needs("read-artifacts"), tags=["artifacts"])
async def artifact_get(request: AnyRequest, job: FromPath[str], name: FromPath[Path]) -> Stream:
    """Download an artifact; its SHA-256 is the ETag."""
    here = parts.of(request).database
    found = await access.job(request, job, "read-artifacts")
    await jobs.get(here, found)
    row = await artifacts.find(here, found, name.as_posix().removeprefix("/"))
    return Stream(
        parts.of(request).blobs.content(row["id"], row["size_bytes"]),
        media_type=row["content_type"],
        headers={
            "ETag": f'"{row["sha256"]}"',
            "Content-Length": str(row["size_bytes"]),
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name.name)}",
            "X-Content-Type-Options": "nosniff",
        },
    )


@get("/v1/jobs/{job:str}/tests", opt=needs("view"), tags=["jobs"])
async def job_tests(
    request: AnyRequest,
    job: FromPath[str],
    test_state: Annotated[TestState | None, QueryParameter(name="state")] = None,
) -> JobTestList:
    """List up to 10,000 tests of the reports of a job's newest attempt."""
    here = parts.of(request).database
    found = await access.job(request, job, "view")
    await jobs.get(here, found)
    states = reports.STATES if test_state is None else (test_state,)
    return JobTestList(tests=await reports.listed(here, found, states))


@post("/v1/tokens", opt=PEOPLE, tags=["tokens"], status_code=201)
async def token_create(request: AnyRequest, data: JSONBody[TokenCreate]) -> Token:
    """Create a token; the answer is the only place where it ever stands."""
    if data.kind in {"admin", "setup"}:
        access.require(request, "manage-accounts")
    elif data.kind == "registration":
        access.require(request, "manage-runners")
    identity = parts.identity(request)
    if data.kind == "user" and identity.kind == "user":
        # It could be one that may do more than this one, or for longer.
        raise Forbidden(
            f"token `{identity.name}` cannot make another one of its account: that takes a login",
            hint="`moonyard login`, and no MOONYARD_TOKEN beside it.",
        )
    return await tokens.create(parts.of(request).database, data, identity.actor, account=identity.account)


@get("/v1/tokens", opt=PEOPLE, tags=["tokens"])
async def token_list(request: AnyRequest) -> TokenList:
    """List tokens, without the tokens themselves: of who asks, and of all where that is permitted."""
    return TokenList(tokens=await tokens.listed(parts.of(request).database, parts.identity(request)))


@delete("/v1/tokens/{token:str}", opt=PEOPLE, tags=["tokens"], status_code=200)
async def token_revoke(request: AnyRequest, token: FromPath[str]) -> Token:
    """Revoke a token."""
    here = parts.of(request)
    try:
        found = UUID(token)
    except ValueError:
        raise NotFound(f"there is no token `{token[:60]}`", code="token_unknown") from None
    revoked = await tokens.revoke(here.database, found, parts.identity(request))
    here.authentication.forget()
    return revoked


@get("/v1/runners", opt=needs("view-runners"), tags=["runners"])
async def runner_list(request: AnyRequest) -> RunnerList:
    """List runners."""
    rows = await parts.of(request).database.rows(tokens_sql.RUNNERS_LIST)
    return RunnerList(
        runners=[
            Runner(
                id=str(row["id"]),
                name=row["name"],
                state=row["state"],
                registered_at=times.rfc3339(row["registered_at"]),
                seen_at=tokens.moment(row["seen_at"]),
                version=row["version"],
                capacity=row["capacity"],
                running=row["running"],
                tags=row["tags"],
                drained_by=row["drained_by"],
                pipelines=row["pipelines"],
                revoked_by=row["revoked_by"],
                token_at=tokens.moment(row["token_at"]),
                token_reused_at=tokens.moment(row["token_reused_at"]),
            )
            for row in rows
        ]
    )


HANDLERS: Final[list[HTTPRouteHandler]] = [
    health,
    pipeline_push,
    pipeline_list,
    pipeline_show,
    job_submit,
    job_list,
    job_show,
    job_cancel,
    job_events,
    artifact_list,
    artifact_get,
    job_tests,
    token_create,
    token_list,
    token_revoke,
    runner_list,
]
