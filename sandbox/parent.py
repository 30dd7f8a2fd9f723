"""The runner's side of the warm parent: starts it, asks it for Lua processes, and starts it again when it dies."""

from __future__ import annotations

import itertools
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio
import anyio.abc
import msgspec

from sandbox.frames import Fork, Kill, encoder, from_parent
from sandbox.process import EXIT_UNKNOWN, LuaProcess, Sandbox, SandboxLost, SandboxWeak
from sandbox.wall import Layers, Limits
from schema.errors import single_error

log: Final = logging.getLogger(__name__)

PROGRAM: Final = "from sandbox.warm_parent import main; main()"
START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 5.0
_MESSAGE_BYTES: Final = 4096


class WarmParent:
    """Gives sandboxes. Any number may live at once; each is a process of its own."""

    def __init__(self, tasks: anyio.abc.TaskGroup, limits: Limits, required: Sequence[str], program: str) -> None:
        self._tasks = tasks
        self._required = required
        self._limits = limits
        self._program = program
        self._starting = anyio.Lock()
        self._connection: _Connection | None = None
        self._told_missing = False
        self.layers: Layers | None = None
        """Which walls stand around the Lua processes, once there was one."""

    @staticmethod
    @asynccontextmanager
    async def start(
        limits: Limits | None = None, *, required: Sequence[str] = (), program: str = PROGRAM
    ) -> AsyncGenerator[WarmParent]:
        """Have a warm parent for the span of a block. Its process starts while the caller goes on.

        :param required: the walls without which there is no Lua process (``sandbox.wall.LAYERS``).
        :param program: what is run in the warm parent's place.
        """
        with single_error():
            async with anyio.create_task_group() as tasks:
                parent = WarmParent(tasks, limits or Limits(), required, program)
                tasks.start_soon(parent.connect)
                try:
                    yield parent
                finally:
                    tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def fork(self) -> AsyncGenerator[Sandbox]:
        """Have a fresh sandbox for the span of a block; its process is gone when the block is left.

        :raises SandboxLost: when there is no process to be had.
        """
        async with self.process() as process:
            yield Sandbox(process)

    @asynccontextmanager
    async def process(self) -> AsyncGenerator[LuaProcess]:
        """Have a fresh Lua process for the span of a block, in which nothing is loaded.

        :raises SandboxLost: when there is none to be had.
        :raises SandboxWeak: when a wall is missing that is required.
        """
        process = await self._fork()
        try:
            with anyio.move_on_after(START_SECONDS) as scope:
                ready = await process.wait_until_ready()
                self.layers = Layers(raised=ready.raised, missing=ready.missing)
                self._tell_missing(ready.missing)
                self._refuse_missing(ready.missing)
            if scope.cancelled_caught:
                raise SandboxLost(f"a Lua process did not start within {START_SECONDS:.0f} s")
            yield process
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(STOP_SECONDS):
                await process.end()

    async def connect(self) -> _Connection:
        """Give the living warm parent; start one where there is none, or where it died."""
        async with self._starting:
            connection = self._connection
            if connection is None or connection.dead:
                if connection is not None:
                    log.warning("the warm parent of the Lua processes ended; it is started again")
                connection = self._connection = await self._tasks.start(_serve, self._limits, self._program)
            return connection

    async def _fork(self) -> LuaProcess:
        for _ in range(2):
            connection = await self.connect()
            try:
                return await connection.fork()
            except OSError as error:
                # It died after it was looked at: a new one is started.
                log.debug("the warm parent did not take a request: %s", error)
                connection.dead = True
        raise SandboxLost("no Lua process could be started: the warm parent ends at once")

    def _refuse_missing(self, missing: dict[str, str]) -> None:
        for layer in self._required:
            if layer in missing:
                raise SandboxWeak(
                    f"Lua is not run here: the wall `{layer}` is missing ({missing[layer]})",
                    hint="The setting `sandbox_require` wants it; `moonyard doctor` says what this machine has.",
                )

    def _tell_missing(self, missing: dict[str, str]) -> None:
        if missing and not self._told_missing:
            self._told_missing = True
            for layer, why in missing.items():
                log.warning("the Lua sandbox does without %s here (%s)", layer, why)


async def _serve(limits: Limits, program: str, *, task_status: anyio.abc.TaskStatus[_Connection]) -> None:
    """Run one warm parent's process until cancelled, or until it dies."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with ours:
        with theirs:
            process = await anyio.open_process(
                [
                    *(sys.executable, "-I", "-X", "utf8", "-c", program),
                    *(str(theirs.fileno()), msgspec.json.encode(limits).decode()),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None,
                # Nothing of the runner's: its environment can hold tokens, its folder files.
                env={},
                cwd="/",
                start_new_session=True,
            )
        connection = _Connection(ours, limits)
        try:
            task_status.started(connection)
            await connection.listen()
        finally:
            connection.close()
            with anyio.CancelScope(shield=True):
                with anyio.move_on_after(STOP_SECONDS) as scope:
                    await process.wait()
                if scope.cancelled_caught:
                    process.kill()
                    await process.wait()
                await process.aclose()


class _Connection:
    """The socket to one warm parent's process."""

    def __init__(self, control: socket.socket, limits: Limits) -> None:
        self._control = control
        self._limits = limits
        self._tokens = itertools.count(1)
        self._waiting: dict[int, LuaProcess] = {}
        self._sending = anyio.Lock()
        """Only one task at a time can wait for a socket to become writable."""
        self.dead = False

    async def fork(self) -> LuaProcess:
        token = next(self._tokens)
        ours, theirs = socket.socketpair()
        with theirs:
            process = LuaProcess(
                await anyio.abc.UNIXSocketStream.from_socket(ours),
                lambda: self._send(encoder.encode(Kill(token))),
                self._limits,
            )
            self._waiting[token] = process
            try:
                async with self._sending:
                    await anyio.wait_writable(self._control)
                    socket.send_fds(self._control, [encoder.encode(Fork(token))], [theirs.fileno()])
            except OSError:
                del self._waiting[token]
                await process.aclose()
                raise
        return process

    async def listen(self) -> None:
        while True:
            await anyio.wait_readable(self._control)
            try:
                data = self._control.recv(_MESSAGE_BYTES)
            except OSError as error:
                log.debug("the warm parent's socket broke: %s", error)
                return
            if not data:
                return
            ended = from_parent.decode(data)
            if process := self._waiting.pop(ended.token, None):
                process.note_exit(ended.code)

    def close(self) -> None:
        """Tell those who wait that nothing more is heard."""
        self.dead = True
        self._control.shutdown(socket.SHUT_RDWR)
        for process in self._waiting.values():
            process.note_exit(EXIT_UNKNOWN)
        self._waiting.clear()

    def _send(self, message: bytes) -> None:
        try:
            self._control.send(message)
        except OSError as error:
            # A dead parent's children see their sockets closed and end by themselves.
            log.debug("the warm parent did not take a message: %s", error)
