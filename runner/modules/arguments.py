"""Reads what Lua gave a host call into a typed struct, and says in the user's words what does not fit."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, TypeVar, cast

import msgspec

from sandbox.frames import Secret, Value, lua_type
from schema.errors import MoonyardError

Arguments = TypeVar("Arguments", bound=msgspec.Struct)

_TYPE_MISMATCH: Final = re.compile(
    r"Expected `(?P<expected>[^`]+)`, got `(?P<got>[^`]+)`(?: - at `\$(?P<path>[^`]*)`)?"
)
_MISSING: Final = re.compile(r"Object missing required field `(?P<field>[^`]+)`")
_LUA_TYPES: Final = {
    "str": "a string",
    "bytes": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "null": "nil",
    "array": "a list",
    "object": "a table with names",
}


class OneOf(msgspec.Struct, frozen=True):
    """Says in an annotation which words a string may be; `choice` checks it."""

    words: tuple[str, ...]


class Kind(msgspec.Struct, frozen=True):
    """Says in an annotation what a value means beyond its type, and up to how much is taken, in seconds or bytes."""

    name: str
    maximum: float | None = None


Duration = Annotated[float | str, Kind("duration")]
Size = Annotated[str | int | float, Kind("size")]


class ArgumentInvalid(MoonyardError):
    """A host call was given something that it does not take."""

    code = "argument_invalid"


class SecretNotAccepted(MoonyardError):
    """A secret was given where none is taken (``runner.modules.secret`` says where they are)."""

    code = "secret_not_accepted"


def parse(call: str, kind: type[Arguments], value: Value) -> Arguments:
    """Read a call's table of arguments.

    An empty Lua table is both an empty list and an empty table with names; where a field takes a list, it is one. A Lua
    string that is not UTF-8 comes as a string with its bytes escaped: `text` refuses it, `data` gives its bytes.

    :raises ArgumentInvalid: naming the call, the argument, what was given and what is accepted.
    :raises SecretNotAccepted: for a secret, naming the argument.
    """
    names = _takes_list_by_name(kind)
    if isinstance(cast("object", value), Secret):
        raise _not_accepted(call, "")
    if value == []:
        value = {}
    if not isinstance(value, dict):
        example = next(iter(names))
        raise ArgumentInvalid(
            f"{call} takes one table of named arguments, got {lua_type(value)}",
            hint=f"Write {call}({{ {example} = ... }}).",
        )
    for name in value:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            raise ArgumentInvalid(
                f"{call}: `{name}` is not an argument"
                + (f"; did you mean `{near[0]}`?" if near else "")
                + f" (accepted: {', '.join(names)})"
            )
    given = {
        str(name): [] if item == {} and names[name] else _escaped(item, call, name) for name, item in value.items()
    }
    try:
        return msgspec.convert(given, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ArgumentInvalid(f"{call}: {_in_user_words(str(error), given)}") from error
    except UnicodeEncodeError as error:  # the checker looks at such a string only where it does not fit
        wrong = [f"`{name}`" for name, item in given.items() if isinstance(item, str) and not _is_text(item)]
        raise ArgumentInvalid(
            f"{call}: {' or '.join(wrong) or 'an argument'} is a string that is not valid UTF-8 text, "
            "where something else is accepted"
        ) from error


def text(call: str, argument: str, value: str) -> str:
    """Take a Lua string that has to be text.

    :raises ArgumentInvalid: when it is not UTF-8, or has a NUL byte in it.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ArgumentInvalid(f"{call}: `{argument}` is not valid UTF-8 text: {data(value)[:80]!r}") from error
    if "\x00" in value:
        raise ArgumentInvalid(f"{call}: `{argument}` has a NUL byte in it, which no argument or name can hold")
    return value


def word(call: str, argument: str, value: str | float) -> str:
    """Take what is to be one word of a command line or one variable's value, numbers as Lua's ``tostring`` has them.

    :raises ArgumentInvalid: when it is not text.
    """
    if isinstance(value, str):
        return text(call, argument, value)
    if isinstance(value, bool):
        raise ArgumentInvalid(f"{call}: `{argument}` must be a string or a number, got a boolean")
    if isinstance(value, int):
        return str(value)
    written = format(value, ".14g")
    return f"{written}.0" if written.lstrip("-").isdigit() else written


