"""Routes for schedules."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody

from orchestrator import access, parts, pipelines, schedules
from orchestrator.access import needs
from schema.wire import Schedule, ScheduleCreate, ScheduleList

AnyRequest = Request[Any, Any, Any]


@post("/v1/schedules", opt=needs("manage-queue"), tags=["schedules"], status_code=201)
async def schedule_create(request: AnyRequest, data: JSONBody[ScheduleCreate]) -> Schedule:
    """Create a schedule: a pipeline's jobs by the clock."""
    here = parts.of(request).database
    async with pipelines.naming_near(here, access.visible(request, "view")):
        for permission in ("manage-queue", "run"):
            access.require_on(request, permission, data.pipeline, pipelines.unknown(data.pipeline))
        return await schedules.create(here, data, parts.actor(request))


@get("/v1/schedules", opt=needs("view"), tags=["schedules"])
async def schedule_list(request: AnyRequest) -> ScheduleList:
    """List schedules."""
    return await schedules.listed(parts.of(request).database, access.visible(request, "view"))


@delete("/v1/schedules/{name:str}", opt=needs("manage-queue"), tags=["schedules"], status_code=200)
async def schedule_delete(request: AnyRequest, name: FromPath[str]) -> Schedule:
    """Delete a schedule; its jobs stay."""
    await _require(request, name)
    return await schedules.delete(parts.of(request).database, name, parts.actor(request))


@post("/v1/schedules/{name:str}/pause", opt=needs("manage-queue"), tags=["schedules"], status_code=200)
async def schedule_pause(request: AnyRequest, name: FromPath[str]) -> Schedule:
    """Let a schedule rest."""
    await _require(request, name)
    return await schedules.pause(parts.of(request).database, name, parts.actor(request))


@post("/v1/schedules/{name:str}/resume", opt=needs("manage-queue"), tags=["schedules"], status_code=200)
async def schedule_resume(request: AnyRequest, name: FromPath[str]) -> Schedule:
    """Let a schedule go on."""
    await _require(request, name)
    return await schedules.resume(parts.of(request).database, name, parts.actor(request))


async def _require(request: AnyRequest, name: str) -> None:
    """See that the schedules of a schedule's pipeline may be changed."""
    schedule = await schedules.get(parts.of(request).database, name)
    access.require_on(request, "manage-queue", schedule.pipeline, schedules.unknown(name))


HANDLERS: Final[list[HTTPRouteHandler]] = [
    schedule_create,
    schedule_list,
    schedule_delete,
    schedule_pause,
    schedule_resume,
]
