"""Automatic retries: what becomes of a job whose attempt failed, where its pipeline says `retries`.

                 claim              `failed`, retries left
    queued ───────────────> running ───────────────────────> queued, after the retry's delay
                                   └───────────────────────> failed, none left, or cancelled meanwhile
                                    `failed`

The runner reports `failed` as ever; it does not know what follows. The record then says `queued`, with the error, in
the place of `failed`: the line that ends a job is its last, and this one does not end it. Attempts that are lost with
their runner are no failures of the job's own, and have an allowance of their own: ``orchestrator.leases``.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from orchestrator.database import Database
from orchestrator.events import Batch
from orchestrator.notifications import Notifications
from orchestrator.record import Record
from orchestrator.sql import claims as sql


async def end_failed(
    database: Database,
    notifications: Notifications,
    record: Record,
    runner: UUID,
    job: UUID,
    attempt: int,
    batch: Batch,
) -> bool:
    """Take a batch that ends an attempt as failed, where the job is to be tried again; say whether that was so.

    What stands before the last event is stored as ever. What comes after, the attempt's end and the job's return to the
    queue, is one statement and fenced: a batch that comes again finds the attempt ended, as any that does.
    """
    final = batch.final
    assert final is not None, "a batch that ends an attempt has its final event"
    before = batch.without_last()
    if before is not None and await record.store(runner, job, attempt, before) != final.seq:
        return False
    error = None if final.error is None else msgspec.json.encode(final.error).decode()
    place: int | None = await database.value(sql.ATTEMPT_RETRY, job, attempt, runner, final.seq, error)
    if place is None:
        return False
    notifications.job_told(job)
    notifications.queued(place)
    return True
