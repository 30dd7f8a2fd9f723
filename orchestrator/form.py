"""What every request has to be like, whatever it asks for: told before its body is read."""

from __future__ import annotations

from typing import Any, Final

from litestar.connection import ASGIConnection
from litestar.exceptions import NotFoundException
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.params import QueryParameter

from orchestrator import access
from orchestrator.problems import MediaTypeUnsupported, RequestInvalid

JSON: Final = "application/json"


async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Refuse what a handler would pass over: query parameters that it does not know, a body that is said to be no JSON.

    :raises RequestInvalid: naming the query parameters that there are.
    :raises MediaTypeUnsupported: when the body is of another type.
    """
    assert isinstance(handler, HTTPRouteHandler), "there are no routes of another kind"
    if handler.opt.get(access.KEY) == "public" and not handler.tags:
        # The framework's own: the description of all routes, and its page for a path that leads nowhere.
        if connection.path_params:
            raise NotFoundException
        return
    _check_query(connection, handler)
    content_type = connection.headers.get("content-type")
    if handler.parsed_data_field is not None and content_type is not None and not _is_json(content_type):
        raise MediaTypeUnsupported(
            f"the body is said to be `{content_type[:60]}`, and {connection.url.path} takes {JSON}",
            hint=f"Send it as `Content-Type: {JSON}`.",
        )


def _check_query(connection: ASGIConnection[Any, Any, Any, Any], handler: HTTPRouteHandler) -> None:
    known = {
        field.kwarg_definition.name or name
        for name, field in handler.parsed_fn_signature.parameters.items()
        if isinstance(field.kwarg_definition, QueryParameter)
    }
    given = [name for name, _ in connection.query_params.multi_items()]
    for name in given:
        if name not in known:
            there_are = f"there are: {', '.join(sorted(known))}" if known else "this route has none"
            raise RequestInvalid(f"`{name[:60]}` is not a query parameter of {connection.url.path} ({there_are})")
        if given.count(name) > 1:
            raise RequestInvalid(f"query parameter `{name}` is given {given.count(name)} times")


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == JSON
