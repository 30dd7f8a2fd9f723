"""Routes for runners: register, claim, heartbeat, events, artifacts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

import anyio
from litestar import Request, get, post, put
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.response import Stream

from orchestrator import (
    artifacts,
    events,
    jobs,
    leases,
    losses,
    parts,
    reports,
    retries,
    runner_tokens,
    shells,
    tokens,
    workspaces,
)
from orchestrator.access import REGISTRATION, RUNNER
from orchestrator.parts import Parts
from orchestrator.problems import RequestInvalid
from orchestrator.sql import tokens as tokens_sql
from schema.wire import (
    BATCH_BYTES_MAXIMUM,
    Answer,
    Artifact,
    ArtifactSave,
    ArtifactsFind,
    ArtifactsFound,
    BlobState,
    Claim,
    Claimed,
    EventsAccepted,
    Heartbeat,
    HeartbeatAnswer,
    Kept,
    ReportAdd,
    ReportAdded,
    RunnerRegister,
    RunnerRegistered,
    WorkspaceKeep,
    WorkspaceKept,
)

AnyRequest = Request[Any, Any, Any]
SeqQuery = Annotated[int, QueryParameter(ge=1, le=2**53)]
WAIT_SECONDS_MAXIMUM: Final = 60.0
WAIT_SECONDS_MINIMUM: Final = 0.1
"""A claim that does not want to wait is still looked for once."""
SLOTS_MAXIMUM: Final = 1000
HOLDING_MAXIMUM: Final = 10_000


class BlobStored(Answer, frozen=True, kw_only=True):
    sha256: str


@post("/v1/runners/register", opt=REGISTRATION, tags=["runners"], status_code=201)
async def register(request: AnyRequest, data: JSONBody[RunnerRegister]) -> RunnerRegistered:
    """Register a runner with a registration token; the answer holds the runner's own."""
    registered = await tokens.register(parts.of(request).database, parts.identity(request), data.name, data.tags)
    parts.of(request).authentication.forget()  # the last use may be spent
    return registered


@post("/v1/runner/claim", opt=RUNNER, tags=["runner"], status_code=200)
async def claim(request: AnyRequest, data: JSONBody[Claim]) -> Claimed:
    """Wait for jobs: answered with the first that there are, or with none when the wait is over."""
    here, runner = parts.of(request), _runner(request)
    if not (0 < data.slots <= SLOTS_MAXIMUM and 0 < data.capacity <= SLOTS_MAXIMUM):
        raise RequestInvalid(f"`slots` and `capacity` have to be from 1 to {SLOTS_MAXIMUM}")
    if not 0 <= data.wait <= WAIT_SECONDS_MAXIMUM:
        raise RequestInvalid(f"`wait` has to be from 0 to {WAIT_SECONDS_MAXIMUM:.0f} seconds")
    tokens.check_name("version", data.version)
    seen = await here.database.row(tokens_sql.RUNNER_SEEN, runner, data.capacity, data.version)
    if seen is None:
        await runner_tokens.check(here.database, runner)
        raise AssertionError("a runner that is not revoked is there")
    # One that an operator drained waits as any, and gets nothing.
    waiting = here.dispatcher.enter(runner, 0 if seen["drained"] else data.slots, seen["reach"])
    has_left = False
    # Ten thousand may wait here: each is one task, which sleeps until its client speaks, and is called off.
    with (
        here.notifications.runners.call(runner, waiting.finish),  # drained, or no longer: its next claim tells
        anyio.move_on_after(max(data.wait, WAIT_SECONDS_MINIMUM)) as scope,
    ):
        waiting.when_done(scope.cancel)
        await _disconnected(request)
        has_left = True
    assignments = await here.dispatcher.leave(waiting)
    if has_left:
        # Nobody reads the answer: others need not wait until the lease runs out.
        for assignment in assignments:
            await leases.give_back(here.database, here.notifications, UUID(assignment.job), assignment.attempt)
    return Claimed(assignments=assignments, http_limits=here.http_limits.known)


@post("/v1/runner/heartbeat", opt=RUNNER, tags=["runner"], status_code=200)
async def heartbeat(request: AnyRequest, data: JSONBody[Heartbeat]) -> HeartbeatAnswer:
    """Renew the leases of all that the runner holds, and wait for something that it has to hear."""
    here, runner = parts.of(request), _runner(request)
    if len(data.holding) > HOLDING_MAXIMUM or len(data.kept) > HOLDING_MAXIMUM:
        raise RequestInvalid(f"a runner holds at most {HOLDING_MAXIMUM} jobs")
    if not 0 <= data.wait <= WAIT_SECONDS_MAXIMUM:
        raise RequestInvalid(f"`wait` has to be from 0 to {WAIT_SECONDS_MAXIMUM:.0f} seconds")
    with here.notifications.runners.listen(runner) as bell:
        answer = await _renewed(here, runner, data)
        if data.wait and not _is_news(answer) and not here.draining.is_set():
            was_rung = False

            async def leave_with_client(scope: anyio.CancelScope) -> None:
                await _disconnected(request)
                scope.cancel()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(leave_with_client, tasks.cancel_scope)
                was_rung = await bell.wait(data.wait)
                tasks.cancel_scope.cancel()
            if was_rung and not here.draining.is_set():
                answer = await _renewed(here, runner, data)
    return answer


