"""The user's side of a terminal: raw while it is lent to a shell, and as it was afterwards, whatever happens."""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import anyio
import anyio.to_thread

READ_BYTES: Final = 64 * 1024
ESCAPE: Final = ord("~")
_LINE_ENDS: Final = b"\r\n"


def kind() -> str | None:
    """Name the kind of terminal that both stdin and stdout are; None where they are not one."""
    if not (os.isatty(sys.stdin.fileno()) and os.isatty(sys.stdout.fileno())):
        return None
    return os.environ.get("TERM") or "dumb"


def size() -> tuple[int, int]:
    """Give the lines and columns of the user's terminal."""
    try:
        found = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return 24, 80
    return found.lines or 24, found.columns or 80


@contextmanager
def raw(descriptor: int) -> Generator[None]:
    """Let a terminal hand on every key as it is pressed, Ctrl-C too."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        # What was typed for the shell, and not read by it, is not for who comes next.
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)


async def read(descriptor: int) -> bytes:
    """Wait for what is typed, or piped; nothing at the end."""
    try:
        await anyio.wait_readable(descriptor)
    except PermissionError:  # a file: it never lets anybody wait
        await anyio.lowlevel.checkpoint()
    try:
        return os.read(descriptor, READ_BYTES)
    except OSError:  # the terminal is gone
        return b""


async def write(descriptor: int, data: bytes) -> None:
    """Write all, however slowly it is taken."""
    await anyio.to_thread.run_sync(_write_all, descriptor, data)


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


class Escapes:
    """Finds ``~.`` at the beginning of a line in what is typed: it is for us. ``~~`` there is a ``~`` for the shell."""

    def __init__(self) -> None:
        self.is_closed = False
        self._at_line_start = True
        self._is_escaping = False

    def pass_on(self, data: bytes) -> bytes:
        """Give what is for the shell."""
        passed = bytearray()
        for byte in data:
            if self._is_escaping:
                self._is_escaping = False
                if byte == ord("."):
                    self.is_closed = True
                    break
                passed.append(ESCAPE)
                if byte == ESCAPE:
                    self._at_line_start = False
                    continue
            elif byte == ESCAPE and self._at_line_start:
                self._is_escaping = True
                continue
            passed.append(byte)
            self._at_line_start = byte in _LINE_ENDS
        return bytes(passed)
