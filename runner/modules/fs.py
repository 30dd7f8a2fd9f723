"""``fs``: the files of the workspace, from Lua. Each call does its work in a thread, and by the workspace's jail."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Final

import msgspec

from runner import files, jail, trees
from runner.formats.plain import is_text
from runner.globs import Selection, fixed_part
from runner.jail import JailError
from runner.modules.arguments import ArgumentInvalid, OneOf, choice, data
from runner.modules.file_call import FileCall
from runner.trees import Check, Entry
from sandbox.frames import Value

ALGORITHMS: Final[tuple[files.Algorithm, ...]] = ("sha256", "sha512", "sha1", "md5", "blake2b")


class ReadArguments(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """The file."""
    offset: int = 0
    """Where to begin, in bytes."""
    size: int | None = None
    """How many bytes at most; by default all, of a file of at most 16 MiB."""


class WriteArguments(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """The file."""
    data: str
    """Any string."""
    mode: str | None = None
    """In octal digits, such as `"0600"`; set before anything is in the file."""


class LinesArguments(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """The file."""
    offset: int = 0
    """Where to begin, in bytes."""
    identity: str | None = None
    """What the call before gave."""


class ListArguments(msgspec.Struct, frozen=True, kw_only=True):
    path: str = "."
    """The folder; by default the workspace."""


class GlobArguments(msgspec.Struct, frozen=True, kw_only=True):
    pattern: str
    """Such as `"src/**/*.c"`."""
    exclude: list[str] = []
    """Patterns of what is left out, with all that is in it."""
    folders: bool = False
    """Whether folders are given too."""


class WalkArguments(msgspec.Struct, frozen=True, kw_only=True):
    path: str = "."
    """The folder; by default the workspace."""
    include: list[str] = []
    """Patterns below `path` of what is given; by default all."""
    exclude: list[str] = []
    """Patterns of what is left out, with all that is in it."""
    depth: int = trees.DEPTH_MAXIMUM
    """How far down it goes."""


class StatArguments(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """A file, folder or link."""
    follow: bool = True
    """Whether a link stands for what it leads to."""


class PathArguments(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """Relative to the workspace, or beginning with `/workspace/`."""


class TwoPathsArguments(msgspec.Struct, frozen=True, kw_only=True):
    source: str = msgspec.field(name="from")
    """What is there."""
    to: str
    """Where it goes."""


class RemoveArguments(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """A file, link or folder."""
    recursive: bool = False
    """Whether a folder goes with all that is in it."""


class TempArguments(msgspec.Struct, frozen=True, kw_only=True):
    prefix: str = "tmp-"
    """How its name begins."""
    suffix: str = ""
    """How its name ends."""
    folder: bool = False
    """Whether it is a folder."""


class HashArguments(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """The file."""
    algorithm: Annotated[str, OneOf(ALGORITHMS)] = "sha256"
    """How it is computed."""


class ChmodArguments(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """A file or folder."""
    mode: str
    """In octal digits, such as `"0755"`."""
    recursive: bool = False
    """Whether it is for all files below the folder."""


def mode_bits(call: str, value: str) -> int:
    """Read a file's mode.

    :raises ArgumentInvalid: when it is none, or more than permissions.
    """
    if not re.fullmatch(r"0?[0-7]{3}", value):
        raise ArgumentInvalid(
            f'{call}: `mode` must be three octal digits such as "0644" or "755", got {value[:80]!r}',
            hint="Set-user-ID, set-group-ID and sticky bits are not set here.",
        )
    return int(value, 8)


def selection(call: str, include: list[str], exclude: list[str]) -> Selection:
    """Read patterns.

    :raises ArgumentInvalid: for one that is none.
    """
    try:
        return Selection(include, exclude)
    except ValueError as error:
        raise ArgumentInvalid(f"{call}: a pattern cannot be used: {error}") from error


def lua_name(name: str) -> str | bytes:
    """Give a file's name as it goes to Lua: as bytes where it is no text."""
    return name if name.isascii() or is_text(name) else os.fsencode(name)


