"""The ASGI application of a replica: all routes, closed by one guard, with all errors in one shape."""

from __future__ import annotations

import importlib.metadata
from typing import Final

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from orchestrator import access, form, problems
from orchestrator.parts import STATE_NAME, Parts
from orchestrator.routes import caches, http_limits, metrics, plugins, queue, runners, schedules, secrets, shells, users

BODY_BYTES_MAXIMUM: Final = 1024 * 1024
"""Of the routes that do not say otherwise."""

ROUTES: Final = (users, queue, schedules, runners, shells, caches, secrets, metrics, plugins, http_limits)


def create(parts: Parts) -> Litestar:
    """Make the application."""
    return Litestar(
        [handler for group in ROUTES for handler in group.HANDLERS],
        state=State({STATE_NAME: parts}),
        guards=[access.guard, form.guard],
        exception_handlers={Exception: problems.answer},
        request_max_body_size=BODY_BYTES_MAXIMUM,
        openapi_config=OpenAPIConfig(
            title="Moonyard",
            version=importlib.metadata.version("moonyard"),
            description="Errors are problem documents (RFC 9457) with a stable `code`.",
            path="/v1",
            render_plugins=[JsonRenderPlugin(path="/openapi.json")],
            openapi_router=Router(path="/v1", route_handlers=[], opt=access.PUBLIC),
            components=Components(
                security_schemes={"token": SecurityScheme(type="http", scheme="bearer", description="A token.")}
            ),
            security=[{"token": []}],
        ),
        logging_config=None,
        debug=False,
    )
