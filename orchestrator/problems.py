"""Errors as answers: every one is a problem document (RFC 9457) with a stable ``code``.

What the orchestrator refuses is a ``Refusal`` with its HTTP status; what the framework refuses, and what breaks, is
turned into the same shape here, in one place. ``orchestrator.answers`` sends it.
"""

from __future__ import annotations

import logging
import math
import re
from http import HTTPStatus
from typing import Any, Final, Self

import asyncpg
from litestar import Request
from litestar.exceptions import HTTPException, SerializationException, ValidationException
from litestar.handlers import HTTPRouteHandler

from schema import log_context
from schema.database import DatabaseUnavailable
from schema.definition import InputsInvalid, PipelineInvalid
from schema.errors import MoonyardError
from schema.wire import ProblemDocument

log: Final = logging.getLogger(__name__)

_BODY_READER: Final = "litestar.serialization.msgspec_hooks"
_FRAMEWORK_CODES: Final = {
    400: "request_invalid",
    404: "route_unknown",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "media_type_unsupported",
}


class Refusal(MoonyardError):
    """What the orchestrator does not do, told to who asked for it."""

    code = "request_refused"
    status = 400
    is_of_rights: bool = False
    """It is about who may do what: the audit has a row of it."""
    subject: str | None = None
    """What that row says that it was about; by default the path that was asked."""

    def audited(self, subject: str) -> Self:
        """Have the audit say that this was refused, and on what."""
        self.is_of_rights = True
        self.subject = subject
        return self


class RequestInvalid(Refusal):
    """A request that says something it cannot mean."""

    code = "request_invalid"
    status = 422


class Unauthenticated(Refusal):
    """No token, or one that is not valid."""

    code = "token_invalid"
    status = 401
    is_of_rights = True


class Forbidden(Refusal):
    """A valid token, of a kind that may not do this."""

    code = "token_kind_wrong"
    status = 403
    is_of_rights = True


class NotFound(Refusal):
    """What was named does not exist."""

    code = "not_found"
    status = 404


class Conflict(Refusal):
    """What was asked for does not fit what is there."""

    code = "conflict"
    status = 409


class TooLarge(Refusal):
    """A body over its limit."""

    code = "body_too_large"
    status = 413


