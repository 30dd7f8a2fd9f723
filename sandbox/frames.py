"""The frames between the runner and a Lua process, and between the runner and the warm parent.

A frame is MessagePack with four bytes of length (big-endian) before it; to a Lua process, the number of the script
that it is for comes in between. What comes from a Lua process is hostile until it has been decoded into one of these
structs.
"""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec

from schema.errors import ErrorInfo
from schema.states import Level

Value = None | bool | int | float | str | bytes | list["Value"] | dict[str, "Value"]
"""A plain value as it crosses between Lua and the runner. A Lua string that is no UTF-8 is bytes."""

LENGTH_FORMAT: Final = ">I"
SCRIPT_FORMAT: Final = ">I"
"""Counted in the length. It stands outside of the message lest a frame that is too large be nobody's."""
FRAME_BYTES_MAXIMUM: Final = 32 * 1024 * 1024
FUNCTION_EXTENSION: Final = 1
NULL_EXTENSION: Final = 2
NULL: Final[Value] = cast("Value", msgspec.msgpack.Ext(NULL_EXTENSION, b"\0"))
"""Goes to Lua as ``json.null``, for nil is nothing there: no list holds it, and no table. It comes back as None."""


class Function(msgspec.Struct, frozen=True):
    """Stands for a Lua function, which never leaves its process."""

    line: int


def lua_type(value: object) -> str:
    """Name a plain value's type as Lua users know it, for messages."""
    match value:
        case None:
            return "nil"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str() | bytes():
            return "a string"
        case Function():
            return "a function"
        case list():
            return "a list"
        case _:
            return "a table"


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="ready"):
    """The first frame of a Lua process: which walls stand around it."""

    raised: list[str]
    missing: dict[str, str]


class Loaded(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="loaded"):
    pipeline: Any = None
    """Whatever the file returned; nil does not travel."""
    required: dict[str, int] = {}
    """The plugins that its top level required, with the lines."""


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="failed"):
    error: ErrorInfo


class Done(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="done"):
    """A stage's script, or its condition, returned."""

    holds: bool = True
    """What a condition gave."""


class Abandoned(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="abandoned"):
    """A stage's script was ended while it waited."""


class HostCall(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="call"):
    name: str
    arguments: list[Any]
    plugin: str | None = None


class LogCall(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="log"):
    level: Level
    text: Any
    """A string, or bytes where it is no UTF-8: a union of the two is more than the decoder takes."""
    plugin: str | None = None


FromLua = Ready | Loaded | Failed | Done | Abandoned | HostCall | LogCall


def _extension(code: int, data: memoryview) -> Function:
    if code != FUNCTION_EXTENSION:
        raise ValueError(f"extension {code} is not known")
    return Function(int.from_bytes(data, "big", signed=True))


decoder: Final = msgspec.msgpack.Decoder(FromLua, ext_hook=_extension)
encoder: Final = msgspec.msgpack.Encoder()


class Fork(msgspec.Struct, frozen=True, tag=True):
    """Asks the warm parent for a Lua process. Its end of the socket pair comes with the message."""

    token: int


class Kill(msgspec.Struct, frozen=True, tag=True):
    token: int


class Ended(msgspec.Struct, frozen=True, tag=True):
    """A Lua process ended: with an exit code, or by a signal, which is a negative number."""

    token: int
    code: int


to_parent: Final[msgspec.msgpack.Decoder[Fork | Kill]] = msgspec.msgpack.Decoder(Fork | Kill)
from_parent: Final = msgspec.msgpack.Decoder(Ended)
