"""The ASGI application of a replica: all routes, closed by one guard, with all errors in one shape."""

from __future__ import annotations

import functools
import importlib.metadata
from typing import Any, Final

from litestar import Litestar, Request, Response, Router
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme

from orchestrator import access, answers, form, refused_requests
from orchestrator.description import Description
from orchestrator.problems import Refusal
from orchestrator.routes import (
    accounts,
    approvals,
    audit,
    bindings,
    caches,
    hooks,
    http_limits,
    logins,
    metrics,
    pages,
    plugins,
    queue,
    runner_tokens,
    runners,
    schedules,
    secrets,
    shells,
    users,
)

BODY_BYTES_MAXIMUM: Final = 1024 * 1024
"""Of the routes that do not say otherwise."""

ROUTES: Final = (
    users,
    accounts,
    logins,
    audit,
    queue,
    schedules,
    runners,
    runner_tokens,
    bindings,
    shells,
    caches,
    secrets,
    metrics,
    plugins,
    http_limits,
    hooks,
    approvals,
    pages,
)


@functools.cache
def create() -> Litestar:
    """Make the application, the same for all replicas of a process: which one was asked, a request's scope says."""
    return Litestar(
        [handler for group in ROUTES for handler in group.HANDLERS],
        guards=[access.guard, form.guard],
        exception_handlers={Exception: _answer},
        request_max_body_size=BODY_BYTES_MAXIMUM,
        openapi_config=OpenAPIConfig(
            title="Moonyard",
            version=importlib.metadata.version("moonyard"),
            description="Errors are problem documents (RFC 9457) with a stable `code`.",
            path="/v1",
            render_plugins=[Description("/openapi.json")],
            openapi_router=Router(path="/v1", route_handlers=[], opt=access.PUBLIC),
            components=Components(
                security_schemes={"token": SecurityScheme(type="http", scheme="bearer", description="A token.")}
            ),
            security=[{"token": []}],
        ),
        logging_config=None,
        debug=False,
    )


def _answer(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer what ended a request, and note for the audit what was refused for who asked."""
    if isinstance(error, Refusal):
        refused_requests.note(request, error)
    return answers.answer(request, error)
