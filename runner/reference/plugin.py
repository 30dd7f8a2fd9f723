"""Reads what a plugin declares of its operations as what core modules are told in."""

from __future__ import annotations

import json

from runner.reference.description import Function, Module
from runner.reference.lua_types import (
    ANY,
    BOOLEAN,
    INTEGER,
    NUMBER,
    SECRET,
    STRING,
    Callback,
    Choice,
    Field,
    ListOf,
    LuaType,
    Table,
    TableOf,
    either,
)
from schema.plugins import Operation, PluginDescription, ValueSpec, ValueType


def module(plugin: PluginDescription) -> Module:
    """Tell of a plugin what stubs, pages and checks need."""
    name = plugin.manifest.name
    return Module(
        name=name,
        words=plugin.manifest.description,
        functions=tuple(_function(name, operation, declared) for operation, declared in plugin.operations.items()),
    )


def _function(plugin: str, name: str, operation: Operation) -> Function:
    whole = f"{plugin}.{name}"
    arguments = Table(
        f"moonyard.{whole}.Arguments",
        tuple(_field(argument, spec, f"moonyard.{whole}") for argument, spec in operation.ordered_arguments),
    )
    gives = Table(
        f"moonyard.{whole}.Result",
        tuple(_field(field, spec, f"moonyard.{whole}", always=True) for field, spec in sorted(operation.gives.items())),
    )
    return Function(
        name=whole,
        words=operation.description,
        arguments=arguments if arguments.fields else None,
        positional=tuple(operation.positional),
        gives=gives if gives.fields else None,
        errors=tuple(f"{plugin}_{code}" for code in sorted(operation.errors)),
        example=(operation.example or "").strip("\n"),
    )


def _field(name: str, spec: ValueSpec, prefix: str, *, always: bool = False) -> Field:
    given: object = spec.default
    default = json.dumps(given) if isinstance(given, str | int | float | bool) else None
    return Field(
        name=name,
        type=_type(spec, f"{prefix}.{name}"),
        words=spec.description.removesuffix("."),
        required=always or (spec.required and spec.default is None),
        default=default,
    )


def _type(spec: ValueSpec, prefix: str) -> LuaType:
    return either([_plain(kind, spec, prefix) for kind in spec.types])


def _plain(kind: ValueType, spec: ValueSpec, prefix: str) -> LuaType:
    match kind:
        case "string":
            words = tuple(word for word in spec.choices if isinstance(word, str))
            return Choice(words) if words and len(words) == len(spec.choices) else STRING
        case "integer":
            return INTEGER
        case "number":
            return NUMBER
        case "boolean":
            return BOOLEAN
        case "list":
            return ListOf(ANY if spec.items is None else _type(spec.items, f"{prefix}.Item"))
        case "table" if spec.fields:
            return Table(prefix, tuple(_field(name, inner, prefix) for name, inner in sorted(spec.fields.items())))
        case "table":
            return TableOf(ANY if spec.values is None else _type(spec.values, f"{prefix}.Value"))
        case "function":
            return Callback((("...", ANY),), ANY)
        case "secret":
            return SECRET
        case "any":
            return ANY
