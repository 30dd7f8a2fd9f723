"""``archive``: makes, lists and extracts archives in the workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec

from runner.archives import compression, extraction, reading, writing
from runner.archives.compression import Format
from runner.archives.contents import ArchiveTooLarge, Limits
from runner.modules.arguments import ArgumentInvalid, Kind, OneOf, choice
from runner.modules.file_call import FileCall
from runner.modules.fs import lua_name, selection
from runner.trees import ENTRIES_MAXIMUM, Check
from sandbox.frames import Value
from schema import sizes

CREATE: Final = "archive.create"
LIST: Final = "archive.list"
EXTRACT: Final = "archive.extract"
SIZE_BYTES_MAXIMUM: Final = 1024**4
ENTRIES_LIMIT_MAXIMUM: Final = 1_000_000
RATIO_LIMIT_MAXIMUM: Final = 1_000_000
STRIP_MAXIMUM: Final = 100


class CreateArguments(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """Where it is written; its ending names the format: `.tar`, `.tar.gz`, `.tgz`, `.tar.xz`, `.txz`, `.tar.zst`,
    `.tzst`, `.zip`."""
    source: str = msgspec.field(name="from", default=".")
    """The folder whose files it gets, or one file; by default the workspace."""
    include: list[str] = []
    """Patterns of what goes in, by paths below `from`; by default all."""
    exclude: list[str] = []
    """Patterns of what is left out."""
    format: Annotated[str, OneOf(compression.FORMATS)] | None = None
    """Where the ending does not say."""


class ListArguments(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """The archive."""


class ExtractArguments(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """The archive; it finds out by itself which format it has."""
    to: str = "."
    """The folder to extract to, which is made; by default the workspace."""
    include: list[str] = []
    """Patterns of the entries that are taken; by default all."""
    exclude: list[str] = []
    """Patterns of those that are left out."""
    strip: int = 0
    """How many folders are left out at the beginning of each entry's path."""
    max_size: Annotated[str | int, Kind("size")] | None = None
    """How much all files may have together; by default 8 GiB."""
    max_entries: int | None = None
    """How many entries it may have; by default 200,000."""
    max_ratio: int | None = None
    """How many bytes one byte of the archive may become, where that is more than 16 MiB in all; by default 250."""


def _create(workspace: Path, arguments: CreateArguments, check: Check) -> Value:
    kind: Format | None
    if arguments.format is not None:
        kind = choice(CREATE, "format", arguments.format, compression.FORMATS)  # pyright: ignore[reportAssignmentType]  # it is one of them
    else:
        kind = compression.format_of(arguments.path)
    if kind is None:
        raise ArgumentInvalid(
            f"{CREATE}: `{arguments.path}` does not end as an archive does, and `format` is not given",
            hint=f"Known endings are {', '.join(compression.SUFFIXES)}.",
        )
    selected = selection(CREATE, arguments.include, arguments.exclude)
    made = writing.create(workspace, arguments.path, arguments.source, kind, selected, check)
    return {"files": made.files, "size": made.size_bytes}


def _list(workspace: Path, arguments: ListArguments, check: Check) -> Value:
    found: list[Value] = []
    with reading.opened(workspace, arguments.path) as archive:
        for entry in archive.entries(check):
            if len(found) >= ENTRIES_MAXIMUM:
                raise ArchiveTooLarge(
                    f"{LIST}: `{arguments.path}` has more than {ENTRIES_MAXIMUM} entries, which is more than is listed",
                    hint="archive.extract takes it with a larger `max_entries`.",
                )
            content = entry.content
            told: dict[str, Value] = {
                "path": lua_name("/".join(entry.parts)),
                "type": "link" if content.kind == "hardlink" else content.kind,
                "size": content.size,
                "mode": f"{content.mode & 0o777:04o}",
            }
            if content.target:
                told["target"] = lua_name(content.target)
            found.append(told)
    return found


def _extract(workspace: Path, arguments: ExtractArguments, check: Check) -> Value:
    if not 0 <= arguments.strip <= STRIP_MAXIMUM:
        raise ArgumentInvalid(f"{EXTRACT}: `strip` is 0 to {STRIP_MAXIMUM}, got {arguments.strip}")
    selected = selection(EXTRACT, arguments.include, arguments.exclude)
    done = extraction.extract(
        workspace, arguments.path, arguments.to, selected, _limits(arguments), check, strip=arguments.strip
    )
    return {"files": done.files, "size": done.size_bytes}


def _limits(arguments: ExtractArguments) -> Limits:
    limits = Limits()
    return Limits(
        size_bytes=limits.size_bytes if arguments.max_size is None else _size_bytes(arguments.max_size),
        entries=_limit("max_entries", arguments.max_entries, limits.entries, ENTRIES_LIMIT_MAXIMUM),
        ratio=_limit("max_ratio", arguments.max_ratio, limits.ratio, RATIO_LIMIT_MAXIMUM),
    )


def _size_bytes(value: str | int) -> int:
    try:
        size = sizes.size_bytes(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ArgumentInvalid(
            f'{EXTRACT}: `max_size` must be bytes or text such as "500m" or "20g", got {value!r}'
        ) from error
    return _limit("max_size", int(size), 0, SIZE_BYTES_MAXIMUM)


def _limit(argument: str, value: int | None, default: int, most: int) -> int:
    if value is None:
        return default
    if not 1 <= value <= most:
        raise ArgumentInvalid(f"{EXTRACT}: `{argument}` is 1 to {most}, got {value}")
    return value


CALLS: Final = {
    CREATE: FileCall(CREATE, CreateArguments, _create),
    LIST: FileCall(LIST, ListArguments, _list),
    EXTRACT: FileCall(EXTRACT, ExtractArguments, _extract),
}
