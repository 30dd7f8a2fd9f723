"""Finds the forms of secrets in a block: a scan for literal pieces of them, and a close look at each place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from runner.redaction.forms import ALONE, PIECE_HEX, Form
from runner.redaction.spans import Span
from schema.scanning import Literals

SEED_BYTES: Final = 8
"""Of a broken form, so much is scanned for, at places so near to each other that each piece that counts has one."""
LONG_BYTES: Final = 256
STEP_LONG: Final = 24
"""Of a long form, pieces of 31 characters are found, for its lines are longer; so there are fewer to scan for."""
WHOLE_SEED_BYTES: Final = 32
TAIL_BASE64: Final = 6
TAIL_HEX: Final = 8
"""A line that ends with so much of a form's beginning ends with a piece of it, although it is too short to be found."""
# What programs put between the pieces of what they break: line ends, also as they stand in strings, and indentation.
_BREAK: Final = re.compile(rb"(?:\\r)?\\n|\r?\n[ \t]{0,40}")
_BREAK_BEFORE: Final = re.compile(rb"(?:(?:\\r)?\\n|\r?\n[ \t]{0,40})\Z")
_LINE_START: Final = re.compile(rb"(?:\A|\n|\\n)[ \t]{0,40}\Z")
_LOOK_BACK: Final = 48
_INDENTATION: Final = re.compile(rb"[ \t]{0,40}")
_LINE_END: Final = re.compile(rb"\Z|\r?\n|(?:\\r)?\\n")
_ALPHABET: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_")
_PADDING: Final = re.compile(rb"={0,2}")
_STEP: Final = 256


class Place(NamedTuple):
    """A place in a form."""

    form: Form
    offset: int


class Found(NamedTuple):
    """What a block has of secrets."""

    spans: list[Span]
    open: list[Place]
    """Pieces that end with the block: where they go on, should the next block begin with that."""
    has_key: bool = False
    """It may have the first line of a private key."""


class Index:
    """What to scan for, and what it may be a piece of."""

    def __init__(self, forms: Sequence[Form]) -> None:
        self.forms = forms
        seeds: dict[bytes, list[Place]] = {}
        self._tails: dict[bytes, list[Place]] = {}
        for form in forms:
            for literal, place in _seeds(form):
                seeds.setdefault(literal, []).append(place)
            for tail, place in _tails(form):
                self._tails.setdefault(tail, []).append(place)
        self._places = list(seeds.values())
        self._lengths = [len(literal) for literal in seeds]
        self._literals = Literals(list(seeds)) if seeds else None
        self.size = len(seeds)
        self.reach = max((len(form.text) for form in forms if not form.piece), default=0)
        """How long a form is of which only the whole counts."""

    def find(self, block: bytes) -> Found:
        """Find all in a block: whole lines, or a line's piece."""
        spans: list[Span] = []
        last: list[tuple[int, Place]] = []
        done: dict[Form, int] = {}
        for end, number in [] if self._literals is None else self._literals.ends(block):
            start = end - self._lengths[number]
            for place in self._places[number]:
                form = place.form
                if not form.piece:
                    if block.startswith(form.text, start):
                        spans.append(Span(start, start + len(form.text), form.label))
                elif done.get(form, -1) <= start and (piece := _piece(block, start, place)) is not None:
                    done[form] = piece.end
                    spans.append(Span(piece.start, piece.end, form.label))
                    if piece.goes_on is not None:
                        last.append((piece.end, Place(form, piece.goes_on)))
        self._look_at_tail(block, spans, last)
        return Found(spans, [place for end, place in last if _ends_at(block, end)])

    def _look_at_tail(self, block: bytes, spans: list[Span], last: list[tuple[int, Place]]) -> None:
        end = len(block) - (2 if block.endswith(b"\r\n") else 1 if block.endswith(b"\n") else 0)
        for size in (TAIL_BASE64, TAIL_HEX):
            for form, offset in self._tails.get(block[max(0, end - size) : end], ()):
                if block.endswith(form.text[:offset], 0, end):
                    spans.append(Span(end - offset, end, form.label))
                    last.append((end, Place(form, offset)))


