"""A private engine: ``podman system service`` as a child process, for machines where no engine listens.

It uses the same images and containers as ``podman`` on the command line. It ends with this process, also when this
one is killed (``setpriv --pdeathsig``), and is started again when it ended by itself and is needed. Containers do not
depend on it: they run on while it is away.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import anyio
import anyio.abc
import anyio.to_thread

from runner.engine import probe, sockets
from runner.engine.errors import EngineUnavailable, first_line

log: Final = logging.getLogger(__name__)

START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 10.0
SOCKET_PATH_MAXIMUM: Final = 100
"""The kernel takes 107 bytes."""


class PrivateService:
    """Keeps one ``podman system service`` there while it is needed."""

    def __init__(self, podman: str, conf: Path | None, socket: Path, tasks: anyio.abc.TaskGroup) -> None:
        self.socket = socket
        self.conf = conf
        """What Podman has to be told here, if anything."""
        self._podman = podman
        self._tasks = tasks
        self._process: anyio.abc.Process | None = None
        self._starting = anyio.Lock()
        self._said: deque[str] = deque(maxlen=50)
        """The last lines of its stderr."""

    @classmethod
    @asynccontextmanager
    async def open(cls, podman: str, state_folder: Path, owner: str) -> AsyncGenerator[PrivateService]:
        """Start the service, and stop it at the end.

        :raises EngineUnavailable: when Podman cannot run containers here, or the service does not start.
        """
        _, conf = await probe.outcome(podman, state_folder)
        folder = state_folder / "engine"
        await _clear_dead_sockets(folder)
        with tempfile.TemporaryDirectory(prefix="moonyard-") as short_folder:
            socket = folder / f"{owner}.sock"
            if len(os.fsencode(socket)) > SOCKET_PATH_MAXIMUM:
                socket = Path(short_folder) / "engine.sock"
            async with anyio.create_task_group() as tasks:
                service = cls(podman, conf, socket, tasks)
                try:
                    await service.ensure()
                    yield service
                finally:
                    with anyio.CancelScope(shield=True):
                        await service._stop()
                    tasks.cancel_scope.cancel()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def ensure(self) -> None:
        """See that the service runs; start it if it ended.

        :raises EngineUnavailable: when it does not start.
        """
        # Asked at the socket: of a child's end one learns a moment later.
        if await sockets.is_alive(self.socket):
            return
        async with self._starting:
            if not await sockets.is_alive(self.socket):
                await self._start()

    async def _start(self) -> None:
        if self._process is not None:
            await self._end(self._process)
            log.warning("the private engine ended (%s); starting it again", self.last_words())
        self.socket.unlink(missing_ok=True)
        command = [self._podman, "system", "service", "--time=0", f"unix://{self.socket}"]
        if (setpriv := shutil.which("setpriv")) is not None:
            command = [setpriv, "--pdeathsig", "TERM", *command]
        environment = dict(os.environ)
        # These would make podman a client of another engine.
        for name in ("CONTAINER_HOST", "DOCKER_HOST", "CONTAINER_CONNECTION"):
            environment.pop(name, None)
        if self.conf is not None:
            environment["CONTAINERS_CONF"] = str(self.conf)
        # A session of its own: Ctrl-C is for this process, which needs the engine to clean up.
        process = await anyio.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
            cwd="/",
        )
        self._process = process
        self._said.clear()
        self._tasks.start_soon(self._watch, process)
        try:
            with anyio.fail_after(START_SECONDS):
                while not await sockets.is_alive(self.socket):
                    if process.returncode is not None:
                        raise EngineUnavailable(
                            f"the private engine (`{' '.join(command)}`) did not start: {self.last_words()}",
                            hint="`podman info` says more; the setting `engine_socket` names an engine that runs.",
                        )
                    await anyio.sleep(0.005)
        except TimeoutError as error:
            raise EngineUnavailable(
                f"the private engine (`{' '.join(command)}`) did not listen within {START_SECONDS:g} s: "
                f"{self.last_words()}"
            ) from error

    async def _watch(self, process: anyio.abc.Process) -> None:
        assert process.stderr is not None, "open_process makes a pipe of it"
        rest = b""
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            while True:
                *lines, rest = (rest + await process.stderr.receive()).split(b"\n")
                self._said.extend(line.decode("utf-8", errors="replace") for line in lines)
                rest = rest[-4096:]
        await process.wait()

    def ended(self) -> str | None:
        """Tell how the service ended, if it did."""
        return self.last_words() if self._process is not None and self._process.returncode is not None else None

    def last_words(self) -> str:
        """Give what the service said last that tells why it ended."""
        code = None if self._process is None else self._process.returncode
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        lines = [line for line in self._said if "level=warning" not in line]
        how = "" if code is None else f"exit code {code}"
        return ": ".join(part for part in (how, first_line(lines[-1]) if lines else "") if part) or "it said nothing"

    async def _stop(self) -> None:
        process = self._process
        if process is not None:
            if process.returncode is None and await sockets.is_alive(self.socket):
                process.terminate()
            await self._end(process)
            await process.aclose()
        self.socket.unlink(missing_ok=True)

    async def _end(self, process: anyio.abc.Process) -> None:
        """See that a service's process, which was asked to end or ended by itself, is gone.

        It is signalled only when that takes long: to signal a process that has just ended makes asyncio lose its exit
        code (the threaded child watcher, Python 3.11).
        """
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(STOP_SECONDS) as scope:
                await process.wait()
            if scope.cancelled_caught:
                process.kill()
                await process.wait()


def find_podman() -> str | None:
    """Find the podman program."""
    return shutil.which("podman")


async def _clear_dead_sockets(folder: Path) -> None:
    """Remove the sockets of services that ended without doing so."""
    for socket in await anyio.to_thread.run_sync(lambda: list(folder.glob("*.sock"))):
        if not await sockets.is_alive(socket):
            socket.unlink(missing_ok=True)
