"""Walks, copies and removes what lies below a folder, by handles of folders, while containers may change all of it.

Nothing is followed: a link is itself. What vanishes meanwhile is passed over, and so is a folder that became something
else. Every loop asks ``check`` whether it is to go on, and is bounded: in how deep it goes, for a handle is held for
each folder on the way, and in how much it finds.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import IO, Final

import msgspec

from runner import beneath, jail
from runner.jail import JailError

COPY_BYTES: Final = 1024 * 1024
DEPTH_MAXIMUM: Final = jail.DEPTH_MAXIMUM
ENTRIES_MAXIMUM: Final = 100_000
"""Of what is told."""
LOOKED_AT_MAXIMUM: Final = 1_000_000
"""Of what is looked at, copied or packed."""
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_VANISHED: Final = frozenset({errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO})
_NOT_BY_KERNEL: Final = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})

Check = Callable[[], None]


class Entry(msgspec.Struct, frozen=True):
    """Something in a tree."""

    parts: tuple[str, ...]
    """Its path below the folder that the walk began with."""
    folder: int
    """A handle of the folder it stands in, until the walk goes on."""
    facts: os.stat_result

    @property
    def name(self) -> str:
        return self.parts[-1]

    @property
    def path(self) -> str:
        return "/".join(self.parts)

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.facts.st_mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.facts.st_mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.facts.st_mode)


class Watched:
    """A file of which exactly so much is read as its header says, until whoever waits for it waits no more."""

    def __init__(self, file: IO[bytes], check: Check) -> None:
        self._file = file
        self._check = check

    def read(self, size: int) -> bytes:
        self._check()
        data = self._file.read(size)
        # It became shorter while it was read.
        return data + b"\0" * (size - len(data))


class _Level:
    """A folder that the walk is in."""

    def __init__(self, folder: int, parts: tuple[str, ...], names: list[str]) -> None:
        self.folder = folder
        self.parts = parts
        self.names = names


def names(folder: int, check: Check, most: int) -> list[str]:
    """List a folder, in order.

    :raises JailError: when it has more than ``most`` names.
    """
    found: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if len(found) >= most:
                raise too_many(most)
            if not len(found) % 1000:
                check()
            found.append(entry.name)
    return sorted(found)


def listed(root: int, check: Check) -> list[str]:
    """List the folder that a handle names, in order."""
    folder = beneath.reopened(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return names(folder, check, ENTRIES_MAXIMUM)
    finally:
        os.close(folder)


def too_many(most: int) -> JailError:
    return JailError(
        f"there are more than {most} files and folders",
        code="too_many_files",
        hint='Look into a folder further down, or let a command do it: process.run({ command = "find", ... }).',
    )


def walk(
    root: int,
    check: Check,
    *,
    enter: Callable[[Entry], bool] = lambda _: True,
    depth: int = DEPTH_MAXIMUM,
    most: int = ENTRIES_MAXIMUM,
) -> Generator[Entry]:
    """Give all that lies below a folder: each folder before what is in it, and all in the order of their names.

    :param enter: tells whether to look into a folder.
    :param depth: how far down to look.
    :param most: how much to look at.
    :raises JailError: where there is more, or it goes too deep.
    """
    levels = [_Level(beneath.reopened(root, os.O_RDONLY | os.O_DIRECTORY), (), [])]
    count = 0
    try:
        levels[0].names = names(levels[0].folder, check, most)[::-1]
        while levels:
            level = levels[-1]
            if not level.names:
                os.close(levels.pop().folder)
                continue
            check()
            count += 1
            if count > most:
                raise too_many(most)
            name = level.names.pop()
            try:
                facts = os.stat(name, dir_fd=level.folder, follow_symlinks=False)
            except FileNotFoundError:
                continue
            entry = Entry((*level.parts, name), level.folder, facts)
            yield entry
            if entry.is_folder and len(levels) < depth and enter(entry):
                _enter(levels, entry, check, most)
            elif entry.is_folder and len(levels) >= DEPTH_MAXIMUM:
                raise too_deep()
    finally:
        for level in levels:
            os.close(level.folder)


def _enter(levels: list[_Level], entry: Entry, check: Check, most: int) -> None:
    try:
        folder = os.open(entry.name, _FOLDER_FLAGS, dir_fd=entry.folder)
    except OSError as error:
        if error.errno in _VANISHED:
            return
        raise jail.refusal(entry.path, error) from error
    levels.append(_Level(folder, entry.parts, []))
    levels[-1].names = names(folder, check, most)[::-1]


def too_deep() -> JailError:
    return JailError(f"folders stand in each other more than {DEPTH_MAXIMUM} levels deep", code="too_many_files")


def open_file(entry: Entry) -> int | None:
    """Open a regular file that a walk met for reading; None when it is none any more."""
    try:
        file = os.open(entry.name, _FILE_FLAGS, dir_fd=entry.folder)
    except OSError as error:
        if error.errno in _VANISHED:
            return None
        raise jail.refusal(entry.path, error) from error
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    return None


def size(root: int, check: Check) -> int:
    """Add up the files below a folder."""
    entries = walk(root, check, most=LOOKED_AT_MAXIMUM)
    return sum(entry.facts.st_size for entry in entries if entry.is_file)


def copy_content(source: int, target: int, check: Check) -> int:
    """Copy what an open file holds now into another; give how many bytes that were."""
    size, copied = os.fstat(source).st_size, 0
    by_kernel = True
    while copied < size:
        check()
        count = min(COPY_BYTES, size - copied)
        try:
            # Not a byte is moved where the file system can share them.
            done = os.copy_file_range(source, target, count) if by_kernel else _copied(source, target, count)
        except OSError as error:
            if not by_kernel or error.errno not in _NOT_BY_KERNEL:
                raise
            by_kernel = False
            continue
        if not done:
            break  # it became shorter
        copied += done
    return copied


def _copied(source: int, target: int, count: int) -> int:
    data = memoryview(os.read(source, count))
    left = data
    while left:
        left = left[os.write(target, left) :]
    return len(data)


def new_file(parent: int, name: str, mode: int) -> int:
    """Make a file with just this mode, and open it for writing.

    :raises FileExistsError: when something has the name.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(name, flags, mode, dir_fd=parent)
    os.fchmod(file, mode)
    return file


