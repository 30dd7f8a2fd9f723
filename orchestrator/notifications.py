"""Wakes who waits: inside this replica directly, in the others by NOTIFY.

A notification only wakes; what is true is read from the database, and whoever waits looks there from time to time
without being woken. So a notification that is lost costs a moment and nothing else.

NOTIFY takes a lock on the whole Postgres instance at commit, so it never stands in the transactions that do the work:
one sender a replica gathers what there is to tell and sends it in one statement, at most 20 times a second. A payload
is ``<replica>:<id>,<id>,...``; a replica passes over its own. That of the queue is the lowest place of what was queued,
where it is known: claims then need not look from the start.

Where nobody can listen, as behind a connection pooler, a replica looks once a second for what it would have heard.
"""

from __future__ import annotations

import itertools
import logging
import re
import secrets
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar
from uuid import UUID

import anyio

from orchestrator.database import Database
from orchestrator.sql import notifications as sql
from schema.database import DatabaseUnavailable

log: Final = logging.getLogger(__name__)

SEND_PAUSE_SECONDS: Final = 0.05
CHECK_SECONDS: Final = 5.0
RECONNECT_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 1.0
PAYLOAD_IDS_MAXIMUM: Final = 200
"""Postgres takes payloads of less than 8,000 bytes; an id has 36 and a comma."""
PLACE_UNKNOWN: Final = -(2**62)
"""Jobs were queued, at whatever place."""
PLACE_NONE: Final = 2**62
QUEUE_CHANNEL: Final = "moonyard_queue"
JOBS_CHANNEL: Final = "moonyard_jobs"
RUNNERS_CHANNEL: Final = "moonyard_runners"
SHELLS_CHANNEL: Final = "moonyard_shells"

Key = TypeVar("Key")


class Listener:
    """Waits for rings. One that comes between two waits is not missed."""

    def __init__(self) -> None:
        self._rung = anyio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def wait(self, seconds: float) -> bool:
        """Wait for a ring, for at most ``seconds``; say whether there was one."""
        with anyio.move_on_after(seconds):
            await self._rung.wait()
        was_rung = self._rung.is_set()
        if was_rung:
            self._rung = anyio.Event()
        return was_rung


class _Caller:
    def __init__(self, function: Callable[[], object]) -> None:
        self.ring = function


class Bells(Generic[Key]):
    """One bell for each key that somebody listens for."""

    def __init__(self) -> None:
        self._listeners: defaultdict[Key, set[Listener | _Caller]] = defaultdict(set)

    @contextmanager
    def listen(self, key: Key) -> Generator[Listener]:
        listener = Listener()
        self._listeners[key].add(listener)
        try:
            yield listener
        finally:
            self._forget(key, listener)

    def _forget(self, key: Key, listener: Listener | _Caller) -> None:
        self._listeners[key].discard(listener)
        if not self._listeners[key]:
            del self._listeners[key]

    @contextmanager
    def call(self, key: Key, function: Callable[[], object]) -> Generator[None]:
        """Have a function called by each ring: for those who are so many that a task for each would be too much."""
        caller = _Caller(function)
        self._listeners[key].add(caller)
        try:
            yield
        finally:
            self._forget(key, caller)

    def is_heard(self, key: Key) -> bool:
        """Say whether somebody listens for a key."""
        return key in self._listeners

    def heard(self) -> list[Key]:
        """List the keys that somebody listens for."""
        return list(self._listeners)

    def ring(self, key: Key) -> None:
        for listener in list(self._listeners.get(key, ())):
            listener.ring()

    def ring_all(self) -> None:
        for listener in list(itertools.chain.from_iterable(self._listeners.values())):
            listener.ring()


