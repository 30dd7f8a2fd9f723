"""Routes for secrets and grants: for runners to get what was granted, for people to say what there is and who may."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

from litestar import Request, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from litestar.response import Response

from orchestrator import access, addresses, deliveries, events, grants, jobs, parts, pipelines, secrets
from orchestrator.access import RUNNER, needs
from schema.secrets import (
    Grant,
    GrantCreate,
    GrantList,
    GrantsConfirm,
    GrantsConfirmed,
    Secret,
    SecretAsk,
    SecretDelivery,
    SecretList,
    SecretRemoved,
    SecretSet,
    SecretsRewrapped,
)

AnyRequest = Request[Any, Any, Any]
UNKEPT: Final = {"Cache-Control": "no-store"}


@post("/v1/runner/jobs/{job:str}/{attempt:int}/secrets", opt=RUNNER, tags=["runner"], status_code=200)
async def secret_deliver(
    request: AnyRequest, job: FromPath[str], attempt: FromPath[int], data: JSONBody[SecretAsk]
) -> Response[SecretDelivery]:
    """Give a secret to an attempt, where its pipeline was granted it; it is written down who got it."""
    here, identity, address = parts.of(request), parts.identity(request), addresses.client_address(request)
    delivery = await deliveries.deliver(here, identity, _job(job, attempt), attempt, data, address)
    return Response(delivery, headers=UNKEPT)


@post("/v1/secrets", opt=needs("manage-secrets"), tags=["secrets"], status_code=201)
async def secret_set(request: AnyRequest, data: JSONBody[SecretSet]) -> Secret:
    """Store a value as a secret's newest version."""
    here = parts.of(request)
    _require_scope(request, data.secret)
    return await secrets.store(here.database, here.settings.secret_keys, data, parts.actor(request))


@get("/v1/secrets", opt=needs("manage-secrets"), tags=["secrets"])
async def secret_list(request: AnyRequest) -> SecretList:
    """List secrets, never their values."""
    return await secrets.listed(parts.of(request).database, access.visible(request, "manage-secrets"))


@get("/v1/secrets/{secret:path}", opt=needs("manage-secrets"), tags=["secrets"])
async def secret_show(request: AnyRequest, secret: FromPath[Path]) -> Secret:
    """Show a secret with its versions, never their values."""
    named = secret.as_posix().removeprefix("/")
    _require_scope(request, named)
    return await secrets.shown(parts.of(request).database, named)


@delete("/v1/secrets/{secret:path}", opt=needs("manage-secrets"), tags=["secrets"], status_code=200)
async def secret_remove(
    request: AnyRequest,
    secret: FromPath[Path],
    number: Annotated[int | None, QueryParameter(name="version", ge=1, le=2**31 - 1)] = None,
) -> SecretRemoved:
    """Remove a secret with its grants, or one version of it."""
    named = secret.as_posix().removeprefix("/")
    _require_scope(request, named)
    return await secrets.remove(parts.of(request).database, named, number, parts.actor(request))


@post("/v1/secret-keys/rewrap", opt=needs("manage-installation"), tags=["secrets"], status_code=200)
async def secrets_rewrap(request: AnyRequest) -> SecretsRewrapped:
    """Put all values under the master key that is in use."""
    here = parts.of(request)
    return await secrets.rewrap_all(here.database, here.settings.secret_keys, parts.actor(request))


@post("/v1/grants", opt=needs("manage-secrets"), tags=["secrets"], status_code=201)
async def grant_add(request: AnyRequest, data: JSONBody[GrantCreate]) -> Grant:
    """Let a pipeline's jobs have a secret."""
    here = parts.of(request)
    # Whoever grants gives away a secret, and gives something to a pipeline: both have to be theirs to manage.
    _require_scope(request, data.secret)
    access.require_on(request, "manage-secrets", data.pipeline, pipelines.unknown(data.pipeline))
    follows = here.settings.grant_versions == "follow"
    return await grants.add(here.database, data, follows=follows, actor=parts.actor(request))


@get("/v1/grants", opt=needs("manage-secrets"), tags=["secrets"])
async def grant_list(
    request: AnyRequest, secret: FromQuery[str | None] = None, pipeline: FromQuery[str | None] = None
) -> GrantList:
    """List up to 1,000 grants, of a secret, of a pipeline, or all."""
    visible = access.visible(request, "manage-secrets")
    if secret is not None:
        _require_scope(request, secret)
    return await grants.listed(parts.of(request).database, visible, secret=secret, pipeline=pipeline)


@delete("/v1/grants/{grant:str}", opt=needs("manage-secrets"), tags=["secrets"], status_code=200)
async def grant_remove(request: AnyRequest, grant: FromPath[str]) -> Grant:
    """End a grant."""
    here, found = parts.of(request).database, grants.identified(grant)
    held = await grants.get(here, found)
    access.require_on(request, "manage-secrets", held.pipeline, grants.unknown(grant))
    return await grants.remove(here, found, parts.actor(request))


@post("/v1/grants/confirm", opt=needs("manage-secrets"), tags=["secrets"], status_code=200)
async def grants_confirm(request: AnyRequest, data: JSONBody[GrantsConfirm]) -> GrantsConfirmed:
    """Let a version of a pipeline have what the pipeline was granted."""
    access.require_on(request, "manage-secrets", data.pipeline, pipelines.unknown(data.pipeline))
    return await grants.confirm(parts.of(request).database, data, parts.actor(request))


def _require_scope(request: AnyRequest, secret: str) -> None:
    """See that a secret's pipeline is one whose secrets may be managed; for one that is for any, that all are."""
    scope, _ = secrets.split(secret)
    if scope:
        access.require_on(request, "manage-secrets", scope, secrets.unknown(secret))
    else:
        access.require(request, "manage-secrets")


def _job(text: str, attempt: int) -> UUID:
    if not 0 < attempt < 2**31:
        raise events.unknown_attempt(text, attempt)
    try:
        return UUID(text)
    except ValueError:
        raise jobs.unknown(text) from None


HANDLERS: Final[list[HTTPRouteHandler]] = [
    secret_deliver,
    secret_set,
    secret_list,
    secret_show,
    secret_remove,
    secrets_rewrap,
    grant_add,
    grant_list,
    grant_remove,
    grants_confirm,
]
