"""Pipeline versions, which never change: read once, and kept in memory while they are in use."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final
from uuid import UUID

import msgspec

from orchestrator.database import Database
from orchestrator.sql import pipelines as sql
from schema.definition import PipelineDefinition
from schema.plugins import LockedPlugin

KEPT_MAXIMUM: Final = 64
"""Each is as large as its source: a megabyte at most."""


class StoredVersion(msgspec.Struct, frozen=True, kw_only=True):
    pipeline: str
    sha256: str
    filename: str
    source: str
    definition: PipelineDefinition
    plugins: list[LockedPlugin]


class Versions:
    """Gives versions by id."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: OrderedDict[UUID, StoredVersion] = OrderedDict()

    async def get(self, version: UUID) -> StoredVersion:
        if (kept := self._kept.get(version)) is not None:
            self._kept.move_to_end(version)
            return kept
        row = await self._database.row(sql.VERSION_GET, version)
        assert row is not None, f"versions are never removed, and {version} is not there"
        stored = StoredVersion(
            pipeline=row["name"],
            sha256=row["sha256"],
            filename=row["filename"],
            source=row["source"],
            definition=decode_definition(row["definition"]),
            plugins=decode_lock(row["plugins"]),
        )
        self._kept[version] = stored
        if len(self._kept) > KEPT_MAXIMUM:
            self._kept.popitem(last=False)
        return stored


def decode_definition(text: str) -> PipelineDefinition:
    return msgspec.json.decode(text, type=PipelineDefinition)


def decode_lock(text: str) -> list[LockedPlugin]:
    return msgspec.json.decode(text, type=list[LockedPlugin])