class Notifications:
    """What replicas tell each other. ``send_for_ever`` and ``listen_for_ever`` have to run."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._replica = secrets.token_hex(8)
        self.queue: Bells[None] = Bells()
        """Rings when jobs were queued."""
        self.jobs: Bells[UUID] = Bells()
        """Rings when events of a job were stored."""
        self.runners: Bells[UUID] = Bells()
        """Rings when a runner has something to hear."""
        self.shells: Bells[UUID] = Bells()
        """Rings when bytes of a shell were stored or taken, or it changed."""
        self._place_heard = PLACE_NONE
        self._place_due = PLACE_NONE
        self._jobs_due: set[UUID] = set()
        self._runners_due: set[UUID] = set()
        self._shells_due: set[UUID] = set()
        self._due = anyio.Event()

    def queued(self, place: int = PLACE_UNKNOWN) -> None:
        """Tell that jobs were queued, after their commit.

        :param place: the lowest of their places in the queue.
        """
        self._hear_queued(place)
        self._place_due = min(place, self._place_due)
        self._due.set()

    def lowest_queued(self) -> int:
        """Give the lowest place of what was queued on any replica since this was last asked."""
        place, self._place_heard = self._place_heard, PLACE_NONE
        return place

    def _hear_queued(self, place: int) -> None:
        self._place_heard = min(place, self._place_heard)
        self.queue.ring(None)

    def job_told(self, job: UUID) -> None:
        """Tell that events of a job were stored, after their commit."""
        self.jobs.ring(job)
        self._jobs_due.add(job)
        self._due.set()

    def runner_called(self, runner: UUID) -> None:
        """Tell that a runner has something to hear, after its commit."""
        self.runners.ring(runner)
        self._runners_due.add(runner)
        self._due.set()

    def shell_told(self, shell: UUID) -> None:
        """Tell that there is something new of a shell, after its commit."""
        self.shells.ring(shell)
        self._shells_due.add(shell)
        self._due.set()

    async def send_for_ever(self) -> None:
        while True:
            await self._due.wait()
            self._due = anyio.Event()
            channels, payloads = self._gathered()
            try:
                await self._database.rows(sql.NOTIFY, channels, payloads)
            except DatabaseUnavailable as error:
                # What was lost is found by those who look from time to time.
                log.warning("notifying other replicas failed: %s", error.message)
            await anyio.sleep(SEND_PAUSE_SECONDS)

    async def listen_for_ever(self) -> None:
        """Hear what other replicas and psql say, or look for it where nobody can listen."""
        if self._database.listen_url is None:
            log.info("nothing is listened to: what other replicas do is looked for every %g s", LOOK_SECONDS)
        while True:
            try:
                if self._database.listen_url is None:
                    await self._look()
                else:
                    await self._listen()
            except DatabaseUnavailable as error:
                log.warning("listening for other replicas failed: %s; trying again", error.message)
            await anyio.sleep(RECONNECT_SECONDS)

    async def _look(self) -> None:
        """Ring for whom there is something. Jobs that were queued are looked for by whoever hands them out."""
        while True:
            await anyio.sleep(LOOK_SECONDS)
            self.jobs.ring_all()
            self.shells.ring_all()
            if runners := self.runners.heard():
                for row in await self._database.rows(sql.RUNNERS_CALLED, runners):
                    self.runners.ring(row["id"])

    async def _listen(self) -> None:
        async with self._database.listener() as connection:
            for channel in (QUEUE_CHANNEL, JOBS_CHANNEL, RUNNERS_CHANNEL, SHELLS_CHANNEL):
                await connection.add_listener(channel, self._heard)
            # Whatever was said while nobody listened is looked for now.
            self._place_heard = PLACE_UNKNOWN
            for bells in (self.queue, self.jobs, self.runners, self.shells):
                bells.ring_all()
            closed = anyio.Event()
            connection.add_termination_listener(lambda _connection: closed.set())
            while not closed.is_set():
                with anyio.move_on_after(CHECK_SECONDS):
                    await closed.wait()
                    return
                # A connection that is half open says nothing for ever: ask it.
                await connection.execute(sql.CHECK)

    def _heard(self, _connection: object, _process: int, channel: str, payload: object) -> None:
        replica, _, ids = str(payload).partition(":")
        if replica == self._replica:
            return
        if channel == QUEUE_CHANNEL:
            self._hear_queued(_place(ids))
            return
        bells = {JOBS_CHANNEL: self.jobs, RUNNERS_CHANNEL: self.runners, SHELLS_CHANNEL: self.shells}[channel]
        for text in ids.split(","):
            try:
                bells.ring(UUID(text))
            except ValueError:
                log.warning("channel %s said `%s`, which names nothing", channel, text[:40])

    def _gathered(self) -> tuple[list[str], list[str]]:
        told: list[tuple[str, str]] = [(QUEUE_CHANNEL, str(self._place_due))] if self._place_due != PLACE_NONE else []
        gathered = {JOBS_CHANNEL: self._jobs_due, RUNNERS_CHANNEL: self._runners_due, SHELLS_CHANNEL: self._shells_due}
        for channel, due in gathered.items():
            ids = [str(key) for key in due]
            told += [
                (channel, ",".join(ids[start : start + PAYLOAD_IDS_MAXIMUM]))
                for start in range(0, len(ids), PAYLOAD_IDS_MAXIMUM)
            ]
            due.clear()
        self._place_due = PLACE_NONE
        return [channel for channel, _ in told], [f"{self._replica}:{ids}" for _, ids in told]


def _place(text: str) -> int:
    # Functions of the database say that something was queued, and not where.
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else PLACE_UNKNOWN
