"""Routes for approvals: for runners to ask whether a stage may begin, for people to answer and to protect stages."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from litestar import Request, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody

from orchestrator import access, approvals, events, jobs, parts, pipelines
from orchestrator.access import RUNNER, needs
from schema.approvals import (
    Approval,
    ApprovalAnswer,
    ApprovalAnswered,
    ApprovalAsk,
    ApprovalList,
    Protection,
    ProtectionCreate,
    ProtectionList,
)

AnyRequest = Request[Any, Any, Any]


@post("/v1/runner/jobs/{job:str}/{attempt:int}/approval", opt=RUNNER, tags=["runner"], status_code=200)
async def approval_ask(
    request: AnyRequest, job: FromPath[str], attempt: FromPath[int], data: JSONBody[ApprovalAsk]
) -> ApprovalAnswered:
    """Ask whether a stage may begin; the answer comes when somebody said so, or after a while."""
    if not 0 < attempt < 2**31:
        raise events.unknown_attempt(job, attempt)
    try:
        found = UUID(job)
    except ValueError:
        raise jobs.unknown(job) from None
    runner = parts.identity(request).runner
    assert runner is not None, "a runner's token has its runner: a constraint says so"
    return await approvals.ask(parts.of(request), runner, found, attempt, data)


@get("/v1/approvals", opt=needs("view"), tags=["approvals"])
async def approvals_waiting(request: AnyRequest) -> ApprovalList:
    """List the stages that wait for an approval."""
    visible = access.visible(request, "view")
    return ApprovalList(approvals=await approvals.waiting(parts.of(request).database, visible))


@get("/v1/jobs/{job:str}/approvals", opt=needs("view"), tags=["approvals"])
async def job_approvals(request: AnyRequest, job: FromPath[str]) -> ApprovalList:
    """List the stages of a job that wait for an approval, or waited for one, with who answered."""
    here, found = parts.of(request).database, await access.job(request, job, "view")
    await jobs.get(here, found)
    return ApprovalList(approvals=await approvals.listed(here, found))


@post("/v1/jobs/{job:str}/approvals", opt=needs("approve"), tags=["approvals"], status_code=200)
async def approval_answer(request: AnyRequest, job: FromPath[str], data: JSONBody[ApprovalAnswer]) -> Approval:
    """Say yes or no to a stage of a job that waits for it."""
    here, found = parts.of(request), await access.job(request, job, "approve")
    await jobs.get(here.database, found)
    return await approvals.answer(here.database, here.notifications, found, data, parts.actor(request))


@post("/v1/protections", opt=needs("protect"), tags=["approvals"], status_code=200)
async def protection_set(request: AnyRequest, data: JSONBody[ProtectionCreate]) -> Protection:
    """Have stages wait for approvals, whatever their pipeline's file says."""
    access.require_on(request, "protect", data.pipelines, pipelines.unknown(data.pipelines))
    here = parts.of(request)
    made = await approvals.protect(here.database, data, parts.actor(request))
    await here.protections.look()
    return made


@get("/v1/protections", opt=needs("view"), tags=["approvals"])
async def protection_list(request: AnyRequest) -> ProtectionList:
    """List what is protected."""
    visible = access.visible(request, "view")
    return ProtectionList(protections=await approvals.protections(parts.of(request).database, visible))


@delete("/v1/protections/{protection:str}", opt=needs("protect"), tags=["approvals"], status_code=200)
async def protection_remove(request: AnyRequest, protection: FromPath[str]) -> Protection:
    """Let stages begin again as their file says."""
    here = parts.of(request).database
    found = await approvals.protection(here, protection)
    access.require_on(request, "protect", found.pipelines, approvals.unknown_protection(protection))
    await approvals.unprotect(here, found, parts.actor(request))
    return found


HANDLERS: Final[list[HTTPRouteHandler]] = [
    approval_ask,
    approvals_waiting,
    job_approvals,
    approval_answer,
    protection_set,
    protection_list,
    protection_remove,
]
