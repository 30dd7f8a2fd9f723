"""Makes files of what an archive holds.

What is in the workspace already may have been put there to lead astray, and may change meanwhile: nothing is followed
below the folder that is extracted to. A file or link that has an entry's name is replaced, never written through.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from runner import beneath, jail, trees
from runner.archives import compression
from runner.archives.contents import ArchiveRefused, Content, Limits, refused
from runner.archives.reading import Archive, Entry, opened
from runner.globs import Selection
from runner.jail import JailError
from runner.trees import Check

MODIFIED_MAXIMUM: Final = 2**33
"""Of what a file's time is set to, for file systems have limits of their own: in the year 2242."""


class Extracted(msgspec.Struct, frozen=True, kw_only=True):
    files: int
    size_bytes: int


def extract(
    workspace: Path,
    path: str,
    to: str,
    selection: Selection,
    limits: Limits,
    check: Check,
    *,
    strip: int = 0,
) -> Extracted:
    """Extract an archive into a folder, which is made if it is not there.

    :param strip: how many names are left out at the beginning of each entry's path.
    :raises ArchiveRefused: for an entry that may not be, before anything is made.
    :raises ArchiveDamaged: when it is no archive, or not a whole one; what came before is there then.
    :raises JailError: when something else is in the place of an entry.
    """
    with opened(workspace, path, limits, strip=strip) as archive:
        return extract_all(workspace, archive, to, selection, check)


def extract_all(workspace: Path, archive: Archive, to: str, selection: Selection, check: Check) -> Extracted:
    """Extract an open archive, as ``extract`` does."""
    try:
        for _ in archive.entries(check):
            pass
    except ArchiveRefused as error:
        error.hint = error.hint or "Nothing was extracted."
        raise
    jail.make_folders(workspace, to)
    with jail.handle(workspace, to) as root:
        return _Extraction(archive, root, check).run(selection.has)


class _Extraction:
    """Under way."""

    def __init__(self, archive: Archive, root: int, check: Check) -> None:
        self._archive = archive
        self._root = root
        self._check = check
        self._folders: list[tuple[tuple[str, ...], Content]] = []
        self._links: list[tuple[tuple[str, ...], Content]] = []
        self._files = 0
        self._size_bytes = 0
        self._parent: tuple[tuple[str, ...], int] | None = None
        """The folder that was worked in last, and its handle."""

    def run(self, wanted: Callable[[tuple[str, ...]], bool]) -> Extracted:
        try:
            for entry in self._archive.entries(self._check):
                if entry.parts and wanted(entry.parts):
                    self._add(entry)
            for parts, content in self._links:
                self._check()
                self._place(parts, content)
            for parts, content in reversed(self._folders):
                self._mark_folder(parts, content)
        finally:
            self._close()
        return Extracted(files=self._files, size_bytes=self._size_bytes)

    def _add(self, entry: Entry) -> None:
        match entry.content.kind:
            case "folder":
                with jail.refusing("/".join(entry.parts)):
                    self._folder(entry.parts)
                self._folders.append((entry.parts, entry.content))
            case "file":
                self._write(entry)
            case _:
                # At the end, so that nothing comes to lie behind a link, and all files are there.
                self._links.append((entry.parts, entry.content))

    def _write(self, entry: Entry) -> None:
        assert entry.data is not None, "a file has content"
        path = "/".join(entry.parts)
        with jail.refusing(path):
            parent = self._make_way(entry.parts)
            file = trees.new_file(parent, entry.parts[-1], 0o600)
            try:
                while True:
                    self._check()
                    with self._archive.reading():
                        data = entry.data.read(compression.CHUNK_BYTES)
                    if not data:
                        break
                    _write_all(file, data)
                    self._size_bytes += len(data)
                os.fchmod(file, usable(entry.content.mode))
                _set_time(file, entry.content.modified)
            finally:
                os.close(file)
        self._files += 1

    def _place(self, parts: tuple[str, ...], content: Content) -> None:
        with jail.refusing("/".join(parts)):
            if content.kind == "link":
                parent = self._make_way(parts)
                os.symlink(content.target, parts[-1], dir_fd=parent)
                return
            target = self._archive.place_of(content.target)
            source = self._open_folder(target[:-1])
            try:
                parent = self._make_way(parts)
                os.link(target[-1], parts[-1], src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError as error:
                why = f"is another name of `{content.target}`, which was not extracted"
                raise refused(content.name, why, hint="Extract that file too.") from error
            finally:
                os.close(source)
        self._files += 1

    def _make_way(self, parts: tuple[str, ...]) -> int:
        """Give the folder that something is to be made in, and remove what has its name there."""
        parent = self._folder(parts[:-1])
        with suppress(FileNotFoundError):
            facts = os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode):
                raise JailError(f"`{'/'.join(parts)}` is a folder already", code="path_is_folder")
            os.unlink(parts[-1], dir_fd=parent)
        return parent

    def _folder(self, parts: tuple[str, ...]) -> int:
        """Give a handle of a folder, which is made if it is not there, with all above it. It is closed by itself."""
        if self._parent is not None:
            if self._parent[0] == parts:
                return self._parent[1]
            self._close()
        try:
            handle = self._open_folder(parts)
        except FileNotFoundError:
            for count in range(1, len(parts) + 1):
                above = self._open_folder(parts[: count - 1])
                try:
                    jail.make_folder(above, parts[count - 1])
                finally:
                    os.close(above)
            handle = self._open_folder(parts)
        self._parent = (parts, handle)
        return handle

    def _open_folder(self, parts: tuple[str, ...]) -> int:
        path = "/".join(parts)
        handle = beneath.handle(self._root, path or ".", follow=False, links=False)
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            return handle
        os.close(handle)
        raise JailError(f"`{path}` is there and is no folder", code="path_exists")

    def _mark_folder(self, parts: tuple[str, ...], content: Content) -> None:
        with jail.refusing("/".join(parts)):
            folder = self._open_folder(parts)
            try:
                jail.set_mode(folder, usable(content.mode))
            finally:
                os.close(folder)

    def _close(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None


def usable(mode: int) -> int:
    """Give the mode that a file or folder of an archive gets.

    It is that of the archive, without set-user-ID and such; but whoever may do anything with it may do what its owner
    may. For here that is the runner's user, and a container's user, who would have been the owner had it been extracted
    there, is another.
    """
    owner = mode >> 6 & 0o7
    group = owner if mode & 0o070 else 0
    others = owner if mode & 0o007 else 0
    return owner << 6 | group << 3 | others


def _write_all(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def _set_time(file: int, modified: float) -> None:
    moment = min(max(modified, 0), MODIFIED_MAXIMUM) if math.isfinite(modified) else 0
    os.utime(file, (moment, moment))
