"""Processes as the kernel lists them, and services that are started again whenever they end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.abc

RESTART_SECONDS = 0.3
STOP_SECONDS = 40.0


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


class Service:
    """A process that is started again when it ends, as a service manager does."""

    def __init__(self, name: str, argv: list[str], environment: dict[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._argv = [*_with_parent(), *argv]
        self._environment = environment
        self._process: anyio.abc.Process | None = None
        self._asked = False
        """It was signalled: its end is no surprise."""
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self.ends: list[int] = []
        """Exit codes, the last one's at the end."""
        self.surprises: Counter[int] = Counter()
        """Exit codes of ends that nobody asked for."""

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
        self._asked = self._asked or number not in {signal.SIGSTOP, signal.SIGCONT}
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
        self._process, self._asked = process, False
        try:
            code = await process.wait()
            self.ends.append(code)
            if not self._asked:
                self.surprises[code] += 1
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                process.terminate()
                with anyio.move_on_after(STOP_SECONDS):
                    await process.wait()
                    return
                process.kill()
                await process.wait()
            raise


def _with_parent() -> list[str]:
    """Let a service end with the harness, however that ends."""
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
