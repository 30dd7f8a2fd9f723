"""Routes for secrets and grants: for runners to get what was granted, for people to say what there is and who may."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

from litestar import Request, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from litestar.response import Response

from orchestrator import deliveries, events, grants, jobs, parts, secrets
from orchestrator.access import ADMIN, RUNNER
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
    delivery = await deliveries.deliver(parts.of(request), parts.identity(request), _job(job, attempt), attempt, data)
    return Response(delivery, headers=UNKEPT)


@post("/v1/secrets", opt=ADMIN, tags=["secrets"], status_code=201)
async def secret_set(request: AnyRequest, data: JSONBody[SecretSet]) -> Secret:
    """Store a value as a secret's newest version."""
    here = parts.of(request)
    return await secrets.store(here.database, here.settings.secret_keys, data, parts.actor(request))


@get("/v1/secrets", opt=ADMIN, tags=["secrets"])
async def secret_list(request: AnyRequest) -> SecretList:
    """List secrets, never their values."""
    return await secrets.listed(parts.of(request).database)


@get("/v1/secrets/{secret:path}", opt=ADMIN, tags=["secrets"])
async def secret_show(request: AnyRequest, secret: FromPath[Path]) -> Secret:
    """Show a secret with its versions, never their values."""
    return await secrets.shown(parts.of(request).database, secret.as_posix().removeprefix("/"))


@delete("/v1/secrets/{secret:path}", opt=ADMIN, tags=["secrets"], status_code=200)
async def secret_remove(
    request: AnyRequest,
    secret: FromPath[Path],
    number: Annotated[int | None, QueryParameter(name="version", ge=1, le=2**31 - 1)] = None,
) -> SecretRemoved:
    """Remove a secret with its grants, or one version of it."""
    named = secret.as_posix().removeprefix("/")
    return await secrets.remove(parts.of(request).database, named, number, parts.actor(request))


@post("/v1/secret-keys/rewrap", opt=ADMIN, tags=["secrets"], status_code=200)
async def secrets_rewrap(request: AnyRequest) -> SecretsRewrapped:
    """Put all values under the master key that is in use."""
    here = parts.of(request)
    return await secrets.rewrap_all(here.database, here.settings.secret_keys, parts.actor(request))


@post("/v1/grants", opt=ADMIN, tags=["secrets"], status_code=201)
async def grant_add(request: AnyRequest, data: JSONBody[GrantCreate]) -> Grant:
    """Let a pipeline's jobs have a secret."""
    here = parts.of(request)
    follows = here.settings.grant_versions == "follow"
    return await grants.add(here.database, data, follows=follows, actor=parts.actor(request))


@get("/v1/grants", opt=ADMIN, tags=["secrets"])
async def grant_list(
    request: AnyRequest, secret: FromQuery[str | None] = None, pipeline: FromQuery[str | None] = None
) -> GrantList:
    """List up to 1,000 grants, of a secret, of a pipeline, or all."""
    return await grants.listed(parts.of(request).database, secret=secret, pipeline=pipeline)


@delete("/v1/grants/{grant:str}", opt=ADMIN, tags=["secrets"], status_code=200)
async def grant_remove(request: AnyRequest, grant: FromPath[str]) -> Grant:
    """End a grant."""
    return await grants.remove(parts.of(request).database, grants.identified(grant), parts.actor(request))


@post("/v1/grants/confirm", opt=ADMIN, tags=["secrets"], status_code=200)
async def grants_confirm(request: AnyRequest, data: JSONBody[GrantsConfirm]) -> GrantsConfirmed:
    """Let a version of a pipeline have what the pipeline was granted."""
    return await grants.confirm(parts.of(request).database, data, parts.actor(request))


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
