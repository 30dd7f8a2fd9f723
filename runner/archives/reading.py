"""Reads an archive's entries, one after the other."""

from __future__ import annotations

import calendar
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, cast

import msgspec

from runner import files
from runner.archives import compression
from runner.archives.contents import (
    PATH_BYTES_MAXIMUM,
    Admission,
    ArchiveDamaged,
    Content,
    Kind,
    Limits,
    entry_parts,
    quoted,
    refused,
)
from runner.trees import Check

_ZIP_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_GLOBAL_HEADERS_MAXIMUM: Final = 1000
_ENCRYPTED: Final = 0x1
_UNIX: Final = 3


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that was admitted."""

    content: Content
    parts: tuple[str, ...]
    """Where it goes; nothing for one that is stripped away."""
    data: IO[bytes] | None
    """Of a file: what it holds, to be read before the next entry is asked for."""


class Archive:
    """An open archive: its entries can be read any number of times."""

    def __init__(self, file: io.BufferedReader, path: str, limits: Limits, strip: int) -> None:
        self._file = file
        self._path = path
        self._limits = limits
        self._strip = strip

    def place_of(self, name: str) -> tuple[str, ...]:
        """Give where an entry's path goes."""
        return tuple(entry_parts(name)[self._strip :])

    def entries(self, check: Check) -> Generator[Entry]:
        """Give what is in it, each looked at.

        :raises ArchiveRefused: for an entry that may not be.
        :raises ArchiveDamaged: when it is no archive, or not a whole one.
        """
        admission = Admission(self._limits, os.fstat(self._file.fileno()).st_size, strip=self._strip)
        with self.reading():
            self._file.seek(0)
            beginning = self._file.read(16)
            self._file.seek(0)
            if compression.is_zip(beginning):
                yield from _zip_entries(self._file, admission, check)
            else:
                yield from _tar_entries(compression.unpacked(self._file, beginning), admission, check)

    @contextmanager
    def reading(self) -> Generator[None]:
        """Tell what is met while an entry is read.

        :raises ArchiveDamaged: when it is no archive, or not a whole one.
        """
        try:
            yield
        except (tarfile.TarError, zipfile.BadZipFile, *compression.DAMAGES) as error:
            raise self._damaged(error) from error
        except (ValueError, OverflowError, RecursionError, NotImplementedError) as error:
            raise self._damaged(error) from error
        except ArchiveDamaged as error:
            raise ArchiveDamaged(f"`{self._path}` cannot be read: {error.message}", hint=error.hint) from error

    def _damaged(self, error: Exception) -> ArchiveDamaged:
        return ArchiveDamaged(
            f"`{self._path}` is no archive that can be read, or not a whole one: {error or type(error).__name__}",
            hint="Archives are tar, tar.gz, tar.xz, tar.zst, tar.bz2 and zip files.",
        )


@contextmanager
def opened(workspace: Path, path: str, limits: Limits | None = None, *, strip: int = 0) -> Generator[Archive]:
    """Open an archive of the workspace.

    :raises JailError: when it is no file of the workspace.
    """
    with files.reading(workspace, path) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
        yield Archive(file, path, limits or Limits(), strip)


def _tar_entries(stream: IO[bytes], admission: Admission, check: Check) -> Generator[Entry]:
    watched = compression.Watched(stream, check, admission)
    # It asks for nothing but `read`, `seek` and `tell`.
    with tarfile.open(fileobj=cast("IO[bytes]", watched), mode="r:", errorlevel=2) as tar:
        while True:
            watched.headers_left = compression.HEADERS_BYTES_MAXIMUM
            found = tar.next()
            watched.headers_left = None
            if len(tar.pax_headers) > _GLOBAL_HEADERS_MAXIMUM:
                raise ArchiveDamaged(f"it has more than {_GLOBAL_HEADERS_MAXIMUM} headers for all files")
            if found is None:
                # `tarfile` takes a header that is none for the archive's end.
                if watched.last.strip(b"\0"):
                    raise ArchiveDamaged(f"after `{quoted(watched.name)}` it has a header that is none")
                break
            watched.name = found.name[:PATH_BYTES_MAXIMUM]
            content = Content(
                name=found.name,
                kind=_tar_kind(found),
                size=found.size if found.isreg() else 0,
                mode=found.mode,
                modified=found.mtime,
                target=found.linkname,
            )
            parts = admission.admit(content)
            data = tar.extractfile(found) if found.isreg() else None
            yield Entry(content=content, parts=parts, data=data)
            # It would keep them all, for those who ask for one by name.
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def _tar_kind(found: tarfile.TarInfo) -> Kind:
    if found.isdir():
        return "folder"
    if found.issym():
        return "link"
    if found.islnk():
        return "hardlink"
    return "file" if found.isreg() else "other"


class _Bounded:
    """A file that no more is read of at once than a list of entries may have."""

    def __init__(self, file: io.BufferedReader, check: Check) -> None:
        self._file = file
        self._check = check

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        self._check()
        if size > compression.LIST_BYTES_MAXIMUM:
            raise ArchiveDamaged(f"it has a list of entries of {size} bytes")
        data = self._file.read(compression.LIST_BYTES_MAXIMUM + 1 if size < 0 else size)
        if len(data) > compression.LIST_BYTES_MAXIMUM:
            raise ArchiveDamaged("it has an end that is too long")
        return data


def _zip_entries(file: io.BufferedReader, admission: Admission, check: Check) -> Generator[Entry]:
    with zipfile.ZipFile(cast("IO[bytes]", _Bounded(file, check))) as archive:
        for found in archive.infolist():
            check()
            entry = _zip_entry(archive, found, admission)
            yield entry
            if entry.data is not None:
                entry.data.close()


def _zip_entry(archive: zipfile.ZipFile, found: zipfile.ZipInfo, admission: Admission) -> Entry:
    name = found.orig_filename
    if found.flag_bits & _ENCRYPTED:
        raise refused(name, "is encrypted")
    if found.compress_type not in _ZIP_METHODS:
        raise refused(name, f"is compressed by method {found.compress_type}, which is not read here")
    mode = found.external_attr >> 16 if found.create_system == _UNIX else 0
    kind = _zip_kind(name, mode)
    content = Content(
        name=name,
        kind=kind,
        size=found.file_size if kind == "file" else 0,
        mode=stat.S_IMODE(mode) or (0o777 if kind == "folder" else 0o666),
        modified=_moment(found),
        target=_zip_target(archive, found) if kind == "link" else "",
    )
    parts = admission.admit(content)
    return Entry(content=content, parts=parts, data=archive.open(found) if kind == "file" else None)


def _zip_kind(name: str, mode: int) -> Kind:
    match stat.S_IFMT(mode):
        case stat.S_IFLNK:
            return "link"
        case stat.S_IFDIR:
            return "folder"
        case 0 | stat.S_IFREG:
            return "folder" if name.endswith("/") else "file"
        case _:
            return "other"


def _zip_target(archive: zipfile.ZipFile, found: zipfile.ZipInfo) -> str:
    if found.file_size > PATH_BYTES_MAXIMUM:
        raise refused(found.orig_filename, "is a link to a path that is too long")
    with archive.open(found) as link:
        return os.fsdecode(link.read(PATH_BYTES_MAXIMUM + 1))


def _moment(found: zipfile.ZipInfo) -> float:
    try:
        return calendar.timegm((*found.date_time, 0, 0, 0))
    except (ValueError, OverflowError):  # it has a thirteenth month
        return 0
