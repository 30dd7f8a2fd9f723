"""Who may call which route. Each route says so in its ``opt``; one that says nothing is closed to all."""

from __future__ import annotations

from typing import Any, Final, Literal

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from orchestrator import parts
from orchestrator.problems import Forbidden

Access = Literal["public", "admin", "registration", "runner"]
KEY: Final = "access"

PUBLIC: Final[dict[str, Access]] = {KEY: "public"}
ADMIN: Final[dict[str, Access]] = {KEY: "admin"}
REGISTRATION: Final[dict[str, Access]] = {KEY: "registration"}
RUNNER: Final[dict[str, Access]] = {KEY: "runner"}


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
            f"this route is for {access or 'no'} tokens, and a token of kind {identity.kind} was sent",
            hint=None if access is None else f"Use a token of kind {access}.",
        )
    connection.scope["auth"] = identity
