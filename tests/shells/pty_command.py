"""Runs the real command line on a terminal of its own, types, and reads the screen."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from tests.cli.command import SECONDS, argv, environment

LAUNCHER = ("setsid", "--ctty", "env", "--default-signal=INT,HUP,QUIT")
"""Makes stdin the terminal of a session of its own. Whoever started us may have had signals ignored."""


class OnTerminal:
    """A command on a terminal."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int, mode_before: list[Any]) -> None:
        self.process = process
        self.mode_before = mode_before
        self._descriptor = descriptor
        self.screen = b""
        """All that was shown."""
        self._looked_at = 0

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    async def sees(self, text: str) -> None:
        """Wait for something to be shown after what was waited for before."""
        wanted = text.encode()
        with anyio.fail_after(SECONDS):
            while (found := self.screen.find(wanted, self._looked_at)) < 0:
                if not await self._read():
                    raise AssertionError(f"{text!r} was not shown before the end: {self.screen[-2000:]!r}")
        self._looked_at = found + len(wanted)

    async def ends(self) -> int:
        """Read to the end; give the exit code."""
        with anyio.fail_after(SECONDS):
            while await self._read():
                pass
            return await anyio.to_thread.run_sync(self.process.wait)

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def mode(self) -> list[Any]:
        """Give the settings of the terminal."""
        return termios.tcgetattr(self._descriptor)

    async def _read(self) -> bool:
        await anyio.wait_readable(self._descriptor)
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # nobody has the other side open any more
            return False
        self.screen += data
        return bool(data)


@contextmanager
def on_terminal(*arguments: str, cwd: Path, **more: str) -> Generator[OnTerminal]:
    """Start a command on a terminal; what is left of it is killed when the block ends."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    mode = termios.tcgetattr(ours)
    process = subprocess.Popen(
        [*LAUNCHER, *argv(*arguments)],
        cwd=cwd,
        env=environment(TERM="xterm", **more),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        yield OnTerminal(process, ours, mode)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(ours)
