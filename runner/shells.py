"""The shells that users open in this runner's containers.

    orchestrator ── heartbeat's answer: wanted ──> open ──> a terminal in the container (``runner.engine.terminal``)
         ^  │                                                   │  ^
         │  └── receive: what is typed, the terminal's size ────┼──┘
         └───── send: what it says, at last how it ended <──────┘

The runner asks, as for all else: nobody connects to it. Requests that fail are made again, of any replica, for as long
as the orchestrator would wait; bytes have positions, so none is lost or doubled by it (``schema.shells``).

A shell ends when its program does, when its container is removed, or when the orchestrator says so (its user left, it
was idle for too long). All that was started in it is killed then.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

import anyio
import anyio.abc

from runner.engine.container import Container
from runner.engine.errors import CommandNotFound, EngineError
from runner.engine.exec import Command, OutputStream
from runner.engine.terminal import SHELL, Terminal
from schema import log_context
from schema.client import Client
from schema.errors import ErrorInfo, MoonyardError, single_error
from schema.shell_line import Line, Sender
from schema.shells import WAIT_SECONDS, ShellEnd, ShellOpened, ShellReceive, ShellReceived
from schema.wire import ShellWanted

log: Final = logging.getLogger(__name__)

LAST_SECONDS: Final = 10.0
"""For the last words of a shell that is ended with the runner."""
LOOK_SECONDS: Final = 5.0
"""How often one whose program does not read is asked after."""


class ShellForbidden(MoonyardError):
    """The runner's owner does not want any shells there."""

    code = "shell_forbidden"


class ShellContainerGone(MoonyardError):
    """The container was removed under a shell."""

    code = "shell_container_gone"


class ShellMissing(MoonyardError):
    """An image has no shell."""

    code = "shell_missing"


class Places(Protocol):
    """The containers of an attempt."""

    def chosen(self, stage: str | None, image: str | None) -> Container: ...
    def has(self, container: Container) -> bool: ...


class Shells:
    """All shells on this runner. ``run`` has to run."""

    def __init__(self, client: Client, *, allowed: bool) -> None:
        self._client = client
        self._allowed = allowed
        self._open: set[str] = set()
        self._tasks: anyio.abc.TaskGroup | None = None

    async def run(self) -> None:
        """Run shells until cancelled: that ends them all."""
        async with anyio.create_task_group() as self._tasks:
            await anyio.sleep_forever()

    def open(self, wanted: ShellWanted, places: Places | None) -> None:
        """Open a shell, if it is not opened already.

        :param places: the containers of its attempt; None where the runner has none of it.
        """
        if wanted.id in self._open or self._tasks is None:
            return
        self._open.add(wanted.id)
        self._tasks.start_soon(self._run, wanted, places, name=f"shell {wanted.id}")

    async def _run(self, wanted: ShellWanted, places: Places | None) -> None:
        with log_context.about(job=wanted.job, attempt=wanted.attempt):
            line = Line(self._client, f"/v1/runner/shells/{wanted.id}")
            end = ShellEnd(error=ErrorInfo(code="shell_runner_stopped", message="the shell ended with its runner"))
            try:
                with single_error():
                    end = await self._session(wanted, places, line)
            except MoonyardError as error:
                end = ShellEnd(error=error.info)
            except Exception as defect:  # a defect of ours ends this shell, not the runner
                log.exception("shell %s met a defect", wanted.id)
                end = ShellEnd(error=ErrorInfo(code="internal_error", message=f"the runner has a defect: {defect!r}"))
            finally:
                with anyio.CancelScope(shield=True), anyio.move_on_after(LAST_SECONDS):
                    await self._tell_end(wanted, end, line)
                self._open.discard(wanted.id)

    async def _tell_end(self, wanted: ShellWanted, end: ShellEnd, line: Line) -> None:
        if end.error is not None:
            log.info("shell %s ended: %s", wanted.id, end.error.message)
        try:
            await line.tell("end", end)
        except MoonyardError as error:
            log.warning("the end of shell %s could not be told: %s", wanted.id, error.message)

    async def _session(self, wanted: ShellWanted, places: Places | None, line: Line) -> ShellEnd:
        if not self._allowed:
            raise ShellForbidden(
                "this runner's owner allows no shells here", hint="It is the runner's setting `shells`."
            )
        if places is None:
            raise ShellContainerGone("the attempt has no containers here any more")
        container = places.chosen(wanted.stage, wanted.container)
        await line.tell("open", ShellOpened(image=container.image))
        log.info("a shell is opened in container %s of image `%s`", container.id[:12], container.image)
        sender = Sender(line)
        typed = Typing(line, wanted)
        argv = wanted.command or [*SHELL, *([str(wanted.lines), str(wanted.columns)] if wanted.terminal else [])]
        terminal = container.terminal(Command(argv=argv), Output(sender), typed, kind=wanted.terminal)
        end = ShellEnd()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sender.run)
            with anyio.CancelScope() as scope:
                tasks.start_soon(typed.run, terminal, scope)
                await terminal.resize(wanted.lines, wanted.columns)
                try:
                    end = await self._run_terminal(terminal, container, places)
                except CommandNotFound as error:
                    if wanted.command is not None:
                        raise
                    raise _missing(container) from error
            sender.finish()
            await sender.wait_until_sent()
            tasks.cancel_scope.cancel()
        return end

    async def _run_terminal(self, terminal: Terminal, container: Container, places: Places) -> ShellEnd:
        try:
            with container.measuring():  # what commands use beside it cannot be told from what it uses
                result = await terminal.run()
        except EngineError as error:
            if places.has(container):
                raise
            raise _removed(container) from error
        if result.signal == "SIGKILL" and not places.has(container):
            raise _removed(container)
        return ShellEnd(exit_code=result.code)


