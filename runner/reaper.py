"""Finds what was forgotten on this machine, and removes it: at a process's start, and every minute while it lives.

Whoever made a thing removes it; this is for what that did not come to: a container whose removal met an engine that was
away, one that was made by a call whose answer was lost, a workspace that a disk in trouble would not let go of, and all
that belongs to owners that have died.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

import anyio
import anyio.to_thread

from runner import owner as owners
from runner.owner import Owner
from schema.errors import MoonyardError, single_error

log: Final = logging.getLogger(__name__)

REAP_SECONDS: Final = 60.0
LAST_SECONDS: Final = 30.0


class Reaped(owners.ContainerRemover, Protocol):
    """What it needs of the engine."""

    async def reap(self) -> int: ...
    async def finish(self) -> None: ...


@asynccontextmanager
async def reaping(
    state_folder: Path, owner: Owner, engine: Reaped, *, seconds: float = REAP_SECONDS
) -> AsyncGenerator[None]:
    """Remove what was forgotten, before the block, every so many ``seconds`` while it runs, and after it.

    What is there even then is left to whoever starts next: it finds the owner's folder, and takes it for a dead one's.

    :raises MoonyardError: when what the dead left cannot be removed before.
    """
    await owners.clear_leftovers(state_folder, owner, engine)
    with single_error():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_reap_regularly, state_folder, owner, engine, seconds)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    owner.leaves_something = not await _all_is_gone(engine)


async def _reap_regularly(state_folder: Path, owner: Owner, engine: Reaped, seconds: float) -> None:
    while True:
        await anyio.sleep(seconds)
        try:
            await engine.reap()
            await anyio.to_thread.run_sync(owner.remove_forgotten_workspaces)
            await owners.clear_leftovers(state_folder, owner, engine)
        except (MoonyardError, OSError) as error:
            log.warning("what was left behind could not be removed (%s); next try in %g s", error, seconds)


async def _all_is_gone(engine: Reaped) -> bool:
    await engine.finish()
    try:
        with anyio.fail_after(LAST_SECONDS):
            await engine.reap()
    except (MoonyardError, TimeoutError) as error:
        log.warning("what was left behind could not be removed (%s); the next start does it", error)
        return False
    return True
