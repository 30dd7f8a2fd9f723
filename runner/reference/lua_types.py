"""Types of Lua values as people, editors and ``moonyard check`` need them, read from the annotations of structs."""

from __future__ import annotations

import ast
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec

from runner.modules.arguments import Kind, OneOf

PlainName = Literal["string", "integer", "number", "boolean", "nil", "any", "table", "function"]


class Plain(msgspec.Struct, frozen=True):
    """A type that Lua has, or ``any``."""

    name: PlainName


class Named(msgspec.Struct, frozen=True):
    """A type with a meaning of its own, such as a duration."""

    name: str
    of: LuaType
    maximum: float | None = None
    """In seconds or bytes, where it is not that of its kind."""


class Opaque(msgspec.Struct, frozen=True):
    """A value that a script hands on: a secret."""

    name: str


class Choice(msgspec.Struct, frozen=True):
    """One of a few strings."""

    words: tuple[str, ...]


class ListOf(msgspec.Struct, frozen=True):
    item: LuaType


class TableOf(msgspec.Struct, frozen=True):
    """A table with names that a script chooses."""

    value: LuaType


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """A named part of a table."""

    name: str
    type: LuaType
    words: str
    required: bool = True
    default: str | None = None
    """As Lua writes it; None where there is none to tell."""


class Table(msgspec.Struct, frozen=True):
    """A table whose names are known; without fields, one that is told elsewhere, such as the one that this is in."""

    name: str
    """Of its class in stubs."""
    fields: tuple[Field, ...]

    def without(self, *names: str, name: str | None = None) -> Table:
        """Leave fields out."""
        return Table(name or self.name, tuple(field for field in self.fields if field.name not in names))

    def field(self, name: str) -> Field | None:
        return next((field for field in self.fields if field.name == name), None)


class Either(msgspec.Struct, frozen=True):
    types: tuple[LuaType, ...]


class Callback(msgspec.Struct, frozen=True):
    """A function: its parameters by name, and what it gives."""

    parameters: tuple[tuple[str, LuaType], ...] = ()
    gives: LuaType | None = None


LuaType = Plain | Named | Opaque | Choice | ListOf | TableOf | Table | Either | Callback

STRING: Final = Plain("string")
INTEGER: Final = Plain("integer")
NUMBER: Final = Plain("number")
BOOLEAN: Final = Plain("boolean")
NIL: Final = Plain("nil")
ANY: Final = Plain("any")
SECRET: Final = Opaque("secret")

_PLAIN: Final[Mapping[Any, LuaType]] = {
    str: STRING,
    bytes: STRING,
    int: INTEGER,
    float: NUMBER,
    bool: BOOLEAN,
    type(None): NIL,
    Any: ANY,
    object: ANY,
}
ALIASES: Final = {
    "duration": ("Duration", 'seconds, or text such as `"90s"`, `"20m"`, `"1h30m"`, `"500ms"`; at most 30 days'),
    "size": ("Size", 'bytes, or text such as `"512m"`, `"20g"`'),
}
"""The names in stubs of types with a meaning, and what they mean."""


def lua_type(annotation: Any, prefix: str) -> LuaType:
    """Read a Python annotation, or take a type that is given as one of these.

    :param prefix: of the names of structs' classes, such as ``moonyard.http``.
    """
    if isinstance(annotation, Plain | Named | Opaque | Choice | ListOf | TableOf | Table | Either | Callback):
        return annotation
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _annotated(args[0], args[1:], prefix)
    if origin is Literal:
        return Choice(tuple(args))
    if origin in {list, tuple, frozenset}:
        return ListOf(lua_type(args[0], prefix))
    if origin is dict or (inspect.isclass(origin) and issubclass(origin, Mapping)):
        return TableOf(lua_type(args[1], prefix))
    if origin in {types.UnionType, typing.Union}:
        return either([lua_type(arg, prefix) for arg in args if arg is not msgspec.UnsetType])
    if inspect.isclass(annotation) and issubclass(annotation, msgspec.Struct):
        return table(annotation, prefix)
    raise TypeError(f"{annotation!r} is no type of a Lua value")


def _annotated(inner: Any, marks: tuple[Any, ...], prefix: str) -> LuaType:
    for mark in marks:
        match mark:
            case OneOf(words=words):
                return Choice(words)
            case Kind(name=name, maximum=maximum):
                return Named(name, lua_type(inner, prefix), maximum)
            case Callback():
                return mark
            case _:
                pass
    return lua_type(inner, prefix)


def either(options: list[LuaType]) -> LuaType:
    """Make one type of several; an integer is a number too."""
    flat: list[LuaType] = []
    for option in options:
        flat += option.types if isinstance(option, Either) else (option,)
    unique = list(dict.fromkeys(flat))
    if NUMBER in unique and INTEGER in unique:
        unique.remove(INTEGER)
    return unique[0] if len(unique) == 1 else Either(tuple(unique))


