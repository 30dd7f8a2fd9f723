"""How a module, its functions and values are told."""

from __future__ import annotations

import inspect
from typing import Any, Final, NamedTuple

import msgspec

from runner.modules import secret
from runner.reference import lua_types
from runner.reference.lua_types import LuaType, Table


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """An argument of a function that takes all of them in order."""

    name: str
    """``...`` for any number of them."""
    type: LuaType
    words: str
    required: bool = True


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """A function: what it takes, gives and raises.

    It takes either ``parameters``, in order, or ``arguments``, by name: those of them that ``positional`` names may
    also come in order, before a table with the others.
    """

    name: str
    """With its module's: ``fs.read``."""
    words: str
    """Its first sentence says what it does."""
    arguments: Table | None = None
    positional: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    short: tuple[str, ...] | None = None
    """The parameters of its shorter form, where it leaves out one in the middle."""
    gives: LuaType | None = None
    gives_words: str = ""
    errors: tuple[str, ...] = ()
    example: str = ""
    alike: tuple[str, ...] = ()
    """Functions that differ from it only by what their names say."""

    @property
    def options(self) -> Table | None:
        """Those of the arguments that only come by name."""
        if self.arguments is None:
            return None
        left = self.arguments.without(*self.positional, name=f"moonyard.{self.name}.Options")
        return left if left.fields else None


class Constant(msgspec.Struct, frozen=True, kw_only=True):
    """A value of a module that is no function."""

    name: str
    type: LuaType
    words: str


class Module(msgspec.Struct, frozen=True, kw_only=True):
    """A module, as scripts find it."""

    name: str
    words: str
    functions: tuple[Function, ...]
    constants: tuple[Constant, ...] = ()
    kind: Table | None = None
    """What it is, where that is told elsewhere: its functions are fields of it."""
    is_global: bool = False
    """Whether its functions stand alone, and the module is only a heading."""
    is_required: bool = True
    """Whether ``require`` gives it as well."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "words", _joined(self.words))

    @property
    def every(self) -> dict[str, Function]:
        """Its functions by their whole names, those that are alike as well."""
        return {
            name: msgspec.structs.replace(function, name=name, alike=())
            for function in self.functions
            for name in (function.name, *function.alike)
        }


class Given(NamedTuple):
    """An argument that comes in order, as a file here describes it."""

    name: str
    """``...`` for any number of them."""
    kind: Any
    """An annotation, or a struct for a table of options."""
    words: str
    required: bool = True
    without: tuple[str, ...] = ()
    """What of the struct is no option."""

    def read(self, function: str) -> Parameter:
        """Read it as one of a function's."""
        prefix = f"moonyard.{function.partition('.')[0]}"
        kind = self.kind
        options = f"moonyard.{function}.Options"
        return Parameter(
            name=self.name,
            type=lua_types.table(kind, prefix, without=self.without, name=options)
            if inspect.isclass(kind) and issubclass(kind, msgspec.Struct)
            else lua_types.lua_type(kind, prefix),
            words=_joined(self.words),
            required=self.required,
        )


def function(
    name: str,
    words: str,
    *,
    arguments: type[msgspec.Struct] | Table | None = None,
    positional: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
    parameters: tuple[Given, ...] = (),
    short: tuple[str, ...] | None = None,
    gives: Any = None,
    gives_words: str = "",
    errors: tuple[str, ...] = (),
    example: str = "",
    alike: tuple[str, ...] = (),
) -> Function:
    """Describe a function.

    :param arguments: the struct that the runner reads them into, or what was made of it.
    :param without: what of it no script gives.
    :param gives: an annotation, or a struct for a table; None for nothing.
    """
    module = f"moonyard.{name.partition('.')[0]}"
    if arguments is not None and not isinstance(arguments, Table):
        arguments = arguments_of(name, arguments, without)
    return Function(
        name=name,
        words=_joined(words),
        arguments=None if arguments is None else _in_order(arguments, positional),
        positional=positional,
        parameters=tuple(given.read(name) for given in parameters),
        short=short,
        gives=None if gives is None else lua_types.lua_type(gives, module),
        gives_words=_joined(gives_words),
        errors=errors,
        example=example.strip("\n"),
        alike=alike,
    )


def arguments_of(
    name: str, kind: type[msgspec.Struct], without: tuple[str, ...] = (), *, call: str | None = None
) -> Table:
    """Read what a function takes by name, with the places where it may be a secret.

    :param call: the host call that it makes, where that has another name.
    """
    read = lua_types.table(
        kind, f"moonyard.{name.partition('.')[0]}", without=without, name=f"moonyard.{name}.Arguments"
    )
    for accepted in secret.ACCEPTED.get(call or CALLS.get(name, name), ()):
        for place in accepted.places:
            widened = lua_types.widened(read, place, lua_types.SECRET)
            assert isinstance(widened, Table), "a table stays one"
            read = widened
    return read


CALLS: Final = {f"http.{method}": "http.request" for method in ("get", "head", "post", "put", "patch", "delete")}
"""The host calls of functions that make those of others."""


def _in_order(table: Table, positional: tuple[str, ...]) -> Table:
    """Put what comes in order before what comes by name alone."""
    first = [field for name in positional for field in table.fields if field.name == name]
    return Table(table.name, (*first, *(field for field in table.fields if field not in first)))


def _joined(words: str) -> str:
    """Take a text that the source folds; an empty line begins a new paragraph."""
    return "\n\n".join(" ".join(part.split()) for part in words.strip().split("\n\n"))