def _read(workspace: Path, arguments: ReadArguments, _: Check) -> Value:
    _not_negative("fs.read", "offset", arguments.offset)
    if arguments.size is not None:
        _not_negative("fs.read", "size", arguments.size)
        if arguments.size > files.READ_BYTES_MAXIMUM:
            raise ArgumentInvalid(
                f"fs.read: `size` is at most {files.READ_BYTES_MAXIMUM} bytes (16 MiB), got {arguments.size}"
            )
    return files.read(workspace, arguments.path, offset=arguments.offset, size=arguments.size)


def _not_negative(call: str, argument: str, value: int) -> None:
    if not 0 <= value < 2**63 - 2**32:
        raise ArgumentInvalid(f"{call}: `{argument}` is a number of bytes, got {value}")


def _write(workspace: Path, arguments: WriteArguments, check: Check) -> Value:
    _put("fs.write", workspace, arguments, check, append=False)
    return None


def _append(workspace: Path, arguments: WriteArguments, check: Check) -> Value:
    _put("fs.append", workspace, arguments, check, append=True)
    return None


def _put(call: str, workspace: Path, arguments: WriteArguments, check: Check, *, append: bool) -> None:
    mode = None if arguments.mode is None else mode_bits(call, arguments.mode)
    files.write(workspace, arguments.path, data(arguments.data), check, append=append, mode=mode)


def _lines(workspace: Path, arguments: LinesArguments, _: Check) -> Value:
    _not_negative("fs.lines", "offset", arguments.offset)
    found, offset, identity, ended = files.lines(workspace, arguments.path, arguments.offset, arguments.identity)
    return {"lines": list(found), "offset": offset, "identity": identity, "ended": ended}


def _list(workspace: Path, arguments: ListArguments, check: Check) -> Value:
    with jail.handle(workspace, arguments.path) as found:
        _check_folder(found, arguments.path)
        return [lua_name(name) for name in trees.listed(found, check)]


def _check_folder(handle: int, path: str) -> None:
    if jail.kind(os.fstat(handle).st_mode) != "folder":
        raise JailError(f"`{path}` is no folder")


def glob_files(workspace: Path, arguments: GlobArguments, check: Check) -> list[Value]:
    """Give the paths that a pattern names, in order.

    :raises JailError: when it leads out of the workspace.
    """
    pattern = arguments.pattern.removeprefix(f"{jail.INSIDE}/")
    if pattern.startswith("/"):
        raise JailError(f"`{pattern}` lies outside the workspace ({jail.INSIDE})")
    selected = selection("fs.glob", [pattern], arguments.exclude)
    above = tuple(fixed_part(pattern))
    found: list[Value] = []
    try:
        with jail.handle(workspace, "/".join(above) or ".") as folder:
            if jail.kind(os.fstat(folder).st_mode) != "folder":
                return []

            def enter(entry: Entry) -> bool:
                return selected.may_have_below((*above, *entry.parts))

            for entry in trees.walk(folder, check, enter=enter, most=trees.LOOKED_AT_MAXIMUM):
                if (arguments.folders or not entry.is_folder) and selected.has((*above, *entry.parts)):
                    _add(found, lua_name("/".join((*above, *entry.parts))))
    except JailError as error:
        if error.code != "path_not_found":
            raise
    return found


def _walk(workspace: Path, arguments: WalkArguments, check: Check) -> Value:
    if not 1 <= arguments.depth <= trees.DEPTH_MAXIMUM:
        raise ArgumentInvalid(f"fs.walk: `depth` is 1 to {trees.DEPTH_MAXIMUM}, got {arguments.depth}")
    selected = selection("fs.walk", arguments.include, arguments.exclude)
    with jail.handle(workspace, arguments.path) as found:
        _check_folder(found, arguments.path)
        above = jail.parts(arguments.path)
        told: list[Value] = []
        for entry in trees.walk(
            found,
            check,
            enter=lambda entry: selected.may_have_below(entry.parts),
            depth=arguments.depth,
            most=trees.LOOKED_AT_MAXIMUM,
        ):
            if selected.has(entry.parts):
                path = lua_name("/".join((*above, *entry.parts)))
                _add(told, {"path": path, "name": lua_name(entry.name), **_facts(entry.facts)})
        return told


