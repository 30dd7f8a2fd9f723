"""A shell in a container that runs command after command: what an engine's exec takes 80 ms for, it does in one.

    runner                                     container (``/.moonyard`` is a folder of the runner's, read-only)
      │ request: a file, the command's text
      │ control  ── "7" ─────────────────────> reads it, starts the command in a subshell
      │ stdin, secrets ──────────────────────> the command itself, and the shell for it (variables)
      │ stdout   <───────────────────────────  the command itself
      │ stderr   <───────────────────────────  the command itself
      │ status   <── "7 end 0" ──────────────  when it has ended

All but the request are named pipes, which the kernel connects across the container's border: no engine stands between,
and how fast the sink takes output is how fast the command can write. A command has its output pipes for itself: those
of one that left something running with them open are given up, and the next one gets new ones. So what runs in the
background cannot write into the next command's output, nothing that a command writes can be taken for the server's
word, and closing its streams harms nobody.

A command is over when the server says so. What it wrote is in the pipes by then: as much as they hold at that moment is
read, and no more, for something that it left in the background may write for ever.

The first server of a container is its first process, which no process of the container can kill; it costs no exec at
all. While it is busy, further ones are started by exec. A server that dies takes its command's exit code with it: the
command fails with ``command_lost``, and the next one finds or starts another server.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import select
import shutil
import struct
import termios
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio
import msgspec

from runner.engine import shell
from runner.engine.errors import EngineError, keeping
from runner.engine.exec import OutputSink, OutputStream
from schema.errors import single_error

MOUNTED_AT: Final = "/.moonyard"
PROGRAM_FILE: Final = "server"
READY_SECONDS: Final = 10.0
READ_BYTES: Final = 256 * 1024
PIPE_BYTES: Final = 256 * 1024
STDIN_BYTES: Final = 64 * 1024
REQUEST_BYTES_KEPT: Final = 16 * 1024
"""Of a request's file, from one command to the next."""
STREAMS: Final[tuple[OutputStream, ...]] = ("stdout", "stderr")

Guard = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
"""Waits for a command's end by the function it is given. It may give up, kill the command, and wait again."""


class ServerDied(Exception):  # it says what happened
    """The shell is gone, and with it whatever it would have said."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says of a command's end."""

    code: int
    refusal: str | None = None
    """Why the command was not started: ``cwd missing``, ``not-found`` and the like, as in ``runner.engine.shell``."""


