"""Reads and writes single files of a workspace, by its jail. What ``fs`` gives to Lua is made of these."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from runner import beneath, jail, owner, trees
from runner.jail import JailError
from runner.trees import Check

READ_BYTES_MAXIMUM: Final = 16 * 1024 * 1024
"""Of what comes into Lua at once."""
LINES_BYTES: Final = 256 * 1024
"""So much of a file is read for its next lines, unless one is longer."""
WRITE_BYTES: Final = 1024 * 1024
FILE_MODE: Final = 0o666
"""Containers run as any user."""
RACES_MAXIMUM: Final = 100
_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK
_OVERWRITE: Final = os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK


class FileTooLarge(JailError):
    """More was asked for than comes into Lua at once."""

    code = "file_too_large"


@contextmanager
def reading(workspace: Path, path: str) -> Generator[int]:
    """Open a regular file for reading.

    :raises JailError: when it is none, or lies outside.
    """
    with jail.handle(workspace, path) as found:
        jail.check_regular(os.fstat(found).st_mode, path)
        with jail.refusing(path):
            file = beneath.reopened(found, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def writing(workspace: Path, path: str, *, append: bool = False, mode: int | None = None) -> Generator[int]:
    """Open a regular file for writing, made if it is not there; what it held is gone unless it is appended to.

    :param mode: what the file's mode is to be; by default that which it has, and of a new file, that all may use it.
    :raises JailError: when it is none, or lies outside.
    """
    with jail.refusing(path):
        file = _made_or_opened(workspace, path, _APPEND if append else _OVERWRITE, mode)
        try:
            yield file
        finally:
            os.close(file)


def _made_or_opened(workspace: Path, path: str, flags: int, mode: int | None) -> int:
    for _ in range(RACES_MAXIMUM):
        with jail.place(workspace, path, is_new=True) as (folder, name):
            try:
                return trees.new_file(folder, name, FILE_MODE if mode is None else mode)
            except FileExistsError:
                pass
        try:
            with jail.handle(workspace, path) as found:
                jail.check_regular(os.fstat(found).st_mode, path)
                if mode is not None:
                    jail.set_mode(found, mode)
                return beneath.reopened(found, flags)
        except JailError as error:
            if error.code != "path_not_found":
                raise
            if _is_link(workspace, path):
                raise JailError(f"`{path}` is a link to something that does not exist", code=error.code) from error
            # Somebody removed it since: it is made in the next turn.
    raise JailError(f"`{path}` comes and goes while it is written to")


def _is_link(workspace: Path, path: str) -> bool:
    try:
        with jail.handle(workspace, path, follow=False) as found:
            return stat.S_ISLNK(os.fstat(found).st_mode)
    except JailError:
        return False


def read(workspace: Path, path: str, *, offset: int = 0, size: int | None = None) -> bytes:
    """Read a file, or ``size`` bytes of it.

    :raises FileTooLarge: when that is more than Lua takes at once.
    """
    with reading(workspace, path) as file, jail.refusing(path):
        if size is None:
            there = os.fstat(file).st_size - offset
            if there > READ_BYTES_MAXIMUM:
                raise too_large(path, there)
            size = READ_BYTES_MAXIMUM
        data = bytearray()
        while len(data) < size and (more := os.pread(file, size - len(data), offset + len(data))):
            data += more
        return bytes(data)


def too_large(path: str, size: int) -> FileTooLarge:
    return FileTooLarge(
        f"`{path}` has {size} bytes, and at most {READ_BYTES_MAXIMUM} (16 MiB) come into Lua at once",
        hint="Read it line by line with fs.lines(path), in pieces with fs.read(path, { offset = 0, size = 1048576 }), "
        "or let a command in a container look at it.",
    )


def write(
    workspace: Path, path: str, data: bytes, check: Check, *, append: bool = False, mode: int | None = None
) -> None:
    """Write a file."""
    with writing(workspace, path, append=append, mode=mode) as file:
        left = memoryview(data)
        while left:
            check()
            left = left[os.write(file, left[:WRITE_BYTES]) :]


def lines(workspace: Path, path: str, offset: int, identity: str | None) -> tuple[list[bytes], int, str, bool]:
    """Read the next lines of a file, from an offset on.

    :param identity: what the call before gave: the same file is to be read to its end.
    :returns: the lines without their ends, where the next ones begin, the file's identity, and whether that was all.
    :raises FileTooLarge: for a line that is longer than what Lua takes at once.
    """
    with reading(workspace, path) as file, jail.refusing(path):
        facts = os.fstat(file)
        found = f"{facts.st_dev:x}-{facts.st_ino:x}"
        if identity not in {None, found}:
            raise JailError(f"`{path}` was replaced by another file while its lines were read")
        data = bytearray()
        while True:
            more = os.pread(file, LINES_BYTES, offset + len(data))
            data += more
            end = data.rfind(b"\n") + 1
            if not more:
                end = len(data)
                break
            if end:
                break
            if len(data) > READ_BYTES_MAXIMUM:
                raise FileTooLarge(
                    f"`{path}` has a line of more than {READ_BYTES_MAXIMUM} bytes (16 MiB), which is more than comes "
                    "into Lua at once",
                    hint="Read it in pieces: fs.read(path, { offset = 0, size = 1048576 }).",
                )
        taken = bytes(data[:end])
        return taken.removesuffix(b"\n").split(b"\n") if taken else [], offset + end, found, not more


Algorithm = Literal["sha256", "sha512", "sha1", "md5", "blake2b"]


def digest(workspace: Path, path: str, algorithm: Algorithm, check: Check) -> str:
    """Give the hash of a file's content, in hexadecimal."""
    hashed = hashlib.new(algorithm, usedforsecurity=False)
    with reading(workspace, path) as file, jail.refusing(path):
        left = os.fstat(file).st_size
        while left > 0 and (data := os.read(file, min(left, WRITE_BYTES))):
            check()
            hashed.update(data)
            left -= len(data)
    return hashed.hexdigest()


