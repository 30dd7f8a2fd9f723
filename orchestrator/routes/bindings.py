"""Routes of bindings: which pipelines' jobs a runner takes, and which pipelines' jobs go to no other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from uuid import UUID

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody

from orchestrator import parts
from orchestrator.access import needs
from orchestrator.sql import bindings as sql
from schema import times
from schema.wire import Reservation, ReservationList, ReservationSet, RunnerBind, RunnersChanged

AnyRequest = Request[Any, Any, Any]


@post("/v1/runners/{runner:str}/bind", opt=needs("manage-runners"), tags=["runners"], status_code=200)
async def runner_bind(request: AnyRequest, runner: FromPath[str], data: JSONBody[RunnerBind]) -> RunnersChanged:
    """Let the runners of a name or id take only jobs of these pipelines; of any again, where there are none."""
    named, pipelines = _clean(runner), [_clean(pattern) for pattern in data.pipelines]
    rows = await parts.of(request).database.rows(sql.BIND, named, pipelines, parts.actor(request))
    _call(request, (row["id"] for row in rows))
    return RunnersChanged(runners=[str(row["id"]) for row in rows if row["is_meant"]])


@get("/v1/reservations", opt=needs("view-runners"), tags=["runners"])
async def reservation_list(request: AnyRequest) -> ReservationList:
    """List the pipelines whose jobs go only to runners that are bound to them."""
    rows = await parts.of(request).database.rows(sql.RESERVATIONS_LIST)
    return ReservationList(
        reservations=[
            Reservation(
                pipelines=row["pipelines"],
                reserved_by=row["reserved_by"],
                reserved_at=times.rfc3339(row["reserved_at"]),
                runners=row["runners"],
            )
            for row in rows
        ]
    )


@post("/v1/reservations", opt=needs("manage-runners"), tags=["runners"], status_code=200)
async def reservation_set(request: AnyRequest, data: JSONBody[ReservationSet]) -> ReservationSet:
    """Let jobs of pipelines go only to runners that are bound to them, or to any again."""
    rows = await parts.of(request).database.rows(
        sql.RESERVE, _clean(data.pipelines), data.reserved, parts.actor(request)
    )
    _call(request, (row["id"] for row in rows))
    return data


def _call(request: AnyRequest, runners: Iterable[UUID]) -> None:
    """Let runners ask anew: what they may have has changed."""
    for runner in runners:
        parts.of(request).notifications.runner_called(runner)


def _clean(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


HANDLERS: Final[list[HTTPRouteHandler]] = [runner_bind, reservation_list, reservation_set]
