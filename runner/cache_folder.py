"""Packed caches on a runner's disk, each under the SHA-256 of its content, within a budget.

    <state>/caches/contents/<sha256>     whole; its time is that of its last use
    <state>/caches/contents/.new-...     being written

Several processes may share the folder. Whoever reads or writes a content holds a lock on its file, which the kernel
frees when the process ends, however it ends. What can be locked is in nobody's use: a new file that can be is half of
one, left by a process that was killed, and is removed; a whole one may be, if it was not used longest. A content gets
its name only when it is whole, and it is hashed again before each use, so neither half a file nor one that the disk
has spoilt is ever unpacked.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import secrets
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO, Final

import anyio
import anyio.to_thread

from runner.engine.errors import keeping
from schema.sizes import size_text

log: Final = logging.getLogger(__name__)

CACHE_BYTES: Final = 10 * 1024**3
"""What caches may take where the machine's owner does not say."""
NASCENT: Final = ".new-"
_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class Content:
    """A content that is being written."""

    def __init__(self, file: IO[bytes], path: Path, folder: Path) -> None:
        self.file = file
        self._path = path
        self._folder = folder

    async def keep(self) -> tuple[str, int]:
        """Give it its name; give its SHA-256 and size. The file can be read on, from its start."""
        return await anyio.to_thread.run_sync(self._keep)

    def _keep(self) -> tuple[str, int]:
        self.file.flush()
        sha256 = _hash(self.file)
        size = os.fstat(self.file.fileno()).st_size
        self._path.rename(self._folder / sha256)
        fcntl.flock(self.file, fcntl.LOCK_SH)
        self.file.seek(0)
        return sha256, size


class CacheFolder:
    """The contents on this machine.

    :param maximum: how many bytes they may take together; those in use may take more for as long as they are.
    """

    def __init__(self, state_folder: Path, maximum: int) -> None:
        self.folder = state_folder / "caches"
        self.maximum = maximum
        self._contents = self.folder / "contents"

    @asynccontextmanager
    async def reading(self, sha256: str) -> AsyncGenerator[IO[bytes] | None]:
        """Hold a content to read it, from its start; give None where it is not here, or not what it was."""
        file = await anyio.to_thread.run_sync(self._open, sha256)
        if file is None:
            yield None
            return
        with file:
            yield file

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[Content]:
        """Make a content: what is not kept before the end is gone afterwards.

        :raises StateFolderUnusable: when it cannot be written.
        """
        with self._new() as content:
            yield content
        await self.trim()

    async def trim(self) -> None:
        """Remove contents until those that are left fit the budget, or are all in use."""
        try:
            await anyio.to_thread.run_sync(self._trim)
        except OSError as error:
            log.warning("caches could not be removed to keep to the budget: %s", error)

    def holds(self, sha256: str) -> bool:
        """Whether a content is here; whether it is whole is looked at when it is read."""
        return (self._contents / sha256).is_file()

    def _open(self, sha256: str) -> IO[bytes] | None:
        path = self._contents / sha256
        try:
            file = os.fdopen(os.open(path, _FLAGS), "rb")
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
            if _hash(file) == sha256:
                os.utime(file.fileno())
                file.seek(0)
                return file
            log.warning("the cache in %s is not what was written there: it is removed", path)
            path.unlink(missing_ok=True)
        except BaseException:
            file.close()
            raise
        file.close()
        return None

    @contextmanager
    def _new(self) -> Generator[Content]:
        with keeping(f"caches folder {self._contents}"):
            self._contents.mkdir(parents=True, exist_ok=True, mode=0o700)
            file, path = self._locked()
        with file:
            try:
                yield Content(file, path, self._contents)
            finally:
                path.unlink(missing_ok=True)

    def _locked(self) -> tuple[IO[bytes], Path]:
        while True:
            path = self._contents / f"{NASCENT}{secrets.token_hex(8)}"
            file = os.fdopen(os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600), "w+b")
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:
                return file, path
            file.close()  # somebody who cleared up came in between

    def _trim(self) -> None:
        found: list[tuple[float, int, Path]] = []
        with suppress(FileNotFoundError):
            for entry in os.scandir(self._contents):
                with suppress(FileNotFoundError):
                    facts = entry.stat(follow_symlinks=False)
                    if entry.name.startswith(NASCENT):
                        _remove_unused(Path(entry.path))
                    else:
                        found.append((facts.st_mtime, facts.st_size, Path(entry.path)))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.maximum:
                return
            if _remove_unused(path):
                total -= size
                log.info(
                    "a cache of %s was removed: it was not used longest, and the budget is %s",
                    size_text(size),
                    size_text(self.maximum),
                )


def _remove_unused(path: Path) -> bool:
    """Remove a file that nobody holds."""
    try:
        descriptor = os.open(path, _FLAGS)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def _hash(file: IO[bytes]) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]  # it only reads
