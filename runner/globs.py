"""Patterns of paths: ``*``, ``?`` and ``[a-z]`` within a name, ``**`` for any folders, ``{a,b}`` for either.

A hidden name is like any other. Matching takes time in proportion to the path and the pattern, whatever these are:
a name is matched by ``fnmatch``, whose stars never go back, and folders as a finite automaton does.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from typing import Final

LENGTH_MAXIMUM: Final = 1024
NAMES_MAXIMUM: Final = 50
ALTERNATIVES_MAXIMUM: Final = 64
_BRACES: Final = re.compile(r"\{([^{}]*,[^{}]*)\}")
_MAGIC: Final = re.compile(r"[*?\[{]")

_Segments = list[re.Pattern[str] | None]
"""A name each; None is ``**``."""


class Glob:
    """One pattern.

    :raises ValueError: for a pattern that none can be, saying why.
    """

    def __init__(self, pattern: str) -> None:
        if len(pattern) > LENGTH_MAXIMUM:
            raise ValueError(f"it is longer than {LENGTH_MAXIMUM} characters")
        self._alternatives = [_segments(alternative) for alternative in _alternatives(pattern)]

    def matches(self, parts: Sequence[str]) -> bool:
        """Tell whether the pattern names a path, which comes in its parts."""
        return any(len(segments) in _reached(segments, parts) for segments in self._alternatives)

    def may_match_below(self, parts: Sequence[str]) -> bool:
        """Tell whether the pattern may name something in a folder."""
        return any(any(state < len(segments) for state in _reached(segments, parts)) for segments in self._alternatives)


class Selection:
    """What of a tree is meant: what any of ``include`` names (all, where there is none), and none of ``exclude``."""

    def __init__(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        self._include = [Glob(pattern) for pattern in include]
        self._exclude = [Glob(pattern) for pattern in exclude]

    def has(self, parts: Sequence[str]) -> bool:
        return (not self._include or any(glob.matches(parts) for glob in self._include)) and not self.leaves_out(parts)

    def may_have_below(self, parts: Sequence[str]) -> bool:
        """Tell whether it is worth while to look into a folder."""
        return (not self._include or any(glob.may_match_below(parts) for glob in self._include)) and not (
            self.leaves_out(parts)
        )

    def leaves_out(self, parts: Sequence[str]) -> bool:
        """Tell whether something is excluded: by its own name, or with a folder above it."""
        return any(glob.matches(parts[:count]) for glob in self._exclude for count in range(1, len(parts) + 1))


def fixed_part(pattern: str) -> list[str]:
    """Give the folders that a pattern begins with before anything in it is open."""
    found: list[str] = []
    for name in pattern.split("/")[:-1]:
        if _MAGIC.search(name) or "}" in name:
            break
        found.append(name)
    return [name for name in found if name not in {"", "."}] if not _splits_a_name(pattern) else []


def _splits_a_name(pattern: str) -> bool:
    # `{a/b,c}/d`: what the braces hold goes over several names.
    return any("/" in match[1] for match in _BRACES.finditer(pattern))


def _alternatives(pattern: str) -> list[str]:
    found = [pattern]
    while any(_BRACES.search(alternative) for alternative in found):
        longer: list[str] = []
        for alternative in found:
            match = _BRACES.search(alternative)
            if match is None:
                longer.append(alternative)
                continue
            head, tail = alternative[: match.start()], alternative[match.end() :]
            longer += [f"{head}{choice}{tail}" for choice in match[1].split(",")]
            if len(longer) > ALTERNATIVES_MAXIMUM:
                raise ValueError(f"its braces stand for more than {ALTERNATIVES_MAXIMUM} patterns")
        found = longer
    return found


def _segments(pattern: str) -> _Segments:
    names = [name for name in pattern.split("/") if name not in {"", "."}]
    if ".." in names:
        raise ValueError("it has `..` in it")
    if not names:
        raise ValueError("it is empty")
    if len(names) > NAMES_MAXIMUM:
        raise ValueError(f"it goes over more than {NAMES_MAXIMUM} names")
    return [None if name == "**" else re.compile(fnmatch.translate(name)) for name in names]


def _reached(segments: _Segments, parts: Sequence[str]) -> set[int]:
    """Give how many of the pattern's names can stand for the whole of a path."""
    states = _with_empty(segments, {0})
    for part in parts:
        after: set[int] = set()
        for state in states:
            if state == len(segments):
                continue
            segment = segments[state]
            if segment is None:
                after.add(state)
            elif segment.match(part):
                after.add(state + 1)
        states = _with_empty(segments, after)
    return states


def _with_empty(segments: _Segments, states: set[int]) -> set[int]:
    found: set[int] = set()
    for first in states:
        state = first
        while state not in found:
            found.add(state)
            if state < len(segments) and segments[state] is None:
                state += 1  # `**` may stand for no folder at all
    return found