def size(workspace: Path, path: str, check: Check) -> int:
    """Give the size of a file, or of all files below a folder."""
    with jail.handle(workspace, path) as found:
        mode = os.fstat(found).st_mode
        if stat.S_ISDIR(mode):
            return trees.size(found, check)
        jail.check_regular(mode, path)
        return os.fstat(found).st_size


def temporary(workspace: Path, prefix: str, suffix: str, *, folder: bool) -> str:
    """Make an empty file, or folder, with a name that nobody has; give its path."""
    name = f"{prefix}{secrets.token_hex(8)}{suffix}"
    with jail.place(workspace, name) as (parent, _), jail.refusing(name):
        if folder:
            jail.make_folder(parent, name)
        else:
            os.close(trees.new_file(parent, name, FILE_MODE))
    return name


def copy(workspace: Path, source: str, target: str, check: Check) -> int:
    """Copy a file or a folder to a new name, and a file over another; give how many files were copied.

    :raises JailError: when a folder's target is there already.
    """
    with jail.handle(workspace, source) as found:
        mode = os.fstat(found).st_mode
        if stat.S_ISDIR(mode):
            with jail.place(workspace, target, is_new=True) as (parent, name), jail.refusing(target):
                return trees.copy_folder(found, parent, name, check)
    with reading(workspace, source) as file:
        facts = os.fstat(file)
        if _is_same(workspace, target, facts):
            raise JailError(f"`{source}` and `{target}` are the same file", code="path_exists")
        with writing(workspace, target, mode=stat.S_IMODE(facts.st_mode) & 0o777) as copy:
            trees.copy_content(file, copy, check)
    return 1


def _is_same(workspace: Path, path: str, facts: os.stat_result) -> bool:
    try:
        with jail.handle(workspace, path) as found:
            return os.path.samestat(os.fstat(found), facts)
    except JailError:
        return False


def move(workspace: Path, source: str, target: str) -> None:
    """Give a file, folder or link another name. A file or link there is replaced, as is an empty folder by a folder.

    :raises JailError: when something else is in its place.
    """
    with (
        jail.place(workspace, source) as (old_folder, old_name),
        jail.place(workspace, target, is_new=True) as (new_folder, new_name),
    ):
        try:
            os.rename(old_name, new_name, src_dir_fd=old_folder, dst_dir_fd=new_folder)
        except FileNotFoundError as error:
            raise jail.refusal(source, error) from error
        except OSError as error:
            if error.errno == errno.EINVAL:  # a folder does not go into itself
                raise JailError(f"`{source}` cannot be moved into itself (`{target}`)") from error
            raise jail.refusal(target, error) from error


def remove(workspace: Path, path: str, check: Check, *, recursive: bool) -> bool:
    """Remove a file, a link, an empty folder, or a folder with all in it; give whether there was something.

    :raises JailError: when a folder is not empty, and that is not to be.
    """
    try:
        with jail.place(workspace, path) as (folder, name), jail.refusing(path):
            with jail.handle(workspace, path, follow=False) as found:
                is_folder = stat.S_ISDIR(os.fstat(found).st_mode)
            if not is_folder:
                os.unlink(name, dir_fd=folder)
                return True
            if recursive:
                _empty(folder, name, check)
            try:
                os.rmdir(name, dir_fd=folder)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                raise JailError(
                    f"folder `{path}` is not empty",
                    code="path_not_empty",
                    hint=f'Write fs.remove("{path}", {{ recursive = true }}) to remove it with all in it.',
                ) from error
            return True
    except JailError as error:
        if error.code == "path_not_found":
            return False
        raise


def _empty(parent: int, name: str, check: Check) -> None:
    folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        owner.empty_folder(folder, check)
    finally:
        os.close(folder)


def set_mode(workspace: Path, path: str, mode: int, check: Check, *, recursive: bool) -> None:
    """Set the mode of a file or folder, and with ``recursive`` of all files below it; links have none."""
    with jail.handle(workspace, path) as found, jail.refusing(path):
        facts = os.fstat(found)
        if stat.S_ISDIR(facts.st_mode) and recursive:
            for entry in trees.walk(found, check, most=trees.LOOKED_AT_MAXIMUM):
                if entry.is_file and (file := trees.open_file(entry)) is not None:
                    try:
                        os.fchmod(file, mode)
                    finally:
                        os.close(file)
            return
        if not stat.S_ISDIR(facts.st_mode):
            jail.check_regular(facts.st_mode, path)
        jail.set_mode(found, mode)
