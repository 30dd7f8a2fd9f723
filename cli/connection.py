"""How commands reach an orchestrator: which address, with which token, and how a request is made from one."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import quote
from uuid import UUID

import anyio

from cli import saved_login, settings
from schema import tracing
from schema.client import Client, OrchestratorRefused
from schema.errors import MoonyardError, single_error

Result = TypeVar("Result")


def addresses(given: tuple[str, ...]) -> list[str]:
    """Say which orchestrators to ask: those that were given, those of the user's login, or those of `moonyard up`."""
    if given:
        return list(given)
    login = saved_login.read()
    return (
        (login.orchestrator if login is not None else [])
        or settings.Credentials.of().addresses
        or [settings.DEFAULT_ADDRESS]
    )


def ask(orchestrators: tuple[str, ...], request: Callable[[Client], Awaitable[Result]]) -> Result:
    """Run one request, or several, with a client of the user's orchestrators and token.

    :raises MoonyardError: when there is no token, no orchestrator answers, or it refuses.
    """
    chosen = addresses(orchestrators)
    token = _token(chosen)
    if token is None:
        raise MoonyardError(
            f"there is no token to show to orchestrator {chosen[0]}",
            code="token_missing",
            hint=(
                "`moonyard login` gets one for an account, and MOONYARD_TOKEN or `token` in moonyard.toml hold an API "
                "token. `moonyard up` makes the first one for this machine, `moonyard token create` one on a database."
            ),
        )
    try:
        return ask_as(chosen, token.text, request)
    except OrchestratorRefused as refusal:
        if refusal.status != 401 and refusal.code != "token_kind_wrong":
            raise
        raise MoonyardError(
            f"orchestrator {refusal.address} does not accept the token from {token.origin}: {refusal.message}",
            code=refusal.code,
            hint=refusal.hint,
        ) from refusal


def ask_as(addresses: list[str], token: str | None, request: Callable[[Client], Awaitable[Result]]) -> Result:
    """Run one request, or several, with a client that shows this token, or none.

    :raises MoonyardError: when no orchestrator answers, or it refuses.
    """

    async def go() -> Result:
        with single_error():
            # What a caller that is traced tells its programs, as other tools read it.
            traceparent = tracing.checked(os.environ.get("TRACEPARENT"))
            async with Client.open(addresses, token, traceparent=traceparent, tls_ca=settings.tls_ca()) as client:
                return await request(client)

    return anyio.run(go)


def _token(addresses: list[str]) -> settings.FoundToken | None:
    """Find the user's token: of the environment, the settings file, a login at these orchestrators, or `up`."""
    if named := settings.named_token():
        return named
    login = saved_login.read()
    if login is not None and _are_all_in(addresses, login.orchestrator):
        return settings.FoundToken(login.token, str(saved_login.path()))
    # Addresses may come from a file of the working folder, which may be anybody's: all have to be known.
    return settings.token_of_up() if _are_all_in(addresses, settings.Credentials.of().addresses) else None


def _are_all_in(addresses: list[str], known: list[str]) -> bool:
    return {address.rstrip("/") for address in addresses} <= {address.rstrip("/") for address in known}


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
