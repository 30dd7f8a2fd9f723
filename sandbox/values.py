"""Counts the values of a frame before they are made.

A byte of MessagePack can be an empty table, for which Python takes sixty: 32 MiB would become two gigabytes. And who
chooses the numbers that a table has for keys can have each of them meet all before it in Python's dictionary, which
takes minutes where they are a million, and stops the runner with all its jobs meanwhile. (Keys that are texts cannot be
chosen so: their hashes are salted.) The Lua side keeps to the same limits; a process that was taken over need not.
"""

from __future__ import annotations

from typing import Final

VALUES_MAXIMUM: Final = 1_000_100
"""What the Lua side lets through at once, and what it puts around that."""
NUMBER_KEYS_MAXIMUM: Final = 10_000
DEPTH_MAXIMUM: Final = 70

_NAMED: Final = 2
_NUMBERS: Final = frozenset({*range(0x80), *range(0xCA, 0xD4), *range(0xE0, 0x100)})
"""The lead bytes of numbers."""
_SKIPPED: Final = {
    **dict.fromkeys(range(0x80), 0), **{lead: lead & 0x1F for lead in range(0xA0, 0xC0)},
    **dict.fromkeys(range(0xE0, 0x100), 0),
    0xC0: 0, 0xC1: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2,
    0xD2: 4, 0xD3: 8, 0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17,
}  # fmt: skip
"""By the lead byte: how many bytes follow (an extension's kind is one of them)."""
_SIZED: Final = {
    0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1), 0xD9: (1, 0), 0xDA: (2, 0),
    0xDB: (4, 0),
}  # fmt: skip
"""By the lead byte: how many bytes have the size of what follows, and how many come with it."""
_TABLES: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, _NAMED), 0xDF: (4, _NAMED)}
"""By the lead byte: how many bytes have the number of entries, and how many values each of them is."""
_SMALL_TABLES: Final = {
    lead: (lead & 0x0F) * (_NAMED if lead < 0x90 else 1) for lead in range(0x80, 0xA0)
}  # fmt: skip
"""By the lead byte: how many values are in it."""


def excess(data: bytes | memoryview, values: int = VALUES_MAXIMUM) -> str | None:
    """Say what of a frame is more than a frame may have; None where nothing is. What is cut off counts as far as it is.

    :param values: how many it may have.
    """
    at, number_keys, counted = 0, 0, 1
    # Of the innermost table, how many values are still to come, and whether they have names; then of those around it.
    left, is_named = 1, False
    around: list[tuple[int, bool]] = []
    while at < len(data):
        lead = data[at]
        if is_named and lead in _NUMBERS and not left % _NAMED:
            number_keys += 1
            if number_keys > NUMBER_KEYS_MAXIMUM:
                return f"tables with more than {NUMBER_KEYS_MAXIMUM} numbers for keys"
        left -= 1
        entries, length = _measured(data, at)
        at += length
        if entries:
            counted += entries
            if counted > values:
                return f"more than {values} values"
            if len(around) >= DEPTH_MAXIMUM:
                return f"tables nested deeper than {DEPTH_MAXIMUM} levels"
            around.append((left, is_named))
            left, is_named = entries, lead < 0x90 or lead >= 0xDE
        while not left and around:
            left, is_named = around.pop()
        if not left:
            break
    return None


def _measured(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Give how many values are in what begins at a place, and how many bytes are passed over to come to the next."""
    lead = data[at]
    if (skipped := _SKIPPED.get(lead)) is not None:
        return 0, 1 + skipped
    if (entries := _SMALL_TABLES.get(lead)) is not None:
        return entries, 1
    if lead in _SIZED:
        width, more = _SIZED[lead]
        return 0, 1 + width + more + int.from_bytes(data[at + 1 : at + 1 + width], "big")
    width, each = _TABLES[lead]
    return int.from_bytes(data[at + 1 : at + 1 + width], "big") * each, 1 + width
