"""The OpenAPI document: what the framework reads from the routes, and what it cannot know.

That is: which errors a route answers with, as which documents; who may call it; what bodies are that the routes read by
themselves; and which routes are the framework's own and none of ours.
"""

from __future__ import annotations

from typing import Any, Final

from litestar import Litestar, Request
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.routes import HTTPRoute

from orchestrator import access
from schema.wire import PROBLEM_MEDIA_TYPE

Document = dict[str, Any]
"""As JSON: its shape is OpenAPI's, which has no types here."""

_FRAMEWORK_PATHS: Final = ("/v1", "/v1/{path}")
_BODIES: Final = {
    ("put", "/v1/runner/blobs/{sha256}"): "application/octet-stream",
    ("post", "/v1/runner/jobs/{job}/{attempt}/events"): "application/x-ndjson",
    ("post", "/v1/hooks/{hook}"): "application/json",
}
"""Of routes that read their body as it comes."""
_DOWNLOADS: Final = (
    "/v1/jobs/{job}/artifacts/{name}",
    "/v1/runner/jobs/{job}/{attempt}/artifacts/{source}/{name}",
    "/v1/runner/jobs/{job}/{attempt}/caches/{cache}",
    "/v1/runner/jobs/{job}/{attempt}/workspace",
    "/v1/runner/plugins/{sha256}",
)
"""Their answer is of the type that what was kept has."""
_STATUSES: Final = {
    400: "What was sent is no request that this route takes",
    401: "There is no token, or none that is valid",
    403: "The token is of another kind, or lacks a permission",
    404: "There is no such thing, or none that the token may know of",
    408: "The body did not come in time",
    409: "It does not fit what is there",
    413: "The body is too large",
    415: "The body is of another type",
    422: "It says something that cannot be meant",
    429: "Too many requests: `Retry-After` says when the next one may come",
    431: "The request's head is too large",
    503: "The database, or the store of contents, cannot be used just now",
}
_ALWAYS: Final = (400, 429, 431, 503)
_NOT_PUBLIC: Final = (401, 403)
_WITH_VALUES: Final = (404, 408, 409, 413, 415, 422)
"""Of a route that is told anything."""


class Description(JsonRenderPlugin):
    """Gives the document, which is made once."""

    def __init__(self, path: str) -> None:
        super().__init__(path=path)
        self._rendered: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: Document) -> bytes:
        if self._rendered is None:
            whole = completed(openapi_schema, request.app)
            self._rendered = self.render_json(request, whole)  # pyright: ignore[reportUnknownMemberType]  # the framework's own type
        return self._rendered


def completed(document: Document, application: Litestar) -> Document:
    """Add to the framework's document what it cannot know."""
    whole: Document = _loosened(document)
    for path in _FRAMEWORK_PATHS:
        whole["paths"].pop(path, None)
    schemas: Document = whole["components"].setdefault("schemas", {})
    schemas["Problem"] = _PROBLEM
    whole["components"]["responses"] = {
        f"Problem{status}": {
            "description": description,
            "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, description in _STATUSES.items()
    }
    handlers = _handlers(application)
    for path, item in whole["paths"].items():
        for method, operation in item.items():
            _complete(operation, method, path, handlers[method, path])
    return whole


def _loosened(value: Any) -> Any:
    """Copy a part of a document; a value may be of several of the kinds that are listed: 1 is integer and number."""
    match value:
        case dict():
            items: Document = value  # pyright: ignore[reportUnknownVariableType]  # JSON is read untyped
            return {"anyOf" if name == "oneOf" else name: _loosened(item) for name, item in items.items()}
        case list():
            elements: list[Any] = value  # pyright: ignore[reportUnknownVariableType]  # as above
            return [_loosened(element) for element in elements]
        case _:
            return value


def _handlers(application: Litestar) -> dict[tuple[str, str], HTTPRouteHandler]:
    return {
        (method.lower(), route.path_format): handler
        for route in application.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for method in handler.http_methods
    }


def _complete(operation: Document, method: str, path: str, handler: HTTPRouteHandler) -> None:
    kind = handler.opt.get(access.KEY)
    for parameter in operation.get("parameters", []):
        if parameter["schema"].get("format") == "uri":  # the framework's word for a path
            del parameter["schema"]["format"]
    if body := _BODIES.get((method, path)):
        operation["requestBody"] = {"required": True, "content": {body: {"schema": {"type": "string"}}}}
    if path in _DOWNLOADS and method == "get":
        operation["responses"]["200"]["content"] = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
    statuses = [*_ALWAYS]
    if kind == "public":
        operation["security"] = []
        if method != "get":
            statuses.append(401)  # it reads for itself who asks: a password, a signature
    else:
        statuses += _NOT_PUBLIC
        operation["x-token"] = kind
    if permission := handler.opt.get(access.PERMISSION):
        operation["x-permission"] = permission
    if operation.get("parameters") or operation.get("requestBody") or method != "get":
        statuses += _WITH_VALUES
    operation["responses"] |= {str(status): {"$ref": f"#/components/responses/Problem{status}"} for status in statuses}


_ERROR: Final[Document] = {
    "type": "object",
    "required": ["code", "message"],
    "properties": {
        "code": {"type": "string"},
        "message": {"type": "string"},
        "where": {"type": ["string", "null"]},
        "hint": {"type": ["string", "null"]},
        "cause": {"type": ["object", "null"], "description": "An error of the same shape"},
        "trace": {"type": ["array", "null"], "items": {"type": "string"}},
    },
}
_PROBLEM: Final[Document] = {
    "type": "object",
    "description": "A problem document (RFC 9457)",
    "required": ["title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "default": "about:blank"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "code": {"type": "string", "pattern": "^[a-z_]+$", "description": "Stable: what programs look at"},
        "instance": {"type": "string", "description": "The path that was asked"},
        "hint": {"type": "string", "description": "What to do next"},
        "cause": _ERROR,
        "problems": {"type": "array", "items": {"type": "object"}, "description": "Of a pipeline that is refused"},
        "request_id": {"type": "string", "description": "Under which the orchestrator's log has the request"},
    },
}
