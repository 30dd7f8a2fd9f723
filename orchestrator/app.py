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
from orchestrator.routes import runners, users

BODY_BYTES_MAXIMUM: Final = 1024 * 1024
"""Of the routes that do not say otherwise."""
OPENAPI_PATH: Final = "/v1/openapi.json"


def create(parts: Parts) -> Litestar:
    """Make the application."""
    return Litestar(
        [*users.HANDLERS, *runners.HANDLERS],
        state=State({STATE_NAME: parts}),
        guards=[access.guard, form.guard],
        exception_handlers={Exception: problems.answer},
        request_max_body_size=BODY_BYTES_MAXIMUM,
        openapi_config=OpenAPIConfig(
            title="Moonyard",
            version=importlib.metadata.version("moonyard"),
            description="Errors are problem documents (RFC 9457) with a stable `code`.",
            path=OPENAPI_PATH,
            render_plugins=[JsonRenderPlugin(path="/")],
            openapi_router=Router(path=OPENAPI_PATH, route_handlers=[], opt=access.PUBLIC),
            components=Components(
                security_schemes={"token": SecurityScheme(type="http", scheme="bearer", description="A token.")}
            ),
            security=[{"token": []}],
        ),
        logging_config=None,
        debug=False,
    )
