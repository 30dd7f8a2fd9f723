"""Processes as the kernel lists them, and services that are started again whenever they end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.abc

RESTART_SECONDS = 0.3
STOP_SECONDS = 40.0
READY_SECONDS = 5.0


class Known(NamedTuple):
    """A process, told from a later one with the same id by when it started."""

    pid: int
    started: int


def known(pid: int) -> Known | None:
    """Look a process up; a dead one that nobody has waited for yet is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else Known(pid, int(fields[19]))


def lives(process: Known) -> bool:
    return known(process.pid) == process


def words(pid: int) -> list[str]:
    """Give a process's command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += [int(child) for child in (task / "children").read_text("ascii").split()]
    return found


def descendants(pid: int) -> list[int]:
    return [found for child in children(pid) for found in (child, *descendants(child))]


class End(NamedTuple):
    """How a service's process ended."""

    at: float
    """Seconds since the epoch."""

    code: int
    signals: frozenset[signal.Signals]
    """What it had been sent; nothing, where nobody had asked it to end."""
    after_seconds: float
    """Since the first of them, or since the start."""
    was_ready: bool
    """It had run for long enough to know what a signal means."""


class Service:
    """A process that is started again when it ends, as a service manager does."""

    def __init__(
        self,
        name: str,
        argv: list[str],
        environment: dict[str, str],
        log: Path,
        *,
        ready_seconds: float = READY_SECONDS,
    ) -> None:
        self.name = name
        self._ready_seconds = ready_seconds
        self.log = log
        self._argv = [*_with_parent(), *argv]
        self._environment = environment
        self._process: anyio.abc.Process | None = None
        self._signals: set[signal.Signals] = set()
        self._since = 0.0
        self._was_ready = False
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self.ends: list[End] = []

    @property
    def pid(self) -> int | None:
        """The process's id while it lives."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    async def keep_running(self) -> None:
        try:
            with self._scope:
                while True:
                    await self._run_once()
                    await anyio.sleep(RESTART_SECONDS)
        finally:
            self._ended.set()

    def send(self, number: signal.Signals) -> bool:
        """Send a signal; say whether there was a process."""
        pid = self.pid
        if pid is None:
            return False
        if number not in {signal.SIGSTOP, signal.SIGCONT}:
            self._note(number)
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            return True
        return False

    async def stop(self) -> bool:
        """Let the process end as SIGTERM makes it; say whether it did in time."""
        if self._process is None:
            return True
        self._scope.cancel()
        await self._ended.wait()
        return self._process.returncode != -signal.SIGKILL

    async def _run_once(self) -> None:
        with self.log.open("ab") as log:
            process = await anyio.open_process(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self.log.parent,
                start_new_session=True,
            )
        self._process = process
        self._signals, self._since, self._was_ready = set(), anyio.current_time(), True
        try:
            await process.wait()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                self._note(signal.SIGTERM)
                process.terminate()
                with anyio.move_on_after(STOP_SECONDS):
                    await process.wait()
                    return
                self._note(signal.SIGKILL)
                process.kill()
                await process.wait()
            raise
        finally:
            if process.returncode is not None:
                seconds = anyio.current_time() - self._since
                self.ends.append(
                    End(time.time(), process.returncode, frozenset(self._signals), seconds, self._was_ready)
                )

    def _note(self, number: signal.Signals) -> None:
        now = anyio.current_time()
        if not self._signals:
            self._was_ready = now - self._since >= self._ready_seconds
            self._since = now
        self._signals.add(number)


def _with_parent() -> list[str]:
    """Let a service end with the harness, however that ends."""
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