def _missing(container: Container) -> ShellMissing:
    return ShellMissing(
        f"image `{container.image}` has neither bash nor sh",
        hint="Name a program that it has: `moonyard shell JOB -- PROGRAM`.",
    )


def _removed(container: Container) -> ShellContainerGone:
    return ShellContainerGone(
        f"the container of image `{container.image}` was removed: its part of the job has ended",
        hint="`moonyard submit --keep-on-failure 30m` keeps the containers of an attempt that fails.",
    )


class Output:
    """What a shell says."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    async def write(self, stream: OutputStream, data: bytes) -> None:
        await self._sender.write(data, is_stderr=stream == "stderr")


class Typing:
    """What a shell's user types, and the size of their terminal."""

    def __init__(self, line: Line, wanted: ShellWanted) -> None:
        self._line = line
        self._size = wanted.lines, wanted.columns
        self._position = 0
        self._piece: bytes | None = None
        """Waits to be taken: only then is more asked for, so what is on its way stays bounded."""
        self._is_over = False
        self._changed = anyio.Event()

    async def take(self) -> bytes | None:
        while self._piece is None:
            if self._is_over:
                return None
            await self._changed.wait()
        piece, self._piece = self._piece, None
        self._change()
        return piece

    @property
    def _is_taken(self) -> bool:
        return self._piece is None

    async def run(self, terminal: Terminal, scope: anyio.CancelScope) -> None:
        """Hand on what comes; cancel the scope when the shell is to end."""
        while (received := await self._receive()).shell.state != "ended":
            if (received.lines, received.columns) != self._size:
                self._size = received.lines, received.columns
                await terminal.resize(*self._size)
            for piece in received.pieces:
                if not await self._hand_on(piece.data):
                    scope.cancel()
                    return
            self._position = received.position
            if received.is_over:
                self._is_over = True
                self._change()
        scope.cancel()

    async def _receive(self, wait: float = WAIT_SECONDS) -> ShellReceived:
        message = ShellReceive(
            position=self._position,
            wait=wait,
            is_over=self._is_over,
            lines=self._size[0],
            columns=self._size[1],
        )
        return await self._line.receive(message)

    async def _hand_on(self, data: bytes) -> bool:
        """Wait until a piece is taken; False where the shell is ended before a program that does not read takes it."""
        self._piece = data
        self._change()
        while not self._is_taken:
            with anyio.move_on_after(LOOK_SECONDS):
                await self._changed.wait()
                continue
            if (await self._receive(wait=0.0)).shell.state == "ended":
                return False
        return True

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
