"""Whether what is written out in a file is of a type: literals alone are judged, for all else is known when it runs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from tree_sitter import Node

from cli.checks.tree import Source, bare
from runner.reference import lua_types
from runner.reference.lua_types import (
    Callback,
    Choice,
    Either,
    ListOf,
    LuaType,
    Named,
    Opaque,
    Plain,
    Table,
    TableOf,
)
from schema import sizes, times

_LITERALS: Final[Mapping[str, str]] = {
    "string": "string",
    "number": "number",
    "true": "boolean",
    "false": "boolean",
    "nil": "nil",
    "table_constructor": "table",
    "function_definition": "function",
}


class Mistake(NamedTuple):
    """Something that does not fit: at what node, what code, in which words."""

    node: Node
    code: str
    message: str


def kind_of_literal(node: Node) -> str | None:
    """Name the type of what is written out; None for what only a run can tell."""
    node = bare(node)
    if node.type == "unary_expression":
        operand = node.child_by_field_name("operand")
        return "number" if operand is not None and operand.type == "number" and node.children[0].type == "-" else None
    return _LITERALS.get(node.type)


def mistakes(source: Source, call: str, name: str, kind: LuaType, node: Node) -> Iterator[Mistake]:
    """Find what of a value does not fit its type.

    :param call: the function that takes it.
    :param name: what it is called there.
    """
    node = bare(node)
    literal = kind_of_literal(node)
    if literal is None:
        return
    if isinstance(kind, Named):
        yield from _meaning(source, call, name, kind, node, literal)
        return
    options = kind.types if isinstance(kind, Either) else (kind,)
    fitting = [option for option in options if _fits(option, literal)]
    if not fitting:
        yield Mistake(node, "argument_type", f"{call}: `{name}` must be {phrase(kind)}, got {_article(literal)}")
        return
    if len(fitting) > 1 and literal != "string":
        return  # whichever it is meant to be
    words = [word for option in fitting if isinstance(option, Choice) for word in option.words]
    if words and len(words) == sum(len(option.words) if isinstance(option, Choice) else 1 for option in fitting):
        yield from _word(source, call, name, words, node)
    elif len(fitting) == 1:
        yield from _inside(source, call, name, fitting[0], node)


def _meaning(source: Source, call: str, name: str, kind: Named, node: Node, literal: str) -> Iterator[Mistake]:
    longest = times.DURATION_MAXIMUM if kind.maximum is None else kind.maximum
    readers: dict[str, Callable[[str], object]] = {
        "duration": lambda text: times.duration_seconds(text, maximum=longest),
        "size": sizes.size_bytes,
    }
    options = kind.of.types if isinstance(kind.of, Either) else (kind.of,)
    if not any(_fits(option, literal) for option in options):
        words = lua_types.ALIASES[kind.name][1].partition(";")[0] if kind.name in lua_types.ALIASES else phrase(kind.of)
        yield Mistake(node, "argument_type", f"{call}: `{name}` must be {words}, got {_article(literal)}")
    elif kind.name in readers and (text := source.string(node)) is not None:
        try:
            readers[kind.name](text)
        except ValueError as error:
            yield Mistake(node, "argument_type", f"{call}: `{name}` is no {kind.name}: {error}")


def _word(source: Source, call: str, name: str, words: list[str], node: Node) -> Iterator[Mistake]:
    given = source.string(node)
    if given is not None and given not in words:
        near = difflib.get_close_matches(given, words, n=1)
        yield Mistake(
            node,
            "argument_type",
            f"{call}: `{name}` must be one of {_quoted(words)}, got {source.text(node)[:60]}"
            + (f'; did you mean "{near[0]}"?' if near else ""),
        )


def _inside(source: Source, call: str, name: str, kind: LuaType, node: Node) -> Iterator[Mistake]:
    match kind:
        case Table() if kind.fields:
            yield from fields(source, call, kind, node, f"{name}.")
        case ListOf(item=item):
            for index, field in enumerate(entries(node), 1):
                value = field.child_by_field_name("value")
                if key_of(source, field) is None and value is not None:
                    yield from mistakes(source, call, f"{name}[{index}]", item, value)
        case TableOf(value=of):
            for field in entries(node):
                key, value = key_of(source, field), field.child_by_field_name("value")
                if key is not None and value is not None:
                    yield from mistakes(source, call, f"{name}.{key}", of, value)
        case Plain(name="integer"):
            if "." in (text := source.text(node)) and not text.startswith("0x") and float(text) % 1:
                yield Mistake(node, "argument_type", f"{call}: `{name}` must be an integer, got {text}")
        case _:
            pass


def fields(
    source: Source, call: str, table: Table, node: Node, prefix: str = "", given: frozenset[str] = frozenset()
) -> Iterator[Mistake]:
    """Find what is wrong with a table of named arguments that is written out.

    :param given: those that came in another way.
    """
    names = [field.name for field in table.fields]
    found = set(given)
    for entry in entries(node):
        value = entry.child_by_field_name("value")
        key = key_of(source, entry)
        if key is None:
            if entry.children[0].type != "[" and value is not None:
                yield Mistake(entry, "argument_unknown", f"{call} takes named arguments, and this one has no name")
            continue
        found.add(key)
        field = table.field(key)
        if field is None:
            near = difflib.get_close_matches(key, names, n=1)
            found.update(near)  # it is there, and misspelt: that is one mistake
            yield Mistake(
                entry.child_by_field_name("name") or entry,
                "argument_unknown",
                f"{call}: `{prefix}{key}` is not an argument"
                + (f"; did you mean `{near[0]}`?" if near else "")
                + f" (accepted: {', '.join(names)})",
            )
        elif value is not None and not (value.type == "nil" and not field.required):
            yield from mistakes(source, call, f"{prefix}{key}", field.type, value)
    for field in table.fields:
        if field.required and field.name not in found:
            yield Mistake(node, "argument_missing", f"{call}: `{prefix}{field.name}` is required")


def entries(table: Node) -> list[Node]:
    return [child for child in table.named_children if child.type == "field"]


def key_of(source: Source, field: Node) -> str | None:
    """Give the name of a table's field, where it has one that is written out."""
    name = field.child_by_field_name("name")
    if name is None:
        return None
    if field.children[0].type == "[":
        return source.string(name)
    return source.text(name)


def _fits(kind: LuaType, literal: str) -> bool:
    match kind:
        case Plain(name="any"):
            return True
        case Plain(name="integer"):
            return literal == "number"
        case Plain(name=name):
            return literal == name
        case Choice():
            return literal == "string"
        case ListOf() | TableOf() | Table():
            return literal == "table"
        case Callback():
            return literal == "function"
        case Named(of=of):
            return _fits(of, literal)
        case Opaque():
            return False
        case Either(types=options):
            return any(_fits(option, literal) for option in options)


def phrase(kind: LuaType) -> str:
    """Name a type in a sentence."""
    match kind:
        case Plain(name="boolean"):
            return "true or false"
        case Plain(name="any"):
            return "any value"
        case Plain(name=name):
            return _article(name)
        case Choice(words=words):
            return f"one of {_quoted(words)}"
        case Either(types=options):
            written = list(dict.fromkeys(phrase(option) for option in options))
            return written[0] if len(written) == 1 else f"{', '.join(written[:-1])} or {written[-1]}"
        case Table() | TableOf():
            return "a table with names"
        case Named(of=of):
            return phrase(of)
        case Opaque(name=name):
            return _article(name)
        case _:
            return _article(lua_types.for_people(kind))


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)


def _article(word: str) -> str:
    return word if word == "nil" else f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
