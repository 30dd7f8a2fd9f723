"""Where caches are kept: with the orchestrator for all runners, or on this machine alone for ``moonyard run``.

Contents are on the runner's disk in both cases (``runner.cache_folder``). What differs is who knows which content a
key names, and who may say so. Of a registered runner's jobs that is the orchestrator, which holds a job to its
pipeline and scopes; a content that is not here any more, or is damaged, is fetched from it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Final

import anyio.to_thread
import msgspec

from runner import delivery
from runner.cache_folder import CacheFolder
from runner.caches import CacheUse, Found, Origin
from schema.client import Client
from schema.errors import MoonyardError
from schema.wire import CacheFind, CacheFound, CacheSave, CacheSaved

PATIENCE_SECONDS: Final = 15.0
"""For orchestrators that do not answer: without a cache a job takes longer, and without an orchestrator for ever."""


class CacheGone(MoonyardError):
    """A cache that was there when it was looked for."""

    code = "cache_gone"


class OrchestratorCaches:
    """The caches of one attempt, as the orchestrator knows them."""

    def __init__(
        self, client: Client, job: str, attempt: int, folder: CacheFolder, *, patience: float = PATIENCE_SECONDS
    ) -> None:
        self.folder = folder
        self._client = client
        self._path = f"/v1/runner/jobs/{job}/{attempt}/caches"
        self._patience = patience
        self.size_maximum = folder.maximum

    async def find(self, use: CacheUse, key: str) -> Found | None:
        answer = await self._ask(CacheFind(stage=use.stage, place=use.place, key=key))
        if answer.id is None:
            return None
        return Found(
            id=answer.id, scope=answer.scope, key=answer.key, sha256=answer.sha256, size_bytes=answer.size_bytes
        )

    async def has(self, use: CacheUse, key: str) -> bool:
        return (await self._ask(CacheFind(stage=use.stage, place=use.place, key=key, exact=True))).id is not None

    @asynccontextmanager
    async def open(self, found: Found) -> AsyncGenerator[tuple[IO[bytes], Origin]]:
        async with self.folder.reading(found.sha256) as file:
            if file is not None:
                yield file, "this runner"
                return
        async with self.folder.writing() as content:
            path = f"{self._path}/{found.id}"
            await delivery.download(self._client, "a cache", path, content.file, patience=self._patience)
            sha256, _ = await content.keep()
            if sha256 != found.sha256:
                raise CacheGone(f"cache `{found.key}` is not what it was when it was looked for")
            yield content.file, "the orchestrator"

    async def save(self, use: CacheUse, key: str, file: IO[bytes], sha256: str, size: int) -> bool:
        answers: list[CacheSaved] = []

        async def name_it() -> None:
            message = CacheSave(stage=use.stage, place=use.place, key=key, sha256=sha256)
            answers.append(await self._client.post(self._path, CacheSaved, message))

        await delivery.upload(self._client, "a cache", file, sha256, size, patience=self._patience)
        await delivery.persistently("saving a cache", name_it, patience=self._patience)
        return answers[-1].saved

    async def _ask(self, message: CacheFind) -> CacheFound:
        answers: list[CacheFound] = []

        async def ask() -> None:
            answers.append(await self._client.post(f"{self._path}/find", CacheFound, message))

        await delivery.persistently("looking for a cache", ask, patience=self._patience)
        self.size_maximum = answers[-1].size_maximum
        return answers[-1]


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What a key names on this machine."""

    key: str
    sha256: str
    size_bytes: int
    saved: int
    """When, in nanoseconds."""


class LocalCaches:
    """The caches of ``moonyard run`` on this machine: a small file for each key, below one folder a scope."""

    def __init__(self, folder: CacheFolder) -> None:
        self.folder = folder
        self.size_maximum = folder.maximum
        self._keys = folder.folder / "local"

    async def find(self, use: CacheUse, key: str) -> Found | None:
        return await anyio.to_thread.run_sync(self._find, use, key)

    async def has(self, use: CacheUse, key: str) -> bool:
        entry = await anyio.to_thread.run_sync(self._read, self._path(use, use.scopes[0], key))
        return entry is not None

    @asynccontextmanager
    async def open(self, found: Found) -> AsyncGenerator[tuple[IO[bytes], Origin]]:
        async with self.folder.reading(found.sha256) as file:
            if file is None:
                raise CacheGone(f"cache `{found.key}` is no longer on this machine, or was damaged there")
            yield file, "this runner"

    async def save(self, use: CacheUse, key: str, file: IO[bytes], sha256: str, size: int) -> bool:
        del file  # it is in the folder of contents already
        return await anyio.to_thread.run_sync(self._save, use, key, sha256, size)

    def _find(self, use: CacheUse, key: str) -> Found | None:
        for scope in use.scopes:
            entry = self._read(self._path(use, scope, key)) or self._find_other(use, scope)
            if entry is not None:
                return Found(
                    id=entry.sha256, scope=scope, key=entry.key, sha256=entry.sha256, size_bytes=entry.size_bytes
                )
        return None

    def _find_other(self, use: CacheUse, scope: str) -> _Entry | None:
        if not use.restore_keys:
            return None
        folder = self._path(use, scope, "").parent
        entries = [self._read(path) for path in folder.glob("*.json")]
        newest = sorted((entry for entry in entries if entry is not None), key=lambda entry: entry.saved, reverse=True)
        for start in use.restore_keys:
            for entry in newest:
                if entry.key.startswith(start):
                    return entry
        return None

    def _path(self, use: CacheUse, scope: str, key: str) -> Path:
        place = msgspec.json.encode([use.pipeline, scope, list(use.paths)])
        return self._keys / _name(place) / f"{_name(key.encode())}.json"

    def _read(self, path: Path) -> _Entry | None:
        """Read what a key names; one whose content is gone names nothing, and may be saved anew."""
        try:
            entry = msgspec.json.decode(path.read_bytes(), type=_Entry)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        if self.folder.holds(entry.sha256):
            return entry
        path.unlink(missing_ok=True)
        return None

    def _save(self, use: CacheUse, key: str, sha256: str, size: int) -> bool:
        path = self._path(use, use.scopes[0], key)
        path.parent.mkdir(parents=True, exist_ok=True)
        nascent = path.with_name(f".{secrets.token_hex(8)}")
        try:
            with nascent.open("xb") as file:
                saved = os.fstat(file.fileno()).st_mtime_ns
                file.write(msgspec.json.encode(_Entry(key=key, sha256=sha256, size_bytes=size, saved=saved)))
            if self._read(path) is not None:
                return False
            nascent.replace(path)
        finally:
            nascent.unlink(missing_ok=True)
        return True


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
