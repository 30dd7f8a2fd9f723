"""One run: start an installation, load it and break it for a while, let it settle, check."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import anyio
import msgspec

from tests.chaos import installation as installations
from tests.chaos.checks import Check, Figures, Watch
from tests.chaos.faults import Killer
from tests.chaos.load import Load

log = logging.getLogger(__name__)

RATE = 3.0
WARM_UP_SECONDS = 1.0
SUBMITS_SECONDS = 60.0
"""How long submits may take to be acknowledged, and followers to end, when nothing is broken any more."""


class Result(msgspec.Struct, kw_only=True):
    broken: list[str]
    """The figures that have to be zero and are not."""
    seconds: float
    seed: int
    rate: float
    figures: Figures
    stubborn: list[str] = []
    """Parts that did not stop when they were told to, after everything."""


class PromisesBroken(Exception):
    """Leaves the installation's folder where it is, to be looked at."""


async def run(seconds: float, seed: int, rate: float = RATE, kinds: Sequence[str] | None = None) -> Result:
    """Break an installation for so many seconds, and say what was found."""
    result: Result | None = None
    try:
        async with installations.running() as here:
            result = await _run(here, seconds, seed, rate, kinds)
            if result.broken:
                log.error("broken: %s; logs are in %s", ", ".join(result.broken), here.folder)
                raise PromisesBroken  # noqa: TRY301
    except* PromisesBroken:
        pass
    assert result is not None
    return result


async def _run(
    here: installations.Installation, seconds: float, seed: int, rate: float, kinds: Sequence[str] | None
) -> Result:
    # Whoever draws has a source of chance of their own: the order in which they run is not for the seed to decide.
    load = Load(here, rate, _chance(seed, "load"))
    killer = Killer(here, _chance(seed, "faults"), kinds)
    watch = Watch(here)
    healed_at = anyio.current_time()
    check = Check(here, load, killer.happened, watch)
    async with anyio.create_task_group() as watching:
        watching.start_soon(watch.run)
        with anyio.move_on_after(seconds + SUBMITS_SECONDS + WARM_UP_SECONDS):
            async with anyio.create_task_group() as loading:
                await loading.start(load.run)
                await anyio.sleep(WARM_UP_SECONDS)
                log.info("breaking things for %.0f s, seed %d", seconds, seed)
                with anyio.move_on_after(seconds):
                    await killer.run()
                load.stop()
                await here.heal()
                healed_at = anyio.current_time()
                log.info("%d faults; everything is let settle", len(killer.happened))
        await check.settle()
        await here.until_all_healthy()
        check.figures.settled_seconds = round(anyio.current_time() - healed_at, 2)
        watching.cancel_scope.cancel()
    figures = await check.run(_chance(seed, "checks"))
    stubborn = await here.stop()
    left = await check.left_after_stop()
    figures.leftovers += len(left)
    figures.details += [f"left over after the stop: {text}" for text in left]
    return Result(
        broken=figures.broken() + (["stubborn"] if stubborn else []),
        seconds=seconds, seed=seed, rate=rate, figures=figures, stubborn=stubborn,
    )  # fmt: skip


def _chance(seed: int, whose: str) -> random.Random:
    return random.Random(f"{seed} {whose}")  # noqa: S311  # chance that can be had again
