"""Places in a block, and what stands there instead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Span(NamedTuple):
    """What is taken out of a block."""

    start: int
    end: int
    label: bytes


def merged(spans: Iterable[Span]) -> list[Span]:
    """Order spans, and join those that overlap or go on with the same label; the longest gives the label."""
    joined: list[Span] = []
    longest = 0
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        last = joined[-1] if joined else None
        if last is None or span.start > last.end or (span.start == last.end and span.label != last.label):
            joined.append(span)
            longest = span.end - span.start
            continue
        label = last.label
        if span.end - span.start > longest:
            label, longest = span.label, span.end - span.start
        joined[-1] = Span(last.start, max(last.end, span.end), label)
    return joined


def replaced(block: bytes, spans: list[Span]) -> bytes:
    """Put labels in the place of spans. Line ends in them stay, so that the lines around keep their numbers."""
    parts: list[bytes] = []
    at = 0
    for span in spans:
        parts.append(block[at : span.start])
        taken = block[span.start : span.end]
        if b"\n" in taken:
            lines = [_labelled(line, span.label) for line in taken.split(b"\n")]
            parts.append(b"\n".join(lines))
        else:
            parts.append(span.label)
        at = span.end
    parts.append(block[at:])
    return b"".join(parts)


def _labelled(line: bytes, label: bytes) -> bytes:
    return label if line.strip() else line
