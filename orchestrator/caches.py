"""Keeps what jobs save of their workspaces for later jobs, and holds each job to its own.

Whose attempt it is, and so which pipeline and which inputs, is known here; which cache a request is about is looked up
in the pipeline's version, and key and scope are worked out from it (``schema.caches``). So a runner, or whoever speaks
with its token, reads and writes for an attempt that it holds what the pipeline lets that job read and write: never
another pipeline's, never a scope that is made of other inputs, and never a key that was saved before.

Contents are stored among those of artifacts, and swept with them when nothing names them any more.
"""

from __future__ import annotations

import logging
from typing import Final
from uuid import UUID

import msgspec

from orchestrator import artifacts, events
from orchestrator.database import Database, Row
from orchestrator.parts import Parts
from orchestrator.problems import Forbidden, NotFound, RequestInvalid, TooLarge
from orchestrator.rights import Visible
from orchestrator.sql import artifacts as artifacts_sql
from orchestrator.sql import blobs as blobs_sql
from orchestrator.sql import caches as sql
from schema import caches, times
from schema.caches import Declared
from schema.definition import InputValue, PipelineDefinition
from schema.ids import uuid7
from schema.sizes import size_text
from schema.wire import Cache, CacheFind, CacheFound, CacheSave, CacheSaved

log: Final = logging.getLogger(__name__)

LISTED_MAXIMUM: Final = 1000


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that is its runner's, and what of its job caches follow from."""

    pipeline: UUID
    number: int
    inputs: dict[str, InputValue]
    definition: PipelineDefinition

    def declared(self, message: CacheFind | CacheSave) -> Declared:
        """Find the cache that a request is about.

        :raises RequestInvalid: when the pipeline has none there, or none with such a key.
        """
        found = caches.declared(self.definition, message.stage, message.place)
        if found is None:
            raise RequestInvalid(f"pipeline `{self.definition.name}` declares no such cache")
        if not caches.is_key(message.key, found, self.inputs):
            raise RequestInvalid(f"{message.key[:250]!r} is no key of this cache in job {self.number}")
        return found

    def scopes(self, found: Declared) -> list[str]:
        return caches.scopes(found.cache, self.definition, self.inputs)

    def may_read(self, scope: str, paths: list[str]) -> bool:
        parts = [self.definition.cache, *(stage.cache for stage in self.definition.stages)]
        return any(
            paths == cache.paths and scope in caches.scopes(cache, self.definition, self.inputs)
            for part in parts
            for cache in part
        )


async def find(here: Parts, runner: UUID, job: UUID, attempt: int, message: CacheFind) -> CacheFound:
    """Find what a job may restore.

    :raises Conflict: when the attempt is not the runner's.
    """
    holder = await _holder(here, runner, job, attempt)
    found = holder.declared(message)
    scopes, paths = holder.scopes(found), found.cache.paths
    if message.exact:
        row = await here.database.row(sql.CACHE_HAS, holder.pipeline, scopes[0], paths, message.key)
    else:
        starts = caches.restore_keys(found, holder.inputs)
        row = await here.database.row(sql.CACHE_FIND, holder.pipeline, scopes, paths, message.key, starts)
    maximum = _size_maximum(here)
    if row is None:
        return CacheFound(size_maximum=maximum)
    return CacheFound(
        size_maximum=maximum,
        id=str(row["id"]),
        scope=row["scope"],
        key=row["key"],
        sha256=row["sha256"],
        size_bytes=row["size_bytes"],
    )


async def content(here: Parts, runner: UUID, job: UUID, attempt: int, cache: UUID) -> Row:
    """Find the content of a cache that a job may read.

    :raises Conflict: when the attempt is not the runner's.
    :raises NotFound: when there is no such cache, or it is not for this job.
    """
    holder = await _holder(here, runner, job, attempt)
    row = await here.database.row(sql.CACHE_GET, cache, holder.pipeline)
    if row is None or not holder.may_read(row["scope"], row["paths"]):
        raise NotFound(f"job {holder.number} has no cache {cache}", code="cache_unknown")
    return row


async def save(here: Parts, runner: UUID, job: UUID, attempt: int, message: CacheSave) -> CacheSaved:
    """Save an uploaded content under a key, unless something is there already.

    :raises Conflict: when the attempt is not the runner's.
    :raises Forbidden: when the pipeline only reads the cache.
    :raises TooLarge: when it takes more than what is kept of one.
    """
    holder = await _holder(here, runner, job, attempt)
    found = holder.declared(message)
    if found.cache.policy == "restore":
        raise Forbidden(
            f"pipeline `{holder.definition.name}` only restores this cache (`policy`)", code="cache_read_only"
        )
    async with here.database.transaction() as connection:
        if await connection.fetchrow(artifacts_sql.ATTEMPT_HOLD, job, attempt, runner) is None:
            raise events.gone(job, attempt)
        blob = await connection.fetchrow(blobs_sql.BLOB_GET, artifacts.check_sha256(message.sha256), runner)
        if blob is None:
            raise NotFound(f"no content with SHA-256 {message.sha256} was uploaded by this runner", code="blob_unknown")
        size, maximum = blob["size_bytes"], _size_maximum(here)
        if size > maximum:
            raise TooLarge(
                f"a cache takes at most {size_text(maximum)}, and this one takes {size_text(size)}",
                code="cache_too_large",
            )
        (scope, *base), paths = holder.scopes(found), found.cache.paths
        cache, budget = uuid7(), here.settings.cache_pipeline_budget
        values = cache, holder.pipeline, scope, message.key, paths, blob["id"], size, holder.number
        saved = await connection.fetchrow(sql.CACHE_SAVE, *values)
        if saved is None:
            return CacheSaved(saved=False)
        gives_way = scope if base else None
        removed = await connection.fetch(sql.CACHES_REMOVE_BEYOND, holder.pipeline, budget, gives_way, cache)
    for row in removed:
        log.info(
            "cache `%s` of pipeline `%s` (%s) was removed: it was not used longest, and the budget is %s",
            row["key"],
            holder.definition.name,
            size_text(row["size_bytes"]),
            size_text(budget),
        )
    return CacheSaved(saved=True)


async def listed(database: Database, pipeline: str | None, visible: Visible) -> list[Cache]:
    """List caches of pipelines that may be seen, what was used last first."""
    return [
        Cache(
            pipeline=row["pipeline"],
            scope=row["scope"],
            key=row["key"],
            paths=row["paths"],
            size_bytes=row["size_bytes"],
            created_at=times.rfc3339(row["created_at"]),
            used_at=times.rfc3339(row["used_at"]),
            hits=row["hits"],
            job=row["job_number"],
        )
        for row in await database.rows(sql.CACHES_LIST, pipeline, LISTED_MAXIMUM, visible.held, visible.within)
    ]


async def _holder(here: Parts, runner: UUID, job: UUID, attempt: int) -> Holder:
    row = await here.database.row(sql.CACHE_ATTEMPT, job, attempt, runner)
    if row is None:
        raise events.gone(job, attempt)
    version = await here.versions.get(row["version_id"])
    return Holder(
        pipeline=row["pipeline_id"],
        number=row["number"],
        inputs=msgspec.json.decode(row["inputs"], type=dict[str, InputValue]),
        definition=version.definition,
    )


def _size_maximum(here: Parts) -> int:
    return min(here.settings.cache_size, here.settings.cache_pipeline_budget)