def environment(call: str, values: Mapping[str, str | int | float]) -> dict[str, str]:
    """Take environment variables.

    :raises ArgumentInvalid: for a name that no variable can have, and a value that is not text.
    """
    taken: dict[str, str] = {}
    for name, value in values.items():
        check_variable(call, "env", name)
        taken[text(call, "a name in env", name)] = word(call, f"env.{name}", value)
    return taken


def check_variable(call: str, argument: str, name: str) -> None:
    """See that a variable can have a name.

    :raises ArgumentInvalid: when none can.
    """
    if not name or "=" in name or "\x00" in name:
        raise ArgumentInvalid(f"{call}: `{argument}` has a name that no variable can have: {data(name)!r}")


def _is_text(value: str) -> bool:
    return value.isascii() or data(value).decode(errors="replace") == value


def data(value: str) -> bytes:
    """Give the bytes of a Lua string."""
    return value.encode(errors="surrogateescape")


def _not_accepted(call: str, path: str) -> SecretNotAccepted:
    what = f"`{path}` is a secret, and none is" if path else "a secret is not"
    return SecretNotAccepted(
        f"{call}: {what} taken there",
        hint="Secrets are taken by process.run (`env`, `stdin`, `secrets`), http (`url`, `query`, `headers`, "
        "`auth`, `json`, `form`, `body`), hash.hmac (`key`) and fs.write (`data`); `:reveal()` gives the value itself.",
    )


def _escaped(value: Value, call: str, path: str) -> Value:
    match value:
        case bytes():
            return value.decode(errors="surrogateescape")
        case list():
            return [_escaped(item, call, path) for item in value]
        case dict():
            # Lua has keys of other types too: those are left for the checker to refuse.
            return {
                name.decode(errors="surrogateescape") if isinstance(name, bytes) else name: _escaped(item, call, path)
                for name, item in value.items()
            }
        case _:
            if isinstance(cast("object", value), Secret):
                raise _not_accepted(call, path)
            return value


@functools.cache
def _takes_list_by_name(kind: type[msgspec.Struct]) -> Mapping[str, bool]:
    """Tell of each argument whether it takes a list. Remembered, for each look evaluates all annotations anew."""
    return {field.encode_name: "list[" in str(field.type) for field in msgspec.structs.fields(kind)}


def _in_user_words(message: str, given: dict[str, Value]) -> str:
    if match := _MISSING.search(message):
        return f"`{match['field']}` is required"
    if match := _TYPE_MISMATCH.search(message):
        expected = " or ".join(dict.fromkeys(_LUA_TYPES.get(part, part) for part in match["expected"].split(" | ")))
        path = (match["path"] or "").lstrip(".")
        if message.startswith("Expected") and "at `key` in `$" in message:
            keys = message.rpartition("at `key` in `$.")[2].rstrip("`")
            return f"the names in `{_lua_path(keys)}` must be strings, got {_LUA_TYPES.get(match['got'], match['got'])}"
        return f"`{_lua_path(path)}` must be {expected}, got {_LUA_TYPES.get(match['got'], match['got'])}"
    if match := re.search(r"Invalid enum value (?P<value>.+?) - at `\$\.(?P<path>[^`]+)`", message):
        return f"`{match['path']}` has an unknown value {match['value']}"
    return f"{message} (given: {', '.join(given)})"


def _lua_path(path: str) -> str:
    # Lua counts from one; `[...]` is how the checker writes "some entry of a table with names".
    return re.sub(r"\[(\d+)\]", lambda match: f"[{int(match[1]) + 1}]", path).replace("[...]", "[?]")


def choice(call: str, argument: str, value: str, accepted: Sequence[str]) -> str:
    """Check a value that has to be one of a few words.

    :raises ArgumentInvalid: with the words.
    """
    if value not in accepted:
        words = ", ".join(f'"{word}"' for word in accepted)
        raise ArgumentInvalid(f'{call}: `{argument}` must be one of {words}, got "{value}"')
    return value
