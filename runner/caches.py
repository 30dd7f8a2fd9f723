"""The caches of an attempt: restored before its stages, saved after them.

    stage's:  before its script (once, whatever its retries) ──> ... ──> after it succeeded, before that is told
    job's:    before the first stage at which its `files` are there ──> ... ──> after the stages, before `finally`

The key is made when a cache is restored, and it is saved under that key, if nothing is there yet: what a key names does
not change. What is in the workspace already stays, for it is newer. Nothing that goes wrong here fails a job: the log
says why a cache could not be had, and the job goes on without.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import IO, Final, Literal, Protocol

import anyio
import msgspec

from runner import cache_paths, packing
from runner.cache_folder import CacheFolder
from runner.event_stream import EventStream
from schema import caches
from schema.caches import Declared
from schema.definition import InputValue, PipelineDefinition, StageDefinition
from schema.errors import MoonyardError
from schema.sizes import size_text
from schema.states import Level

log: Final = logging.getLogger(__name__)

RESTORE_SECONDS: Final = 10 * 60.0
SAVE_SECONDS: Final = 15 * 60.0

Origin = Literal["this runner", "the orchestrator"]


class CacheUse(msgspec.Struct, frozen=True, kw_only=True):
    """A declared cache, as one job uses it."""

    pipeline: str
    stage: str | None
    """None for the job's own."""
    place: int
    """Among those declared there."""
    paths: Sequence[str]
    scopes: Sequence[str]
    """The job's own, and the one that it may read as well."""
    restore_keys: Sequence[str]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was saved."""

    id: str
    scope: str
    key: str
    sha256: str
    size_bytes: int


class CacheStore(Protocol):
    """Where caches are kept. Each function raises ``MoonyardError`` where that cannot be told or done."""

    folder: CacheFolder
    size_maximum: int
    """Of a packed cache, in bytes."""

    async def find(self, use: CacheUse, key: str) -> Found | None:
        """Find what is under a key, or else under one that does as well."""
        ...

    async def has(self, use: CacheUse, key: str) -> bool:
        """Whether the job's own scope has that very key."""
        ...

    def open(self, found: Found) -> AbstractAsyncContextManager[tuple[IO[bytes], Origin]]:
        """Hold what was found, whole and checked, to read it from its start."""
        ...

    async def save(self, use: CacheUse, key: str, file: IO[bytes], sha256: str, size: int) -> bool:
        """Save a packed file under a key; give False where something is there already."""
        ...


class _Cache:
    """One cache under way."""

    def __init__(self, use: CacheUse, declared: Declared) -> None:
        self.use = use
        self.declared = declared
        self.key: str | None = None
        self.is_settled = False
        """It was looked for."""
        self.is_whole = False
        """What is under its key was restored."""

    @property
    def stage(self) -> str | None:
        return self.use.stage

    @property
    def name(self) -> str:
        return self.key or self.declared.cache.key


