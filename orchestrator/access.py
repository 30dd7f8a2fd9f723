"""Who may call which route, and do what with which pipeline.

Each route says in its ``opt`` which kind of token it is for, and which permission it needs; one that says nothing is
closed to all. The guard lets those through who hold the permission for some pipeline; which one it is about is known
by its handler alone, which asks ``require`` or takes what ``visible`` gives into its statement.

What somebody may do nothing with looks as if it was not there: the answer is the same.
"""

from __future__ import annotations

from typing import Any, Final, Literal
from uuid import UUID

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler

from orchestrator import addresses, jobs, origins, parts
from orchestrator.authentication import Identity
from orchestrator.problems import Forbidden, Refusal, Unauthenticated
from orchestrator.rights import ALL, Visible
from orchestrator.sql import jobs as jobs_sql
from schema import log_context
from schema.permissions import MEANINGS, PIPELINE_PERMISSIONS, Permission
from schema.wire import TokenKind

Access = Literal["public", "people", "registration", "runner", "setup", "invitation"]
KEY: Final = "access"
PERMISSION: Final = "permission"
Connection = ASGIConnection[Any, Any, Any, Any]

PUBLIC: Final[dict[str, Access]] = {KEY: "public"}
PEOPLE: Final[dict[str, Access]] = {KEY: "people"}
"""Whoever speaks for an account, or with an admin token."""
REGISTRATION: Final[dict[str, Access]] = {KEY: "registration"}
RUNNER: Final[dict[str, Access]] = {KEY: "runner"}
SETUP: Final[dict[str, Access]] = {KEY: "setup"}
INVITATION: Final[dict[str, Access]] = {KEY: "invitation"}
_PEOPLE: Final[frozenset[TokenKind]] = frozenset({"admin", "user", "session"})
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_LOGGED_PARAMETERS: Final = frozenset({"job", "attempt"})
"""Of a route's path: what its lines in the log are about."""

_HINTS: Final[dict[Access, str]] = {
    "public": "",
    "people": "`moonyard login` gets a token for people.",
    "setup": "`moonyard token create --kind setup --name NAME --database-url URL` makes a setup token.",
    "invitation": "`moonyard account invite NAME` makes an invitation.",
    "registration": "`moonyard token create --kind registration --name NAME` makes a registration token.",
    "runner": "A runner gets its token when it registers: `moonyard runner register`.",
}


def needs(permission: Permission) -> dict[str, str]:
    """Say that a route is for people who hold a permission."""
    return {KEY: "people", PERMISSION: permission}


async def guard(connection: Connection, handler: BaseRouteHandler) -> None:
    """Let a request through to a handler, or not, before its body is read.

    :raises Unauthenticated: when it has no valid token.
    :raises Forbidden: when its token is of another kind than the route is for, or its permission is held for nothing.
    """
    access = handler.opt.get(KEY)
    # A public route may log somebody in, also by a GET: an identity provider sends browsers back that way.
    if access == "public" or (access != "runner" and not _is_for_reading(handler)):
        origins.address.set(addresses.client_address(connection))
    if access == "public":
        return
    identity = await parts.of(connection).authentication.verify(connection.headers.get("authorization"))
    connection.scope["auth"] = identity
    if identity.kind not in _PEOPLE if access == "people" else identity.kind != access:
        whose = "people" if access == "people" else f"kind {access}"
        raise Forbidden(
            f"{connection.url.path} is for tokens of {whose}, and this one is of kind {identity.kind}",
            hint=None if access is None else _HINTS[access],
        )
    permission: Permission | None = handler.opt.get(PERMISSION)
    if permission is not None and not identity.rights.may_somewhere(permission):
        raise _missing(identity, permission)
    about: dict[str, log_context.Fact] = {
        name: value for name, value in connection.path_params.items() if name in _LOGGED_PARAMETERS
    }
    if identity.runner is not None:
        about["runner"] = str(identity.runner)
    if about:
        log_context.note(**about)


def _is_for_reading(handler: BaseRouteHandler) -> bool:
    return isinstance(handler, HTTPRouteHandler) and handler.http_methods <= _READING


def require(connection: Connection, permission: Permission, pipelines: str = ALL) -> None:
    """See that a permission is held for the pipelines of a name or pattern; by default for all there are.

    :raises Forbidden: naming what is missing.
    """
    identity = parts.identity(connection)
    if not identity.rights.may(permission, pipelines):
        raise _missing(identity, permission, pipelines)


def require_on(connection: Connection, permission: Permission, pipeline: str, unknown: Refusal) -> None:
    """See that a permission is held for a pipeline; where none is, it looks as if there was no such pipeline.

    :param unknown: what is told to who may do nothing with the pipeline.
    :raises Forbidden: naming what is missing, to who may do something else with it.
    """
    identity = parts.identity(connection)
    if identity.rights.may(permission, pipeline):
        return
    if not any(identity.rights.may(other, pipeline) for other in PIPELINE_PERMISSIONS):
        unknown.is_of_rights = True
        raise unknown
    raise _missing(identity, permission, pipeline)


def visible(connection: Connection, permission: Permission) -> Visible:
    """Say for which pipelines a permission is held, as statements take it."""
    return parts.identity(connection).rights.visible(permission)


async def job(connection: Connection, reference: str, permission: Permission) -> UUID:
    """Find a job by its number or id, with which whoever asks may do something.

    :raises NotFound: when there is none, or it is of a pipeline that whoever asks may do nothing with.
    :raises Forbidden: when it is of one that this permission is not held for.
    """
    here = parts.of(connection)
    found = await jobs.resolve(here.database, reference)
    if not visible(connection, permission).is_everything:
        await require_job(connection, found, permission, jobs.unknown(reference))
    return found


async def still_may(connection: Connection, permission: Permission, job: UUID) -> bool:
    """Say whether the token of a request that takes long is still valid, and a permission still held for a job."""
    here = parts.of(connection)
    try:
        identity = await here.authentication.verify(connection.headers.get("authorization"))
    except Unauthenticated:
        return False
    if identity.rights.visible(permission).is_everything:
        return True
    pipeline = await here.database.value(jobs_sql.PIPELINE_OF_JOB, job)
    return pipeline is not None and identity.rights.may(permission, pipeline)


async def require_job(connection: Connection, job: UUID, permission: Permission, unknown: Refusal) -> None:
    """See that a permission is held for the pipeline of a job, as ``require_on`` does."""
    pipeline = await parts.of(connection).database.value(jobs_sql.PIPELINE_OF_JOB, job)
    if pipeline is None:
        raise unknown
    require_on(connection, permission, pipeline, unknown)


def _missing(identity: Identity, permission: Permission, pipelines: str | None = None) -> Forbidden:
    who = f"account `{identity.account_name}`" if identity.account_name else f"token `{identity.name}`"
    where = "" if pipelines is None else " for all pipelines" if pipelines == ALL else f" for `{pipelines[:100]}`"
    return Forbidden(
        f"{who} does not hold permission `{permission}`{where}: to {MEANINGS[permission]}",
        code="permission_missing",
        hint=(
            "This token is narrowed: it may do less than its account."
            if identity.rights.is_narrowed
            else "Those who manage accounts give roles that have it: `moonyard role grant`."
        ),
    )
