"""The limits that all runners share: an operator sets them, and the orchestrator hands out permits.

Which hosts have one comes with claims and heartbeats. Requests to such a host stand in a line. The first of it takes a
permit of the batch in hand, waits until that is due, and lets the next one be first; where the batch is used up, it
asks the orchestrator for another. So a runner has one batch at a time, and takes turns with the others. It asks for as
many as wait, or for twice what it used of the batch before, and for no more than come in a second (that is the
orchestrator's to say). What is not used within a second of its time has lapsed.

While no orchestrator can be asked, those in the line wait, each for no longer than its own `timeout`, and say so.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from typing import Final

import anyio

from runner.web.errors import RequestTimeout
from schema.client import Client, OrchestratorRefused
from schema.errors import MoonyardError
from schema.wire import HttpCeiling, HttpPermits, HttpPermitsTake

TOLD_SECONDS: Final = 1.0
LAPSE_SECONDS: Final = 1.0
ASK_SECONDS: Final = 5.0
PAUSE_SECONDS_FIRST: Final = 0.25
PAUSE_SECONDS_MAXIMUM: Final = 5.0
WANTED_MAXIMUM: Final = 1000

Tell = Callable[[str], Awaitable[None]]


class Ceilings:
    """All that there are, as the orchestrator said last. Without a client there are none."""

    def __init__(self, client: Client | None = None) -> None:
        self._client = client
        self._known: dict[str, Ceiling] = {}
        """Those that say most come first: a name before a pattern, a long pattern before a short one."""

    def hear(self, told: Sequence[HttpCeiling]) -> None:
        """Take what there is now."""
        if not told and not self._known:
            return
        assert self._client is not None, "who has no orchestrator hears of no limits"
        known = self._known
        ordered = sorted(told, key=lambda one: ("*" in one.host, -len(one.host), one.host))
        self._known = {
            one.host: kept
            if (kept := known.get(one.host)) is not None and kept.rate == one.rate
            else Ceiling(self._client, one.host, one.rate)
            for one in ordered
        }
        for host, ceiling in known.items():
            if self._known.get(host) is not ceiling:
                ceiling.end()

    def of(self, host: str) -> Ceiling | None:
        """Find the one that holds for a host."""
        if not self._known:
            return None
        name = host.lower().rstrip(".")
        return next((one for pattern, one in self._known.items() if fnmatchcase(name, pattern)), None)


class Ceiling:
    """One limit, and the line of requests before it."""

    def __init__(self, client: Client, host: str, rate: str) -> None:
        self.rate = rate
        self._client = client
        self._host = host
        self._line: deque[_Waiting] = deque()
        self._due: deque[float] = deque()
        """When each permit in hand may be used."""
        self._used = 0
        """Of the batch in hand."""
        self._ended = anyio.Event()
        """There is no such limit any more: nobody waits for it."""
        self._trouble: MoonyardError | None = None
        """Why the orchestrator could not be asked."""

    def end(self) -> None:
        """Let all go that wait."""
        self._ended.set()

    async def take(self, call: str, host: str, seconds: float, tell: Tell) -> bool:
        """Wait until one request may be sent; False where there is no such limit any more.

        :param seconds: how long it may wait for an orchestrator that cannot be asked.
        :raises RequestTimeout: when that is over.
        """
        waiting = _Waiting(call, host, seconds, tell)
        if self._trouble is not None:
            waiting.give_up_after(anyio.current_time() + seconds)
        with waiting.scope:
            async with self._first(waiting):
                due = await self._permit()
                if due is None:
                    return True
                self._used += 1
                delay = max(0.0, due - anyio.current_time())
                if delay >= TOLD_SECONDS and not waiting.has_told:
                    await tell(f"{call} waits {delay:.1f} s: {self._limit(host)}")
                with anyio.move_on_after(delay):
                    await self._ended.wait()
            return not self._ended.is_set()
        trouble = self._trouble
        raise RequestTimeout(
            f"{call}: nobody said within {seconds:g} s when `{host}` may be asked: {self._limit(host)}, and the "
            "orchestrator that hands out permits for it could not be asked"
            + (f": {trouble.message}" if trouble is not None else ""),
            hint="`timeout` sets another time. Without its permit, no request is sent.",
        ) from trouble

    def _limit(self, host: str) -> str:
        named = f"`{host}`" if host == self._host else f"`{host}` (`{self._host}`)"
        return f"the limit of all runners for {named} is {self.rate}"

    @asynccontextmanager
    async def _first(self, waiting: _Waiting) -> AsyncGenerator[None]:
        """Be the first in the line for the span of a block, when those before have gone."""
        self._line.append(waiting)
        try:
            if self._line[0] is waiting:
                waiting.is_first.set()
            while not waiting.is_first.is_set():
                with anyio.move_on_after(TOLD_SECONDS):
                    await waiting.is_first.wait()
                    break
                await waiting.say_once(
                    f"{waiting.call} waits behind {self._line.index(waiting)}: {self._limit(waiting.host)}"
                )
                if self._trouble is not None:
                    await waiting.say_trouble_once(self._trouble)
            yield
        finally:
            self._line.remove(waiting)
            if self._line:
                self._line[0].is_first.set()

    async def _permit(self) -> float | None:
        """Give when the next permit is due; None where the orchestrator knows of no such limit."""
        pause = PAUSE_SECONDS_FIRST
        while not self._ended.is_set():
            lapsed_before = anyio.current_time() - LAPSE_SECONDS
            while self._due:
                due = self._due.popleft()
                if due >= lapsed_before:
                    return due
            asked_at = anyio.current_time()
            try:
                await self._take_batch()
            except OrchestratorRefused as error:
                if error.code == "http_limit_unknown":
                    return None
                await self._bear(error, asked_at)
            except MoonyardError as error:
                await self._bear(error, asked_at)
            else:
                self._recovered()
                continue
            with anyio.move_on_after(pause):
                await self._ended.wait()
            pause = min(pause * 2, PAUSE_SECONDS_MAXIMUM)
        return -math.inf

    async def _take_batch(self) -> None:
        wanted = min(max(len(self._line), 2 * self._used, 1), WANTED_MAXIMUM)
        message = HttpPermitsTake(host=self._host, wanted=wanted)
        permits = await self._client.post("/v1/runner/http/permits", HttpPermits, message, seconds=ASK_SECONDS)
        # From when the answer is here, so never too soon, however long it took.
        first = anyio.current_time() + permits.delay
        now = anyio.current_time()
        self._due.extend(max(now, first + number * permits.interval) for number in range(permits.granted))
        self._used = 0

    async def _bear(self, error: MoonyardError, since: float) -> None:
        """Let nobody in the line wait for the orchestrator for longer than its own time."""
        if self._trouble is None:
            for waiting in self._line:
                waiting.give_up_after(since + waiting.seconds)
        self._trouble = error
        await self._line[0].say_trouble_once(error)

    def _recovered(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            for waiting in self._line:
                waiting.give_up_after(math.inf)


class _Waiting:
    """A request in the line."""

    def __init__(self, call: str, host: str, seconds: float, tell: Tell) -> None:
        self.call = call
        self.host = host
        self.seconds = seconds
        self.is_first = anyio.Event()
        self.scope = anyio.CancelScope()
        self.has_told = False
        self._has_told_trouble = False
        self._tell = tell

    def give_up_after(self, moment: float) -> None:
        self.scope.deadline = moment

    async def say_once(self, words: str) -> None:
        if not self.has_told:
            self.has_told = True
            await self._tell(words)

    async def say_trouble_once(self, trouble: MoonyardError) -> None:
        if not self._has_told_trouble:
            self._has_told_trouble = True
            await self._tell(
                f"{self.call} waits for up to {self.seconds:g} s for a permit to ask `{self.host}`, which the "
                f"orchestrator hands out: {trouble.message}"
            )