class Folder:
    """A container's folder on this machine, where its servers' pipes are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._numbers = itertools.count()

    @classmethod
    def make(cls, path: Path) -> Folder:
        """Make a folder.

        :raises StateFolderUnusable: when the disk does not take it.
        """
        made = cls(path)
        try:
            with keeping(f"the command server's folder {path}"):
                path.mkdir(parents=True)
                # Containers run as any user; the owner's folder above keeps everybody else on the machine out.
                path.chmod(0o755)
                program = path / PROGRAM_FILE
                program.write_text(shell.PROGRAM, encoding="utf-8")
                program.chmod(0o644)
        except EngineError:
            made.remove()
            raise
        return made

    def prepare_server(self) -> Server:
        """Make the pipes of a server, which is then to be started with ``command``.

        :raises StateFolderUnusable: when the disk does not take them.
        """
        name = f"s{next(self._numbers)}"
        folder = self.path / name
        with keeping(f"the command server's folder {folder}"):
            folder.mkdir()
            folder.chmod(0o755)
            return Server(folder, f"{MOUNTED_AT}/{name}")

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


class Server:
    """One shell, which runs one command at a time."""

    def __init__(self, folder: Path, inside: str) -> None:
        self._folder = folder
        self._inside = inside
        self._commands = itertools.count(1)
        self._said = b""
        self._paths: dict[OutputStream, Path] = {stream: folder / stream for stream in STREAMS}
        self._request_size = 0
        self._control = self._status = self._request = -1
        for name in ("control", "status"):
            _make_pipe(folder / name)
        # Both ways, so that opening does not wait for the shell; what is read here never comes from here.
        self._control = os.open(folder / "control", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._status = os.open(folder / "status", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._request = os.open(folder / "request", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
        os.fchmod(self._request, 0o644)

    @property
    def command(self) -> list[str]:
        """What to run in the container to have this server."""
        return ["/bin/sh", f"{MOUNTED_AT}/{PROGRAM_FILE}", self._inside]

    @property
    def is_alive(self) -> bool:
        """Whether the shell, once ready, still has its pipe open."""
        return not _is_hung_up(self._status)

    async def wait_until_ready(self) -> bool:
        """Wait for the shell's first word; tells whether it came."""
        with anyio.move_on_after(READY_SECONDS):
            try:
                return await self._line() == "ready"
            except ServerDied:
                pass
        return False

    def close(self) -> None:
        """Give the pipes up. A shell that still lives reads the end of its control pipe, and ends."""
        for descriptor in (self._control, self._status, self._request):
            if descriptor >= 0:
                os.close(descriptor)
        self._control = self._status = self._request = -1

    async def run(
        self,
        argv: list[str],
        *,
        env: dict[str, str],
        secret_env: dict[str, str],
        cwd: str,
        stdin: bytes,
        output: OutputSink,
        guard: Guard,
    ) -> Outcome:
        """Run a command to its end; what it said is with the sink then.

        :raises ServerDied: when the shell ended before it could tell.
        :raises StateFolderUnusable: when the disk does not take the request.
        """
        number = next(self._commands)
        stdin_pipe = _InPipe(self._folder / "stdin") if stdin else None
        secrets_pipe = _InPipe(self._folder / "secrets") if secret_env else None
        readers = [_Reader(stream, path) for stream, path in self._paths.items()]
        try:
            with keeping("a request to a command server"):
                self._write_request(
                    shell.request(
                        number, self._inside, argv, env, cwd, has_stdin=bool(stdin), has_secrets=bool(secret_env)
                    )
                )
            os.write(self._control, b"%d\n" % number)
            end = _End(self, number)
            died: ServerDied | None = None
            with single_error():
                async with anyio.create_task_group() as tasks:
                    for reader in readers:
                        tasks.start_soon(reader.read, output)
                    if stdin_pipe is not None:
                        tasks.start_soon(stdin_pipe.feed, stdin)
                    if secrets_pipe is not None:
                        tasks.start_soon(secrets_pipe.feed, shell.exports(secret_env))
                    try:
                        await guard(end.wait)
                    except ServerDied as error:
                        died = error
                    for reader in readers:
                        reader.end()
                    for pipe in (stdin_pipe, secrets_pipe):
                        if pipe is not None:
                            pipe.end()
            if died is not None:
                raise died
            return end.outcome
        finally:
            self._blank_request()
            for reader in readers:
                reader.close()
            for pipe in (stdin_pipe, secrets_pipe):
                if pipe is not None:
                    pipe.close()

    def _write_request(self, text: bytes) -> None:
        # What is left of a longer one is blanked, not cut off: a file system takes much longer to give blocks back and
        # forth, and to the shell, empty lines are nothing.
        if self._request_size > REQUEST_BYTES_KEPT:
            os.ftruncate(self._request, 0)
            self._request_size = 0
        text = text.ljust(self._request_size, b"\n")
        self._request_size = len(text)
        left = memoryview(text)
        while left:
            left = left[os.pwrite(self._request, left, len(text) - len(left)) :]

    def _blank_request(self) -> None:
        """Leave nothing of a request, for it may hold what is secret."""
        try:
            self._write_request(b"")
        except OSError:  # the disk is so full that it did not take all of the request either
            os.ftruncate(self._request, 0)
            self._request_size = 0

    async def _line(self) -> str:
        while b"\n" not in self._said:
            await anyio.wait_readable(self._status)
            try:
                data = os.read(self._status, 4096)
            except BlockingIOError:
                continue
            if not data:
                raise ServerDied
            self._said += data
        line, _, self._said = self._said.partition(b"\n")
        return line.decode(errors="replace")

    async def word_of(self, number: int) -> list[str]:
        """Wait for the next line about a command."""
        while True:
            words = (await self._line()).split(" ")
            if words[0] == str(number):
                return words[1:]