def _add(found: list[Value], value: Value) -> None:
    if len(found) >= trees.ENTRIES_MAXIMUM:
        raise trees.too_many(trees.ENTRIES_MAXIMUM)
    found.append(value)


def _facts(facts: os.stat_result) -> dict[str, Value]:
    return {
        "type": jail.kind(facts.st_mode),
        "size": facts.st_size,
        "mode": f"{facts.st_mode & 0o7777:04o}",
        "modified": facts.st_mtime,
    }


def _stat(workspace: Path, arguments: StatArguments, _: Check) -> Value:
    with jail.handle(workspace, arguments.path, follow=arguments.follow) as found:
        facts = os.fstat(found)
        told = _facts(facts)
        if told["type"] == "link":
            told["target"] = lua_name(os.readlink("", dir_fd=found))
        return told


def _exists(workspace: Path, arguments: PathArguments, _: Check) -> Value:
    try:
        with jail.handle(workspace, arguments.path):
            return True
    except JailError as error:
        if error.code == "path_not_found":
            return False
        raise


def _mkdir(workspace: Path, arguments: PathArguments, _: Check) -> Value:
    return jail.make_folders(workspace, arguments.path)


def _move(workspace: Path, arguments: TwoPathsArguments, _: Check) -> Value:
    files.move(workspace, arguments.source, arguments.to)
    return None


def _copy(workspace: Path, arguments: TwoPathsArguments, check: Check) -> Value:
    return files.copy(workspace, arguments.source, arguments.to, check)


def _remove(workspace: Path, arguments: RemoveArguments, check: Check) -> Value:
    return files.remove(workspace, arguments.path, check, recursive=arguments.recursive)


def _temp(workspace: Path, arguments: TempArguments, _: Check) -> Value:
    for argument, value in (("prefix", arguments.prefix), ("suffix", arguments.suffix)):
        if "/" in value or "\x00" in value or len(data(value)) > 100:
            raise ArgumentInvalid(f"fs.temp: `{argument}` is part of a name: no `/`, at most 100 bytes, got {value!r}")
    return lua_name(files.temporary(workspace, arguments.prefix, arguments.suffix, folder=arguments.folder))


def _hash(workspace: Path, arguments: HashArguments, check: Check) -> Value:
    choice("fs.hash", "algorithm", arguments.algorithm, ALGORITHMS)
    algorithm: files.Algorithm = arguments.algorithm  # pyright: ignore[reportAssignmentType]  # checked by `choice`
    return files.digest(workspace, arguments.path, algorithm, check)


def _size(workspace: Path, arguments: PathArguments, check: Check) -> Value:
    return files.size(workspace, arguments.path, check)


def _chmod(workspace: Path, arguments: ChmodArguments, check: Check) -> Value:
    mode = mode_bits("fs.chmod", arguments.mode)
    files.set_mode(workspace, arguments.path, mode, check, recursive=arguments.recursive)
    return None


CALLS: Final = {
    "fs.read": FileCall("fs.read", ReadArguments, _read),
    "fs.write": FileCall("fs.write", WriteArguments, _write),
    "fs.append": FileCall("fs.append", WriteArguments, _append),
    "fs.lines": FileCall("fs.lines", LinesArguments, _lines),
    "fs.list": FileCall("fs.list", ListArguments, _list),
    "fs.glob": FileCall("fs.glob", GlobArguments, glob_files),
    "fs.walk": FileCall("fs.walk", WalkArguments, _walk),
    "fs.stat": FileCall("fs.stat", StatArguments, _stat),
    "fs.exists": FileCall("fs.exists", PathArguments, _exists),
    "fs.mkdir": FileCall("fs.mkdir", PathArguments, _mkdir),
    "fs.move": FileCall("fs.move", TwoPathsArguments, _move),
    "fs.copy": FileCall("fs.copy", TwoPathsArguments, _copy),
    "fs.remove": FileCall("fs.remove", RemoveArguments, _remove),
    "fs.temp": FileCall("fs.temp", TempArguments, _temp),
    "fs.hash": FileCall("fs.hash", HashArguments, _hash),
    "fs.size": FileCall("fs.size", PathArguments, _size),
    "fs.chmod": FileCall("fs.chmod", ChmodArguments, _chmod),
}
