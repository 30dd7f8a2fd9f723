"""A command in a container that somebody speaks with while it runs: on a terminal, or on plain streams.

It is an exec of the engine's like any other (``runner.engine.exec``), of which some things differ: its input comes as
it is typed, its terminal can be resized, what the engine says instead of starting it comes on the terminal too, and at
its end nothing that it started is left.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol

import anyio
import anyio.to_thread
from aiodocker.exceptions import DockerError
from aiodocker.execs import Exec
from aiodocker.stream import Stream

from runner.engine import processes
from runner.engine.errors import EngineLost
from runner.engine.exec import Command, CommandResult, Execution, OutputSink, Surroundings

RESIZE_TRIES: Final = 20
RESIZE_PAUSE_SECONDS: Final = 0.05
"""The engine refuses to resize what it has not started yet."""

SHELL: Final = (
    "/bin/sh",
    "-c",
    # A terminal has no size until the engine is told, and some programs ask only once.
    'test -z "$1" || stty rows "$1" cols "$2" 2>/dev/null; if command -v bash >/dev/null; then exec bash; fi; exec sh',
    "moonyard-shell",
)
"""What runs where nobody names a command: bash, or else sh; the terminal's size follows."""


class Typed(Protocol):
    """What is typed, as it comes."""

    async def take(self) -> bytes | None:
        """Wait for more; None at the end."""
        ...


class Terminal(Execution):
    """One run of a command with somebody at it.

    :param kind: of the terminal, as TERM names it; None for plain streams.
    """

    def __init__(
        self, surroundings: Surroundings, command: Command, output: OutputSink, typed: Typed, kind: str | None
    ) -> None:
        super().__init__(surroundings, command, output)
        self._typed = typed
        self._kind = kind
        self._exec: Exec | None = None
        self._size: tuple[int, int] | None = None

    async def run(self) -> CommandResult:
        """Run it to its end. Unlike a job's command, it leaves nothing running in the background."""
        try:
            return await super().run()
        finally:
            if (namespace := self._in.namespace) is not None and self._started_on_host:
                with anyio.CancelScope(shield=True):
                    kill = partial(namespace.kill, self._mark, self._started_on_host, alone=False)
                    await anyio.to_thread.run_sync(kill)

    async def resize(self, lines: int, columns: int) -> None:
        """Change the terminal's size; of plain streams, and of one that has ended, it changes nothing."""
        self._size = lines, columns
        if self._kind is None or self._exec is None:
            return
        for _ in range(RESIZE_TRIES):
            with suppress(EngineLost):
                try:
                    async with self._connection.reaching("resizing a terminal"):
                        await self._exec.resize(h=lines, w=columns)
                except DockerError:
                    await anyio.sleep(RESIZE_PAUSE_SECONDS)
                    continue
            return

    async def _create(self) -> Exec:
        command = self._command
        environment = command.env | {processes.MARK: self._mark}
        if self._kind is not None:
            environment = {"TERM": self._kind} | environment
        try:
            async with self._connection.reaching(f"starting `{command.argv[0]}`"):
                self._exec = await self._in.container.exec(
                    command.argv,
                    stdin=True,
                    tty=self._kind is not None,
                    environment=environment,
                    user=command.user or "",
                    workdir=command.cwd,
                )
        except DockerError as error:
            raise self._refusal(error) from error
        return self._exec

    async def _exchange(self, stream: Stream) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._feed, stream)
            if self._size is not None:
                tasks.start_soon(self.resize, *self._size)
            await self._read(stream, self._output)
            tasks.cancel_scope.cancel()

    async def _feed(self, stream: Stream) -> None:
        # A command may end, or close its stdin, before it has read all.
        with suppress(ConnectionError, RuntimeError):
            while (data := await self._typed.take()) is not None:
                await stream.write_in(data)
            if self._kind is None:
                # aiodocker ends stdin only together with stdout.
                response: Any = stream._resp  # noqa: SLF001
                response.connection.transport.write_eof()

    async def _read(self, stream: Stream, output: OutputSink) -> None:
        if self._kind is None:
            await super()._read(stream, output)
            return
        while (message := await stream.read_out()) is not None:
            if self._may_be_start_failure(message.data):
                self._held_back += message.data
                continue
            if self._held_back:
                await self._release()
            self._has_output = True
            await output.write("stdout", message.data)
