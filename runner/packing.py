"""A workspace as one file, and back: how it is kept for a later attempt.

What a job's containers wrote is not to be trusted, and something in them may still be writing: the tree is walked by
directory handles, and a link is stored as a link, never followed. Where a pack comes from is not to be trusted either:
it is unpacked into an empty folder, and links are made last, so that nothing can be written through one.

Kept are files, folders and links with their modes and owners (owners only where the runner is root). Of a file with
several names each gets a copy; sockets, pipes and devices are left out.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO, Final

import anyio
import anyio.from_thread
import anyio.to_thread

from schema.errors import MoonyardError

COMPRESSION: Final = 1
"""Of gzip: more takes several times as long for a little less."""
COPY_BYTES: Final = 1024 * 1024
_READ_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class PackDamaged(MoonyardError):
    """A packed workspace that cannot be unpacked."""

    code = "workspace_damaged"


async def pack(workspace: Path, file: IO[bytes]) -> int:
    """Write a workspace into a file; give how many files it has.

    :raises OSError: when something in it cannot be read.
    """
    return await anyio.to_thread.run_sync(_pack, workspace, file, anyio.from_thread.check_cancelled)


async def unpack(file: IO[bytes], workspace: Path) -> int:
    """Fill an empty workspace from a file; give how many files it has.

    :raises PackDamaged: when it is no packed workspace.
    """
    try:
        return await anyio.to_thread.run_sync(_unpack, file, workspace, anyio.from_thread.check_cancelled)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise PackDamaged(
            f"the kept workspace cannot be unpacked: {error}",
            hint="Is the runner's disk full? Otherwise retry from the start, or with `--without-workspace`.",
        ) from error


class _Watched:
    """A file of which exactly so much is read as its header says, until whoever waits for it waits no more."""

    def __init__(self, file: IO[bytes], check: Callable[[], None]) -> None:
        self._file = file
        self._check = check

    def read(self, size: int) -> bytes:
        self._check()
        data = self._file.read(size)
        # It became shorter while it was read.
        return data + b"\0" * (size - len(data))


def _pack(workspace: Path, file: IO[bytes], check: Callable[[], None]) -> int:
    count = 0
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=COMPRESSION) as tar:
        for folder, folders, files, handle in os.fwalk(workspace, follow_symlinks=False, onerror=_raise):
            inside = PurePosixPath(os.path.relpath(folder, workspace))
            for name in [*folders, *files]:
                check()
                with suppress(FileNotFoundError):  # it was removed since the folder was read
                    count += _add(tar, str(inside / name), name, handle, check)
    return count


def _add(tar: tarfile.TarFile, path: str, name: str, folder: int, check: Callable[[], None]) -> int:
    facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
    entry = tarfile.TarInfo(path)
    entry.mode = stat.S_IMODE(facts.st_mode)
    entry.uid, entry.gid, entry.mtime = facts.st_uid, facts.st_gid, facts.st_mtime
    if stat.S_ISDIR(facts.st_mode):
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
    elif stat.S_ISLNK(facts.st_mode):
        entry.type = tarfile.SYMTYPE
        entry.linkname = os.readlink(name, dir_fd=folder)
        tar.addfile(entry)
    elif stat.S_ISREG(facts.st_mode):
        with os.fdopen(os.open(name, _READ_FLAGS, dir_fd=folder), "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                return 0
            entry.size = facts.st_size
            tar.addfile(entry, _Watched(file, check))  # pyright: ignore[reportArgumentType]  # it only reads
        return 1
    return 0


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _unpack(file: IO[bytes], workspace: Path, check: Callable[[], None]) -> int:
    count = 0
    folders: list[tuple[Path, tarfile.TarInfo]] = []
    links: list[tuple[Path, tarfile.TarInfo]] = []
    with tarfile.open(fileobj=file, mode="r:gz") as tar:
        for entry in tar:
            check()
            target = workspace / _inside(entry.name)
            if entry.isdir():
                target.mkdir(exist_ok=True)
                folders.append((target, entry))
            elif entry.issym():
                links.append((target, entry))
            elif entry.isreg():
                source = tar.extractfile(entry)
                assert source is not None, "a regular file has content"
                with target.open("xb") as copy:
                    while data := source.read(COPY_BYTES):
                        check()
                        copy.write(data)
                _mark(target, entry)
                count += 1
            else:
                raise ValueError(f"`{entry.name}` is of a kind that no workspace is packed with")
    made: set[Path] = set()
    for target, entry in links:
        if made.intersection(target.parents):
            raise ValueError(f"`{entry.name}` lies behind a link")
        target.symlink_to(entry.linkname)
        made.add(target)
        if os.geteuid() == 0:
            os.lchown(target, entry.uid, entry.gid)
    # The innermost first: a folder may forbid to look into it.
    for target, entry in reversed(folders):
        _mark(target, entry)
    return count


def _mark(target: Path, entry: tarfile.TarInfo) -> None:
    if os.geteuid() == 0:
        os.chown(target, entry.uid, entry.gid)
    target.chmod(entry.mode)
    os.utime(target, (entry.mtime, entry.mtime))


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"`{name}` leads out of the workspace")
    return path
