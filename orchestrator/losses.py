"""Attempts that their runner reports as lost: the engine, say, or the Lua process was taken from them.

                 claim              `lost`, losses <= maximum
    queued ───────────────> running ──────────────────────────> queued, at once
                                   ├──────────────────────────> lost, more losses than that
                                   └──────────────────────────> cancelled, a user had asked for it

It is no failure of the job's own: nothing is taken from its pipeline's `retries`, and the allowance is the one for
attempts whose runner fell silent (``orchestrator.leases``), of which these are the ones that are known at once. In the
record, what became of the job stands in the place of the runner's `lost`.
"""

from __future__ import annotations

from uuid import UUID

from orchestrator import leases
from orchestrator.database import Database
from orchestrator.events import Batch, gap, gone
from orchestrator.notifications import Notifications
from orchestrator.record import Record
from orchestrator.sql import claims as sql
from schema.errors import ErrorInfo


async def end_lost(
    database: Database,
    notifications: Notifications,
    record: Record,
    runner: UUID,
    job: UUID,
    attempt: int,
    batch: Batch,
    *,
    losses_maximum: int,
) -> int:
    """Take a batch that ends an attempt as lost; give the ``seq`` below which all is stored.

    :raises Conflict: when the attempt is not, or no longer, this runner's: also when the very batch comes again.
    """
    final = batch.final
    assert final is not None, "a batch that ends an attempt has its final event"
    error = final.error or ErrorInfo(code=leases.LOST, message=f"attempt {attempt} was lost")
    if (before := batch.without_last()) is not None:
        await record.store(runner, job, attempt, before)
    async with database.transaction() as connection:
        row = await connection.fetchrow(sql.ATTEMPT_HELD, job, attempt, runner)
        if row is None:
            raise gone(job, attempt)
        if row["next_seq"] != final.seq:
            raise gap(job, attempt, row["next_seq"], final.seq)
        await leases.lose(connection, row, leases.outcome(row, error, losses_maximum), losses=1)
    leases.tell(notifications, [row])
    return batch.next_seq
