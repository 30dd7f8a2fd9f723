"""What every request passes through, before it is known what it asks for: it gets an id, is counted and traced.

The id is the client's own `X-Request-Id`, where that is one that a log can hold, or made here. It is in the answer's
header, in the body of an answer that is an error, and in every line of this replica's log that the request caused.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Final

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator import traces
from orchestrator.metrics import Metrics
from schema import log_context, tracing
from schema.tracing import Tracer

log: Final = logging.getLogger(__name__)

ID_HEADER: Final = b"x-request-id"
_TRACE_HEADER: Final = tracing.HEADER.encode()
_ID: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:+/=-]{0,127}")


def watch(application: ASGIApp, metrics: Metrics, tracer: Tracer | None) -> ASGIApp:
    """Put an application behind this."""

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await application(scope, receive, send)
            return
        started = time.perf_counter()
        request_id, traceparent = _headers(scope)
        status = 0

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (ID_HEADER, request_id)]
            await send(message)

        with log_context.about(request=request_id.decode()):
            span = None
            if tracer is not None:
                span = traces.begin_request(tracer, scope, request_id.decode(), traceparent)
            if span is not None:
                traceparent = span.traceparent
                log_context.note(trace=span.trace_id)
            token = tracing.parent.set(traceparent)
            try:
                await application(scope, receive, note)
            finally:
                # The application writes into the scope which of its routes it was; a request for none has no pattern.
                route = str(scope.get("path_template") or "none")
                seconds = time.perf_counter() - started
                tracing.parent.reset(token)
                if span is not None:
                    traces.end_request(span, scope, route, status)
                metrics.note_request(scope["method"], route, status, seconds)
                if log.isEnabledFor(logging.DEBUG):
                    log.debug(
                        "%s %s: %s in %.1f ms", scope["method"], scope["path"], status or "broken off", seconds * 1000
                    )

    return watched


def _headers(scope: Scope) -> tuple[bytes, str | None]:
    """Give the request's id, and the trace that it belongs to."""
    request_id, traceparent = None, None
    for name, value in scope["headers"]:
        if name == ID_HEADER and _ID.fullmatch(value):
            request_id = value
        elif name == _TRACE_HEADER:
            traceparent = tracing.checked(value.decode("latin-1"))
    return request_id or secrets.token_hex(8).encode(), traceparent
