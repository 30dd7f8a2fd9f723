"""The containers and workspaces of attempts that failed, kept for a while so that somebody can look into them.

    an attempt that is to be kept fails ──> handed over ──> kept ──(its time is over, it is released, the runner
                                                                     is told to stop)──> removed

The attempt itself is over by then: its slot is free, its final event is told. What is kept lives in the runner's
process alone: after a crash, the next start removes it with all else (``runner.owner``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final, Protocol

import anyio
import anyio.abc
import msgspec

from runner.containers import JobContainers
from runner.event_stream import EventStream
from schema import log_context
from schema.client import Client
from schema.errors import MoonyardError
from schema.shells import ContainersForgotten, ContainersKeep, ContainersKept
from schema.wire import Kept

log: Final = logging.getLogger(__name__)

FORGET_SECONDS: Final = 5.0


class KeepSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the runner's owner allows."""

    seconds_maximum: float = 3600.0
    """0 forbids it."""
    count: int = 4
    """Of how many attempts at once."""


class Keeper(Protocol):
    """Takes over what is left of an attempt that failed."""

    async def keep(self, stream: EventStream, seconds: float, containers: JobContainers, held: AsyncExitStack) -> None:
        """Take it over, where that is allowed; the log says so, or why not.

        :param held: ends the workspace's use. What it holds is moved out of it when it is taken over.
        """
        ...


class KeptAttempt:
    """One attempt's containers and workspace."""

    def __init__(self, containers: JobContainers, held: AsyncExitStack) -> None:
        self.containers = containers
        self.released = anyio.Event()
        self._held = held

    async def remove(self) -> None:
        with anyio.CancelScope(shield=True):
            await self.containers.remove_handed_over()
            await self._held.aclose()


class KeptAttempts:
    """All that this runner keeps. ``run`` has to run."""

    def __init__(self, client: Client, settings: KeepSettings, changed: Callable[[], None]) -> None:
        """Prepare.

        :param changed: is called when something more is kept: from then on, the orchestrator may ask for it.
        """
        self._client = client
        self._settings = settings
        self._changed = changed
        self._kept: dict[tuple[str, int], KeptAttempt] = {}
        self._coming = 0
        """Of which the orchestrator is just being told."""
        self._tasks: anyio.abc.TaskGroup | None = None

    @property
    def listed(self) -> list[Kept]:
        return [Kept(job=job, attempt=attempt) for job, attempt in self._kept]

    def containers_of(self, job: str, attempt: int) -> JobContainers | None:
        kept = self._kept.get((job, attempt))
        return None if kept is None else kept.containers

    def release(self, kept: Kept) -> None:
        """Remove what is kept of an attempt, now."""
        if (found := self._kept.get((kept.job, kept.attempt))) is not None:
            found.released.set()

    def deny(self, job: str, attempt: int) -> None:
        """Tell that nothing is kept of an attempt, of which somebody thinks that it is."""
        if self._tasks is not None:
            self._tasks.start_soon(self._forget, job, attempt)

    async def run(self) -> None:
        """Keep, until cancelled: then all is removed."""
        async with anyio.create_task_group() as self._tasks:
            await anyio.sleep_forever()

    async def keep(self, stream: EventStream, seconds: float, containers: JobContainers, held: AsyncExitStack) -> None:
        if (why := self._why_not(containers)) is not None:
            await stream.log(None, "warn", "system", f"the job's containers are not kept: {why}")
            return
        seconds = min(seconds, self._settings.seconds_maximum)
        self._coming += 1
        try:
            path = _path(stream.job, stream.attempt)
            images = sorted({container.image for container in containers.in_use})
            told = await self._client.post(path, ContainersKept, ContainersKeep(seconds=seconds, images=images))
        except MoonyardError as error:
            await stream.log(None, "warn", "system", f"the job's containers are not kept: {error.message}")
            return
        finally:
            self._coming -= 1
        containers.hand_over()
        kept = self._kept[stream.job, stream.attempt] = KeptAttempt(containers, held.pop_all())
        assert self._tasks is not None, "it runs"
        self._tasks.start_soon(self._hold, stream.job, stream.attempt, kept, seconds)
        self._changed()
        await stream.log(
            None,
            "info",
            "system",
            f"the job's containers and workspace are kept until {told.expires_at}: `moonyard shell {stream.number}` "
            f"opens a terminal there, `moonyard release {stream.number}` removes them",
        )

    def _why_not(self, containers: JobContainers) -> str | None:
        if not self._settings.seconds_maximum:
            return "this runner's owner does not allow it (`keep_on_failure_seconds`)"
        if len(self._kept) + self._coming >= self._settings.count:
            return f"this runner keeps those of {self._settings.count} attempts already (`keep_on_failure_count`)"
        if self._tasks is None:
            return "this runner is about to stop"
        return None if containers.in_use else "no command ran in one that is still there"

    async def _hold(self, job: str, attempt: int, kept: KeptAttempt, seconds: float) -> None:
        with log_context.about(job=job, attempt=attempt):
            try:
                with anyio.move_on_after(seconds):
                    await kept.released.wait()
            finally:
                del self._kept[job, attempt]
                await kept.remove()
                log.info("what was kept of job %s attempt %d is removed", job, attempt)
                with anyio.CancelScope(shield=True), anyio.move_on_after(FORGET_SECONDS):
                    await self._forget(job, attempt)

    async def _forget(self, job: str, attempt: int) -> None:
        try:
            await self._client.delete(_path(job, attempt), ContainersForgotten)
        except MoonyardError as error:
            # It has a time at which it is over in any case.
            log.warning("that nothing is kept of job %s any more could not be told: %s", job, error.message)


def _path(job: str, attempt: int) -> str:
    return f"/v1/runner/jobs/{job}/{attempt}/kept"
