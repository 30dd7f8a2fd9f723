"""Routes for the limits of requests that all runners share: for operators to set, for runners to take permits."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody

from orchestrator import parts
from orchestrator.access import RUNNER, needs
from orchestrator.http_limits import PERMITS_MAXIMUM
from orchestrator.problems import RequestInvalid
from schema.wire import (
    HttpLimit,
    HttpLimitList,
    HttpLimitRemove,
    HttpLimitRemoved,
    HttpLimitSet,
    HttpPermits,
    HttpPermitsTake,
)

AnyRequest = Request[Any, Any, Any]


@get("/v1/http-limits", opt=needs("view-runners"), tags=["http limits"])
async def http_limit_list(request: AnyRequest) -> HttpLimitList:
    """List the limits of requests that all runners share."""
    return HttpLimitList(limits=await parts.of(request).http_limits.listed())


@post("/v1/http-limits", opt=needs("manage-installation"), tags=["http limits"], status_code=200)
async def http_limit_set(request: AnyRequest, data: JSONBody[HttpLimitSet]) -> HttpLimit:
    """Limit how often all runners together ask a host, or all hosts of a pattern together."""
    return await parts.of(request).http_limits.set(data.host, data.rate, data.burst, parts.actor(request))


@post("/v1/http-limits/remove", opt=needs("manage-installation"), tags=["http limits"], status_code=200)
async def http_limit_remove(request: AnyRequest, data: JSONBody[HttpLimitRemove]) -> HttpLimitRemoved:
    """Remove a limit."""
    return HttpLimitRemoved(host=await parts.of(request).http_limits.remove(data.host, parts.actor(request)))


@post("/v1/runner/http/permits", opt=RUNNER, tags=["runner"], status_code=200)
async def http_permits_take(request: AnyRequest, data: JSONBody[HttpPermitsTake]) -> HttpPermits:
    """Take permits for requests to a host with a limit: those that come next, up to a second's."""
    if not 0 < data.wanted <= PERMITS_MAXIMUM:
        raise RequestInvalid(f"`wanted` has to be from 1 to {PERMITS_MAXIMUM}")
    runner = parts.identity(request).runner
    assert runner is not None, "a runner's token has its runner: a constraint says so"
    return await parts.of(request).http_limits.take(data.host, runner, data.wanted)


HANDLERS: Final[list[HTTPRouteHandler]] = [http_limit_list, http_limit_set, http_limit_remove, http_permits_take]
