"""How commands reach an orchestrator: which address, with which token, and how a request is made from one."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import quote
from uuid import UUID

import anyio

from cli import settings
from schema import tracing
from schema.client import Client, OrchestratorRefused
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
            # What a caller that is traced tells its programs, as other tools read it.
            traceparent = tracing.checked(os.environ.get("TRACEPARENT"))
            async with Client.open(addresses, token.text, traceparent=traceparent) as client:
                return await request(client)

    try:
        return anyio.run(go)
    except OrchestratorRefused as refusal:
        if refusal.status not in {401, 403}:
            raise
        raise MoonyardError(
            f"orchestrator {refusal.address} does not accept the token from {token.origin}: {refusal.message}",
            code=refusal.code,
            hint=refusal.hint,
        ) from refusal


def job_path(job: str) -> str:
    """Give the path of a job that the user named by its number or id.

    :raises MoonyardError: when it can be neither.
    """
    if not (job.isascii() and job.isdigit()):
        try:
            UUID(job)
        except ValueError:
            raise MoonyardError(
                f"`{job}` is neither a job's number nor a job's id",
                code="job_unknown",
                hint="`moonyard jobs` lists jobs.",
            ) from None
    return f"/v1/jobs/{job}"


def in_path(kind: str, name: str) -> str:
    """Write a name into a path: it may hold slashes, and no part that would lead elsewhere.

    :raises MoonyardError: when nothing can have that name.
    """
    if any(part in {"", ".", ".."} for part in name.split("/")):
        raise MoonyardError(f"there is no {kind} `{name}`", code=f"{kind}_unknown")
    return quote(name)
