"""Keeps the images that were pulled here within a budget of disk space: those that were not used longest go first.

Only what this runner (any process with its state folder) pulled is ever removed: an engine may be shared with people
who have images of their own, and one that has a name of theirs too is theirs. Of each name that was pulled there is a
small file in the state folder, whose time is that of its last use. An image that any container is made of stays, and so
does one of which a container is just being made.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import msgspec
from aiodocker.exceptions import DockerError

from runner.engine.connection import Connection
from runner.engine.errors import EngineError, first_line
from schema.sizes import size_text

log: Final = logging.getLogger(__name__)

REMOVAL_SECONDS: Final = 120.0


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """An image that was pulled here."""

    name: str
    """In full; or its id, where its name has come to mean a newer one."""
    id: str


class _Found(msgspec.Struct, kw_only=True):
    """An image that is there, under all the names by which it was pulled here."""

    id: str
    size: int
    foreign: set[str]
    """Its other names."""
    names: list[str] = []
    used: float = 0.0


class ImageBudget:
    """Removes images.

    :param maximum: bytes; None to remove nothing.
    """

    def __init__(self, folder: Path, maximum: int | None, connection: Connection) -> None:
        self._folder = folder / "images"
        self._maximum = maximum
        self._connection = connection
        self._held: Counter[str] = Counter()
        self._trimming = anyio.Lock()

    @contextmanager
    def holding(self, name: str) -> Generator[None]:
        """Keep an image while a container is made of it, and note that it is used."""
        self._held[name] += 1
        try:
            with contextlib.suppress(OSError):  # most often: it was not pulled here
                os.utime(self._path(name))
            yield
        finally:
            self._held[name] -= 1
            if not self._held[name]:
                del self._held[name]

    async def note(self, name: str, image: str) -> None:
        """Remember that an image was pulled here; what its name meant before is remembered by its id."""
        await anyio.to_thread.run_sync(self._note, name, image)

    def _note(self, name: str, image: str) -> None:
        path = self._path(name)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            older = _read(path)
            if older is not None and older.id != image:
                path.rename(self._path(older.id))
                _write(self._path(older.id), _Kept(name=older.id, id=older.id), path.stat().st_mtime)
            _write(path, _Kept(name=name, id=image), None)
        except OSError as error:
            log.warning("that image `%s` was pulled cannot be noted (%s): it stays", name, error.strerror)

    async def trim(self) -> None:
        """Remove images until those that are left fit the budget, or are all in use."""
        if self._maximum is None:
            return
        async with self._trimming:
            try:
                await self._trim(self._maximum)
            except (EngineError, OSError) as error:
                log.warning("images could not be removed to keep to the budget: %s", error)

    async def _trim(self, maximum: int) -> None:
        found = [image for image in await self._found() if not image.foreign]
        total = sum(image.size for image in found)
        in_use = await self._in_use() if total > maximum else set[str]()
        for image in sorted(found, key=lambda image: image.used):
            if total <= maximum:
                return
            if image.id not in in_use and not any(self._held[name] for name in image.names):
                await self._remove(image)
                total -= image.size
                log.info(
                    "image `%s` (%s) was removed: it was not used longest, and the budget is %s",
                    image.names[0],
                    size_text(image.size),
                    size_text(maximum),
                )

    async def _found(self) -> list[_Found]:
        found: dict[str, _Found] = {}
        for path, kept, used in await anyio.to_thread.run_sync(self._kept):
            facts = await self._inspect(kept.name)
            if facts is None:
                path.unlink(missing_ok=True)
                continue
            tags: list[str] = facts.get("RepoTags") or []
            image = found.setdefault(
                facts["Id"], _Found(id=facts["Id"], size=int(facts["Size"]), foreign={*tags} - {"<none>:<none>"})
            )
            image.foreign.discard(kept.name)
            image.names.append(kept.name)
            image.used = max(image.used, used)
        return [*found.values()]

    async def _in_use(self) -> set[str]:
        """List the images that there are containers of, whosever they are."""
        try:
            async with self._connection.reaching("listing the containers"):
                containers = await self._connection.docker.containers.list(all=True)  # pyright: ignore[reportUnknownMemberType]
        except DockerError as error:
            raise EngineError(f"the containers could not be listed: {first_line(error.message)}") from error
        return {str(container["ImageID"]) for container in containers}

    def _kept(self) -> list[tuple[Path, _Kept, float]]:
        listed: list[tuple[Path, _Kept, float]] = []
        for path in self._folder.glob("*.json"):
            with contextlib.suppress(FileNotFoundError):
                if (kept := _read(path)) is not None:
                    listed.append((path, kept, path.stat().st_mtime))
        return listed

    async def _inspect(self, name: str) -> dict[str, Any] | None:  # the engine's own JSON
        try:
            async with self._connection.reaching(f"looking at image `{name}`"):
                return await self._connection.docker.images.inspect(name)
        except DockerError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise EngineError(f"image `{name}` could not be looked at: {first_line(error.message)}") from error

    async def _remove(self, image: _Found) -> None:
        for name in image.names:
            try:
                async with self._connection.reaching(f"removing image `{name}`", REMOVAL_SECONDS):
                    await self._connection.docker.images.delete(name)
            except DockerError as error:
                # With the last name, the image went; and since we looked, somebody may have begun to use it.
                if error.status not in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}:
                    raise EngineError(f"image `{name}` could not be removed: {first_line(error.message)}") from error
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"


def _read(path: Path) -> _Kept | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Kept)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _write(path: Path, kept: _Kept, used: float | None) -> None:
    nascent = path.with_name(f".{path.name}.{os.getpid()}")
    nascent.write_bytes(msgspec.json.encode(kept))
    if used is not None:
        os.utime(nascent, (used, used))
    nascent.rename(path)
