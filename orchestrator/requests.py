"""What every request passes through, before it is known what it asks for: it gets an id, is counted and traced.

The id is the client's own `X-Request-Id`, where that is one that a log can hold, or made here. It is in the answer's
header, in the body of an answer that is an error, and in every line of this replica's log that the request caused.

Here is also refused, before anything is spent on it, what no request may be: a head that is too large or says a thing
twice, a name of a host that is not this replica's, one too many of its token or address.
"""

from __future__ import annotations

import logging
import math
import re
import secrets
import time
from http import HTTPStatus
from typing import Final

import msgspec
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from orchestrator import addresses, traces
from orchestrator.connections import HEAD_BYTES_MAXIMUM
from orchestrator.parts import STATE_NAME, Parts
from orchestrator.rates import Rates
from schema import log_context, tracing
from schema.tracing import Tracer
from schema.wire import PROBLEM_MEDIA_TYPE, ProblemDocument

log: Final = logging.getLogger(__name__)

ID_HEADER: Final = b"x-request-id"
HEADERS_MAXIMUM: Final = 100
HEADERS_ALWAYS: Final = [
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),  # with `no-referrer`, browsers would hide the origin of our own forms from us
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
"""In every answer; uvicorn writes them, also into those that are its own."""
STRICT_TRANSPORT: Final = ("Strict-Transport-Security", "max-age=31536000")
"""In answers by TLS: browsers ask by nothing else for a year."""
_DEFAULTS: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox",
    ),
    (b"cache-control", b"no-store"),
)
"""In answers that do not say otherwise: nothing that comes from here is a page."""
_TRACE_HEADER: Final = tracing.HEADER.encode()
_ONCE: Final = frozenset({b"host", b"authorization", b"content-type", b"content-length", b"transfer-encoding"})
"""Headers that readers take differently when they come twice."""
_NOTED: Final = _ONCE | {ID_HEADER, _TRACE_HEADER, b"cookie"}
_ID: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:+/=-]{0,127}")


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request goes no further than here."""

    status: int
    code: str
    detail: str
    hint: str | None = None
    retry_after: int = 0


def watch(application: ASGIApp, parts: Parts, tracer: Tracer | None) -> ASGIApp:
    """Put an application behind this: it finds the replica that was asked in the scope of each request."""
    settings, metrics = parts.settings.edge, parts.metrics
    replica = {STATE_NAME: parts, addresses.STATE_NAME: settings.trusted_proxies}
    rates = Rates(settings)
    strict_transport = tuple(text.lower().encode() for text in STRICT_TRANSPORT)

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await application(scope, receive, send)
            return
        started = time.perf_counter()
        scope["state"] = dict(replica)
        noted, refused = _noted(scope, settings.hosts)
        given_id = noted.get(ID_HEADER)
        request_id = given_id if given_id and _ID.fullmatch(given_id) else secrets.token_hex(8).encode()
        traceparent = tracing.checked(noted[_TRACE_HEADER].decode("latin-1")) if _TRACE_HEADER in noted else None
        credential = noted.get(b"authorization") or noted.get(b"cookie")
        status = 0

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message["headers"], (ID_HEADER, request_id)]
                names = {name for name, _ in headers}
                headers += [default for default in _DEFAULTS if default[0] not in names]
                if settings.trusted_proxies and addresses.is_secure_scope(scope, settings.trusted_proxies):
                    headers.append((strict_transport[0], strict_transport[1]))
                message["headers"] = headers
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
                if refused is None and (wait := rates.enter(scope, credential)):
                    refused = _too_many(wait)
                if refused is None:
                    await application(scope, receive, note)
                    rates.leave(scope, credential, status)
                else:
                    await _answer(refused, scope, request_id, note)
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


def _noted(scope: HTTPScope, hosts: frozenset[str]) -> tuple[dict[bytes, bytes], Refused | None]:
    """Give the headers that matter here, and what is wrong with all of them."""
    noted: dict[bytes, bytes] = {}
    refused: Refused | None = None
    size = len(scope["raw_path"]) + len(scope["query_string"])
    count = 0
    for name, value in scope["headers"]:
        count += 1
        size += len(name) + len(value)
        if name in _NOTED:
            if name in noted and name in _ONCE:
                refused = _malformed(f"the header `{name.decode()}` comes twice")
            noted[name] = value
    if size > HEAD_BYTES_MAXIMUM or count > HEADERS_MAXIMUM:
        refused = Refused(
            status=431,
            code="head_too_large",
            detail=f"the request's head is larger than {HEAD_BYTES_MAXIMUM} bytes, or has more headers than "
            f"{HEADERS_MAXIMUM}",
        )
    if "//" in scope["path"]:
        # The framework takes two for one: a proxy before it, which lets some paths through and others not, may not.
        refused = refused or _malformed("the path has an empty part")
    host = noted.get(b"host")
    if host is None:
        if scope["http_version"] != "1.0":
            refused = refused or _malformed("the header `Host` is missing")
    elif hosts and _name(host) not in hosts:
        refused = refused or Refused(
            status=421,
            code="host_unknown",
            detail="this replica is not asked by that name",
            hint="`allowed_hosts` lists the names by which it may be asked.",
        )
    return noted, refused


def _name(host: bytes) -> str:
    """Give the name in a header `Host`, without its port."""
    text = host.decode("latin-1").lower()
    name, _, port = text.rpartition(":")
    return name if port.isdigit() else text


def _malformed(detail: str) -> Refused:
    return Refused(status=400, code="request_malformed", detail=detail)


def _too_many(wait: float) -> Refused:
    return Refused(
        status=429,
        code="rate_limited",
        detail="too many requests came with this token, or from this address without a valid one",
        hint="Ask again after what `Retry-After` says; `request_rate` and `anonymous_rate` are the limits.",
        retry_after=math.ceil(wait),
    )


async def _answer(refused: Refused, scope: HTTPScope, request_id: bytes, send: Send) -> None:
    problem = ProblemDocument(
        title=HTTPStatus(refused.status).phrase,
        status=refused.status,
        detail=refused.detail,
        code=refused.code,
        instance=scope["path"],
        hint=refused.hint,
        request_id=request_id.decode(),
    )
    body = msgspec.json.encode(problem)
    headers = [(b"content-type", PROBLEM_MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    if refused.retry_after:
        headers.append((b"retry-after", str(refused.retry_after).encode()))
    if refused.status != HTTPStatus.TOO_MANY_REQUESTS:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body, "more_body": False})
