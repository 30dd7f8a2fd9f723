"""Containers made ahead of need: a job that asks for one of that shape has it in a millisecond.

    take ──> one that is ready ──> the job's, and never anybody else's
                 ^
    run  ────────┘ makes one after the other, while there are fewer than are wanted

Of a shape that was asked for lately as many are wanted as were asked for in the last seconds; of the default one at
least one, for it is what most jobs begin with. All together there are never more than the machine's owner allows. A
container is ready for as long as it lives and its image's name still means the image that it was made of.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import msgspec

from runner.engine.container import Container
from runner.engine.errors import EngineError
from schema.errors import MoonyardError

log: Final = logging.getLogger(__name__)

REMEMBERED_SECONDS: Final = 600.0
"""For how long a shape that was asked for is kept ready."""
BURST_SECONDS: Final = 10.0
CHECK_SECONDS: Final = 5.0
FAILURE_PAUSE_SECONDS: Final = 60.0


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What is settled when a container is made."""

    image: str
    """Its full name after the image map."""
    key: str
    """The hash of the credentials of the jobs that may have it; ``ANYONE`` where none are needed."""
    network: str
    memory: int | None
    cpus: float | None
    user: str | None
    read_only: bool


class WarmContainers:
    """Keeps containers ready. ``run`` has to run.

    :param make: makes one of a shape, without fetching an image.
    :param image_of: gives the id of the image that a name means now, if there is one.
    :param discard: takes one that nobody will have.
    """

    def __init__(
        self,
        *,
        make: Callable[[Shape], Awaitable[Container]],
        image_of: Callable[[str], Awaitable[str | None]],
        discard: Callable[[Container], None],
        default: Shape,
        maximum: int,
    ) -> None:
        self._make = make
        self._image_of = image_of
        self._discard = discard
        self._default = default
        self._maximum = maximum
        self._ready: OrderedDict[Shape, deque[Container]] = OrderedDict()
        self._asked: OrderedDict[Shape, deque[float]] = OrderedDict({default: deque()})
        """When each shape was asked for, the one asked for last at the end."""
        self._not_before: dict[Shape, float] = {}
        """Shapes that could not be made."""
        self._changed = anyio.Event()
        self._made = anyio.Event()

    @property
    def count(self) -> int:
        """How many are ready."""
        return sum(map(len, self._ready.values()))

    @property
    def is_on(self) -> bool:
        """Whether any are made."""
        return self._maximum > 0

    async def until_ready(self) -> None:
        """Wait until there is one, for as long as any are made."""
        while self._maximum and not self._ready:
            await self._made.wait()

    def take(self, shape: Shape) -> Container | None:
        """Give one that is ready, if there is any."""
        if not self._maximum:
            return None
        asked = self._asked.setdefault(shape, deque(maxlen=self._maximum))
        asked.append(anyio.current_time())
        self._asked.move_to_end(shape)
        self._changed.set()
        ready = self._ready.get(shape)
        while ready:
            container = ready.popleft()
            if container.is_alive:
                return container
            self._discard(container)
        return None

    def stop(self) -> None:
        """Keep nothing ready any more."""
        self._maximum = 0
        for ready in self._ready.values():
            while ready:
                self._discard(ready.popleft())
        self._ready.clear()
        self._changed.set()
        self._made.set()

    async def run(self) -> None:
        """Make what is wanted, one after the other, until ``stop`` was called."""
        while self._maximum:
            self._throw_away_what_is_not_wanted()
            shape = self._missing()
            if shape is not None:
                await self._make_one(shape)
                continue
            with anyio.move_on_after(CHECK_SECONDS) as check:
                self._changed = anyio.Event()
                await self._changed.wait()
            if check.cancelled_caught:
                await self._throw_away_what_is_stale()

    async def _make_one(self, shape: Shape) -> None:
        try:
            container = await self._make(shape)
        except (MoonyardError, OSError) as error:
            # Whoever asks for such a container meets the trouble, and tells it.
            log.debug("no container of `%s` could be made ahead: %s", shape.image, error)
            self._not_before[shape] = anyio.current_time() + FAILURE_PAUSE_SECONDS
            return
        if self._maximum:
            self._ready.setdefault(shape, deque()).append(container)
            self._made.set()
            self._made = anyio.Event()
        else:
            self._discard(container)

    def _wanted(self) -> dict[Shape, int]:
        """Tell how many of each shape are wanted; those asked for last come first where there is no room for all."""
        now = anyio.current_time()
        left = self._maximum
        wanted: dict[Shape, int] = {}
        for shape, asked in [*reversed(self._asked.items())]:
            is_remembered = shape == self._default or (asked and now - asked[-1] < REMEMBERED_SECONDS)
            if not is_remembered:
                del self._asked[shape]
                continue
            lately = sum(now - at < BURST_SECONDS for at in asked)
            wanted[shape] = min(max(lately, 1), left)
            left -= wanted[shape]
        return wanted

    def _missing(self) -> Shape | None:
        now = anyio.current_time()
        for shape, count in self._wanted().items():
            if self._not_before.get(shape, 0.0) <= now and len(self._ready.get(shape, ())) < count:
                return shape
        return None

    def _throw_away_what_is_not_wanted(self) -> None:
        excess = self.count - self._maximum
        wanted = self._wanted()
        for shape, ready in list(self._ready.items()):
            # Those of a burst that is over stay, as long as there is room for what is wanted now.
            while ready and (shape not in wanted or (excess > 0 and len(ready) > wanted[shape])):
                self._discard(ready.popleft())
                excess -= 1
            if not ready:
                del self._ready[shape]

    async def _throw_away_what_is_stale(self) -> None:
        for shape in list(self._ready):
            try:
                image = await self._image_of(shape.image)
            except EngineError as error:
                log.debug("whether containers of `%s` are stale could not be found out: %s", shape.image, error.message)
                continue
            ready = self._ready.get(shape)
            for container in list(ready or ()):
                if ready is not None and (container.image_id != image or not container.is_alive):
                    ready.remove(container)
                    self._discard(container)
