"""Plain values on their way between Lua and a format.

Lua's tables have no order, so names are written in the order of the alphabet: the same table gives the same text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from sandbox.frames import NULL, Value, lua_type
from schema.errors import MoonyardError

DEPTH_MAXIMUM: Final = 60
"""What goes through the frames to Lua and back, with a little around it."""
VALUES_MAXIMUM: Final = 1_000_000
INTEGER_MAXIMUM: Final = 2**63


class DataInvalid(MoonyardError):
    """Text that is not what it is taken for, or a value that a format cannot hold."""

    code = "data_invalid"


def at(line: int, column: int, what: str) -> DataInvalid:
    """Say what is wrong, and where; lines and columns count from one."""
    return DataInvalid(f"line {line}, column {column}: {printable(what)}")


def printable(text: str) -> str:
    """Write what cannot be shown as escapes."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def not_text(text: bytes, error: UnicodeDecodeError) -> DataInvalid:
    """Say where bytes are no text."""
    before = text[: error.start]
    return at(before.count(b"\n") + 1, len(before) - before.rfind(b"\n"), "a byte that is not UTF-8 text")


def to_lua(value: Any, *, nulls: bool = True) -> Value:
    """Give a decoded value as Lua has it: null as ``json.null``, times as text, integers beyond 64 bits as numbers.

    :param nulls: whether what is null has a place in a table with names; in lists it always has.
    :raises DataInvalid: for what is nested too deeply, or too much.
    """
    left = VALUES_MAXIMUM

    def convert(item: Any, depth: int) -> Value:
        nonlocal left
        left -= 1
        if left < 0:
            raise DataInvalid(f"it has more than {VALUES_MAXIMUM} values")
        if depth > DEPTH_MAXIMUM:
            raise DataInvalid(f"it is nested deeper than {DEPTH_MAXIMUM} levels")
        match item:
            case None:
                return NULL
            case bool() | float() | str() | bytes():
                return item
            case int():
                return item if -INTEGER_MAXIMUM <= item < INTEGER_MAXIMUM else as_number(item)
            case list():
                return [convert(inner, depth + 1) for inner in item]  # pyright: ignore[reportUnknownVariableType]
            case dict():
                return {
                    key: convert(inner, depth + 1)
                    for key, inner in item.items()  # pyright: ignore[reportUnknownVariableType]
                    if nulls or inner is not None
                }
            case _:  # a date or a time of TOML
                return str(item.isoformat())

    return convert(value, 1)


def as_number(value: int) -> float:
    """Give an integer as a number, as far as one goes."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def from_lua(value: Value, check: Callable[[Value, str], None], *, names_only: bool = True) -> Any:
    """Give a value from Lua as a format takes it, with names in order.

    :param check: refuses what the format does not hold; it gets a value that is no table, and where it is.
    :param names_only: whether a table's keys have to be strings.
    :raises DataInvalid: saying where in the value something is that cannot be written.
    """

    def convert(item: Value, where: str) -> Any:
        match item:
            case list():
                return [convert(inner, f"{where}[{index}]") for index, inner in enumerate(item, 1)]
            case dict():
                return {
                    key: convert(inner, f"{where}.{key}")
                    for key, inner in sorted(
                        ((_key(key, where, names_only=names_only), inner) for key, inner in item.items()),
                        key=lambda pair: (not isinstance(pair[0], str), str(pair[0])),
                    )
                }
            case str() if not is_text(item):
                raise DataInvalid(
                    f"{_named(where)} is a string that is not UTF-8 text",
                    hint="Write base64.encode(value) in its place.",
                )
            case None | bool() | int() | float() | str():
                check(item, _named(where))
                return item
            case _:
                raise DataInvalid(f"{_named(where)} is {lua_type(item)}, which cannot be written")

    return convert(value, "")


def _key(key: Any, where: str, *, names_only: bool) -> Any:
    if isinstance(key, str) and not is_text(key):
        raise DataInvalid(f"{_named(where)} has a name that is not UTF-8 text")
    if names_only and not isinstance(key, str):
        raise DataInvalid(
            f"{_named(where)} has {lua_type(key)} for a key ({key}), and is no list: names are strings",
            hint="A list has the keys 1 to n, without a hole; write tostring(key) for a name.",
        )
    return key


def is_text(value: str) -> bool:
    """Tell whether a string of Lua is text: bytes that are none came escaped."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _named(where: str) -> str:
    return f"`value{where}`" if where else "the value"


def finite_only(value: Value, where: str) -> None:
    """Refuse numbers that are none."""
    if isinstance(value, float) and not math.isfinite(value):
        raise DataInvalid(f"{where} is {value}, which the format has no way to write")
