"""Routes for those who may read the audit."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromQuery, QueryParameter
from litestar.response import Stream

from orchestrator import audit, parts
from orchestrator.access import needs
from orchestrator.audit import AuditFilter
from orchestrator.problems import RequestInvalid
from schema.audit import PAGE_MAXIMUM, AuditHead, AuditPage, AuditResult, AuditVerified
from schema.wire import EVENTS_MEDIA_TYPE

AnyRequest = Request[Any, Any, Any]
Result = Annotated[AuditResult | None, QueryParameter(name="result")]
Id = Annotated[int | None, QueryParameter(ge=0, le=2**63 - 1)]


@get("/v1/audit", opt=needs("read-audit"), tags=["audit"])
async def audit_list(
    request: AnyRequest,
    since: FromQuery[str | None] = None,
    until: FromQuery[str | None] = None,
    actor: FromQuery[str | None] = None,
    action: FromQuery[str | None] = None,
    result: Result = None,
    limit: Annotated[int, QueryParameter(ge=1, le=PAGE_MAXIMUM)] = 100,
    before: Id = None,
    after: Id = None,
) -> AuditPage:
    """List who did what: the newest first, before an id, or the oldest first, after one; `*` stands for any text."""
    wanted = _filter(since, until, actor, action, result)
    return await audit.page(parts.of(request).database, wanted, limit=limit, before=before, after=after)


@get("/v1/audit/stream", opt=needs("read-audit"), tags=["audit"], media_type=EVENTS_MEDIA_TYPE)
async def audit_stream(
    request: AnyRequest,
    since: FromQuery[str | None] = None,
    until: FromQuery[str | None] = None,
    actor: FromQuery[str | None] = None,
    action: FromQuery[str | None] = None,
    result: Result = None,
    after: Annotated[int, QueryParameter(ge=0, le=2**63 - 1)] = 0,
    follow: FromQuery[bool] = False,
) -> Stream:
    """Give rows as JSON lines in the order of the chain, after a block of it; with `follow`, go on with what comes."""
    here = parts.of(request)
    wanted = _filter(since, until, actor, action, result)
    lines = audit.stream(here.database, here.draining, wanted, after, follow=follow)
    return Stream(lines, media_type=EVENTS_MEDIA_TYPE, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


@get("/v1/audit/head", opt=needs("read-audit"), tags=["audit"])
async def audit_head(request: AnyRequest) -> AuditHead:
    """Give the chain's head: the newest block's number and hash."""
    return AuditHead(head=await audit.head(parts.of(request).database))


@get("/v1/audit/verify", opt=needs("read-audit"), tags=["audit"])
async def audit_verify(request: AnyRequest, head: FromQuery[str | None] = None) -> AuditVerified:
    """Verify the whole chain, and that it has a block that was noted once: `head`, such as `17:0f3a...`."""
    return await audit.verify(parts.of(request).database, head)


def _filter(
    since: str | None, until: str | None, actor: str | None, action: str | None, result: AuditResult | None
) -> AuditFilter:
    return AuditFilter(
        since=_time("since", since), until=_time("until", until), actor=actor, action=action, result=result
    )


def _time(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        if len(text) <= 40 and (found := datetime.fromisoformat(text)).tzinfo is not None:
            return found
    except ValueError:
        pass
    raise RequestInvalid(f"`{name}` is `{text[:40]}`, and has to be a time with its zone, such as 2026-11-24T18:00:00Z")


HANDLERS: Final[list[HTTPRouteHandler]] = [audit_list, audit_stream, audit_head, audit_verify]
