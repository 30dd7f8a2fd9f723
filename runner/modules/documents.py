"""``fs.read_json`` and its like: a file's data, in one call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from runner import files
from runner.formats import json, toml, yaml
from runner.formats.plain import DataInvalid
from runner.modules.file_call import FileCall
from runner.modules.fs import mode_bits
from runner.trees import Check
from sandbox.frames import Value


class ReadJsonArguments(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """The file."""
    nulls: bool = True
    """Whether null is `json.null` in tables with names, or nothing."""


class ReadYamlArguments(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """The file."""
    every: bool = msgspec.field(name="all", default=False)
    """Whether all documents are given, in a list."""


class ReadTomlArguments(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """The file."""


class WriteJsonArguments(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """The file."""
    value: Any
    """Whatever Lua has."""
    pretty: bool = True
    """Whether it is written over several lines."""
    mode: str | None = None
    """In octal digits, such as `"0600"`; set before anything is in the file."""


class WriteArguments(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """The file."""
    value: Any
    """Whatever Lua has."""
    mode: str | None = None
    """In octal digits, such as `"0600"`; set before anything is in the file."""


def _read(workspace: Path, path: str, decode: Callable[[bytes], Value]) -> Value:
    try:
        return decode(files.read(workspace, path))
    except DataInvalid as error:
        raise DataInvalid(f"`{path}`: {error.message}", hint=error.hint) from error.__cause__


def _read_json(workspace: Path, arguments: ReadJsonArguments, _: Check) -> Value:
    return _read(workspace, arguments.path, lambda text: json.decode(text, nulls=arguments.nulls))


def _read_yaml(workspace: Path, arguments: ReadYamlArguments, _: Check) -> Value:
    return _read(workspace, arguments.path, lambda text: yaml.decode(text, every=arguments.every))


def _read_toml(workspace: Path, arguments: ReadTomlArguments, _: Check) -> Value:
    return _read(workspace, arguments.path, toml.decode)


def _write_json(workspace: Path, arguments: WriteJsonArguments, check: Check) -> Value:
    text = json.encode(arguments.value, pretty=arguments.pretty) + b"\n"
    return _write("fs.write_json", workspace, arguments.path, text, arguments.mode, check)


def _write_yaml(workspace: Path, arguments: WriteArguments, check: Check) -> Value:
    return _write("fs.write_yaml", workspace, arguments.path, yaml.encode(arguments.value), arguments.mode, check)


def _write_toml(workspace: Path, arguments: WriteArguments, check: Check) -> Value:
    return _write("fs.write_toml", workspace, arguments.path, toml.encode(arguments.value), arguments.mode, check)


def _write(call: str, workspace: Path, path: str, text: bytes, mode: str | None, check: Check) -> None:
    files.write(workspace, path, text, check, mode=None if mode is None else mode_bits(call, mode))


CALLS: Final = {
    "fs.read_json": FileCall("fs.read_json", ReadJsonArguments, _read_json),
    "fs.read_yaml": FileCall("fs.read_yaml", ReadYamlArguments, _read_yaml),
    "fs.read_toml": FileCall("fs.read_toml", ReadTomlArguments, _read_toml),
    "fs.write_json": FileCall("fs.write_json", WriteJsonArguments, _write_json),
    "fs.write_yaml": FileCall("fs.write_yaml", WriteArguments, _write_yaml),
    "fs.write_toml": FileCall("fs.write_toml", WriteArguments, _write_toml),
}