class JobCaches:
    """What of an attempt's workspace comes from earlier jobs, and goes to later ones."""

    def __init__(
        self,
        definition: PipelineDefinition,
        inputs: Mapping[str, InputValue],
        *,
        store: CacheStore,
        workspace: Path,
        scratch: Path,
        stream: EventStream,
    ) -> None:
        """Prepare.

        :param scratch: a folder on the workspace's file system that no container reaches.
        """
        self._inputs = inputs
        self._store = store
        self._workspace = workspace
        self._scratch = scratch
        self._stream = stream
        self._of_job = self._prepared(definition, None, len(definition.cache))
        self._of_stages = {
            stage.name: self._prepared(definition, stage.name, len(stage.cache)) for stage in definition.stages
        }
        self._turn = anyio.Lock()
        """Stages at once wait for the job's own caches."""

    async def restore(self, stage: StageDefinition) -> None:
        """Restore what a stage begins with."""
        own = self._of_stages.get(stage.name, [])
        if all(cache.is_settled for cache in [*self._of_job, *own]):
            return
        async with self._turn:
            for cache in self._of_job:
                if not cache.is_settled:
                    await self._restore(cache)
        for cache in own:
            if not cache.is_settled:
                await self._restore(cache)

    async def save(self, stage: StageDefinition, *, succeeded: bool) -> None:
        """Save what a stage made, when it has ended."""
        for cache in self._of_stages.get(stage.name, []):
            await self._save(cache, succeeded=succeeded)

    async def save_job(self, *, succeeded: bool) -> None:
        """Save what the job made, when its stages have ended."""
        for cache in self._of_job:
            await self._save(cache, succeeded=succeeded)

    def _prepared(self, definition: PipelineDefinition, stage: str | None, count: int) -> list[_Cache]:
        prepared: list[_Cache] = []
        for place in range(count):
            declared = caches.declared(definition, stage, place)
            assert declared is not None, "it was counted"
            use = CacheUse(
                pipeline=definition.name,
                stage=stage,
                place=place,
                paths=declared.cache.paths,
                scopes=caches.scopes(declared.cache, definition, self._inputs),
                restore_keys=caches.restore_keys(declared, self._inputs),
            )
            prepared.append(_Cache(use, declared))
        return prepared

    async def _restore(self, cache: _Cache) -> None:
        try:
            with anyio.fail_after(RESTORE_SECONDS):
                cache.key = await self._key(cache)
                if cache.key is None and cache.stage is None:
                    return  # its files may come with a later stage
                cache.is_settled = True
                if cache.key is None:
                    files = ", ".join(f"`{pattern}`" for pattern in cache.declared.cache.files)
                    await self._tell(cache, "info", f"cache `{cache.name}` is not used: no file fits {files}")
                elif cache.declared.cache.policy != "save":
                    await self._fill(cache, cache.key)
        except Exception as error:  # noqa: BLE001  # whatever it is, the job can do without
            cache.is_settled = True
            await self._tell(
                cache, "warn", f"cache `{cache.name}` could not be restored: {_why(error, RESTORE_SECONDS)}"
            )

    async def _key(self, cache: _Cache) -> str | None:
        files = cache.declared.cache.files
        if not files:
            return caches.key(cache.declared, self._inputs)
        digest = await cache_paths.hash_files(self._workspace, files, cache.use.paths)
        return None if digest is None else caches.key(cache.declared, self._inputs, digest)

    async def _fill(self, cache: _Cache, key: str) -> None:
        taken = await cache_paths.taken(self._workspace, cache.use.paths)
        if len(taken) == len(cache.use.paths):
            await self._tell(cache, "info", f"cache `{key}` is not restored: {_listed(taken)} is there already")
            return
        started = anyio.current_time()
        found = await self._store.find(cache.use, key)
        if found is None:
            await self._tell(cache, "info", f"cache miss `{key}`")
            return
        async with self._store.open(found) as (file, origin), cache_paths.staging(self._scratch) as staged:
            await packing.unpack(file, staged, "the cache")
            filled = await cache_paths.put(staged, self._workspace, cache.use.paths)
        cache.is_whole = found.key == key
        took = f"{size_text(found.size_bytes)} in {anyio.current_time() - started:.1f} s, from {origin}"
        instead = "" if cache.is_whole else f", in the place of `{key}`"
        scope = f", scope `{found.scope}`" if found.scope != cache.use.scopes[0] else ""
        stays = f"; {_listed(taken)} was there already and stays" if taken and filled else ""
        await self._tell(cache, "info", f"cache hit `{found.key}`{instead} ({took}{scope}){stays}")

    async def _save(self, cache: _Cache, *, succeeded: bool) -> None:
        declared = cache.declared.cache
        if declared.policy == "restore" or cache.is_whole or not (succeeded or declared.when == "always"):
            return
        try:
            with anyio.fail_after(SAVE_SECONDS):
                if cache.key is None and cache.stage is None:
                    cache.key = await self._key(cache)
                if cache.key is not None:
                    await self._keep(cache, cache.key)
        except Exception as error:  # noqa: BLE001  # the same
            await self._tell(cache, "warn", f"cache `{cache.name}` not saved: {_why(error, SAVE_SECONDS)}")

    async def _keep(self, cache: _Cache, key: str) -> None:
        started = anyio.current_time()
        if await self._store.has(cache.use, key):
            await self._tell(cache, "debug", f"cache `{key}` not saved: it is there already, and does not change")
            return
        if not await cache_paths.taken(self._workspace, cache.use.paths):
            await self._tell(cache, "info", f"cache `{key}` not saved: there is nothing at {_listed(cache.use.paths)}")
            return
        async with self._store.folder.writing() as content:
            count = await packing.pack_paths(self._workspace, cache.use.paths, content.file, self._store.size_maximum)
            sha256, size = await content.keep()
            saved = await self._store.save(cache.use, key, content.file, sha256, size)
        if saved:
            took = f"{size_text(size)}, {count} files, in {anyio.current_time() - started:.1f} s"
            await self._tell(cache, "info", f"cache saved `{key}` ({took})")
        else:
            await self._tell(cache, "info", f"cache `{key}` not saved: another job saved it meanwhile")

    async def _tell(self, cache: _Cache, level: Level, text: str) -> None:
        await self._stream.log(cache.stage, level, "system", text)


def _listed(paths: Sequence[str]) -> str:
    return ", ".join(f"`{path}`" for path in paths)


def _why(error: Exception, seconds: float) -> str:
    match error:
        case MoonyardError():
            return error.message
        case TimeoutError() if not error.args:
            return f"it took longer than {seconds:.0f} s"
        case OSError():
            return str(error)
        case _:
            log.error("a cache met a defect", exc_info=error)
            return f"the runner has a defect: {type(error).__name__}: {error}"
