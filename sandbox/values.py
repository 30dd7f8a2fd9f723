"""Counts the values of a frame before they are made.

A byte of MessagePack can be an empty table, for which Python takes sixty: 32 MiB would become two gigabytes. And whoever
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
_FIXED: Final = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
    0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17,
}  # fmt: skip
"""By the lead byte: how many bytes follow (an extension's kind is one of them)."""
_SIZED: Final = {
    0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1), 0xD9: (1, 0), 0xDA: (2, 0),
    0xDB: (4, 0),
}  # fmt: skip
"""By the lead byte: how many bytes have the size of what follows, and how many come with it."""
_TABLES: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, _NAMED), 0xDF: (4, _NAMED)}
"""By the lead byte: how many bytes have the number of entries, and how many values each of them is."""
_NUMBERS: Final = frozenset(range(0xCA, 0xD4))


def excess(data: bytes | memoryview, values: int = VALUES_MAXIMUM) -> str | None:
    """Say what of a frame is more than a frame may have; None where nothing is. What is cut off counts as far as it is.

    :param values: how many it may have.
    """
    at, size, number_keys = 0, len(data), 0
    counted = 1
    # Of each table that is open: the values of it that are still to come, and whether they have names.
    open_tables: list[tuple[int, bool]] = []
    left, is_named = 1, False
    while at < size:
        lead = data[at]
        if is_named and not left % _NAMED and (lead < 0x80 or lead >= 0xE0 or lead in _NUMBERS):
            number_keys += 1
            if number_keys > NUMBER_KEYS_MAXIMUM:
                return f"tables with more than {NUMBER_KEYS_MAXIMUM} numbers for keys"
        at += 1
        left -= 1
        entries = 0
        named = False
        if lead < 0x80 or lead >= 0xE0:
            pass
        elif lead < 0xA0:
            named = lead < 0x90
            entries = (lead & 0x0F) * (_NAMED if named else 1)
        elif lead < 0xC0:
            at += lead & 0x1F
        elif lead in _FIXED:
            at += _FIXED[lead]
        elif lead in _SIZED:
            width, more = _SIZED[lead]
            at += width + more + int.from_bytes(data[at : at + width], "big")
        elif lead in _TABLES:
            width, each = _TABLES[lead]
            named = each == _NAMED
            entries = int.from_bytes(data[at : at + width], "big") * each
            at += width
        if entries:
            counted += entries
            if counted > values:
                return f"more than {values} values"
            if len(open_tables) >= DEPTH_MAXIMUM:
                return f"tables nested deeper than {DEPTH_MAXIMUM} levels"
            open_tables.append((left, is_named))
            left, is_named = entries, named
        while not left and open_tables:
            left, is_named = open_tables.pop()
        if not left:
            break
    return None
