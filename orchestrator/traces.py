"""The spans that a replica writes: one for each request that somebody waits for, and one for each claim."""

from __future__ import annotations

import time
from typing import Final

from litestar.types import HTTPScope

from orchestrator.database import Row
from schema.tracing import Span, Tracer

_UNTRACED: Final = ("/v1/runner/", "/v1/health", "/metrics")
"""What asks again and again whether there is something: each would be a trace of its own, of nothing."""


def begin_request(tracer: Tracer, scope: HTTPScope, request_id: str, parent: str | None) -> Span | None:
    """Begin the span of a request, where it gets one."""
    if scope["path"].startswith(_UNTRACED):
        return None
    return tracer.start(
        scope["method"],
        kind="server",
        below=parent,
        attributes={
            "http.request.method": scope["method"],
            "url.path": scope["path"],
            "moonyard.request.id": request_id,
        },
    )


def end_request(span: Span, scope: HTTPScope, route: str, status: int) -> None:
    """End it with what is known then."""
    span.name(f"{scope['method']} {route}")
    span.note({"http.route": route, "http.response.status_code": status})
    if status == 0 or status >= 500:
        span.fail(str(status or "broken_off"), "")
    span.end()


def claimed(tracer: Tracer | None, row: Row, pipeline: str) -> str | None:
    """Write the span of a job's wait for its claim; give what its attempt belongs below."""
    parent: str | None = row["traceparent"]
    if tracer is None:
        return parent
    now = time.time_ns()
    # Later attempts wait too, but since when is not kept. Both times are clocks of different machines.
    queued = row["created_at"].timestamp() if row["attempt"] == 1 else None
    span = tracer.start(
        f"claim {pipeline}",
        below=parent,
        at=now if queued is None else min(now, round(queued * 1e9)),
        attributes={
            "moonyard.pipeline": pipeline,
            "moonyard.job.id": str(row["id"]),
            "moonyard.job.number": row["number"],
            "moonyard.attempt": row["attempt"],
        },
    )
    span.end(now)
    return span.traceparent
