"""Turns the bytes a command writes into the text lines of a log.

Nothing is thrown away: bytes that are not UTF-8 become ``\\xff`` escapes, a NUL becomes ``\\x00`` (it can stand
neither in a terminal nor in Postgres), a line over the maximum is told in pieces, and what comes after the last
newline is a line too.
"""

from __future__ import annotations

from typing import Final, NamedTuple

LINE_BYTES_MAXIMUM: Final = 64 * 1024


class Block(NamedTuple):
    """Lines with newlines between them."""

    text: str
    lines: int


class LineSplitter:
    """Splits one stream into lines; holds back at most one unfinished line of ``LINE_BYTES_MAXIMUM``."""

    def __init__(self, line_bytes_maximum: int = LINE_BYTES_MAXIMUM) -> None:
        self._maximum = line_bytes_maximum
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Take the next bytes; give the lines that they complete, without their line ends."""
        pieces = (self._rest + data).split(b"\n") if self._rest else data.split(b"\n")
        longest = len(self._rest) + len(data)
        self._rest = pieces.pop()
        if longest <= self._maximum:
            return [_text(piece.removesuffix(b"\r")) for piece in pieces]
        parts = [part for piece in pieces for part in self._cut(piece.removesuffix(b"\r"))]
        *whole, self._rest = self._cut(self._rest)
        return [_text(part) for part in (*parts, *whole)]

    def feed_block(self, data: bytes) -> Block | None:
        """Take the next bytes; give the lines that they complete as one text, or None where ``feed`` is to take them.

        It is for floods: a line costs hardly anything by itself.
        """
        block = self._rest + data if self._rest else data
        whole, end, rest = block.rpartition(b"\n")
        if not end or len(rest) > self._maximum:
            return None
        pieces = whole.split(b"\n")
        if len(whole) > self._maximum and max(map(len, pieces)) > self._maximum:
            return None
        self._rest = rest
        text = _text(whole)
        if "\r" in text:
            text = text.replace("\r\n", "\n").removesuffix("\r")
        return Block(text, len(pieces))

    def finish(self) -> list[str]:
        """Give the unfinished last line, if there is one."""
        rest, self._rest = self._rest, b""
        return [_text(rest.removesuffix(b"\r"))] if rest else []

    def _cut(self, line: bytes) -> list[bytes]:
        parts: list[bytes] = []
        while len(line) > self._maximum:
            end = self._maximum
            # A UTF-8 character is at most 4 bytes: look back past its continuation bytes (0b10xxxxxx) to its start.
            while end > self._maximum - 4 and line[end] & 0xC0 == 0x80:
                end -= 1
            parts.append(line[:end])
            line = line[end:]
        parts.append(line)
        return parts


def _text(line: bytes) -> str:
    text = line.decode("utf-8", errors="backslashreplace")
    return text.replace("\x00", "\\x00") if "\x00" in text else text
