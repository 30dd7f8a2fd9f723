"""Notes for the audit what was refused for who asked, as the request tells it."""

from __future__ import annotations

from typing import Any

from litestar import Request

from orchestrator import addresses, parts
from orchestrator.authentication import Identity
from orchestrator.problems import Refusal
from orchestrator.refusals import NOBODY, Refused


def note(request: Request[Any, Any, Any], error: Refusal) -> None:
    """Note a refusal, if it is about who may do what; any other leaves no row."""
    if not error.is_of_rights:
        return
    scope = request.scope
    identity = scope["auth"] if "auth" in scope else None  # noqa: SIM401  # `get` has no type in a scope
    route = scope["path_template"] if "path_template" in scope else scope["path"]
    parts.of(request).refusals.note(
        Refused(
            actor=identity.actor if isinstance(identity, Identity) else NOBODY,
            address=addresses.client_address(request),
            action=f"{request.method} {route}",
            subject=error.subject or scope["path"],
            code=error.code,
            message=error.message,
        )
    )