def copy_file(source: int, parent: int, name: str, check: Check) -> int:
    """Copy an open file to a new name, with its mode; give its size."""
    target = new_file(parent, name, stat.S_IMODE(os.fstat(source).st_mode) & 0o777)
    try:
        return copy_content(source, target, check)
    finally:
        os.close(target)


def copy_folder(source: int, parent: int, name: str, check: Check) -> int:
    """Copy a folder with all in it under a new name: files and folders with their modes, links as they are.

    What is neither is left out. What is made meanwhile in the target is nobody's: it may be met, and is not replaced.

    :returns: how many files were copied.
    :raises FileExistsError: when something has the name.
    """
    if not jail.make_folder(parent, name):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
    count = 0
    # By their paths: the folders of the copy that are open, outermost first, each with the mode it is to have at last.
    made: list[tuple[tuple[str, ...], int, int]] = [
        ((), os.open(name, _FOLDER_FLAGS, dir_fd=parent), os.fstat(source).st_mode)
    ]
    own = os.fstat(made[0][1])
    try:

        def enter(entry: Entry) -> bool:
            return not os.path.samestat(entry.facts, own)

        for entry in walk(source, check, enter=enter, most=LOOKED_AT_MAXIMUM):
            while entry.parts[:-1] != made[-1][0]:
                _close_copied(made.pop())
            folder = made[-1][1]
            if entry.is_folder and enter(entry):
                jail.make_folder(folder, entry.name)
                made.append((entry.parts, os.open(entry.name, _FOLDER_FLAGS, dir_fd=folder), entry.facts.st_mode))
            elif entry.is_link:
                with suppress(FileNotFoundError):
                    os.symlink(os.readlink(entry.name, dir_fd=entry.folder), entry.name, dir_fd=folder)
            elif entry.is_file and (file := open_file(entry)) is not None:
                try:
                    copy_file(file, folder, entry.name, check)
                finally:
                    os.close(file)
                count += 1
    finally:
        while made:
            _close_copied(made.pop())
    return count


def _close_copied(folder: tuple[tuple[str, ...], int, int]) -> None:
    _, handle, mode = folder
    try:
        os.fchmod(handle, stat.S_IMODE(mode) & 0o777)
    finally:
        os.close(handle)
