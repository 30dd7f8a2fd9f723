"""What an archive may hold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from runner.formats.plain import printable
from runner.trees import DEPTH_MAXIMUM
from schema.errors import MoonyardError

NAME_BYTES_MAXIMUM: Final = 255
PATH_BYTES_MAXIMUM: Final = 4095
"""What Linux takes."""
RATIO_FROM_BYTES: Final = 16 * 1024 * 1024
"""What is smaller unpacked may be packed as well as it can be."""
QUOTED_MAXIMUM: Final = 100

Kind = Literal["file", "folder", "link", "hardlink", "other"]


class ArchiveRefused(MoonyardError):
    """An archive that is not worked with, for what is in it."""

    code = "archive_refused"


class ArchiveTooLarge(ArchiveRefused):
    """An archive that holds more than it may."""

    code = "archive_too_large"


class ArchiveDamaged(MoonyardError):
    """A file that is no archive, or not a whole one."""

    code = "archive_damaged"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much an archive may hold."""

    size_bytes: int = 8 * 1024**3
    """All files together."""
    entries: int = 200_000
    """Files, links and folders, with those folders that are only named on the way to others."""
    ratio: int = 250
    """How many bytes one byte of the archive may become."""


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """An entry, as the archive has it."""

    name: str
    kind: Kind
    size: int = 0
    mode: int = 0
    modified: float = 0
    target: str = ""
    """Of a link: relative to the link's folder, and of a hard link to the archive's root."""


class _Folder:
    """A folder among those that were seen, with what was seen in it: None stands for what is no folder."""

    def __init__(self) -> None:
        self.inside: dict[str, _Folder | Kind] = {}


class Admission:
    """Looks at an archive's entries, one after the other, and refuses what may not be."""

    def __init__(self, limits: Limits, packed_bytes: int, *, strip: int = 0) -> None:
        """Begin.

        :param packed_bytes: the size of the archive's file.
        :param strip: how many names are left out at the beginning of each path.
        """
        self._limits = limits
        self._packed_bytes = packed_bytes
        self._strip = strip
        self._root = _Folder()
        self._entries = 0
        self._size_bytes = 0

    def admit(self, content: Content) -> tuple[str, ...]:
        """Give where an entry goes, below the folder that is extracted to; nothing for one that is stripped away.

        :raises ArchiveRefused: naming the entry.
        """
        parts = entry_parts(content.name)[self._strip :]
        if content.kind == "other":
            raise refused(content.name, "is a device, a pipe or something else that is no file, folder or link")
        self.add_bytes(content.name, content.size)
        if not parts:
            return ()
        if content.kind == "link":
            _check_link(content, parts)
        elif content.kind == "hardlink":
            self._check_hard_link(content)
        self._place(content, parts)
        return tuple(parts)

    def add_bytes(self, name: str, count: int) -> None:
        """Count what an entry unpacks to.

        :raises ArchiveTooLarge: when it is too much in all.
        """
        if count < 0:
            raise refused(name, f"has a size of {count} bytes")
        self._size_bytes += count
        self.check_bytes(name, self._size_bytes)

    def check_bytes(self, name: str, count: int) -> None:
        """See whether the archive may become so many bytes.

        :raises ArchiveTooLarge: when not.
        """
        if count > self._limits.size_bytes:
            raise ArchiveTooLarge(
                f"at `{quoted(name)}` the archive unpacks to more than {self._limits.size_bytes} bytes",
                hint="Give a larger `max_size`, if that is right.",
            )
        if count > max(RATIO_FROM_BYTES, self._packed_bytes * self._limits.ratio):
            raise ArchiveTooLarge(
                f"at `{quoted(name)}` the archive, which has {self._packed_bytes} bytes, unpacks to {count}: that is "
                f"more than {self._limits.ratio} times as many",
                hint="Give a larger `max_ratio`, if that is right.",
            )

    def _place(self, content: Content, parts: Sequence[str]) -> None:
        folder = self._root
        for name in parts[:-1]:
            inside = folder.inside.get(name)
            if inside is None:
                self._count(content.name)
                inside = folder.inside[name] = _Folder()
            if not isinstance(inside, _Folder):
                raise refused(content.name, f"lies behind `{quoted(name)}`, which is no folder")
            folder = inside
        there = folder.inside.get(parts[-1])
        if there is None:
            self._count(content.name)
            folder.inside[parts[-1]] = _Folder() if content.kind == "folder" else content.kind
        elif not (isinstance(there, _Folder) and content.kind == "folder"):
            raise refused(content.name, "is in the archive twice")

    def _count(self, name: str) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise ArchiveTooLarge(
                f"at `{quoted(name)}` the archive has more than {self._limits.entries} files and folders",
                hint="Give a larger `max_entries`, if that is right.",
            )

    def _check_hard_link(self, content: Content) -> None:
        parts = entry_parts(content.target)[self._strip :]
        there: _Folder | Kind | None = self._root
        for name in parts:
            there = there.inside.get(name) if isinstance(there, _Folder) else None
        if there not in {"file", "hardlink"}:
            raise refused(
                content.name, f"is another name of `{quoted(content.target)}`, which is no file that came before"
            )


def entry_parts(name: str) -> list[str]:
    """Take an entry's path apart.

    :raises ArchiveRefused: for one that leads out, or that no file can have.
    """
    try:
        encoded = name.encode()
    except UnicodeEncodeError as error:
        raise refused(name, "has a name that is not UTF-8 text") from error
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if "\x00" in name or "\\" in name:
        raise refused(name, "has a NUL byte or a backslash in its name")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        raise refused(name, "has an absolute path")
    if ".." in parts:
        raise refused(name, "has `..` in its path")
    if len(encoded) > PATH_BYTES_MAXIMUM or any(len(part.encode()) > NAME_BYTES_MAXIMUM for part in parts):
        raise refused(name, "has a name that is too long")
    if len(parts) > DEPTH_MAXIMUM:
        raise refused(name, f"lies more than {DEPTH_MAXIMUM} folders deep")
    return parts


def _check_link(content: Content, parts: Sequence[str]) -> None:
    # No link may be on the way to it, as `_place` sees to, so a `..` at the beginning goes to where it looks like. One
    # that comes later may come after a link, and then goes somewhere else.
    names = [name for name in content.target.split("/") if name not in {"", "."}]
    above = 0
    while above < len(names) and names[above] == "..":
        above += 1
    if not content.target or "\x00" in content.target or len(content.target) > PATH_BYTES_MAXIMUM:
        raise refused(content.name, "is a link to nothing that a path could be")
    if content.target.startswith("/") or above >= len(parts) or ".." in names[above:]:
        raise refused(content.name, f"is a link that leads, or may lead, out: to `{quoted(content.target)}`")
    try:
        content.target.encode()
    except UnicodeEncodeError as error:
        raise refused(content.name, "is a link to a name that is not UTF-8 text") from error


def refused(name: str, why: str, hint: str | None = None) -> ArchiveRefused:
    return ArchiveRefused(f"entry `{quoted(name)}` {why}", hint=hint)


def quoted(name: str) -> str:
    """Write an entry's name so that it can be shown."""
    shown = printable(name[:QUOTED_MAXIMUM])
    return shown if len(name) <= QUOTED_MAXIMUM else f"{shown}…"
