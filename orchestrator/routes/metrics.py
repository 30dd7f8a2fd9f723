"""The route for Prometheus."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from orchestrator import parts
from orchestrator.access import needs
from orchestrator.metrics import CONTENT_TYPE


@get("/metrics", opt=needs("read-metrics"), tags=["health"], media_type="text/plain")
async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Give this replica's figures in Prometheus' text format."""
    here = parts.of(request)
    return Response(await here.metrics.text(here.database), media_type=CONTENT_TYPE)


HANDLERS: Final[list[HTTPRouteHandler]] = [metrics]
