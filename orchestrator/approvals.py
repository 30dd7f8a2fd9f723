"""Stages that wait for somebody's yes: what runners ask, what people answer, and what is protected.

A stage needs approvals where its pipeline's file says so, or a protection of this installation, whatever the file says.
A runner asks before it begins a stage, and waits; so does the delivery of secrets (``orchestrator.deliveries``), which
does not take the runner's word that it has asked. Whoever submitted a job, had it tried again, or set up the schedule
or webhook that made it, approves none of its stages.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import anyio
import msgspec

from orchestrator import events, rights
from orchestrator.database import Database, Row
from orchestrator.deliveries import stage_names
from orchestrator.notifications import Notifications
from orchestrator.parts import Parts
from orchestrator.problems import NotFound, RequestInvalid
from orchestrator.rights import ALL, Visible
from orchestrator.sql import approvals as sql
from schema import times
from schema.approvals import (
    WAIT_SECONDS,
    Approval,
    ApprovalAnswer,
    ApprovalAnswered,
    ApprovalAsk,
    ApprovalGiven,
    Protection,
    ProtectionCreate,
)
from schema.definition import APPROVALS_MAXIMUM
from schema.ids import uuid7

COMMENT_LENGTH_MAXIMUM: Final = 1000
LOOK_SECONDS: Final = 5.0
"""Between two looks at what is waited for, where nobody rings."""


async def ask(here: Parts, runner: UUID, job: UUID, attempt: int, asked: ApprovalAsk) -> ApprovalAnswered:
    """Say whether a stage of an attempt may begin; where it waits for an approval, wait a while for that.

    :raises Conflict: when the attempt is not the runner's, or no longer.
    :raises RequestInvalid: when the pipeline has no such stage.
    """
    with here.notifications.jobs.listen(job) as bell:
        approval = await _asked(here, runner, job, attempt, asked.stage)
        if approval is None:
            return ApprovalAnswered(is_needed=False)
        with anyio.move_on_after(max(0.0, min(asked.wait, WAIT_SECONDS))):
            while not approval.is_over and not here.draining.is_set():
                await bell.wait(LOOK_SECONDS)
                approval = _approval(await _found(here.database, job, asked.stage))
    return ApprovalAnswered(is_needed=True, approval=approval)


async def _asked(here: Parts, runner: UUID, job: UUID, attempt: int, stage: str) -> Approval | None:
    async with here.database.transaction() as connection:
        held = await connection.fetchrow(sql.ATTEMPT_HOLD, job, attempt, runner)
        if held is None:
            raise events.gone(job, attempt)
        version = held["version_id"]
        names = stage_names((await here.versions.get(version)).definition, stage)
        needed = await connection.fetchrow(sql.NEEDED, job, names)
        if needed is None:
            return None
        values = job, stage, attempt, needed["needed"], needed["message"], needed["seconds"], held["is_again"]
        row = await connection.fetchrow(sql.ASK, *values)
        if row is not None and row["is_new"]:
            await connection.execute(sql.ANSWERS_FORGET, job, stage)
    return _approval(await _found(here.database, job, stage))


async def answer(
    database: Database, notifications: Notifications, job: UUID, message: ApprovalAnswer, actor: str
) -> Approval:
    """Say yes or no to a stage that waits.

    :raises NotFound: when no stage of the job waits, or not this one.
    :raises Conflict: when it no longer waits, or whoever asks submitted the job.
    """
    comment = message.comment
    # It is shown in logs and tables, among what others say.
    if comment is not None and (len(comment) > COMMENT_LENGTH_MAXIMUM or not comment.isprintable()):
        raise RequestInvalid(f"`comment` has up to {COMMENT_LENGTH_MAXIMUM} printable characters, on one line")
    stage = message.stage
    if stage is None:
        waiting = [approval for approval in await listed(database, job) if not approval.is_over]
        stage = waiting[0].stage if waiting else None
    stage = None if stage is None else stage.replace("\0", "\N{REPLACEMENT CHARACTER}")
    await database.rows(sql.ANSWER, job, stage, actor, message.is_yes, comment)
    notifications.job_told(job)
    assert stage is not None, "the function refuses where nothing waits"
    return _approval(await _found(database, job, stage))


async def listed(database: Database, job: UUID) -> list[Approval]:
    """List the stages of a job that wait for an approval, or waited for one."""
    return [_approval(row) for row in await database.rows(sql.OF_JOB, job)]


async def waiting(database: Database, visible: Visible) -> list[Approval]:
    """List what waits for an approval, of pipelines that may be seen."""
    return [_approval(row) for row in await database.rows(sql.WAITING, visible.held, visible.within)]


async def protect(database: Database, message: ProtectionCreate, actor: str) -> Protection:
    """Have stages wait for approvals, whatever their file says.

    :raises RequestInvalid: when it names no pipelines, no stages or no number.
    """
    rights.check_pattern(message.pipelines)
    if not 0 < len(message.stages) <= rights.PATTERN_LENGTH_MAXIMUM or not message.stages.isprintable():
        raise RequestInvalid(f"{message.stages[:60]!r} names no stages", code="pattern_invalid")
    if not 1 <= message.approvals <= APPROVALS_MAXIMUM:
        raise RequestInvalid(f"`approvals` is {message.approvals}: expected 1 to {APPROVALS_MAXIMUM}")
    row = await database.row(sql.PROTECT, uuid7(), message.pipelines, message.stages, message.approvals, actor)
    assert row is not None, "the statement gives the row, whether it was there or not"
    return _protection(row)


async def protections(database: Database, visible: Visible) -> list[Protection]:
    """List what is protected, of pipelines that may be seen."""
    return [_protection(row) for row in await database.rows(sql.PROTECTIONS, None, visible.held, visible.within)]


async def protection(database: Database, text: str) -> Protection:
    """Give a protection by its id.

    :raises NotFound: when there is none.
    """
    try:
        row = await database.row(sql.PROTECTIONS, UUID(text), [ALL], None)
    except ValueError:
        row = None
    if row is None:
        raise unknown_protection(text)
    return _protection(row)


async def unprotect(database: Database, found: Protection, actor: str) -> None:
    """Let stages begin again as their file says."""
    await database.rows(sql.UNPROTECT, UUID(found.id), actor)


def unknown_protection(text: str) -> NotFound:
    return NotFound(
        f"there is no protection `{text[:60]}`",
        code="protection_unknown",
        hint="`moonyard protection list` lists them with their ids.",
    )


async def _found(database: Database, job: UUID, stage: str) -> Row:
    row = await database.row(sql.GET, job, stage)
    assert row is not None, "it goes with its job, and that is there"
    return row


def _approval(row: Row) -> Approval:
    answers = [] if row["answers"] is None else msgspec.json.decode(row["answers"], type=list[ApprovalGiven])
    return Approval(
        job=row["number"],
        pipeline=row["pipeline"],
        stage=row["stage"],
        attempt=row["attempt"],
        state=row["state"],
        needed=row["needed"],
        message=row["message"],
        asked_at=times.rfc3339(row["asked_at"]),
        expires_at=times.rfc3339(row["expires_at"]),
        is_over=row["is_over"],
        answers=answers,
    )


def _protection(row: Row) -> Protection:
    return Protection(
        id=str(row["id"]),
        pipelines=row["pipelines"],
        stages=row["stages"],
        approvals=row["approvals"],
        created_at=times.rfc3339(row["created_at"]),
        created_by=row["created_by"],
    )
