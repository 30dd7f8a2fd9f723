"""JSON, as RFC 8259 has it."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from runner.formats import plain
from runner.formats.plain import DataInvalid
from sandbox.frames import Value

INDENT: Final = 2


def decode(text: bytes, *, nulls: bool = True) -> Value:
    """Read a value.

    :raises DataInvalid: with line and column.
    """
    try:
        value: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _problem(text, error) from error
    return plain.to_lua(value, nulls=nulls)


def _problem(text: bytes, error: Exception) -> DataInvalid:
    # The fast reader tells a byte at most; the slow one tells line and column.
    try:
        decoded = text.decode()
    except UnicodeDecodeError as problem:
        return plain.not_text(text, problem)
    try:
        json.loads(decoded, parse_constant=_refuse_constant)
    except json.JSONDecodeError as problem:
        message = problem.msg[:1].lower() + problem.msg[1:]
        return plain.at(problem.lineno, problem.colno, f"{message}{_met(decoded, problem.pos)}")
    except RecursionError:
        return DataInvalid(f"it is nested deeper than {plain.DEPTH_MAXIMUM} levels")
    except ValueError as problem:
        told = str(problem)
        return DataInvalid("it has a number of more digits than are read" if "int_max_str_digits" in told else told)
    return DataInvalid(str(error))


def _met(text: str, position: int) -> str:
    rest = text[position : position + 20].splitlines()
    return f", found `{rest[0]}`" if rest and rest[0] else ", found the end" if position >= len(text) else ""


def _refuse_constant(name: str) -> None:
    raise ValueError(f"`{name}` is no JSON")


def encode(value: Value, *, pretty: bool = False) -> bytes:
    """Write a value.

    :raises DataInvalid: saying which value JSON cannot hold.
    """
    text = msgspec.json.encode(plain.from_lua(value, plain.finite_only))
    return msgspec.json.format(text, indent=INDENT) if pretty else text
