"""A workspace as one file, or some of it, and back: how it is kept for a later attempt, and for later jobs.

What a job's containers wrote is not to be trusted, and something in them may still be writing: the tree is walked by
directory handles, and a link is stored as a link, never followed. Where a pack comes from is not to be trusted either:
it is unpacked into an empty folder, and links are made last, so that nothing can be written through one.

Kept are files, folders and links with their modes, times and owners (owners only where the runner is root). Of a file
with several names each gets a copy; sockets, pipes and devices are left out.
"""

from __future__ import annotations

import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Final, cast

import anyio
import anyio.from_thread
import anyio.to_thread

from runner import jail, trees
from schema.errors import MoonyardError
from schema.sizes import size_text

COMPRESSION: Final = 1
"""Of gzip: more takes several times as long for a little less."""
COPY_BYTES: Final = 1024 * 1024
_NANO: Final = 10**9
_READ_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class PackDamaged(MoonyardError):
    """A packed workspace that cannot be unpacked."""

    code = "workspace_damaged"


class PackTooLarge(MoonyardError):
    """More than what is kept of a workspace."""

    code = "cache_too_large"


async def pack(workspace: Path, file: IO[bytes]) -> int:
    """Write a workspace into a file; give how many files it has.

    :raises OSError: when something in it cannot be read.
    """
    return await anyio.to_thread.run_sync(_pack, workspace, file, anyio.from_thread.check_cancelled)


async def pack_paths(workspace: Path, paths: Sequence[str], file: IO[bytes], maximum: int) -> int:
    """Write some paths of a workspace into a file, under their places in the list; give how many files they have.

    What is not there is left out.

    :param maximum: how many bytes the file may have.
    :raises PackTooLarge: when it would have more.
    :raises JailError: for a path that leads out of the workspace.
    :raises OSError: when something in them cannot be read.
    """
    limited = cast("IO[bytes]", _Limited(file, maximum))
    return await anyio.to_thread.run_sync(_pack_paths, workspace, paths, limited, anyio.from_thread.check_cancelled)


async def unpack(file: IO[bytes], workspace: Path, what: str = "the kept workspace") -> int:
    """Fill an empty workspace from a file; give how many files it has.

    :param what: for messages.
    :raises PackDamaged: when it is no packed workspace.
    """
    try:
        return await anyio.to_thread.run_sync(_unpack, file, workspace, anyio.from_thread.check_cancelled)
    except (tarfile.TarError, zlib.error, OSError, EOFError, ValueError, OverflowError) as error:
        raise PackDamaged(
            f"{what} cannot be unpacked: {error}",
            hint="Is the runner's disk full? Otherwise retry from the start, or with `--without-workspace`.",
        ) from error


class _Limited:
    """A file that takes so much and no more."""

    def __init__(self, file: IO[bytes], maximum: int) -> None:
        self._file = file
        self._maximum = maximum
        self._size = 0

    def write(self, data: bytes) -> int:
        self._size += len(data)
        if self._size > self._maximum:
            raise PackTooLarge(f"it takes more than the {size_text(self._maximum)} that are kept of one")
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()


def _pack(workspace: Path, file: IO[bytes], check: Callable[[], None]) -> int:
    with _writing(file) as tar, _opened(workspace) as handle:
        return _add_below(tar, PurePosixPath(), handle, check)


def _pack_paths(workspace: Path, paths: Sequence[str], file: IO[bytes], check: Callable[[], None]) -> int:
    count = 0
    with _writing(file) as tar:
        for place, path in enumerate(paths):
            try:
                with jail.place(workspace, path) as (parent, name):
                    count += _add_all(tar, str(place), name, parent, check)
            except FileNotFoundError:
                continue
            except jail.JailError as error:
                if error.code != "path_not_found":
                    raise
    return count


def _add_all(tar: tarfile.TarFile, path: str, name: str, parent: int, check: Callable[[], None]) -> int:
    count = _add(tar, path, name, parent, check)
    if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        with _opened(name, parent) as handle:
            count += _add_below(tar, PurePosixPath(path), handle, check)
    return count


def _writing(file: IO[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=file, mode="w:gz", compresslevel=COMPRESSION)


@contextmanager
def _opened(folder: str | Path, parent: int | None = None) -> Generator[int]:
    handle = os.open(folder, _READ_FLAGS | os.O_DIRECTORY, dir_fd=parent)
    try:
        yield handle
    finally:
        os.close(handle)


def _add_below(tar: tarfile.TarFile, prefix: PurePosixPath, top: int, check: Callable[[], None]) -> int:
    count = 0
    for folder, folders, files, handle in os.fwalk(".", follow_symlinks=False, onerror=_raise, dir_fd=top):
        for name in [*folders, *files]:
            check()
            with suppress(FileNotFoundError):  # it was removed since the folder was read
                count += _add(tar, str(prefix / folder / name), name, handle, check)
    return count


def _add(tar: tarfile.TarFile, path: str, name: str, folder: int, check: Callable[[], None]) -> int:
    facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
    entry = tarfile.TarInfo(path)
    entry.mode = stat.S_IMODE(facts.st_mode)
    entry.uid, entry.gid, entry.mtime = facts.st_uid, facts.st_gid, facts.st_mtime
    # To the nanosecond: build tools compare times, and a float rounds them.
    entry.pax_headers = {"mtime": f"{facts.st_mtime_ns // _NANO}.{facts.st_mtime_ns % _NANO:09d}"}
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
            tar.addfile(entry, trees.Watched(file, check))  # pyright: ignore[reportArgumentType]  # it only reads
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
    seconds, _, fraction = entry.pax_headers.get("mtime", str(entry.mtime)).partition(".")
    modified = int(seconds) * _NANO + int(fraction[:9].ljust(9, "0"))
    os.utime(target, ns=(modified, modified))


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"`{name}` leads out of the workspace")
    return path