@post(
    "/v1/runner/jobs/{job:str}/{attempt:int}/events",
    opt=RUNNER,
    tags=["runner"],
    status_code=200,
    request_max_body_size=BATCH_BYTES_MAXIMUM,
)
async def events_add(
    request: AnyRequest,
    job: FromPath[str],
    attempt: FromPath[int],
    first_seq: Annotated[int, QueryParameter(ge=1, le=2**53)],
) -> EventsAccepted:
    """Store a batch of events, as JSON lines from `first_seq` on; what is stored already is passed over."""
    here, runner = parts.of(request), _runner(request)
    job_id = _job(job)
    _check_attempt(job, attempt)
    batch = events.parse(await request.body(), job=job_id, attempt=attempt, first_seq=first_seq)
    final = batch.final
    if final is not None and final.state in {"failed", "lost"}:
        # Their errors are kept by other statements than the one that compares what was looked for.
        batch = await here.record.without_secrets(runner, job_id, attempt, batch)
        final = batch.final
    if final is not None and final.state == "failed":
        is_queued = await retries.end_failed(
            here.database, here.notifications, here.record, runner, job_id, attempt, batch
        )
        if is_queued:
            return EventsAccepted(next_seq=batch.next_seq)
    if final is not None and final.state == "lost":
        maximum = here.settings.losses_maximum
        next_seq = await losses.end_lost(
            here.database, here.notifications, here.record, runner, job_id, attempt, batch, losses_maximum=maximum
        )
    else:
        next_seq = await here.record.store(runner, job_id, attempt, batch)
    return EventsAccepted(next_seq=next_seq)


@put("/v1/runner/blobs/{sha256:str}", opt=RUNNER, tags=["runner"], status_code=200, request_max_body_size=None)
async def blob_put(
    request: AnyRequest, sha256: FromPath[str], offset: Annotated[int, QueryParameter(ge=0, le=2**53)] = 0
) -> BlobStored:
    """Upload a content under its SHA-256: all of it, or what follows the first `offset` bytes."""
    checked = artifacts.check_sha256(sha256)
    await parts.of(request).blobs.upload(checked, _body(request), runner=_runner(request), offset=offset)
    return BlobStored(sha256=checked)


@get("/v1/runner/blobs/{sha256:str}", opt=RUNNER, tags=["runner"])
async def blob_state(request: AnyRequest, sha256: FromPath[str]) -> BlobState:
    """Say how much of a content is there: an upload that broke off goes on from there."""
    return await parts.of(request).blobs.state(artifacts.check_sha256(sha256), _runner(request))


@post("/v1/runner/jobs/{job:str}/{attempt:int}/artifacts", opt=RUNNER, tags=["runner"], status_code=200)
async def artifact_save(
    request: AnyRequest, job: FromPath[str], attempt: FromPath[int], data: JSONBody[ArtifactSave]
) -> Artifact:
    """Name an uploaded content as an artifact of the job."""
    job_id = _job(job)
    _check_attempt(job, attempt)
    return await artifacts.save(parts.of(request).database, _runner(request), job_id, attempt, data)


@post("/v1/runner/jobs/{job:str}/{attempt:int}/artifacts/find", opt=RUNNER, tags=["runner"], status_code=200)
async def artifacts_find(
    request: AnyRequest, job: FromPath[str], attempt: FromPath[int], data: JSONBody[ArtifactsFind]
) -> ArtifactsFound:
    """Find artifacts that a job may read: its own, its pipeline's, and those of pipelines that let it."""
    job_id = _job(job)
    _check_attempt(job, attempt)
    return await artifacts.found(parts.of(request).database, _runner(request), job_id, attempt, data)


@get("/v1/runner/jobs/{job:str}/{attempt:int}/artifacts/{source:str}/{name:path}", opt=RUNNER, tags=["runner"])
async def artifact_read(
    request: AnyRequest, job: FromPath[str], attempt: FromPath[int], source: FromPath[str], name: FromPath[Path]
) -> Stream:
    """Download an artifact that was found; its SHA-256 is the ETag."""
    here, job_id = parts.of(request), _job(job)
    _check_attempt(job, attempt)
    path = name.as_posix().removeprefix("/")
    row = await artifacts.readable(here.database, _runner(request), job_id, attempt, _job(source), path)
    return Stream(
        here.blobs.content(row["id"], row["size_bytes"]),
        media_type="application/octet-stream",
        headers={"ETag": f'"{row["sha256"]}"', "Content-Length": str(row["size_bytes"])},
    )


