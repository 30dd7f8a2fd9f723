"""Who may call which route. Each route says so in its ``opt``; one that says nothing is closed to all."""

from __future__ import annotations

from typing import Any, Final, Literal

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from orchestrator import parts
from orchestrator.problems import Forbidden
from schema import log_context

Access = Literal["public", "admin", "registration", "runner"]
KEY: Final = "access"

PUBLIC: Final[dict[str, Access]] = {KEY: "public"}
ADMIN: Final[dict[str, Access]] = {KEY: "admin"}
REGISTRATION: Final[dict[str, Access]] = {KEY: "registration"}
RUNNER: Final[dict[str, Access]] = {KEY: "runner"}
_LOGGED_PARAMETERS: Final = frozenset({"job", "attempt"})
"""Of a route's path: what its lines in the log are about."""

_HINTS: Final[dict[Access, str]] = {
    "public": "",
    "admin": "`moonyard token create` makes an admin token.",
    "registration": "`moonyard token create --kind registration --name NAME` makes a registration token.",
    "runner": "A runner gets its token when it registers: `moonyard runner register`.",
}


async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Let a request through to a handler, or not, before its body is read.

    :raises Unauthenticated: when it has no valid token.
    :raises Forbidden: when its token is of another kind than the route is for.
    """
    access = handler.opt.get(KEY)
    if access == "public":
        return
    identity = await parts.of(connection).authentication.verify(connection.headers.get("authorization"))
    if identity.kind != access:
        raise Forbidden(
            f"{connection.url.path} is for tokens of kind {access or 'none'}, and this one is of kind {identity.kind}",
            hint=None if access is None else _HINTS[access],
        )
    connection.scope["auth"] = identity
    about: dict[str, log_context.Fact] = {
        name: value for name, value in connection.path_params.items() if name in _LOGGED_PARAMETERS
    }
    if identity.runner is not None:
        about["runner"] = str(identity.runner)
    if about:
        log_context.note(**about)