class _End:
    """The server's word of a command's end, as far as it has come."""

    def __init__(self, server: Server, number: int) -> None:
        self._server = server
        self._number = number
        self._refusal: str | None = None
        self._code: int | None = None

    async def wait(self) -> None:
        while self._code is None:
            match await self._server.word_of(self._number):
                case ["end", code]:
                    self._code = int(code)
                case words:
                    self._refusal = " ".join(words)

    @property
    def outcome(self) -> Outcome:
        assert self._code is not None, "the guard waits for the end, or raises"
        return Outcome(code=self._code, refusal=self._refusal)


class _InPipe:
    """What goes into a command, its stdin or secrets, and never to a disk.

    Each command has new ones: something in the background may still read from the last.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._feeding = anyio.CancelScope()
        _make_pipe(path)

    async def feed(self, data: bytes) -> None:
        """Write all and end it. A command may end, or close it, before it has read all."""
        left = memoryview(data)
        with self._feeding, suppress(BrokenPipeError):
            stdin = await self._open()
            try:
                while left:
                    await anyio.wait_writable(stdin)
                    with suppress(BlockingIOError):
                        left = left[os.write(stdin, left[:STDIN_BYTES]) :]
            finally:
                os.close(stdin)

    async def _open(self) -> int:
        """Open it for writing, which can be done once the command's side is open: a moment after its start."""
        pause = 0.0002
        while True:
            try:
                return os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
            await anyio.sleep(pause)
            pause = min(pause * 2, 0.02)

    def end(self) -> None:
        self._feeding.cancel()

    def close(self) -> None:
        self._path.unlink(missing_ok=True)


class _Reader:
    """Hands one stream on to the sink."""

    def __init__(self, stream: OutputStream, path: Path) -> None:
        self._stream: OutputStream = stream
        self._path = path
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            _make_pipe(path)
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._descriptor = descriptor
        self._waiting: anyio.CancelScope | None = None
        self._left: int | None = None
        """How much is still to be read, once the command has ended."""
        with suppress(OSError):  # more than this user may have in pipes: it stays as it is
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    async def read(self, output: OutputSink) -> None:
        while self._left is None or self._left > 0:
            try:
                data = os.read(self._descriptor, READ_BYTES if self._left is None else min(self._left, READ_BYTES))
            except BlockingIOError:
                data = None
            if data:
                if self._left is not None:
                    self._left -= len(data)
                await output.write(self._stream, data)
            elif self._left is not None:
                return
            else:
                with anyio.CancelScope() as self._waiting:
                    if data is not None and _is_hung_up(self._descriptor):
                        # All who could write have closed it: the kernel would say so again and again.
                        await anyio.sleep_forever()
                    await anyio.wait_readable(self._descriptor)
                self._waiting = None

    def end(self) -> None:
        self._left = _bytes_in(self._descriptor)
        if self._waiting is not None:
            self._waiting.cancel()

    def close(self) -> None:
        if not _is_hung_up(self._descriptor):
            # Something still has it open: it keeps this pipe, and the next command gets another.
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def _is_hung_up(descriptor: int) -> bool:
    """Tell whether a pipe's other end was opened, and closed by all who had it: before the first opening it is not."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def _bytes_in(descriptor: int) -> int:
    answer = fcntl.ioctl(descriptor, termios.FIONREAD, b"\0" * 4)
    (count,) = struct.unpack("i", answer)
    return int(count)


def _make_pipe(path: Path) -> None:
    os.mkfifo(path)
    path.chmod(0o666)


def is_missing_shell(message: str) -> bool:
    """Tell whether an engine's refusal to start a container means that the image has no ``/bin/sh``."""
    text = message.lower()
    return "/bin/sh" in text and (os.strerror(errno.ENOENT).lower() in text or "not found" in text)
