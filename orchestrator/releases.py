"""Lets go what waited in the queue for something else than a runner, and ends what waited too long.

    parked          waits for                    let go by
    delayed         its time: `--delay`, a       jobs_release, once a second
                    retry's delay
    group           a free slot of its group     the end of the job that had it, in the same transaction;
                                                 jobs_release finds what that could not see
    paused          the end of a pause           the resume, for the first thousand; jobs_release for the rest

A parked job is in none of the indexes that claims walk, so it costs nothing while it waits, however many there are.
Any replica does all this, one at a time: the functions in the database take a lock that ends with their transaction.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from orchestrator.database import Database
from orchestrator.notifications import Notifications
from orchestrator.sql import claims as sql

STEP: Final = 1000
"""How many jobs one transaction lets go: it is short, whatever waits."""


async def release(database: Database, notifications: Notifications, now: datetime | None = None) -> int:
    """Let go what need wait no longer; give how many jobs that were."""
    released = 0
    while True:
        [step] = await database.rows(sql.JOBS_RELEASE, STEP, now)
        if step["lowest"] is not None:
            notifications.queued(step["lowest"])
        if not step["released"]:
            return released
        released += step["released"]


async def time_out(database: Database, notifications: Notifications, now: datetime | None = None) -> int:
    """End the jobs that waited longer than their queue_timeout; give how many those were."""
    ended = 0
    while rows := await database.rows(sql.JOBS_TIME_OUT, STEP, now):
        ended += len(rows)
        for row in rows:
            notifications.job_told(row["id"])
    return ended
