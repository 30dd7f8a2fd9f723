"""Stores pipelines and their versions, and finds them."""

from __future__ import annotations

import difflib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from orchestrator import plugins
from orchestrator.database import Database, Row
from orchestrator.problems import NotFound
from orchestrator.rights import Visible
from orchestrator.sql import pipelines as sql
from orchestrator.versions import decode_definition, decode_lock
from plugins.resolution import Resolved
from schema import times
from schema.definition import PipelineDefinition
from schema.ids import uuid7
from schema.plugins import version_hash
from schema.wire import PipelineVersion

SHA256_LENGTH: Final = 64


class PipelineUnknown(NotFound):
    """There is no pipeline of that name, or none that whoever asks may know of."""

    code = "pipeline_unknown"

    def __init__(self, message: str, *, name: str, code: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.name = name


async def store(
    database: Database,
    filename: str,
    source: str,
    definition: PipelineDefinition,
    *,
    actor: str,
    resolved: Resolved | None = None,
) -> PipelineVersion:
    """Make a checked file the newest version of its pipeline.

    :param actor: who wants it, for the audit.
    :param resolved: the plugins that it is locked with.
    """
    lock = [] if resolved is None else resolved.lock
    sha256 = version_hash(source, lock)
    text = msgspec.json.encode(definition).decode()
    locked = msgspec.json.encode(lock).decode()
    async with database.transaction() as connection:
        if resolved is not None:
            await plugins.store(connection, resolved.plugins.values())
        pipeline = await connection.fetchrow(sql.PIPELINE_LOCK, uuid7(), definition.name)
        assert pipeline is not None, "the statement gives the row, whether it was there or not"
        await connection.execute(sql.VERSION_STORE, uuid7(), pipeline["id"], sha256, filename, source, text, locked)
        version = await connection.fetchrow(sql.VERSION_POINT, pipeline["id"], sha256, actor)
        assert version is not None, "the version was stored, now or before"
    return PipelineVersion(
        name=definition.name,
        version=sha256,
        filename=version["filename"],
        created_at=times.rfc3339(version["created_at"]),
        definition=definition,
        plugins=lock,
        unchanged=version["id"] == pipeline["version_id"],
    )


async def listed(database: Database, visible: Visible) -> list[PipelineVersion]:
    """List the pipelines that may be seen, with their newest versions."""
    return [_version(row) for row in await database.rows(sql.PIPELINES_LIST, visible.held, visible.within)]


async def shown(database: Database, name: str, version: str | None = None) -> PipelineVersion:
    """Give a version of a pipeline with its source, by default the newest."""
    row = await find(database, name, version)
    return msgspec.structs.replace(_version(row), source=row["source"])


async def find(database: Database, name: str, version: str | None) -> Row:
    """Find a version of a pipeline, by default the newest.

    :raises PipelineUnknown: when there is no such pipeline.
    :raises NotFound: when it has no such version.
    """
    if version is None:
        row = await database.row(sql.PIPELINE_GET, searchable(name))
    else:
        row = await database.row(sql.VERSION_OF_PIPELINE, searchable(name), searchable(version))
    if row is not None:
        return row
    if version is not None and await database.row(sql.PIPELINE_GET, searchable(name)) is not None:
        raise NotFound(
            f"pipeline `{name}` has no version `{version}`",
            code="version_unknown",
            hint=f"A version is named by all {SHA256_LENGTH} hex digits of its SHA-256.",
        )
    raise unknown(name)


def unknown(name: str) -> PipelineUnknown:
    """Say that there is no such pipeline."""
    return PipelineUnknown(
        f"there is no pipeline `{name[:100]}`",
        name=name,
        hint="`moonyard pipeline list` lists those that there are; `moonyard pipeline push FILE` brings one.",
    )


@asynccontextmanager
async def naming_near(database: Database, visible: Visible) -> AsyncGenerator[None]:
    """Where it turns out that there is no such pipeline, name those that are like it, and may be seen by who asks.

    :raises PipelineUnknown: as the block did, with the names that are near.
    """
    try:
        yield
    except PipelineUnknown as error:
        rows = await database.rows(sql.PIPELINE_NAMES, visible.held, visible.within)
        near = difflib.get_close_matches(error.name, [row["name"] for row in rows], n=3)
        if near:
            error.hint = f"Did you mean {' or '.join(f'`{known}`' for known in near)}?"
        raise


def searchable(text: str) -> str:
    # Postgres takes no NUL; nothing stored has one, so the text without it is found just as little.
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _version(row: Row) -> PipelineVersion:
    return PipelineVersion(
        name=row["name"],
        version=row["sha256"],
        filename=row["filename"],
        created_at=times.rfc3339(row["created_at"]),
        definition=decode_definition(row["definition"]),
        plugins=decode_lock(row["plugins"]),
    )
