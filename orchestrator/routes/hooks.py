"""Routes for webhooks: where they are delivered, for whoever has a hook's secret; and for people to manage them."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from litestar import Request, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody
from litestar.response import Response

from orchestrator import access, addresses, parts, pipelines
from orchestrator.access import needs
from orchestrator.hooks import store
from schema.hooks import (
    Hook,
    HookAnswer,
    HookCreate,
    HookDeliveryList,
    HookList,
    HookRotate,
    HookRules,
    HookTest,
    HookTested,
)

AnyRequest = Request[Any, Any, Any]
TEST_BYTES_MAXIMUM: Final = 64 * 1024 * 1024
"""A payload within JSON; the size of a delivery's body is looked at besides."""
UNKEPT: Final = {"Cache-Control": "no-store"}


@post(
    "/v1/hooks/{hook:str}",
    opt=access.PUBLIC,
    tags=["hooks"],
    status_code=202,
    request_max_body_size=None,
)
async def hook_receive(request: AnyRequest, hook: FromPath[str]) -> HookAnswer:
    """Take a delivery of a webhook: signed with the hook's secret, in the way of the hook's kind."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    return await parts.of(request).hooks.receive(hook, headers, request.stream(), addresses.client_address(request))


@post("/v1/hooks", opt=needs("manage-hooks"), tags=["hooks"], status_code=201)
async def hook_create(request: AnyRequest, data: JSONBody[HookCreate]) -> Response[Hook]:
    """Make a hook; the answer is the only place where its secret ever stands."""
    here = parts.of(request)
    async with pipelines.naming_near(here.database, access.visible(request, "view")):
        access.require_on(request, "manage-hooks", data.pipeline, pipelines.unknown(data.pipeline))
        made = await store.create(here.database, here.settings.secret_keys, data, parts.actor(request))
    return Response(made, headers=UNKEPT)


@get("/v1/hooks", opt=needs("manage-hooks"), tags=["hooks"])
async def hook_list(request: AnyRequest) -> HookList:
    """List the hooks that may be managed, never their secrets."""
    return await store.listed(parts.of(request).database, access.visible(request, "manage-hooks"))


@get("/v1/hooks/{hook:str}", opt=needs("manage-hooks"), tags=["hooks"])
async def hook_show(request: AnyRequest, hook: FromPath[str]) -> Hook:
    """Show a hook, by its name."""
    return await _managed(request, hook)


@get("/v1/hooks/{hook:str}/deliveries", opt=needs("manage-hooks"), tags=["hooks"])
async def hook_deliveries(request: AnyRequest, hook: FromPath[str]) -> HookDeliveryList:
    """List the newest 100 deliveries of a hook, and what became of each."""
    await _managed(request, hook)
    return await store.deliveries(parts.of(request).database, hook)


@post("/v1/hooks/{hook:str}/change", opt=needs("manage-hooks"), tags=["hooks"], status_code=200)
async def hook_change(request: AnyRequest, hook: FromPath[str], data: JSONBody[HookRules]) -> Hook:
    """Give a hook other rules, instead of all that it has; its URL and secrets stay."""
    await _managed(request, hook)
    return await store.change(parts.of(request).database, hook, data, parts.actor(request))


@delete("/v1/hooks/{hook:str}", opt=needs("manage-hooks"), tags=["hooks"], status_code=200)
async def hook_remove(request: AnyRequest, hook: FromPath[str]) -> Hook:
    """Remove a hook; its jobs stay."""
    await _managed(request, hook)
    return await store.remove(parts.of(request).database, hook, parts.actor(request))


@post("/v1/hooks/{hook:str}/pause", opt=needs("manage-hooks"), tags=["hooks"], status_code=200)
async def hook_pause(request: AnyRequest, hook: FromPath[str]) -> Hook:
    """Let a hook rest: what is delivered starts nothing."""
    await _managed(request, hook)
    return await store.pause(parts.of(request).database, hook, parts.actor(request))


@post("/v1/hooks/{hook:str}/resume", opt=needs("manage-hooks"), tags=["hooks"], status_code=200)
async def hook_resume(request: AnyRequest, hook: FromPath[str]) -> Hook:
    """Let a hook go on."""
    await _managed(request, hook)
    return await store.resume(parts.of(request).database, hook, parts.actor(request))


@post("/v1/hooks/{hook:str}/rotate", opt=needs("manage-hooks"), tags=["hooks"], status_code=200)
async def hook_rotate(request: AnyRequest, hook: FromPath[str], data: JSONBody[HookRotate]) -> Response[Hook]:
    """Make a new secret, which the answer alone holds; those of before hold on for a while."""
    await _managed(request, hook)
    here = parts.of(request)
    made = await store.rotate(here.database, here.settings.secret_keys, hook, data, parts.actor(request))
    return Response(made, headers=UNKEPT)


@post(
    "/v1/hooks/{hook:str}/test",
    opt=needs("manage-hooks"),
    tags=["hooks"],
    status_code=200,
    request_max_body_size=TEST_BYTES_MAXIMUM,
)
async def hook_test(request: AnyRequest, hook: FromPath[str], data: JSONBody[HookTest]) -> HookTested:
    """Have a delivery come to a hook as if from its forge, and say what becomes of it."""
    found = await _managed(request, hook)
    return await parts.of(request).hooks.test(found.name, UUID(found.id), data)


async def _managed(request: AnyRequest, name: str) -> Hook:
    """Find a hook whose pipeline's hooks may be managed."""
    found = await store.get(parts.of(request).database, name)
    access.require_on(request, "manage-hooks", found.pipeline, store.unknown(name))
    return found


HANDLERS: Final[list[HTTPRouteHandler]] = [
    hook_receive,
    hook_create,
    hook_list,
    hook_show,
    hook_deliveries,
    hook_change,
    hook_remove,
    hook_pause,
    hook_resume,
    hook_rotate,
    hook_test,
]
