"""How what runs is brought to its end before it is done: asked first, and then made to.

    running ── ask(grace) ──> its commands get SIGTERM and have `grace` seconds ── over, or all ended ──> cancelled
       └───────────────────── where no command runs ──────────────────────────────────────────────────────┘

A stop is the wish that what runs in its ``scope`` ends: a stage for its timeout, a whole job for a cancel. The scope is
cancelled when the last command under it has ended, by itself or by force, so that what a command says on its way out
is still read. Until then nothing that waits for a command goes on: whoever ran one holds it until the result is told,
and is cancelled then.

Cancelling the scope itself, or one around it, asks nobody: commands are killed at once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Final

import anyio

from schema.errors import single_error

TIMEOUT_GRACE_SECONDS: Final = 5.0
"""How long a command may take to end after a timeout, its own or that of its stage or job."""


class Stop:
    """The wish that what runs in ``scope`` ends. One for a part (a stage) hears what its whole (a job) is told."""

    def __init__(self, whole: Stop | None = None) -> None:
        self.scope = anyio.CancelScope()
        self._whole = whole
        self._grace: float | None = None
        self._commands = 0
        self._waits: set[anyio.CancelScope] = set()

    @property
    def grace(self) -> float | None:
        """How many seconds commands have to end by themselves; None as long as nobody asked."""
        of_whole = None if self._whole is None else self._whole.grace
        return min((grace for grace in (self._grace, of_whole) if grace is not None), default=None)

    @property
    def was_asked(self) -> bool:
        """Whether it was asked itself, and not only its whole."""
        return self._grace is not None

    def ask(self, grace: float) -> None:
        """Let what runs end. The first to ask decides how long commands have."""
        if self._grace is None:
            self._grace = grace
            for wait in self._waits:
                wait.cancel()
            self._cancel_when_idle()

    @contextmanager
    def command(self) -> Generator[None]:
        """Hold off the scope's cancel, from a command's start until its end is told."""
        with nullcontext() if self._whole is None else self._whole.command():
            self._commands += 1
            try:
                yield
            finally:
                self._commands -= 1
                self._cancel_when_idle()

    @contextmanager
    def interrupting(self, wait: anyio.CancelScope) -> Generator[None]:
        """Cancel a wait when somebody asks, or did already."""
        with nullcontext() if self._whole is None else self._whole.interrupting(wait):
            self._waits.add(wait)
            if self._grace is not None:
                wait.cancel()
            try:
                yield
            finally:
                self._waits.discard(wait)

    async def settle(self) -> None:
        """Wait for the scope's cancel, if somebody asked: what runs in it is not to go on."""
        if self.grace is not None:
            await anyio.sleep_forever()

    def _cancel_when_idle(self) -> None:
        if self._grace is not None and not self._commands:
            self.scope.cancel()


@asynccontextmanager
async def limited(stop: Stop, seconds: float | None) -> AsyncGenerator[None]:
    """Run a block in a stop's scope, and ask it to end after some time."""
    if seconds is None:
        with stop.scope:
            yield
        return

    async def ask_later() -> None:
        await anyio.sleep(seconds)
        stop.ask(TIMEOUT_GRACE_SECONDS)

    with single_error():
        async with anyio.create_task_group() as timer:
            timer.start_soon(ask_later)
            with stop.scope:
                yield
            timer.cancel_scope.cancel()
