"""Hands queued jobs to the runners that wait for them.

    runner ── POST claim ──> Waiting ──┐
    runner ── POST claim ──> Waiting ──┼── one dispatcher a replica ── JOBS_CLAIM ──> Postgres
    runner ── POST claim ──> Waiting ──┘

All claims that wait at one moment go into one statement, which locks as many queued jobs as there are free slots,
passes over what another replica is locking, and commits. Only then is anybody answered. Slots are dealt round: every
runner gets a first job before one gets a second.

When a claim came back with less than it asked for, the queue is known to be empty, and new claims just wait. They are
looked for again when somebody queued a job (on this replica directly, on others by NOTIFY), and once a second in any
case.

The low-water mark: queued jobs are found by number, from the mark upwards, and the mark follows the lowest that the
last claim found. Without it each claim would walk over the dead entries of all jobs claimed since the oldest
transaction began, and a single long one elsewhere would slow the queue tenfold. What is queued below the mark (a job
that came back, a number that was committed late) is found by the look from the start: once a second, and whenever
there is nothing above the mark.
"""

from __future__ import annotations

import logging
import random
from typing import Final
from uuid import UUID

import anyio
import msgspec

from orchestrator.database import Database, Row
from orchestrator.notifications import Listener, Notifications
from orchestrator.sql import claims as sql
from orchestrator.versions import Versions
from schema.database import DatabaseUnavailable
from schema.definition import InputValue
from schema.wire import Assignment

log: Final = logging.getLogger(__name__)

POLL_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 1.0
JOBS_MAXIMUM: Final = 200
"""How many jobs one statement claims at most."""
MARK_SLACK: Final = 200
"""How far below the lowest number just claimed the next claim starts to look."""


class Waiting:
    """A runner that waits for jobs."""

    def __init__(self, runner: UUID, slots: int) -> None:
        self.runner = runner
        self.slots = slots
        self.assignments: list[Assignment] = []
        self.done = anyio.Event()
        """It has jobs, or the replica drains."""
        self.released = anyio.Event()
        """No statement under way claims for it."""
        self.released.set()


class Dispatcher:
    """Claims for all that wait on this replica. ``run`` has to run."""

    def __init__(
        self, database: Database, versions: Versions, notifications: Notifications, *, lease_seconds: float
    ) -> None:
        self._database = database
        self._versions = versions
        self._notifications = notifications
        self._lease_seconds = lease_seconds
        self._waiting: dict[Waiting, None] = {}
        self._arrived = anyio.Event()
        self._queue_is_empty = False
        self._mark = 0
        self._looked_from_start_at = 0.0
        self._draining = False

    def enter(self, runner: UUID, slots: int) -> Waiting:
        """Let a runner wait for up to ``slots`` jobs, until ``leave``."""
        waiting = Waiting(runner, slots)
        if self._draining:
            waiting.done.set()
        else:
            self._waiting[waiting] = None
            if not self._queue_is_empty:
                self._arrived.set()
        return waiting

    async def leave(self, waiting: Waiting) -> list[Assignment]:
        """Wait no longer; give what was claimed, also by a statement that was under way."""
        self._waiting.pop(waiting, None)
        with anyio.CancelScope(shield=True):
            await waiting.released.wait()
        return waiting.assignments

    @property
    def waiting_count(self) -> int:
        """How many runners wait."""
        return len(self._waiting)

    def drain(self) -> None:
        """Claim nothing more, and let all that wait go."""
        self._draining = True
        for waiting in self._waiting:
            waiting.done.set()
        self._waiting.clear()

    async def run(self) -> None:
        """Claim whenever somebody waits and there may be jobs."""
        with self._notifications.queue.listen(None) as bell:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._arrive_on, bell)
                while not self._draining:
                    with anyio.move_on_after(POLL_SECONDS * random.uniform(0.8, 1.2)) as poll:  # noqa: S311  # spreads replicas
                        await self._arrived.wait()
                    self._arrived = anyio.Event()
                    if poll.cancelled_caught:
                        self._queue_is_empty = False
                    try:
                        await self._claim_while_there_are_jobs()
                    except DatabaseUnavailable as error:
                        log.warning("claiming failed: %s; next try in %.0f s", error.message, PAUSE_SECONDS)
                        await anyio.sleep(PAUSE_SECONDS)
                        self._queue_is_empty = False
                        self._arrived.set()
                tasks.cancel_scope.cancel()

    async def _arrive_on(self, bell: Listener) -> None:
        while True:
            if await bell.wait(POLL_SECONDS * 60):
                self._queue_is_empty = False
                self._arrived.set()

    async def _claim_while_there_are_jobs(self) -> None:
        while self._waiting and not self._queue_is_empty and not self._draining:
            now = anyio.current_time()
            from_start = not self._mark or now - self._looked_from_start_at >= POLL_SECONDS
            if from_start:
                self._looked_from_start_at = now
            slots = self._dealt()
            # Whatever is queued from here on rings again: the flag is only right if it is set before the look.
            self._queue_is_empty = True
            for waiting in slots:
                waiting.released = anyio.Event()
            try:
                rows = await self._claim(0 if from_start else self._mark, slots)
            finally:
                for waiting in slots:
                    waiting.released.set()
            if rows:
                self._mark = max(rows[0]["number"] - MARK_SLACK, 0)
            if len(rows) == len(slots):
                self._queue_is_empty = False
            elif not rows and not from_start:
                # Nothing above the mark: the job that somebody spoke of may be below it.
                self._mark = 0
                self._queue_is_empty = False

    def _dealt(self) -> list[Waiting]:
        """Deal slots round: each runner's first before anybody's second."""
        dealt: list[Waiting] = []
        left = {waiting: waiting.slots for waiting in self._waiting}
        while left and len(dealt) < JOBS_MAXIMUM:
            for waiting in list(left):
                dealt.append(waiting)
                left[waiting] -= 1
                if not left[waiting]:
                    del left[waiting]
        return dealt[:JOBS_MAXIMUM]

    async def _claim(self, mark: int, slots: list[Waiting]) -> list[Row]:
        rows = await self._database.rows(
            sql.JOBS_CLAIM, mark, len(slots), [waiting.runner for waiting in slots], self._lease_seconds
        )
        for row in rows:
            place: int = row["place"]
            waiting = slots[place - 1]
            waiting.assignments.append(await self._assignment(row))
            waiting.done.set()
            self._waiting.pop(waiting, None)
        return rows

    async def _assignment(self, row: Row) -> Assignment:
        version = await self._versions.get(row["version_id"])
        return Assignment(
            job=str(row["id"]),
            number=row["number"],
            attempt=row["attempt"],
            pipeline=version.pipeline,
            filename=version.filename,
            version=version.sha256,
            source=version.source,
            definition=version.definition,
            inputs=msgspec.json.decode(row["inputs"], type=dict[str, InputValue]),
            lease_seconds=self._lease_seconds,
        )