def widened(kind: LuaType, place: Sequence[str], more: LuaType) -> LuaType:
    """Let a table take another type too, at a place in it: ``*`` stands for any name, ``**`` for anything below."""
    if not place or place[0] == "**":
        return kind if kind == ANY else either([kind, more])
    name, *rest = place
    match kind:
        case Table(name=title, fields=fields):
            found = [
                msgspec.structs.replace(one, type=widened(one.type, rest, more)) if one.name == name else one
                for one in fields
            ]
            return Table(title, tuple(found))
        case TableOf(value=value) if name == "*":
            return TableOf(widened(value, rest, more))
        case ListOf(item=item) if name == "*":
            return ListOf(widened(item, rest, more))
        case Either(types=options):
            return either([widened(option, place, more) for option in options])
        case _:
            return kind


def table(kind: type[msgspec.Struct], prefix: str, *, without: tuple[str, ...] = (), name: str | None = None) -> Table:
    """Read a struct: its fields with their types, defaults, and the words that stand below them in the source."""
    words = field_words(kind)
    hints = typing.get_type_hints(kind, include_extras=True)
    fields: list[Field] = []
    for field in msgspec.structs.fields(kind):
        if field.encode_name in without:
            continue
        read = lua_type(hints[field.name], prefix)
        optional = isinstance(read, Either) and NIL in read.types
        if isinstance(read, Either) and optional:
            read = either([option for option in read.types if option != NIL])
        fields.append(
            Field(
                name=field.encode_name,
                type=read,
                words=words.get(field.name, ""),
                required=field.required and not optional,
                default=_default(field),
            )
        )
    return Table(name or f"{prefix}.{kind.__name__}", tuple(fields))


def _default(field: msgspec.structs.FieldInfo) -> str | None:
    match field.default:
        case bool():
            return str(field.default).lower()
        case str():
            return f'"{field.default}"' if field.default else None
        case int() | float():
            return str(field.default)
        case _:
            return None


@functools.cache
def field_words(kind: type[msgspec.Struct]) -> Mapping[str, str]:
    """Give the words that stand below a struct's fields in its source, by the fields' names in Python."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if one is not msgspec.Struct and issubclass(one, msgspec.Struct):
            found |= _words_in(_classes(Path(inspect.getfile(one)))[one.__name__])
    return found


@functools.cache
def _classes(path: Path) -> Mapping[str, ast.ClassDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def _words_in(body: ast.ClassDef) -> dict[str, str]:
    found: dict[str, str] = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = _phrase(text)
            case _:
                pass
    return found


def _phrase(text: str) -> str:
    """Write a sentence of the source as a part of one."""
    words = " ".join(text.replace("``", "`").split()).removesuffix(".")
    return words[:1].lower() + words[1:] if words[1:2].islower() or words[1:2] == " " else words


def for_editors(kind: LuaType) -> str:
    """Write a type as the language server's annotations have it."""
    match kind:
        case Plain(name=name):
            return name
        case Named(name=name, of=of):
            return f"moonyard.{ALIASES[name][0]}" if name in ALIASES else for_editors(of)
        case Opaque(name=name):
            return f"moonyard.{name.capitalize()}"
        case Choice(words=words):
            return "|".join(f'"{word}"' for word in words)
        case ListOf(item=item):
            inner = for_editors(item)
            return f"({inner})[]" if "|" in inner or inner.startswith("fun(") else f"{inner}[]"
        case TableOf(value=value):
            return f"table<string, {for_editors(value)}>"
        case Table(name=name):
            return name
        case Either(types=options):
            written = [for_editors(option) for option in options]
            return "|".join(f"({one})" if one.startswith("fun(") else one for one in written)
        case Callback(parameters=parameters, gives=gives):
            inside = ", ".join(
                f"{name}: {for_editors(of)}" if name != "..." else f"...: {for_editors(of)}" for name, of in parameters
            )
            return f"fun({inside})" + ("" if gives is None else f": {for_editors(gives)}")


_PLURALS: Final = {"nil": "nil", "any": "values"}


def for_people(kind: LuaType, link: Callable[[Table], str] = lambda _: "table") -> str:
    """Write a type in words.

    :param link: writes a table whose names are known.
    """
    match kind:
        case Plain(name="any"):
            return "any value"
        case Plain(name=name) | Named(name=name) | Opaque(name=name):
            return name
        case Choice(words=words):
            return ", ".join(f'`"{word}"`' for word in words)
        case ListOf(item=item):
            return f"list of {_plural(item, link)}"
        case TableOf(value=value):
            return "table" if value == ANY else f"table of {_plural(value, link)}"
        case Table():
            return link(kind)
        case Either(types=options):
            return _any_of([for_people(option, link) for option in options])
        case Callback():
            return "function"


def _any_of(written: Sequence[str]) -> str:
    return written[0] if len(written) == 1 else f"{', '.join(written[:-1])} or {written[-1]}"


def _plural(kind: LuaType, link: Callable[[Table], str]) -> str:
    match kind:
        case Plain(name=name) | Opaque(name=name):
            return _PLURALS.get(name, f"{name}s")
        case Either(types=options):
            return _any_of([_plural(option, link) for option in options])
        case ListOf(item=item):
            return f"lists of {_plural(item, link)}"
        case Choice():
            return for_people(kind, link)
        case Table():
            return "tables" if link(kind) == "table" else link(kind)
        case _:
            return f"{for_people(kind, link)}s"
