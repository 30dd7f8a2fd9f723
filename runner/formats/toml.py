"""TOML 1.0."""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

import tomli_w

from runner.formats import plain
from runner.formats.plain import DataInvalid
from sandbox.frames import Value

TEXT_BYTES_MAXIMUM: Final = 4 * 1024 * 1024
# The reader takes time by the square of a dotted key's parts: one of too many is refused before. (Whatever looks like
# one does not get by, a text of so many words with dots between included.)
_KEY: Final = rb"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+"""
_DOTTED: Final = re.compile(rb"(?<![A-Za-z0-9_-])(?:" + _KEY + rb"\.[ \t]*+){%d}" % plain.DEPTH_MAXIMUM)
_PLACE: Final = re.compile(
    r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL
)


def decode(text: bytes) -> Value:
    """Read a file's text.

    :raises DataInvalid: with line and column.
    """
    if len(text) > TEXT_BYTES_MAXIMUM:
        raise DataInvalid(f"it has {len(text)} bytes, and at most {TEXT_BYTES_MAXIMUM} (4 MiB) of TOML are read")
    if (dotted := _DOTTED.search(text)) is not None:
        line = text.count(b"\n", 0, dotted.start()) + 1
        raise DataInvalid(f"line {line}: it is nested deeper than {plain.DEPTH_MAXIMUM} levels")
    try:
        value: dict[str, Any] = tomllib.loads(text.decode())
    except tomllib.TOMLDecodeError as error:
        raise _problem(text, str(error)) from error
    except UnicodeDecodeError as error:
        raise plain.not_text(text, error) from error
    except ValueError as error:  # it does not say so of every number that Python does not read
        raise DataInvalid("it has a number of more digits than are read") from error
    except RecursionError as error:
        raise DataInvalid(f"it is nested deeper than {plain.DEPTH_MAXIMUM} levels") from error
    return plain.to_lua(value)


def _problem(text: bytes, message: str) -> DataInvalid:
    match = _PLACE.fullmatch(message)
    if match is None:
        return DataInvalid(message)
    what = match["what"][:1].lower() + match["what"][1:]
    if match["line"] is not None:
        return plain.at(int(match["line"]), int(match["column"]), what)
    return plain.at(text.count(b"\n") + 1, len(text) - text.rfind(b"\n"), what)


def encode(value: Value) -> bytes:
    """Write a table with names.

    :raises DataInvalid: saying which value TOML cannot hold.
    """
    tidy = plain.from_lua({} if value == [] else value, _refuse_null)
    if not isinstance(tidy, dict):
        raise DataInvalid("TOML is a table with names, and the value is none")
    return tomli_w.dumps(tidy).encode()  # pyright: ignore[reportUnknownArgumentType]  # of names and plain values


def _refuse_null(value: Value, where: str) -> None:
    if value is None:
        raise DataInvalid(f"{where} is null, which TOML does not have", hint="Leave it out.")
