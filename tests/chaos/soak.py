"""One run: start an installation, load it and break it for a while, let it settle, check."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import anyio

from tests.chaos import installation as installations
from tests.chaos.checks import Check
from tests.chaos.faults import Killer
from tests.chaos.figures import Figures
from tests.chaos.load import Load

log = logging.getLogger(__name__)

RATE = 3.0
WARM_UP_SECONDS = 1.0
SUBMITS_SECONDS = 60.0
"""How long submits may take to be acknowledged, and followers to end, when nothing is broken any more."""
LONG_SECONDS = 600.0
"""From here on old jobs are removed while the run lasts, and tables must not grow on."""
KEEP_SECONDS = 150.0


class PromisesBroken(Exception):
    """Leaves the installation's folder where it is, to be looked at."""


async def run(seconds: float, seed: int, rate: float = RATE, kinds: Sequence[str] | None = None) -> Figures:
    """Break an installation for so many seconds, and say what was found."""
    found = Figures(seconds=seconds, seed=seed, rate=rate)
    try:
        async with installations.running(keep_seconds=KEEP_SECONDS if seconds >= LONG_SECONDS else None) as here:
            await _run(here, found, kinds)
            if found.judge():
                log.error("broken: %s; logs are in %s", ", ".join(found.broken), here.folder)
                raise PromisesBroken  # noqa: TRY301
    except* PromisesBroken:
        pass
    return found


async def _run(here: installations.Installation, found: Figures, kinds: Sequence[str] | None) -> None:
    # Whoever draws has a source of chance of their own: the order in which they run is not for the seed to decide.
    load = Load(here, found.rate, _chance(found.seed, "load"))
    killer = Killer(here, _chance(found.seed, "faults"), kinds)
    check = Check(here, load, killer.happened, found)
    healed_at = anyio.current_time()
    async with anyio.create_task_group() as watching:
        watching.start_soon(here.note_processes)
        watching.start_soon(check.watch.run)
        watching.start_soon(check.review)
        with anyio.move_on_after(found.seconds + SUBMITS_SECONDS + WARM_UP_SECONDS):
            async with anyio.create_task_group() as loading:
                await loading.start(load.run)
                await anyio.sleep(WARM_UP_SECONDS)
                log.info("breaking things for %.0f s, seed %d", found.seconds, found.seed)
                with anyio.move_on_after(found.seconds):
                    await killer.run()
                load.stop()
                await here.heal()
                healed_at = anyio.current_time()
                log.info("%d faults; everything is let settle", len(killer.happened))
        await check.settle()
        await here.until_all_healthy()
        found.settled_seconds = round(anyio.current_time() - healed_at, 2)
        watching.cancel_scope.cancel()
    await check.run(_chance(found.seed, "checks"))
    found.stubborn = await here.stop()
    await check.after_stop()


def _chance(seed: int, whose: str) -> random.Random:
    return random.Random(f"{seed} {whose}")  # noqa: S311  # chance that can be had again
