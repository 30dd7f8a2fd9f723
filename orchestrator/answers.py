"""How a problem is told: to whom why, and to whom only that.

What a request did wrong is told to whoever sent it. What failed here (no database, no store of contents, a defect) is
told with where and why to those alone who look after the installation: to others it would be a map of the machines
behind this one. They are told what is the matter, and under which id the log has the rest.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from litestar import Request, Response

from orchestrator import problems
from orchestrator.authentication import Identity
from schema.wire import PROBLEM_MEDIA_TYPE, ProblemDocument

_FAILED: Final = {
    "database_unavailable": "the orchestrator cannot use its database just now",
    "artifact_store_failed": "the orchestrator cannot use its store of contents just now",
}


def answer(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Turn whatever ended a request into its answer."""
    problem, headers = problems.of(request, error)
    if problem.status >= 500 and not _may_see_internals(request):
        problem = _without_internals(problem)
    problem = msgspec.structs.replace(problem, request_id=problems.request_id())
    return Response(
        msgspec.json.encode(problem), status_code=problem.status, media_type=PROBLEM_MEDIA_TYPE, headers=headers
    )


def _may_see_internals(request: Request[Any, Any, Any]) -> bool:
    identity: object = request.scope.get("auth")  # pyright: ignore[reportUnknownMemberType]  # the framework's own type
    return isinstance(identity, Identity) and identity.rights.may("manage-installation")


def _without_internals(problem: ProblemDocument) -> ProblemDocument:
    return msgspec.structs.replace(
        problem,
        detail=_FAILED.get(problem.code, "the orchestrator met an error of its own"),
        hint=f"Try again in a moment. Its log says why, under request {problems.request_id()}.",
        cause=None,
    )
