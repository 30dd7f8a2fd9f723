"""The frames between the runner and a Lua process, and between the runner and the warm parent.

A frame is MessagePack with four bytes of length (big-endian) before it; to a Lua process, the number of the script
that it is for comes in between. What comes from a Lua process is hostile until it has been decoded into one of these
structs.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, cast

import msgspec

from sandbox import values
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
SECRET_EXTENSION: Final = 3
SECRET_PARTS_MAXIMUM: Final = 1000
SECRET_NAME_LENGTH_MAXIMUM: Final = 100
_SECRET_VALUES_MAXIMUM: Final = 1 + 2 * SECRET_PARTS_MAXIMUM
"""A list of its parts, each of which may be a list of one name."""
NULL: Final[Value] = cast("Value", msgspec.msgpack.Ext(NULL_EXTENSION, b"\0"))
"""Goes to Lua as ``json.null``, for nil is nothing there: no list holds it, and no table. It comes back as None."""


class Function(msgspec.Struct, frozen=True):
    """Stands for a Lua function, which never leaves its process."""

    line: int


class Secret(msgspec.Struct, frozen=True):
    """Stands for what ``secret.get`` gives in Lua: names of secrets, with text around them, and no value of any.

    A hostile process can make one of any name: who may have it is decided where values are.
    """

    parts: tuple[str | bytes | SecretName, ...]

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(part.name for part in self.parts if isinstance(part, SecretName)))

    @property
    def shown(self) -> str:
        """What ``tostring`` gives in Lua."""
        return "".join(
            "***"
            if isinstance(part, SecretName)
            else part
            if isinstance(part, str)
            else part.decode(errors="backslashreplace")
            for part in self.parts
        )


class SecretName(msgspec.Struct, frozen=True):
    """The place of a secret's value."""

    name: str


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
        case Secret():
            return "a secret"
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
    setup: list[str] = []
    """The plugins that want to be called before the first stage, those that others need first."""
    teardown: list[str] = []
    """The same for the job's end."""


class Described(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="described"):
    """What a plugin declares: unchecked, but for what Lua itself had to look at."""

    operations: Any = None
    modules: list[str] = []
    """All core modules that there are."""
    setup: bool = False
    teardown: bool = False


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="failed"):
    error: ErrorInfo


class Done(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="done"):
    """A stage's script, or its condition, returned."""

    holds: bool = True
    """What a condition gave."""


class Abandoned(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="abandoned"):
    """A stage's script was ended while it waited."""


class HostCall(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="call"):
    name: Annotated[str, msgspec.Meta(max_length=100)]
    arguments: Annotated[list[Any], msgspec.Meta(min_length=2, max_length=2)]
    plugin: str | None = None
    group: list[Any] = []
    """The names of the groups of log lines that the caller is in, outermost first."""


class Branches(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="fork"):
    """A script has functions that are to run at the same time, and waits for their ends."""

    first: int
    """The number of the first; the others follow it."""
    count: int
    limit: int
    """How many run at once."""
    plugin: str | None = None


class LogCall(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="log"):
    level: Level
    text: Any
    """A string, or bytes where it is no UTF-8: a union of the two is more than the decoder takes."""
    plugin: str | None = None
    fields: dict[str, Any] = {}
    group: list[Any] = []
    heading: bool = False
    """It begins the innermost group, and is its name."""


FromLua = Ready | Loaded | Described | Failed | Done | Abandoned | HostCall | Branches | LogCall


def _extension(code: int, data: memoryview) -> Function | Secret:
    if code == FUNCTION_EXTENSION:
        return Function(int.from_bytes(data, "big", signed=True))
    if code == SECRET_EXTENSION:
        return _secret(data)
    raise ValueError(f"extension {code} is not known")


def _secret(data: memoryview) -> Secret:
    parts: list[str | bytes | SecretName] = []
    if problem := values.excess(data, _SECRET_VALUES_MAXIMUM):
        raise ValueError(f"a secret of {problem}")
    for part in _secret_parts.decode(data):
        match part:
            case [str(name)] if 0 < len(name) <= SECRET_NAME_LENGTH_MAXIMUM:
                parts.append(SecretName(name))
            case str() | bytes():
                parts.append(part)
            case _:
                raise ValueError("a secret has a part that is neither text nor a name")
    if not 0 < len(parts) <= SECRET_PARTS_MAXIMUM:
        raise ValueError(f"a secret of {len(parts)} parts")
    return Secret(tuple(parts))


_secret_parts: Final = msgspec.msgpack.Decoder(list[Any])


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