class TooMany(Refusal):
    """More than is done at once, or within a time.

    :param seconds: after which a next try is worth it.
    """

    code = "too_many_requests"
    status = 429

    def __init__(self, message: str, *, seconds: float, code: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.seconds = seconds


class MediaTypeUnsupported(Refusal):
    """A body that is said to be of a type that the route does not take."""

    code = "media_type_unsupported"
    status = 415


class StoreUnavailable(Refusal):
    """The store of contents does not answer, or refuses: a later try may go well."""

    code = "artifact_store_failed"
    status = 503


def refused(error: asyncpg.RaiseError) -> Refusal:
    """Read what a function of the database refused: its DETAIL is the stable code, as `moonyard.refuse` raises it."""
    code = error.detail or "conflict"
    kind = NotFound if code.endswith("_unknown") else RequestInvalid if code.endswith("_invalid") else Conflict
    return kind(str(error.args[0]), code=code, hint=error.hint)


def of(request: Request[Any, Any, Any], error: Exception) -> tuple[ProblemDocument, dict[str, str]]:
    """Turn whatever ended a request into a problem, and give the headers that go with it."""
    path = request.url.path
    match error:
        case PipelineInvalid():
            return _of(error, 422, path, error.problems), {}
        case InputsInvalid():
            return _of(error, 422, path), {}
        case Unauthenticated():
            return _of(error, error.status, path), {"WWW-Authenticate": 'Bearer realm="moonyard"'}
        case TooMany():
            return _of(error, error.status, path), {"Retry-After": str(math.ceil(error.seconds))}
        case StoreUnavailable():
            log.warning("%s %s: %s", request.method, path, error.message)
            return _of(error, error.status, path), {"Retry-After": "1"}
        case Refusal():
            return _of(error, error.status, path), {}
        case DatabaseUnavailable():
            log.warning("%s %s: %s", request.method, path, error.message)
            return _of(error, 503, path), {"Retry-After": "1"}
        case MoonyardError():
            log.error("%s %s: %s", request.method, path, error.message, exc_info=error)
            return _of(error, 500, path), {}
        case HTTPException():
            return _of_framework(request, error, path), dict(error.headers or {})
        case RecursionError() | UnicodeDecodeError() if (unreadable := _unreadable(request, error)) is not None:
            return _of(unreadable, unreadable.status, path), {}
        case asyncpg.CharacterNotInRepertoireError() | asyncpg.UntranslatableCharacterError():
            invalid = RequestInvalid("the request holds a text with a NUL character, which Postgres cannot store")
            return _of(invalid, invalid.status, path), {}
        case _:
            log.error("%s %s met a defect", request.method, path, exc_info=error)
            defect = MoonyardError(
                f"the orchestrator has a defect: {type(error).__name__}",
                hint=f"Its log has the details, under request {request_id()}.",
            )
            return _of(defect, 500, path), {}


def _unreadable(request: Request[Any, Any, Any], error: Exception) -> Refusal | None:
    """Say what is wrong with a body where the reading of it met an error that the framework does not expect."""
    if isinstance(error, RecursionError):
        log.warning("%s %s: the body is nested too deeply", request.method, request.url.path, exc_info=error)
        return Refusal("the body is nested too deeply: nothing that this API takes is", code="body_invalid")
    if _arose_in(error, _BODY_READER):
        return Refusal("the body is no JSON: it holds a text that is not UTF-8", code="body_invalid")
    return None


def _arose_in(error: Exception, module: str) -> bool:
    """Tell whether an error was raised by a module's own code."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and place.tb_frame.f_globals.get("__name__") == module


def request_id() -> str | None:
    """Give the id under which the log has the request that is being answered."""
    found = log_context.current().get("request")
    return None if found is None else str(found)


def _of(error: MoonyardError, status: int, path: str, problems: list[Any] | None = None) -> ProblemDocument:
    return ProblemDocument(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=error.message,
        code=error.code,
        instance=path,
        hint=error.hint,
        cause=error.cause,
        problems=problems,
    )


def _of_framework(request: Request[Any, Any, Any], error: HTTPException, path: str) -> ProblemDocument:
    status = error.status_code
    code = _FRAMEWORK_CODES.get(status, "request_refused" if status < 500 else "internal_error")
    hint = None
    match error:
        case ValidationException():
            detail, hint = _what_is_invalid(request, error), "GET /v1/openapi.json describes what every route takes."
        case _ if isinstance(error.__cause__, SerializationException):
            code, detail = "body_invalid", f"the body is no JSON: {error.detail}"
        case _ if status == 404:
            detail, hint = f"there is no route {path}", "GET /v1/openapi.json lists all routes."
        case _ if status == 405:
            allowed = (error.headers or {}).get("allow", "").removesuffix(", OPTIONS")
            detail = f"{path} does not take {request.method}" + (f", only {allowed}" if allowed else "")
        case _ if status == 413:
            detail = "the body is larger than this route takes"
        case _:
            detail = error.detail
    return ProblemDocument(
        title=HTTPStatus(status).phrase, status=status, detail=detail, code=code, instance=path, hint=hint
    )


def _what_is_invalid(request: Request[Any, Any, Any], error: ValidationException) -> str:
    problems: list[Any] = error.extra if isinstance(error.extra, list) else []
    told = [_told(request, problem) for problem in problems if isinstance(problem, dict)]  # pyright: ignore[reportUnknownArgumentType]
    return f"the request is invalid: {'; '.join(told)}" if told else error.detail


def _told(request: Request[Any, Any, Any], problem: dict[str, Any]) -> str:
    key, message = str(problem.get("key", "")), str(problem.get("message", ""))
    if key == "data":
        # The framework says 'data' for a body that is missing altogether.
        if message == "'data'":
            return "a JSON object is expected as body"
        message = message.replace("Object missing required field", "the body lacks the required field")
        message = message.replace("Object contains unknown field", "the body has an unknown field")
        return re.sub(r"^Expected", "the body is wrong: expected", message)
    return f"`{_name(request, key)}`: {message}"


def _name(request: Request[Any, Any, Any], key: str) -> str:
    """Give the name that a client knows a parameter by: the framework tells our function's."""
    handler = request.scope["route_handler"]
    field = handler.parsed_fn_signature.parameters.get(key) if isinstance(handler, HTTPRouteHandler) else None
    return getattr(field and field.kwarg_definition, "name", None) or key
