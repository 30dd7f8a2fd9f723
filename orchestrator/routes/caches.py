"""Routes for caches: for runners to find, fetch and save them, for people to list and forget them."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, JSONBody
from litestar.response import Stream

from orchestrator import access, caches, events, jobs, parts, pipelines
from orchestrator.access import RUNNER, needs
from orchestrator.problems import NotFound
from orchestrator.sql import caches as sql
from schema.wire import CacheFind, CacheFound, CacheList, CacheSave, CacheSaved, CachesForget, CachesForgotten

AnyRequest = Request[Any, Any, Any]


@post("/v1/runner/jobs/{job:str}/{attempt:int}/caches/find", opt=RUNNER, tags=["runner"], status_code=200)
async def cache_find(
    request: AnyRequest, job: FromPath[str], attempt: FromPath[int], data: JSONBody[CacheFind]
) -> CacheFound:
    """Find what was saved of a cache, under its key or one that does as well."""
    runner, job_id = _runner(request), _job(job, attempt)
    return await caches.find(parts.of(request), runner, job_id, attempt, data)


@get("/v1/runner/jobs/{job:str}/{attempt:int}/caches/{cache:str}", opt=RUNNER, tags=["runner"])
async def cache_get(request: AnyRequest, job: FromPath[str], attempt: FromPath[int], cache: FromPath[str]) -> Stream:
    """Download a cache that was found; its SHA-256 is the ETag."""
    here, runner, job_id = parts.of(request), _runner(request), _job(job, attempt)
    try:
        cache_id = UUID(cache)
    except ValueError:
        raise NotFound(f"there is no cache `{cache[:60]}`", code="cache_unknown") from None
    row = await caches.content(here, runner, job_id, attempt, cache_id)
    return Stream(
        here.blobs.content(row["id"], row["size_bytes"]),
        media_type="application/gzip",
        headers={"ETag": f'"{row["sha256"]}"', "Content-Length": str(row["size_bytes"])},
    )


@post("/v1/runner/jobs/{job:str}/{attempt:int}/caches", opt=RUNNER, tags=["runner"], status_code=200)
async def cache_save(
    request: AnyRequest, job: FromPath[str], attempt: FromPath[int], data: JSONBody[CacheSave]
) -> CacheSaved:
    """Save an uploaded content as what a cache's key names from now on, if it names nothing yet."""
    runner, job_id = _runner(request), _job(job, attempt)
    return await caches.save(parts.of(request), runner, job_id, attempt, data)


@get("/v1/caches", opt=needs("view"), tags=["caches"])
async def cache_list(request: AnyRequest, pipeline: FromQuery[str | None] = None) -> CacheList:
    """List up to 1,000 caches, of a pipeline or all, what was used last first."""
    name = None if pipeline is None else pipeline.replace("\0", "")
    visible = access.visible(request, "view")
    return CacheList(caches=await caches.listed(parts.of(request).database, name, visible))


@post("/v1/caches/forget", opt=needs("manage-queue"), tags=["caches"], status_code=200)
async def caches_forget(request: AnyRequest, data: JSONBody[CachesForget]) -> CachesForgotten:
    """Forget caches of a pipeline: of one key or all, in one scope or all."""
    pipeline, key, scope = (
        None if text is None else text.replace("\0", "\N{REPLACEMENT CHARACTER}")
        for text in (data.pipeline, data.key, data.scope)
    )
    access.require_on(request, "manage-queue", data.pipeline, pipelines.unknown(data.pipeline))
    forgotten: int = await parts.of(request).database.value(
        sql.CACHES_FORGET, pipeline, parts.actor(request), key, scope
    )
    return CachesForgotten(forgotten=forgotten)


def _runner(request: AnyRequest) -> UUID:
    runner = parts.identity(request).runner
    assert runner is not None, "a runner's token has its runner: a constraint says so"
    return runner


def _job(text: str, attempt: int) -> UUID:
    if not 0 < attempt < 2**31:
        raise events.unknown_attempt(text, attempt)
    try:
        return UUID(text)
    except ValueError:
        raise jobs.unknown(text) from None


HANDLERS: Final[list[HTTPRouteHandler]] = [cache_find, cache_get, cache_save, cache_list, caches_forget]
