"""Checks a stage's ``matrix``, and makes a stage of each of its combinations."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Mapping
from typing import Final, Protocol, cast

import msgspec

from sandbox import locations
from sandbox.frames import lua_type
from schema.definition import MatrixValue, StageDefinition

COMBINATIONS_MAXIMUM: Final = 256
VALUE_LENGTH_MAXIMUM: Final = 50
NAME_LENGTH_MAXIMUM: Final = 250
"""Of a stage with its combination."""
_AXIS: Final = re.compile(r"[a-z_][a-z0-9_]{0,49}", re.IGNORECASE)
_VALUE: Final = re.compile(r"[^(),=]+")
_PLACEHOLDER: Final = re.compile(r"\$\{([^}]*)\}")

Combination = dict[str, MatrixValue]


class Problems(Protocol):
    def __call__(
        self, path: locations.Path, message: str, hint: str | None = None, line: int | None = None
    ) -> None: ...


def combinations(
    path: locations.Path, label: str, value: object, lines: Mapping[locations.Path, int], problem: Problems
) -> list[Combination] | None:
    """Give the combinations of a matrix, the values of its first axis changing slowest; None where there is no matrix.

    :param lines: where fields stand: axes are taken in the order of the file.
    """
    if value is None:
        return None
    told = _told(value)
    if not isinstance(value, dict) or value == {}:
        problem(
            path,
            f"`matrix` of {label} must be a table of lists by name, got {told}",
            'Write `matrix = { os = { "debian", "alpine" }, version = { 1, 2 } }`.',
        )
        return None
    table = cast("dict[object, object]", value)
    written = list(lines)

    def place(axis: object) -> tuple[float, str]:
        at: locations.Path = (*path, axis if isinstance(axis, str | int) else str(axis))
        return (written.index(at) if at in lines else math.inf, str(axis))

    axes: dict[str, list[MatrixValue]] = {}
    for axis in sorted(table, key=place):
        if not isinstance(axis, str) or not _AXIS.fullmatch(axis):
            problem(path, f"`{axis}` in the `matrix` of {label} cannot be a name: letters, digits, `_`, no digit first")
            return None
        axes[axis] = _values((*path, axis), axis, label, table[axis], problem)
    count = math.prod(len(values) for values in axes.values())
    if count > COMBINATIONS_MAXIMUM:
        problem(path, f"`matrix` of {label} has {count} combinations, and at most {COMBINATIONS_MAXIMUM} are taken")
        return None
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _values(path: locations.Path, axis: str, label: str, value: object, problem: Problems) -> list[MatrixValue]:
    told = _told(value)
    entries = cast("list[object]", value) if isinstance(value, list) else []
    if not entries:
        problem(
            path,
            f"`{axis}` in the `matrix` of {label} must be a list of values, got {told}",
        )
    values: list[MatrixValue] = []
    for entry in entries:
        if not isinstance(entry, str | int | float):
            problem(
                path, f"`{axis}` in the `matrix` of {label} holds {lua_type(entry)}; texts, numbers, booleans can be"
            )
        elif len(text := shown(entry)) > VALUE_LENGTH_MAXIMUM or not text.isprintable() or not _VALUE.fullmatch(text):
            problem(
                path,
                f"`{axis}` in the `matrix` of {label} holds {entry!r:.80}, which cannot stand in a stage's name: up to "
                f"{VALUE_LENGTH_MAXIMUM} printable characters, none of `(`, `)`, `,`, `=`",
            )
        elif text in map(shown, values):
            problem(path, f"`{axis}` in the `matrix` of {label} holds `{text}` twice")
        else:
            values.append(entry)
    return values


def _told(value: object) -> str:
    return "an empty one" if value == {} else lua_type(value)


def shown(value: MatrixValue) -> str:
    """Write a value as it stands in a stage's name, and for its placeholder."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def name(stage: str, combination: Combination) -> str:
    return f"{stage} ({', '.join(f'{axis}={shown(value)}' for axis, value in combination.items())})"


def unknown_placeholders(text: str, axes: Collection[str]) -> list[str]:
    """List what stands in a text as ``${name}`` and is no axis of the matrix."""
    return [placeholder[0] for placeholder in _PLACEHOLDER.finditer(text) if placeholder[1] not in axes]


def expand(stage: StageDefinition, combination: Combination) -> StageDefinition:
    """Make the stage of one combination: ``${axis}`` in its image's name is the axis' value."""

    def filled(placeholder: re.Match[str]) -> str:
        return shown(combination[placeholder[1]]) if placeholder[1] in combination else placeholder[0]

    return msgspec.structs.replace(
        stage,
        name=name(stage.name, combination),
        of=stage.name,
        matrix=combination,
        container=None if stage.container is None else _PLACEHOLDER.sub(filled, stage.container),
    )
