"""Hands queued jobs to the runners that wait for them.

    runner ── POST claim ──> Waiting ──┐
    runner ── POST claim ──> Waiting ──┼── one dispatcher a replica ── JOBS_CLAIM ──> Postgres
    runner ── POST claim ──> Waiting ──┘

All claims that wait at one moment go into one statement, which locks as many queued jobs as there are free slots,
passes over what another replica is locking, and commits. Only then is anybody answered. Slots are dealt round: every
runner gets a first job before one gets a second.

Runners with tags may have jobs that others may not, so those with the same tags share a statement, one kind of runner
after the other.

When a claim came back with less than it asked for, the queue is known to be empty for these tags, and new claims just
wait. They are looked for again when somebody queued a job (on this replica directly, on others by NOTIFY), and once a
second in any case.

The low-water mark: queued jobs are found by place (their number less what their priority is worth), from the mark
upwards. Without it each claim would walk over the dead entries of all jobs claimed since the oldest transaction began,
and a single long one elsewhere would slow the queue tenfold. While there is a backlog, the mark follows the lowest that
the last claim found; once a claim found less than it asked for, there is nothing left, and the mark is what was queued
since: whoever queues jobs says the lowest place of them. What nobody told of (a notification was lost, a claim on
another replica undone) is found by the look from the start, once a second, or less often where such a look takes long.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

import anyio
import msgspec

from orchestrator import traces
from orchestrator.database import Database, Row
from orchestrator.notifications import PLACE_NONE, PLACE_UNKNOWN, Listener, Notifications
from orchestrator.protections import Protections
from orchestrator.sql import claims as sql
from orchestrator.sql import jobs as jobs_sql
from orchestrator.versions import Versions
from schema.database import DatabaseUnavailable
from schema.definition import InputValue
from schema.tracing import Tracer
from schema.wire import Assignment, Resume, Trigger

log: Final = logging.getLogger(__name__)

POLL_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 1.0
JOBS_MAXIMUM: Final = 64
"""How many jobs one statement claims at most."""
MARK_SLACK: Final = 200
"""How far below the lowest place just claimed the next claim starts to look."""
LOOK_SHARE: Final = 0.05
"""How much of the time may go into looks from the start."""
BOUND: Final = "@"
"""Among the tags of runners that are bound to pipelines: they look at no jobs that ask for nothing."""

Tags = tuple[str, ...]


class Waiting:
    """A runner that waits for jobs."""

    def __init__(self, runner: UUID, slots: int, tags: Tags) -> None:
        self.runner = runner
        self.slots = slots
        self.tags = tags
        self.assignments: list[Assignment] = []
        self._is_done = False
        """It has jobs, or the replica drains, or its runner is to come again."""
        self._then: Callable[[], object] | None = None
        self.claimed_for: anyio.Event | None = None
        """While a statement claims for it: set when that is over. (An event costs what all the rest of this does.)"""

    def finish(self) -> None:
        """Let it wait no longer."""
        self._is_done = True
        if self._then is not None:
            self._then()

    def when_done(self, then: Callable[[], object]) -> None:
        """Have a function called when it is done, at once if it is."""
        self._then = then
        if self._is_done:
            then()

    async def wait(self) -> None:
        """Wait until it is done."""
        done = anyio.Event()
        self.when_done(done.set)
        await done.wait()


class Dispatcher:
    """Claims for all that wait on this replica. ``run`` has to run."""

    def __init__(
        self,
        database: Database,
        versions: Versions,
        notifications: Notifications,
        protections: Protections,
        *,
        lease_seconds: float,
        tracer: Tracer | None = None,
    ) -> None:
        self._database = database
        self._protections = protections
        self._versions = versions
        self._notifications = notifications
        self._lease_seconds = lease_seconds
        self._tracer = tracer
        self._waiting: defaultdict[Tags, dict[Waiting, None]] = defaultdict(dict)
        """In the order in which they came, those with the same tags together."""
        self._drained: set[Waiting] = set()
        """They wait as any, and get nothing."""
        self._arrived = anyio.Event()
        self._empty_for: set[Tags] = set()
        """The tags with which the last claim found less than it asked for, and nobody queued a job since."""
        self._served: Tags = ()
        self._mark = PLACE_UNKNOWN
        self._look_from_start_at = 0.0
        self._draining = False

    def enter(self, runner: UUID, slots: int, tags: Sequence[str] = ()) -> Waiting:
        """Let a runner wait for up to ``slots`` jobs, until ``leave``: for none, where it is drained."""
        waiting = Waiting(runner, slots, tuple(sorted(tags)))
        if self._draining:
            waiting.finish()
        elif not slots:
            self._drained.add(waiting)
        else:
            self._waiting[waiting.tags][waiting] = None
            if waiting.tags not in self._empty_for:
                self._arrived.set()
        return waiting

    async def leave(self, waiting: Waiting) -> list[Assignment]:
        """Wait no longer; give what was claimed, also by a statement that was under way."""
        self._remove(waiting)
        with anyio.CancelScope(shield=True):
            if waiting.claimed_for is not None:
                await waiting.claimed_for.wait()
        return waiting.assignments

    @property
    def waiting_count(self) -> int:
        """How many runners wait."""
        return sum(map(len, self._waiting.values())) + len(self._drained)

    def drain(self) -> None:
        """Claim nothing more, and let all that wait go."""
        self._draining = True
        for waiting in itertools.chain(self._drained, *self._waiting.values()):
            waiting.finish()
        self._waiting.clear()
        self._drained.clear()

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
                        self._empty_for.clear()
                    try:
                        await self._claim_while_there_are_jobs()
                    except DatabaseUnavailable as error:
                        log.warning("claiming failed: %s; next try in %.0f s", error.message, PAUSE_SECONDS)
                        await anyio.sleep(PAUSE_SECONDS)
                        self._empty_for.clear()
                        self._arrived.set()
                tasks.cancel_scope.cancel()

    async def _arrive_on(self, bell: Listener) -> None:
        while True:
            if await bell.wait(POLL_SECONDS * 60):
                self._empty_for.clear()
                self._arrived.set()

    async def _claim_while_there_are_jobs(self) -> None:
        while not self._draining and (slots := self._dealt()):
            # Whatever is queued from here on rings again: what is known is only right if it is noted before the look.
            self._mark = min(self._mark, self._notifications.lowest_queued())
            tags = slots[0].tags
            self._empty_for.add(tags)
            claimed = anyio.Event()
            for waiting in slots:
                waiting.claimed_for = claimed
            try:
                rows = await self._claim(slots)
            finally:
                for waiting in slots:
                    waiting.claimed_for = None
                claimed.set()
            is_empty = len(rows) < len(slots)
            if not is_empty:
                self._empty_for.discard(tags)
            if BOUND in tags:
                continue  # it says nothing of what the mark is about
            untagged = [row["place"] for row in rows if not row["is_tagged"]]
            if is_empty:
                self._mark = PLACE_NONE
            elif untagged:
                self._mark = min(untagged) - MARK_SLACK

    def _dealt(self) -> list[Waiting]:
        """Deal slots round to runners with the same tags: each runner's first before anybody's second."""
        kinds = sorted(self._waiting.keys() - self._empty_for, key=_rank)
        if not kinds:
            return []
        # In turn, lest runners of one kind that come again and again keep another kind from ever being looked for.
        tags = next((tags for tags in kinds if _rank(tags) > _rank(self._served)), kinds[0])
        self._served = tags
        dealt: list[Waiting] = []
        left = {waiting: waiting.slots for waiting in itertools.islice(self._waiting[tags], JOBS_MAXIMUM)}
        while left and len(dealt) < JOBS_MAXIMUM:
            for waiting in list(left):
                dealt.append(waiting)
                left[waiting] -= 1
                if not left[waiting]:
                    del left[waiting]
        return dealt[:JOBS_MAXIMUM]

    async def _claim(self, slots: list[Waiting]) -> list[Row]:
        started = anyio.current_time()
        is_bound = BOUND in slots[0].tags
        from_start = not is_bound and (self._mark == PLACE_UNKNOWN or started >= self._look_from_start_at)
        rows = await self._database.rows(
            sql.JOBS_CLAIM,
            PLACE_UNKNOWN if from_start else self._mark,
            len(slots),
            [waiting.runner for waiting in slots],
            self._lease_seconds,
            slots[0].tags,
        )
        if from_start:
            took = anyio.current_time() - started
            self._look_from_start_at = started + max(POLL_SECONDS, took / LOOK_SHARE)
        for row in rows:
            slot: int | None = row["slot"]
            if slot is None:
                continue  # its pipeline is paused: it was put out of the way
            waiting = slots[slot - 1]
            waiting.assignments.append(await self._assignment(row))
            waiting.finish()
            self._remove(waiting)
        return rows

    def _remove(self, waiting: Waiting) -> None:
        self._drained.discard(waiting)
        alike = self._waiting.get(waiting.tags, {})
        alike.pop(waiting, None)
        if not alike:
            self._waiting.pop(waiting.tags, None)

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
            plugins=version.plugins,
            inputs=msgspec.json.decode(row["inputs"], type=dict[str, InputValue]),
            lease_seconds=self._lease_seconds,
            resume=None if row["resume"] is None else await self._resume(row),
            trigger=None if row["trigger"] is None else msgspec.json.decode(row["trigger"], type=Trigger),
            keep_on_failure=row["keep_on_failure_seconds"],
            traceparent=traces.claimed(self._tracer, row, version.pipeline),
            is_protected=self._protections.cover(version.pipeline),
        )

    async def _resume(self, row: Row) -> Resume:
        told = await self._database.rows(jobs_sql.OUTPUTS_OF_JOB, row["id"])
        outputs = {stage["name"]: msgspec.json.decode(stage["outputs"], type=dict[str, Any]) for stage in told}
        return msgspec.structs.replace(msgspec.json.decode(row["resume"], type=Resume), outputs=outputs)


def _rank(tags: Tags) -> tuple[int, Tags]:
    return len(tags), tags
