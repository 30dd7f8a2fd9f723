"""Keeps contents by their SHA-256, each once: of artifacts, caches and workspaces.

A content is uploaded in chunks, each in a short transaction of its own: one long one would hold back the cleaning of
the queue's table for as long as the slowest upload. Until its hash was compared it has none in the database and cannot
be found.

An upload that breaks off stays for a while: its runner asks how much is there, and goes on from that chunk, at this
replica or another. Whoever takes it up is its writer from then on, and what the request before still sends is refused.
What nobody takes up is swept.

A content is named by its hash, and whoever names it can read it as its own: so a runner may name what it has sent
itself, whole, and nothing else. One that was stored by others is sent to be hashed, and is not stored again; the
runner that has done so once need not do it again. That is more than an answer to a challenge about parts of it would
show, which one who lacks only a few bytes, a key in an archive, could give as well. Of what a runner has not sent, a
replica says what it says of what is not there.

Chunks are in Postgres, or in an object store; each content remembers where its own are. An object has its writer's
name, and counts only once Postgres took that name down as the chunk's: who is the writer no more can store objects, but
takes nothing's place.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator
from typing import Final, Protocol
from uuid import UUID

import anyio
import asyncpg

from orchestrator.database import Database, Row
from orchestrator.problems import Conflict, RequestInvalid, StoreUnavailable, TooLarge
from orchestrator.sql import blobs as sql
from schema.ids import uuid7
from schema.wire import BlobState

log: Final = logging.getLogger(__name__)

CHUNK_BYTES: Final = 1024 * 1024
OBJECT_CHUNK_BYTES: Final = 8 * 1024 * 1024
BLOB_BYTES_MAXIMUM: Final = 16 * 1024**3
CLEANUP_SECONDS: Final = 10.0
REMNANTS_STEP: Final = 100


class Objects(Protocol):
    """A store of chunks outside of the database: ``orchestrator.object_store``, which is loaded where it is used."""

    async def put(self, blob: UUID, name: str, data: bytes) -> None: ...
    async def get(self, blob: UUID, name: str) -> bytes: ...
    async def remove(self, blob: UUID) -> None: ...


class Blobs:
    """The contents that a replica stores and gives."""

    def __init__(self, database: Database, objects: Objects | None = None) -> None:
        self._database = database
        self._objects = objects

    async def state(self, sha256: str, runner: UUID) -> BlobState:
        """Say how much of a content need not be sent."""
        whole = await self._database.row(sql.BLOB_KNOWN, sha256, runner)
        if whole is not None:
            return BlobState(is_whole=True, size_bytes=whole["size_bytes"])
        begun = await self._database.row(sql.UPLOAD_FIND, runner, sha256)
        size = 0 if begun is None else begun["upload_chunks"] * begun["chunk_bytes"]
        return BlobState(is_whole=False, size_bytes=size)

    async def upload(self, sha256: str, body: AsyncIterator[bytes], *, runner: UUID, offset: int = 0) -> None:
        """Store a content; where it is there already, see that the runner has it, too.

        :param offset: how many bytes of it are stored already, by an upload of this runner that broke off.
        :raises RequestInvalid: when what came has another hash; nothing of it stays.
        :raises Conflict: when another number of bytes is there.
        """
        if not offset and await self._database.value(sql.BLOB_EXISTS, sha256) is not None:
            await _compare(body, sha256)
            await self._database.rows(sql.BLOB_SENT, sha256, runner)
            return
        upload = await self._begin(sha256, runner) if not offset else await self._take_up(sha256, runner, offset)
        async for chunk in _chunks(body, upload.chunk_bytes):
            if upload.size_bytes + len(chunk) > BLOB_BYTES_MAXIMUM:
                await self._discard(upload)
                raise _too_large()
            await self._add(upload, chunk)
        if upload.digest.hexdigest() != sha256:
            await self._discard(upload)
            raise _damaged(upload.digest.hexdigest(), sha256)
        if not await self._finish(upload, sha256):
            await self._discard(upload)
        await self._database.rows(sql.BLOB_SENT, sha256, runner)

    async def content(self, blob: UUID, size: int) -> AsyncIterator[bytes]:
        """Give a content, chunk by chunk."""
        place = await self._database.row(sql.BLOB_PLACE, blob)
        position = 0
        while size > 0 and place is not None:
            chunk = await self._chunk(blob, place["store"], position)
            size -= len(chunk)
            position += 1
            yield chunk

    async def remove_remnants(self) -> None:
        """Remove chunks of removed contents from the object store."""
        if self._objects is None:
            return
        while rows := await self._database.rows(sql.REMNANTS_LIST, REMNANTS_STEP):
            for row in rows:
                await self._objects.remove(row["blob_id"])
                await self._database.rows(sql.REMNANT_DONE, row["blob_id"])

    async def _begin(self, sha256: str, runner: UUID) -> _Upload:
        store, chunk_bytes = ("postgres", CHUNK_BYTES) if self._objects is None else ("objects", OBJECT_CHUNK_BYTES)
        upload = _Upload(uuid7(), store, chunk_bytes)
        try:
            await self._database.rows(sql.BLOB_BEGIN, upload.id, store, chunk_bytes, sha256, runner, upload.writer)
        except asyncpg.UniqueViolationError as error:
            raise _taken(sha256) from error
        return upload

    async def _take_up(self, sha256: str, runner: UUID, offset: int) -> _Upload:
        row: Row | None = await self._database.row(sql.UPLOAD_FIND, runner, sha256)
        if row is None or row["upload_chunks"] * row["chunk_bytes"] != offset:
            there = 0 if row is None else row["upload_chunks"] * row["chunk_bytes"]
            raise Conflict(
                f"{there} bytes of content {sha256} are stored, and it was to go on from {offset}", code="upload_moved"
            )
        upload = _Upload(row["id"], row["store"], row["chunk_bytes"])
        if await self._database.row(sql.UPLOAD_TAKE, upload.id, upload.writer, row["upload_chunks"]) is None:
            raise _taken(sha256)
        for position in range(row["upload_chunks"]):
            upload.note(await self._chunk(upload.id, upload.store, position))
        return upload

    async def _add(self, upload: _Upload, chunk: bytes) -> None:
        kept = chunk
        if upload.store != "postgres":
            name = f"{upload.position:08d}-{upload.writer}"
            await self._store().put(upload.id, name, chunk)
            kept = name.encode()
        if await self._database.row(sql.CHUNK_ADD, upload.id, upload.position, kept, upload.writer) is None:
            raise _taken(str(upload.id))
        upload.note(chunk)

    async def _chunk(self, blob: UUID, store: str, position: int) -> bytes:
        kept: bytes = await self._database.value(sql.CHUNK_GET, blob, position)
        return kept if store == "postgres" else await self._store().get(blob, kept.decode())

    def _store(self) -> Objects:
        if self._objects is None:
            raise StoreUnavailable(
                "the content is in an object store, and this orchestrator knows none",
                hint="Start all orchestrators with the same `artifact_store`.",
            )
        return self._objects

    async def _finish(self, upload: _Upload, sha256: str) -> bool:
        try:
            row = await self._database.row(sql.BLOB_FINISH, upload.id, sha256, upload.size_bytes, upload.writer)
        except asyncpg.UniqueViolationError:
            return False  # somebody else's copy of the same content came first: it serves as well
        return row is not None

    async def _discard(self, upload: _Upload) -> None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(CLEANUP_SECONDS):
            await self._database.rows(sql.BLOB_DISCARD, upload.id, upload.writer)


class _Upload:
    """A content that is being stored."""

    def __init__(self, blob: UUID, store: str, chunk_bytes: int) -> None:
        self.id = blob
        self.store = store
        self.chunk_bytes = chunk_bytes
        self.writer = uuid7()
        self.digest = hashlib.sha256()
        self.size_bytes = 0
        self.position = 0

    def note(self, chunk: bytes) -> None:
        """Count a chunk that is stored."""
        self.digest.update(chunk)
        self.size_bytes += len(chunk)
        self.position += 1


async def _compare(body: AsyncIterator[bytes], sha256: str) -> None:
    """Read a content that is stored already: what counts is that its sender has it."""
    digest = hashlib.sha256()
    size = 0
    async for piece in body:
        size += len(piece)
        if size > BLOB_BYTES_MAXIMUM:
            raise _too_large()
        digest.update(piece)
    if digest.hexdigest() != sha256:
        raise _damaged(digest.hexdigest(), sha256)


def _damaged(found: str, sent_as: str) -> RequestInvalid:
    return RequestInvalid(f"the content has SHA-256 {found}, and was sent as {sent_as}", code="blob_damaged")


def _too_large() -> TooLarge:
    return TooLarge(f"an artifact has at most {BLOB_BYTES_MAXIMUM // 1024**3} GiB")


def _taken(what: str) -> Conflict:
    return Conflict(f"the upload of content {what} was taken up by another request", code="upload_moved")


async def _chunks(body: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """Cut a body into chunks of one size, whatever pieces it comes in."""
    gathered = bytearray()
    async for piece in body:
        gathered += piece
        while len(gathered) >= size:
            yield bytes(gathered[:size])
            del gathered[:size]
    if gathered:
        yield bytes(gathered)