@post(
    "/v1/runner/jobs/{job:str}/{attempt:int}/tests",
    opt=RUNNER,
    tags=["runner"],
    status_code=200,
    request_max_body_size=BATCH_BYTES_MAXIMUM,
)
async def tests_add(
    request: AnyRequest, job: FromPath[str], attempt: FromPath[int], data: JSONBody[ReportAdd]
) -> ReportAdded:
    """Store tests of a report; what came before is stored once."""
    job_id = _job(job)
    _check_attempt(job, attempt)
    await reports.add(parts.of(request).database, _runner(request), job_id, attempt, data)
    return ReportAdded(accepted=len(data.tests))


@post("/v1/runner/jobs/{job:str}/{attempt:int}/workspace", opt=RUNNER, tags=["runner"], status_code=200)
async def workspace_keep(
    request: AnyRequest, job: FromPath[str], attempt: FromPath[int], data: JSONBody[WorkspaceKeep]
) -> WorkspaceKept:
    """Keep an uploaded content as the workspace of a failed attempt."""
    job_id = _job(job)
    _check_attempt(job, attempt)
    return await workspaces.keep(parts.of(request).database, _runner(request), job_id, attempt, data)


@get("/v1/runner/jobs/{job:str}/{attempt:int}/workspace", opt=RUNNER, tags=["runner"])
async def workspace_get(request: AnyRequest, job: FromPath[str], attempt: FromPath[int]) -> Stream:
    """Download the kept workspace that an attempt is to begin with; its SHA-256 is the ETag."""
    here, job_id = parts.of(request), _job(job)
    _check_attempt(job, attempt)
    row = await workspaces.find(here.database, _runner(request), job_id, attempt)
    return Stream(
        here.blobs.content(row["id"], row["size_bytes"]),
        media_type="application/gzip",
        headers={"ETag": f'"{row["sha256"]}"', "Content-Length": str(row["size_bytes"])},
    )


async def _renewed(here: Parts, runner: UUID, data: Heartbeat) -> HeartbeatAnswer:
    for holding in (*data.holding, *data.kept):
        _check_attempt(holding.job, holding.attempt)
    held = [(_job(holding.job), holding.attempt) for holding in data.holding]
    cancelling = {holding.job for holding in data.holding if holding.cancelling}
    killing = {holding.job for holding in data.holding if holding.killing}
    lease_seconds = here.settings.lease_seconds
    news = await runner_tokens.check(here.database, runner)
    renewed = await leases.renew(here.database, runner, held, lease_seconds=lease_seconds, draining=data.draining)
    kept = [(_job(kept.job), kept.attempt) for kept in data.kept]
    # One that holds nothing at all says so when it starts: what it kept before is gone.
    release = await shells.renew_kept(here.database, runner, kept) if kept or not held else []
    return HeartbeatAnswer(
        lease_seconds=lease_seconds,
        cancel=[str(lease.job) for lease in renewed if lease.cancel and str(lease.job) not in cancelling],
        kill=[str(lease.job) for lease in renewed if lease.kill and str(lease.job) not in killing],
        gone=[str(lease.job) for lease in renewed if lease.gone],
        shells=await shells.wanted(here.database, runner),
        release=[Kept(job=str(job), attempt=attempt) for job, attempt in release],
        http_limits=here.http_limits.known,
        rotate=news["rotate"] and not data.rotating,
    )


def _is_news(answer: HeartbeatAnswer) -> bool:
    return bool(answer.cancel or answer.kill or answer.gone or answer.shells or answer.release or answer.rotate)


def _runner(request: AnyRequest) -> UUID:
    runner = parts.identity(request).runner
    assert runner is not None, "a runner's token has its runner: a constraint says so"
    return runner


def _job(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise jobs.unknown(text) from None


def _check_attempt(job: str, attempt: int) -> None:
    if not 0 < attempt < 2**31:
        raise events.unknown_attempt(job, attempt)


async def _body(request: AnyRequest) -> AsyncIterator[bytes]:
    try:
        async for piece in request.stream():
            yield piece
    except HTTPException as error:
        # The framework calls it a server's error when a client goes away in the middle.
        raise RequestInvalid("the body ended before it was whole", code="body_torn") from error


async def _disconnected(request: AnyRequest) -> None:
    """Wait until the client of a request whose body was read is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


HANDLERS: Final[list[HTTPRouteHandler]] = [
    register,
    claim,
    heartbeat,
    events_add,
    blob_put,
    blob_state,
    artifact_save,
    artifacts_find,
    artifact_read,
    tests_add,
    workspace_keep,
    workspace_get,
]
