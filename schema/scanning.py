"""The one place that knows Hyperscan (as Vectorscan): which of many expressions are in a block, at several GB/s.

It tells where expressions end, and nothing of what is found is believed before it was looked at: so expressions can be
coarser than what is meant, and a defect there can hide something, but not take out what is no secret.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Protocol, cast

import hyperscan

_PREFILTER: Final = cast("int", hyperscan.HS_FLAG_PREFILTER)
_DOTALL: Final = cast("int", hyperscan.HS_FLAG_DOTALL)


class _Handler(Protocol):
    def __call__(self, index: int, start: int, end: int, flags: int, context: object, /) -> None: ...


class _Database(Protocol):
    """What of the library is used: its own stubs leave types open."""

    def compile(self, expressions: Sequence[bytes], *, ids: Sequence[int], elements: int, flags: int) -> None: ...
    def scan(self, data: bytes, match_event_handler: _Handler) -> None: ...


class ExpressionInvalid(ValueError):
    """An expression cannot be compiled."""


class Scanner:
    """Finds expressions. Not for several threads at once."""

    def __init__(self, expressions: Sequence[bytes], *, coarsely: bool = False) -> None:
        """Compile.

        :param coarsely: take what has no place in a scan, such as a look at what is before, for more than it means.
        :raises ExpressionInvalid: with the compiler's reason.
        """
        self._database = _compiled(expressions, _PREFILTER if coarsely else 0)

    def present(self, block: bytes) -> set[int]:
        """Say which expressions are in a block, by their places in the list."""
        found: set[int] = set()

        # The library could tell each only once, but that halves its speed.
        def note(index: int, start: int, end: int, flags: int, context: object, /) -> None:
            del start, end, flags, context
            found.add(index)

        self._database.scan(block, note)
        return found


class Literals:
    """Finds literal bytes. Not for several threads at once."""

    def __init__(self, literals: Sequence[bytes]) -> None:
        self._database = _compiled([_escaped(literal) for literal in literals], _DOTALL)

    def ends(self, block: bytes) -> list[tuple[int, int]]:
        """Give each place where a literal ends, with the literal's place in the list; earlier ends first."""
        found: list[tuple[int, int]] = []

        def note(index: int, start: int, end: int, flags: int, context: object, /) -> None:
            del start, flags, context
            found.append((end, index))

        self._database.scan(block, note)
        return found


def _compiled(expressions: Sequence[bytes], flags: int) -> _Database:
    database = cast("_Database", hyperscan.Database())
    try:
        database.compile(expressions, ids=range(len(expressions)), elements=len(expressions), flags=flags)
    except hyperscan.error as error:
        raise ExpressionInvalid(str(error)) from error
    return database


def _escaped(literal: bytes) -> bytes:
    return re.sub(rb"[^A-Za-z0-9]", lambda match: b"\\x" + match[0].hex().encode(), literal, flags=re.DOTALL)
