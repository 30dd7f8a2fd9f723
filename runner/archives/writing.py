"""Makes an archive of a workspace's files.

The same files give the same bytes: entries come in the order of their names, belong to nobody, and all have one time.
Kept are files, folders and links with their permissions; of a file with several names each gets a copy.
"""

from __future__ import annotations

import calendar
import os
import secrets
import stat
import tarfile
import zipfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, Protocol

import msgspec

from runner import files, jail, trees
from runner.archives import compression
from runner.archives.compression import Format
from runner.globs import Selection
from runner.jail import JailError
from runner.trees import Check, Entry

MOMENT: Final = (1980, 1, 1, 0, 0, 0)
"""The time of every entry: the first that a zip file can have."""
_MODIFIED: Final = calendar.timegm((*MOMENT, 0, 0, 0))


class Created(msgspec.Struct, frozen=True, kw_only=True):
    files: int
    size_bytes: int


class _Writer(Protocol):
    def folder(self, name: str, mode: int) -> None: ...
    def link(self, name: str, target: str) -> None: ...
    def file(self, name: str, mode: int, file: IO[bytes], size: int) -> None: ...


def create(workspace: Path, path: str, source: str, kind: Format, selection: Selection, check: Check) -> Created:
    """Make an archive of a folder, or of one file; an archive that is there already is replaced by the whole new one.

    :raises JailError: when a path leads out, or a name cannot stand in an archive.
    """
    with _new_file(workspace, path) as (file, skipped):
        return fill(file, workspace, source, kind, selection, check, skipped=skipped)


def fill(
    file: IO[bytes],
    workspace: Path,
    source: str,
    kind: Format,
    selection: Selection,
    check: Check,
    *,
    skipped: Sequence[os.stat_result] = (),
) -> Created:
    """Write an archive of a folder, or of one file, into a file of the runner's own.

    :param skipped: what is left out, wherever it is met.
    :raises JailError: as above.
    """
    count = 0
    with _writer(file, kind, check) as writer, jail.handle(workspace, source) as root:
        facts = os.fstat(root)
        if stat.S_ISDIR(facts.st_mode):
            for entry in trees.walk(
                root,
                check,
                enter=lambda entry: selection.may_have_below(entry.parts),
                most=trees.LOOKED_AT_MAXIMUM,
            ):
                if selection.has(entry.parts) and not any(os.path.samestat(entry.facts, own) for own in skipped):
                    count += _add(writer, entry)
        else:
            with files.reading(workspace, source) as descriptor:
                _add_file(writer, jail.parts(source)[-1], descriptor)
            count = 1
    return Created(files=count, size_bytes=file.tell())


@contextmanager
def _new_file(workspace: Path, path: str) -> Generator[tuple[IO[bytes], list[os.stat_result]]]:
    """Write a file that takes its name when it is whole; give it with what is no part of its own content."""
    with jail.place(workspace, path, is_new=True) as (folder, name), jail.refusing(path):
        skipped: list[os.stat_result] = []
        with suppress(FileNotFoundError):
            skipped.append(os.stat(name, dir_fd=folder, follow_symlinks=False))
            if stat.S_ISDIR(skipped[0].st_mode):
                raise JailError(f"`{path}` is a folder", code="path_is_folder")
        partial = f".{secrets.token_hex(8)}.partial"
        descriptor = trees.new_file(folder, partial, files.FILE_MODE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                skipped.append(os.fstat(descriptor))
                yield file, skipped
            os.rename(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(partial, dir_fd=folder)
            raise


def _add(writer: _Writer, entry: Entry) -> int:
    _check_name(entry.path)
    mode = stat.S_IMODE(entry.facts.st_mode) & 0o777
    if entry.is_folder:
        writer.folder(entry.path, mode)
    elif entry.is_link:
        with suppress(FileNotFoundError):
            target = os.readlink(entry.name, dir_fd=entry.folder)
            _check_name(target)
            writer.link(entry.path, target)
    elif entry.is_file and (descriptor := trees.open_file(entry)) is not None:
        try:
            _add_file(writer, entry.path, descriptor)
        finally:
            os.close(descriptor)
        return 1
    return 0


def _add_file(writer: _Writer, name: str, descriptor: int) -> None:
    facts = os.fstat(descriptor)
    with os.fdopen(os.dup(descriptor), "rb") as file:
        writer.file(name, stat.S_IMODE(facts.st_mode) & 0o777, file, facts.st_size)


def _check_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise JailError(f"`{os.fsencode(name)!r}` is not UTF-8 text, and names in archives are") from error


@contextmanager
def _writer(file: IO[bytes], kind: Format, check: Check) -> Generator[_Writer]:
    if kind == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            yield _ZipWriter(archive, check)
        return
    stream = compression.packed(file, kind)
    try:
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
            yield _TarWriter(tar, check)
    finally:
        if stream is not file:
            stream.close()


class _TarWriter:
    def __init__(self, tar: tarfile.TarFile, check: Check) -> None:
        self._tar = tar
        self._check = check

    def _entry(self, name: str, mode: int, kind: bytes) -> tarfile.TarInfo:
        # It would keep them all, for those who ask for one by name.
        self._tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        entry = tarfile.TarInfo(name)
        entry.mode, entry.type, entry.mtime = mode, kind, _MODIFIED
        return entry

    def folder(self, name: str, mode: int) -> None:
        self._tar.addfile(self._entry(name, mode, tarfile.DIRTYPE))

    def link(self, name: str, target: str) -> None:
        entry = self._entry(name, 0o777, tarfile.SYMTYPE)
        entry.linkname = target
        self._tar.addfile(entry)

    def file(self, name: str, mode: int, file: IO[bytes], size: int) -> None:
        entry = self._entry(name, mode, tarfile.REGTYPE)
        entry.size = size
        self._tar.addfile(entry, trees.Watched(file, self._check))  # pyright: ignore[reportArgumentType]  # it only reads


class _ZipWriter:
    def __init__(self, archive: zipfile.ZipFile, check: Check) -> None:
        self._archive = archive
        self._check = check

    def _entry(self, name: str, mode: int) -> zipfile.ZipInfo:
        entry = zipfile.ZipInfo(name, MOMENT)
        entry.create_system = 3  # Unix, so that it has modes
        entry.external_attr = mode << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        return entry

    def folder(self, name: str, mode: int) -> None:
        entry = self._entry(f"{name}/", stat.S_IFDIR | mode)
        entry.external_attr |= 0x10  # what DOS knows a folder by
        entry.compress_type = zipfile.ZIP_STORED
        self._archive.writestr(entry, b"")

    def link(self, name: str, target: str) -> None:
        self._archive.writestr(self._entry(name, stat.S_IFLNK | 0o777), target.encode())

    def file(self, name: str, mode: int, file: IO[bytes], size: int) -> None:
        entry = self._entry(name, stat.S_IFREG | mode)
        entry.file_size = size
        with self._archive.open(entry, "w", force_zip64=size >= zipfile.ZIP64_LIMIT // 2) as target:
            watched = trees.Watched(file, self._check)
            while size > 0:
                data = watched.read(min(size, compression.CHUNK_BYTES))
                target.write(data)
                size -= len(data)
