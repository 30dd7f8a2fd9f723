"""YAML 1.2's core schema: `on`, `yes` and `no` are strings, and so are dates.

The text becomes values event by event, without recursion, so that no text, however deep, exhausts a stack. An alias
counts as much as what it stands for: a few lines that stand for billions of values are refused. `<<` merges, for all
use it. Tags other than the core's are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import yaml

from runner.formats import plain
from runner.formats.plain import DataInvalid
from sandbox.frames import NULL, Value

TEXT_BYTES_MAXIMUM: Final = 4 * 1024 * 1024
DOCUMENTS_MAXIMUM: Final = 10_000
CHARACTERS_A_VALUE: Final = 32
"""So many of a text count as one more value."""
WIDTH: Final = 120
_TAG: Final = "tag:yaml.org,2002:"
_MERGE: Final = "<<"
_NULL: Final = re.compile(r"~|null|Null|NULL|")
_BOOLEAN: Final = re.compile(r"true|True|TRUE|false|False|FALSE")
_INTEGER: Final = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_NUMBER: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITE: Final = re.compile(r"(?P<sign>[-+]?)\.(?:inf|Inf|INF)")
_NO_NUMBER: Final = re.compile(r"\.(?:nan|NaN|NAN)")
_DIGITS_MAXIMUM: Final = 400
"""Of an integer: beyond that, it is more than any number."""

_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Its stubs do not say what it gives.
_parse = cast("Callable[..., Iterator[Any]]", yaml.parse)  # pyright: ignore[reportUnknownMemberType]
_SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Level:
    """A list or table that is being read."""

    def __init__(self, event: Any, value: list[Value] | dict[Any, Value]) -> None:
        self.anchor: str | None = event.anchor
        self.mark: Any = event.start_mark
        self.value = value
        self.weight = 1
        self.key: Any = None
        self.has_key = False
        self.merged: list[dict[Any, Value]] = []
        self.is_merge = False


class _Reader:
    def __init__(self) -> None:
        self._levels: list[_Level] = []
        self._anchors: dict[str, tuple[Value, int]] = {}
        self._documents: list[Value] = []
        self._weight = 0
        """Of all documents before."""

    def read(self, text: bytes, documents_maximum: int) -> list[Value]:
        for event in _parse(text, Loader=_Parser):
            match event:
                case yaml.ScalarEvent():
                    self._scalar(event)
                case yaml.AliasEvent():
                    self._alias(event)
                case yaml.SequenceStartEvent():
                    self._open(event, "seq", [])
                case yaml.MappingStartEvent():
                    self._open(event, "map", {})
                case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                    self._close()
                case yaml.DocumentStartEvent():
                    self._anchors.clear()
                    if len(self._documents) >= documents_maximum:
                        raise _too_many(documents_maximum)
                case _:
                    pass
        return self._documents

    def _scalar(self, event: Any) -> None:
        text: str = event.value
        level = self._levels[-1] if self._levels else None
        if level and isinstance(level.value, dict) and not level.has_key and text == _MERGE and event.implicit[0]:
            level.has_key = level.is_merge = True
            return
        value, weight = _resolved(event), 1 + len(text) // CHARACTERS_A_VALUE
        if event.anchor:
            self._anchors[event.anchor] = value, weight
        self._add(value, weight, event.start_mark)

    def _alias(self, event: Any) -> None:
        if event.anchor not in self._anchors:
            raise _at(event.start_mark, f"`*{event.anchor}` stands for nothing that came before")
        value, weight = self._anchors[event.anchor]
        self._add(value, weight, event.start_mark)

    def _open(self, event: Any, kind: str, value: list[Value] | dict[Any, Value]) -> None:
        if event.tag not in {None, "!", _TAG + kind}:
            raise _at(event.start_mark, f"tag `{_short(event.tag)}` is not known here")
        if len(self._levels) >= plain.DEPTH_MAXIMUM:
            raise _at(event.start_mark, f"it is nested deeper than {plain.DEPTH_MAXIMUM} levels")
        self._levels.append(_Level(event, value))

    def _close(self) -> None:
        level = self._levels.pop()
        if isinstance(level.value, dict):
            for merged in level.merged:
                for key, value in merged.items():
                    level.value.setdefault(key, value)
        if level.anchor:
            self._anchors[level.anchor] = level.value, level.weight
        self._add(level.value, level.weight, level.mark)

    def _add(self, value: Value, weight: int, mark: Any) -> None:
        if not self._levels:
            self._documents.append(value)
            self._weight += weight
            weight_of_all = self._weight
        else:
            level = self._levels[-1]
            level.weight += weight
            weight_of_all = level.weight
            if isinstance(level.value, list):
                level.value.append(value)
            elif not level.has_key:
                _check_key(value, level.value, mark)
                level.key, level.has_key = value, True
            else:
                if level.is_merge:
                    level.merged += _mappings(value, mark)
                else:
                    level.value[level.key] = value
                level.has_key = level.is_merge = False
        if weight_of_all > plain.VALUES_MAXIMUM:
            raise _at(mark, f"with what its aliases stand for, it has more than {plain.VALUES_MAXIMUM} values")


def _check_key(key: Value, others: dict[Any, Value], mark: Any) -> None:
    if not isinstance(key, str | bool | int | float) or key != key:  # not a number
        raise _at(mark, "a key that is neither text nor a number")
    if key in others:
        raise _at(mark, f"key `{key}` is there twice")


def _mappings(value: Value, mark: Any) -> list[dict[Any, Value]]:
    found = value if isinstance(value, list) else [value]
    if not all(isinstance(item, dict) for item in found):
        raise _at(mark, "`<<` takes tables with names, or a list of them")
    return cast("list[dict[Any, Value]]", found)


def _resolved(event: Any) -> Value:
    text: str = event.value
    match event.tag:
        case None if event.implicit[0]:
            return _plain(text)
        case None | "!":
            return text
        case tag if tag.startswith(_TAG) and (resolve := _BY_TAG.get(tag.removeprefix(_TAG))):
            try:
                return resolve(text)
            except ValueError as error:
                raise _at(event.start_mark, f"`{text[:80]}` is no {_short(tag)}") from error
        case tag:
            raise _at(event.start_mark, f"tag `{_short(tag)}` is not known here")


def _plain(text: str) -> Value:
    if _NULL.fullmatch(text):
        return NULL
    if _BOOLEAN.fullmatch(text):
        return text.lower() == "true"
    if text[0] in "+-.0123456789":
        if _INTEGER.fullmatch(text):
            return _integer(text)
        if _NUMBER.fullmatch(text):
            return float(text)
        if match := _INFINITE.fullmatch(text):
            return -math.inf if match["sign"] == "-" else math.inf
        if _NO_NUMBER.fullmatch(text):
            return math.nan
    return text


def _integer(text: str) -> int | float:
    if len(text) > _DIGITS_MAXIMUM:
        return -math.inf if text.startswith("-") else math.inf
    value = int(text, 0) if text[:2] in {"0o", "0x"} else int(text)
    return value if -plain.INTEGER_MAXIMUM <= value < plain.INTEGER_MAXIMUM else plain.as_number(value)


def _only(kind: type | tuple[type, ...]) -> Callable[[str], Value]:
    def resolve(text: str) -> Value:
        value = _plain(text)
        if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
        raise ValueError(text)

    return resolve


def _as_number(text: str) -> Value:
    return float(cast("int | float", _only((int, float))(text)))


def _as_null(text: str) -> Value:
    del text
    return NULL


_BY_TAG: Final[dict[str, Callable[[str], Value]]] = {
    "str": str,
    "int": _only(int),
    "float": _as_number,
    "bool": _only(bool),
    "null": _as_null,
}


def _short(tag: str) -> str:
    return tag.replace(_TAG, "!!")[:80]


def _at(mark: Any, what: str) -> DataInvalid:
    return plain.at(mark.line + 1, mark.column + 1, what)


def _too_many(maximum: int) -> DataInvalid:
    if maximum == 1:
        return DataInvalid("it has several documents, not one", hint="Give `all = true` for a list of them.")
    return DataInvalid(f"it has more than {maximum} documents")


def decode(text: bytes, *, every: bool = False) -> Value:
    """Read a document, or with ``every`` all of them into a list.

    :raises DataInvalid: with line and column.
    """
    if len(text) > TEXT_BYTES_MAXIMUM:
        raise DataInvalid(f"it has {len(text)} bytes, and at most {TEXT_BYTES_MAXIMUM} (4 MiB) of YAML are read")
    try:
        documents = _Reader().read(text, DOCUMENTS_MAXIMUM if every else 1)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise (DataInvalid(what) if mark is None else _at(mark, what)) from error
    except (yaml.YAMLError, UnicodeError) as error:
        raise DataInvalid(" ".join(str(error).split())) from error
    if every:
        return documents
    return documents[0] if documents else NULL


class _Dumper(_SafeDumper):  # there is one of two, written in C or not
    """Writes texts so that what reads YAML 1.1 and what reads 1.2 take them for texts, and long ones line by line."""

    def text(self, value: str) -> Any:
        style = "|" if "\n" in value.strip("\n") else None if isinstance(_plain(value), str) else '"'
        return self.represent_scalar(f"{_TAG}str", value, style=style)

    def ignore_aliases(self, data: Any) -> bool:
        """Write what is there twice twice."""
        del data
        return True


_Dumper.add_representer(str, _Dumper.text)


def encode(value: Value) -> bytes:
    """Write a value.

    :raises DataInvalid: saying which value cannot be written.
    """
    tidy = plain.from_lua(value, lambda _value, _where: None, names_only=False)
    text: str = yaml.dump(
        tidy, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=WIDTH
    )
    return text.removesuffix("...\n").encode()
