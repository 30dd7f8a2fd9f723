"""Leases: a runner's right to an attempt, and what becomes of a job whose runner lost it.

                   claim                       events with a final state
    queued ───────────────────> running ─────────────────────────────────> succeeded, failed, cancelled
       ^                           │
       │   losses <= maximum       │ lease ran out (the runner was silent for lease_seconds), or, not counted as a
       │                           │ loss, the runner was revoked
       └───────────────────────────┤
                                   ├──> lost        more losses than that
                                   └──> cancelled   a user had asked for it

The attempt's number is the fencing token: it only goes up, and all that a runner sends carries it. An attempt that
ended, however it did, takes nothing more; so a runner that was thought dead and wakes up changes nothing, and is told
to stop.

Only the database's clock judges leases. Any replica may find that one ran out: the row's lock decides which does.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec

from orchestrator.database import Connection, Database, Row
from orchestrator.notifications import Notifications
from orchestrator.sql import claims as sql
from schema import log_context
from schema.errors import ErrorInfo
from schema.states import JobState

log: Final = logging.getLogger(__name__)

LOST: Final = "attempt_lost"

Outcome = tuple[JobState, ErrorInfo | None]
"""What becomes of a job, and why."""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """How a lease stands after it was to be renewed."""

    job: UUID
    gone: bool
    cancel: bool
    kill: bool


async def renew(
    database: Database,
    runner: UUID,
    held: Sequence[tuple[UUID, int]],
    *,
    lease_seconds: float,
    draining: bool,
) -> list[Lease]:
    """Renew all leases that a runner holds, and note that it was seen."""
    jobs, attempts = [job for job, _ in held], [attempt for _, attempt in held]
    rows = await database.rows(sql.LEASES_RENEW, runner, jobs, attempts, lease_seconds, draining)
    return [Lease(job=row["job_id"], gone=row["gone"], cancel=row["cancel"], kill=bool(row["kill"])) for row in rows]


async def lose_expired(database: Database, notifications: Notifications, *, losses_maximum: int) -> int:
    """End the attempts whose leases ran out, and queue their jobs again; give how many there were."""
    async with database.transaction() as connection:
        rows = await connection.fetch(sql.LEASES_EXPIRED)
        for row in rows:
            if row["revoked_by"] is None:
                await lose(connection, row, outcome(row, _silent(row), losses_maximum), losses=1)
            else:  # nobody's fault: it is not counted
                await lose(connection, row, ("cancelled" if row["cancel"] else "queued", _revoked(row)), losses=0)
    tell(notifications, rows)
    return len(rows)


async def give_back(database: Database, notifications: Notifications, job: UUID, attempt: int) -> None:
    """Queue a job again whose runner went away before it was told of it. Nobody is to blame: it is no loss."""
    async with database.transaction() as connection:
        rows = await connection.fetch(sql.ATTEMPT_UNANSWERED, job, attempt)
        for row in rows:
            state: JobState = "cancelled" if row["cancel"] else "queued"
            await lose(connection, row, (state, None), losses=0)
    tell(notifications, rows)


def _silent(row: Row) -> ErrorInfo:
    what = f"attempt {row['attempt']} was lost: nothing was heard of runner `{row['runner']}` until its lease ran out"
    return ErrorInfo(code=LOST, message=what)


def _revoked(row: Row) -> ErrorInfo:
    what = f"attempt {row['attempt']} was lost: runner `{row['runner']}` was revoked by {row['revoked_by']}"
    return ErrorInfo(code=LOST, message=what)


def outcome(row: Row, error: ErrorInfo, losses_maximum: int) -> Outcome:
    """Say what becomes of a job whose attempt was lost."""
    if row["cancel"]:
        return "cancelled", error
    if row["losses"] >= losses_maximum:
        return "lost", ErrorInfo(
            code="job_lost",
            message=f"job {row['number']} was lost {row['losses'] + 1} times and is not tried again",
            cause=error,
            hint="Look at the runner's own log and its machine: it was stopped, cut off, or out of memory; "
            "or its engine was.",
        )
    return "queued", error


async def lose(connection: Connection, row: Row, outcome: Outcome, *, losses: int) -> None:
    """End an attempt as lost, and tell what becomes of its job. The attempt's row has to be locked."""
    state, error = outcome
    told = None if error is None else msgspec.json.encode(error).decode()
    await connection.execute(
        sql.ATTEMPT_LOSE, row["job_id"], row["attempt"], state, losses, told, None if state == "queued" else told
    )
    with log_context.about(job=str(row["job_id"]), attempt=row["attempt"]):
        log.warning(
            "job %d attempt %d was lost with runner `%s`: the job is %s",
            row["number"],
            row["attempt"],
            row["runner"],
            state,
        )


def tell(notifications: Notifications, rows: Sequence[Row]) -> None:
    for row in rows:
        notifications.job_told(row["job_id"])
    if rows:
        notifications.queued(min(row["place"] for row in rows))
