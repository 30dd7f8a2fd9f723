"""Checks what a call of a known function is given: how many arguments, by which names, of which types."""

from __future__ import annotations

from collections.abc import Iterator

from tree_sitter import Node

from cli.checks import literals
from cli.checks.literals import Mistake, fields, kind_of_literal, phrase
from cli.checks.tree import Source, bare
from runner.reference.description import Function
from runner.reference.lua_types import Table


def mistakes(source: Source, function: Function, call: Node, given: list[Node]) -> Iterator[Mistake]:
    """Find what is wrong with the arguments of a call."""
    at = call.child_by_field_name("arguments") or call
    if function.arguments is None:
        yield from _in_order(source, function, at, given)
    elif len(given) == 1 and _names_arguments(function, bare(given[0])):
        yield from fields(source, function.name, function.arguments, bare(given[0]))
    elif function.positional:
        yield from _positional(source, function, function.arguments, at, given)
    else:
        yield from _by_name(function, function.arguments, at, given)


def _names_arguments(function: Function, value: Node) -> bool:
    """Whether a call's only argument is a table of named ones: a list is the first in order."""
    if value.type != "table_constructor":
        return False
    written = literals.entries(value)
    has_names = any(entry.child_by_field_name("name") is not None for entry in written)
    return has_names or not written or not function.positional


def _by_name(function: Function, arguments: Table, at: Node, given: list[Node]) -> Iterator[Mistake]:
    """Find what is wrong with a call that is to have one table, and has none that is written out."""
    takes = f"{function.name} takes one table of named arguments"
    if len(given) > 1:
        yield Mistake(given[1], "argument_excess", takes)
    elif not given and any(field.required for field in arguments.fields):
        yield Mistake(at, "argument_missing", f"{takes}, got nothing")
    elif given and (literal := kind_of_literal(given[0])) is not None:
        yield Mistake(given[0], "argument_type", f"{takes}, got a {literal}")


def _positional(source: Source, function: Function, arguments: Table, at: Node, given: list[Node]) -> Iterator[Mistake]:
    """Find what is wrong with arguments in order, and a table of the others behind them."""
    names, options = function.positional, function.options
    in_order = ", ".join(names)
    most = len(names) + (options is not None)
    if len(given) > most:
        table = " and then a table of named arguments" if options is not None else ""
        message = f"{function.name} takes {in_order}{table}, got {len(given)} arguments"
        yield Mistake(given[most], "argument_excess", message)
    for name, value in zip(names, given, strict=False):
        field = arguments.field(name)
        if field is not None and not (value.type == "nil" and not field.required):
            yield from literals.mistakes(source, function.name, name, field.type, value)
    if options is not None and len(given) > len(names):
        rest = bare(given[len(names)])
        literal = kind_of_literal(rest)
        if rest.type == "table_constructor":
            yield from fields(source, function.name, options, rest)
        elif literal not in {None, "nil"}:
            message = f"{function.name}: after {in_order} comes a table, got a {literal}"
            yield Mistake(rest, "argument_type", message)
    if _is_whole(given):
        for name in names[len(given) :]:
            field = arguments.field(name)
            if field is not None and field.required:
                yield Mistake(at, "argument_missing", f"{function.name}: `{name}` is required")


def _in_order(source: Source, function: Function, at: Node, given: list[Node]) -> Iterator[Mistake]:
    """Find what is wrong with the arguments of a function that takes them all in order."""
    parameters = list(function.parameters)
    if any(one.name == "..." for one in parameters):
        return
    if function.short is not None and len(given) == len(function.short):
        parameters = [one for one in parameters if one.name in function.short]
    if len(given) > len(parameters):
        takes = ", ".join(one.name for one in parameters) or "nothing"
        yield Mistake(given[len(parameters)], "argument_excess", f"{function.name} takes {takes}")
    for one, value in zip(parameters, map(bare, given), strict=False):
        if isinstance(one.type, Table) and value.type == "table_constructor":
            yield from fields(source, function.name, one.type, value)
        elif not (value.type == "nil" and not one.required):
            yield from literals.mistakes(source, function.name, one.name, one.type, value)
    if _is_whole(given):
        for one in parameters[len(given) :]:
            if one.required:
                message = f"{function.name}: `{one.name}`, {phrase(one.type)}, is required"
                yield Mistake(at, "argument_missing", message)


def _is_whole(given: list[Node]) -> bool:
    """Whether what is written is all that a call is given: one at the end may stand for more, one value for a table."""
    return not given or (
        given[-1].type not in {"function_call", "vararg_expression"}
        and not (len(given) == 1 and kind_of_literal(given[0]) is None)
    )
