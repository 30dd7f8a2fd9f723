"""What a browser brings along: its session's cookie, and what shows that a form is one of ours."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, Final
from urllib.parse import parse_qsl

from litestar import Request
from litestar.connection import ASGIConnection

from orchestrator import parts
from orchestrator.addresses import is_secure
from orchestrator.authentication import Identity
from orchestrator.problems import Forbidden, RequestInvalid, Unauthenticated

AnyRequest = Request[Any, Any, Any]
Connection = ASGIConnection[Any, Any, Any, Any]
FORM: Final = "application/x-www-form-urlencoded"
FIELDS_MAXIMUM: Final = 20
_NAME: Final = "moonyard_session"
_NEXT_LENGTH_MAXIMUM: Final = 500


def cookie(connection: Connection, name: str, value: str, *, seconds: float | None) -> str:
    """Write a `Set-Cookie` header's value: for this site alone, unread by scripts, and by TLS alone where there is any.

    :param seconds: how long it is kept; None removes it.
    """
    text = f"{_name(connection, name)}={value}; Path=/; HttpOnly; SameSite=Lax"
    if is_secure(connection):
        text += "; Secure"
    return f"{text}; Max-Age={0 if seconds is None else int(seconds)}"


def session_cookie(connection: Connection, token: str, *, seconds: float | None) -> str:
    """Write the `Set-Cookie` header's value that keeps a session, or ends it."""
    return cookie(connection, _NAME, token, seconds=seconds)


def given(connection: Connection, name: str) -> str | None:
    """Read a cookie of ours."""
    # Not by the standard library: it reads none where a neighbour's cookie is not as it likes them.
    return connection.cookies.get(_name(connection, name))


async def session(connection: Connection) -> Identity | None:
    """Find who is logged in in this browser, if anybody is."""
    token = given(connection, _NAME)
    if not token:
        return None
    try:
        identity = await parts.of(connection).authentication.verify(f"Bearer {token}")
    except Unauthenticated:
        return None
    return identity if identity.kind == "session" else None


def form_token(connection: Connection) -> str:
    """Give what a form of this session holds, and no other site can know."""
    return hashlib.sha256(f"form {given(connection, _NAME)}".encode()).hexdigest()


async def form(request: AnyRequest) -> dict[str, str]:
    """Read a form that a page of this site sent.

    :raises Forbidden: when it came from another site's page, or from nobody knows where.
    :raises RequestInvalid: when it is none.
    """
    if not _is_own(request, request.headers.get("origin")):
        raise Forbidden(
            "this form was not sent by a page of this site",
            code="form_foreign",
            hint="Open the page anew. A proxy before the orchestrator has to pass on the `Host` that browsers ask for.",
        )
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise RequestInvalid(f"a form is sent as {FORM}")
    try:
        fields = parse_qsl(
            (await request.body()).decode(), keep_blank_values=True, max_num_fields=FIELDS_MAXIMUM, strict_parsing=True
        )
    except ValueError as error:
        raise RequestInvalid("the body is no form") from error
    return dict(fields)


async def form_of_session(request: AnyRequest) -> dict[str, str]:
    """Read a form that a page of this session sent.

    :raises Forbidden: when it belongs to another session, or to another site.
    """
    fields = await form(request)
    if not hmac.compare_digest(fields.get("form_token", ""), form_token(request)):
        raise Forbidden(
            "this form belongs to another login", code="form_foreign", hint="Open the page anew, and send it again."
        )
    return fields


def safe_next(text: str | None) -> str:
    """Give where to go after a login: a path of this site, whatever was asked for."""
    if not text or len(text) > _NEXT_LENGTH_MAXIMUM or not text.isascii() or not text.isprintable():
        return "/"
    # What begins with one slash names no other host (RFC 3986, section 4.2); browsers take `\\` for `/`.
    return text if text.startswith("/") and not text.startswith("//") and "\\" not in text else "/"


def _is_own(connection: Connection, origin: str | None) -> bool:
    host = connection.headers.get("host")
    if not origin or not host:
        return False
    # A proxy that speaks TLS may not be one that is believed: then https is this site, too. Never http where TLS is.
    ports = {"https": ":443"} if is_secure(connection) else {"https": ":443", "http": ":80"}
    return any(origin == f"{scheme}://{host.removesuffix(port)}" for scheme, port in ports.items())


def _name(connection: Connection, name: str) -> str:
    # With this prefix, browsers take the cookie by TLS from this very host alone: no neighbour can plant it.
    return f"__Host-{name}" if is_secure(connection) else name
