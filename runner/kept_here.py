"""The containers and workspace of a local run that failed, kept by the process itself until their time is over."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Final

import anyio

from runner.containers import JobContainers
from runner.engine.engine import Engine
from runner.event_stream import EventStream
from runner.kept import KeptAttempt
from schema import times

NOTHING: Final = "the job's containers are not kept: no command ran in one that is still there"


class KeptHere:
    """Takes over what is left of the one job of a process. ``hold`` when that job's last event has been told."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: KeptAttempt | None = None
        self._seconds = 0.0

    @property
    def is_holding(self) -> bool:
        return self._kept is not None

    async def keep(self, stream: EventStream, seconds: float, containers: JobContainers, held: AsyncExitStack) -> None:
        if not containers.in_use:
            await stream.log(None, "warn", "system", NOTHING)
            return
        newest = containers.chosen(None, None)
        containers.hand_over()
        self._kept = KeptAttempt(containers, held.pop_all())
        self._seconds = seconds
        until = times.rfc3339(datetime.now(UTC) + timedelta(seconds=seconds))
        await stream.log(
            None,
            "info",
            "system",
            f"the job's containers and workspace are kept until {until}, or until Ctrl-C",
        )
        for container in sorted(containers.in_use, key=lambda one: one is not newest):
            command = " ".join(self._engine.entering(container))
            await stream.log(None, "info", "system", f"a shell in the one of {container.image}: {command}")

    async def hold(self, enough: anyio.Event) -> None:
        """Wait until the time is over or ``enough`` is set, and remove what was kept."""
        if self._kept is None:
            return
        try:
            with anyio.move_on_after(self._seconds):
                await enough.wait()
        finally:
            await self._kept.remove()
            self._kept = None
