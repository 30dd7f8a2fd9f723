"""Routes for schedules."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody

from orchestrator import parts, schedules
from orchestrator.access import ADMIN
from schema.wire import Schedule, ScheduleCreate, ScheduleList

AnyRequest = Request[Any, Any, Any]


@post("/v1/schedules", opt=ADMIN, tags=["schedules"], status_code=201)
async def schedule_create(request: AnyRequest, data: JSONBody[ScheduleCreate]) -> Schedule:
    """Create a schedule: a pipeline's jobs by the clock."""
    return await schedules.create(parts.of(request).database, data, parts.actor(request))


@get("/v1/schedules", opt=ADMIN, tags=["schedules"])
async def schedule_list(request: AnyRequest) -> ScheduleList:
    """List schedules."""
    return await schedules.listed(parts.of(request).database)


@delete("/v1/schedules/{name:str}", opt=ADMIN, tags=["schedules"], status_code=200)
async def schedule_delete(request: AnyRequest, name: FromPath[str]) -> Schedule:
    """Delete a schedule; its jobs stay."""
    return await schedules.delete(parts.of(request).database, name, parts.actor(request))


@post("/v1/schedules/{name:str}/pause", opt=ADMIN, tags=["schedules"], status_code=200)
async def schedule_pause(request: AnyRequest, name: FromPath[str]) -> Schedule:
    """Let a schedule rest."""
    return await schedules.pause(parts.of(request).database, name, parts.actor(request))


@post("/v1/schedules/{name:str}/resume", opt=ADMIN, tags=["schedules"], status_code=200)
async def schedule_resume(request: AnyRequest, name: FromPath[str]) -> Schedule:
    """Let a schedule go on."""
    return await schedules.resume(parts.of(request).database, name, parts.actor(request))


HANDLERS: Final[list[HTTPRouteHandler]] = [
    schedule_create,
    schedule_list,
    schedule_delete,
    schedule_pause,
    schedule_resume,
]