def go_on(block: bytes, open_places: Sequence[Place]) -> Found:
    """Find with what a block goes on that the one before ended with."""
    spans: list[Span] = []
    still_open: list[Place] = []
    indentation = _INDENTATION.match(block)
    start = 0 if indentation is None else indentation.end()
    for form, offset in open_places:
        end, offset_end = _right(block, start, form.text, offset)
        if end == start:
            continue
        if offset_end == len(form.text):
            _, end = _with_edges(block, start, end, form)
        elif _ends_at(block, end):
            still_open.append(Place(form, offset_end))
        spans.append(Span(start, end, form.label))
    return Found(spans, still_open)


class _Piece(NamedTuple):
    start: int
    end: int
    goes_on: int | None


def _seeds(form: Form) -> Iterator[tuple[bytes, Place]]:
    text = form.text
    if not form.piece:
        yield text[:WHOLE_SEED_BYTES], Place(form, 0)
        return
    # Broken in two anywhere, one half has its end of the form.
    size = min(SEED_BYTES, len(text) // 2)
    final = len(text) - size
    for offset in sorted({*range(0, final, _step(form)), final}):
        yield text[offset : offset + size], Place(form, offset)


def _step(form: Form) -> int:
    return form.piece - SEED_BYTES + 1 if len(form.text) <= LONG_BYTES else STEP_LONG


def _tails(form: Form) -> Iterator[tuple[bytes, Place]]:
    if form.piece:
        size = TAIL_HEX if form.piece == PIECE_HEX else TAIL_BASE64
        for offset in range(size, min(SEED_BYTES + _step(form) - 1, len(form.text))):
            yield form.text[offset - size : offset], Place(form, offset)


def _piece(block: bytes, start: int, place: Place) -> _Piece | None:
    """Look how much of a form stands around a place; None where that does not count."""
    form, offset = place
    text = form.text
    end, offset_end = _right(block, start, text, offset)
    start, offset = _left(block, start, text, offset)
    begins, ends = offset == 0, offset_end == len(text)
    size = offset_end - offset
    if not (begins and ends) and size < ALONE * form.piece:
        if size < form.piece:
            return None
        if not (begins or _LINE_START.search(block[max(0, start - _LOOK_BACK) : start])):
            return None
        if not (ends or _LINE_END.match(block, end)):
            return None
    first, last = _with_edges(block, start, end, form)
    return _Piece(first if begins else start, last if ends else end, None if ends else offset_end)


def _with_edges(block: bytes, start: int, end: int, form: Form) -> tuple[int, int]:
    """Take the characters with it that hold some bits of it."""
    before, after = form.edges
    if before and start > 0 and block[start - 1] in _ALPHABET:
        start -= 1
    if after and end < len(block) and block[end] in _ALPHABET:
        end += 1
        padding = _PADDING.match(block, end)
        end = end if padding is None else padding.end()
    return start, end


def _right(block: bytes, at: int, text: bytes, offset: int) -> tuple[int, int]:
    """Follow a form to the right, over breaks; give where it ends in block and form."""
    while True:
        same = _common(block, at, text, offset)
        at, offset = at + same, offset + same
        if offset == len(text):
            return at, offset
        gap = _BREAK.match(block, at)
        if gap is None or block[gap.end() : gap.end() + 1] != text[offset : offset + 1]:
            return at, offset
        at = gap.end()


def _left(block: bytes, at: int, text: bytes, offset: int) -> tuple[int, int]:
    while True:
        same = _common_before(block, at, text, offset)
        at, offset = at - same, offset - same
        if offset == 0:
            return at, offset
        gap = _BREAK_BEFORE.search(block[max(0, at - _LOOK_BACK) : at])
        before = 0 if gap is None else at - (gap.end() - gap.start())
        if before == 0 or block[before - 1] != text[offset - 1]:
            return at, offset
        at = before


def _common(block: bytes, at: int, text: bytes, offset: int) -> int:
    """Count the bytes that are the same from two places on."""
    count = 0
    while (ours := block[at + count : at + count + _STEP]) and (
        theirs := text[offset + count : offset + count + _STEP]
    ):
        if ours != theirs:
            for mine, other in zip(ours, theirs, strict=False):
                if mine != other:
                    return count
                count += 1
            return count
        count += len(ours)
    return count


def _common_before(block: bytes, at: int, text: bytes, offset: int) -> int:
    count, most = 0, min(at, offset)
    while count < most and block[at - count - 1] == text[offset - count - 1]:
        count += 1
    return count


def _ends_at(block: bytes, end: int) -> bool:
    """Tell whether nothing but a line's end follows."""
    return block[end:] in {b"", b"\n", b"\r\n"}
