"""How commands reach an orchestrator: which address, with which token, and how a request is made from one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from cli import settings
from schema.client import Client
from schema.errors import MoonyardError, single_error

Result = TypeVar("Result")


def ask(orchestrators: tuple[str, ...], request: Callable[[Client], Awaitable[Result]]) -> Result:
    """Run one request, or several, with a client of the user's orchestrators and token.

    :raises MoonyardError: when there is no token, no orchestrator answers, or it refuses.
    """
    addresses = list(orchestrators) or settings.Credentials.of().addresses or [settings.DEFAULT_ADDRESS]
    token = settings.token()
    if token is None:
        raise MoonyardError(
            f"there is no token to show to orchestrator {addresses[0]}",
            code="token_missing",
            hint=(
                "Set MOONYARD_TOKEN, or `token` in moonyard.toml. `moonyard up` makes the first one for this machine, "
                "`moonyard token create` one on a database."
            ),
        )

    async def go() -> Result:
        with single_error():
            async with Client.open(addresses, token) as client:
                return await request(client)

    return anyio.run(go)
