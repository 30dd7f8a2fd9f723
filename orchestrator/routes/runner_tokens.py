"""Routes of runners' tokens: for runners, who get new ones, and for operators, who want that, or have them refused."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from orchestrator import parts, runner_tokens
from orchestrator.access import RUNNER, needs
from orchestrator.authentication import hashed, new_secret
from orchestrator.sql import runners as sql
from schema.wire import RunnersChanged, RunnerToken, RunnerTokenUsed

AnyRequest = Request[Any, Any, Any]


@post("/v1/runner/token", opt=RUNNER, tags=["runner"], status_code=201)
async def token_make(request: AnyRequest) -> RunnerToken:
    """Give the runner a new token; the one that it asks with is good until the new one is used."""
    identity, secret = parts.identity(request), new_secret("runner")
    assert identity.runner is not None, "a runner's token has its runner: a constraint says so"
    await runner_tokens.add(parts.of(request).database, identity.runner, identity.token, hashed(secret))
    return RunnerToken(token=secret)


@get("/v1/runner/token", opt=RUNNER, tags=["runner"])
async def token_used(request: AnyRequest) -> RunnerTokenUsed:
    """Say whose token it is; as any first use of a token, it replaces the runner's others."""
    return RunnerTokenUsed(runner=str(parts.identity(request).runner))


@post("/v1/runners/{runner:str}/rotate", opt=needs("manage-runners"), tags=["runners"], status_code=200)
async def runner_rotate(request: AnyRequest, runner: FromPath[str]) -> RunnersChanged:
    """Have the runners of a name or id get new tokens, as soon as they hear of it."""
    here = parts.of(request)
    rows = await here.database.rows(sql.ROTATE, _named(runner), parts.actor(request))
    return _called(request, [row["id"] for row in rows])


@post("/v1/runners/{runner:str}/revoke", opt=needs("manage-runners"), tags=["runners"], status_code=200)
async def runner_revoke(request: AnyRequest, runner: FromPath[str]) -> RunnersChanged:
    """Refuse the tokens of the runners of a name or id from now on; what they ran is queued again."""
    return await _revoke(request, runner, is_removed=False)


@post("/v1/runners/{runner:str}/remove", opt=needs("manage-runners"), tags=["runners"], status_code=200)
async def runner_remove(request: AnyRequest, runner: FromPath[str]) -> RunnersChanged:
    """Revoke the runners of a name or id, and list them no more."""
    return await _revoke(request, runner, is_removed=True)


async def _revoke(request: AnyRequest, runner: str, *, is_removed: bool) -> RunnersChanged:
    here = parts.of(request)
    rows = await here.database.rows(sql.REVOKE, _named(runner), parts.actor(request), is_removed)
    here.authentication.forget()
    return _called(request, [row["id"] for row in rows])


def _called(request: AnyRequest, runners: list[UUID]) -> RunnersChanged:
    for runner in runners:
        parts.of(request).notifications.runner_called(runner)
    return RunnersChanged(runners=[str(runner) for runner in runners])


def _named(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


HANDLERS: Final[list[HTTPRouteHandler]] = [token_make, token_used, runner_rotate, runner_revoke, runner_remove]
