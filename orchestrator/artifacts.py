"""Keeps what jobs keep: contents by SHA-256, each once, and the names that jobs gave them.

A content is uploaded in chunks, each in a short transaction of its own: one long one would hold back the cleaning of
the queue's table for as long as the slowest upload. Until its hash was compared it has none in the database and cannot
be found; if it does not come whole, it is removed, and what a dead replica left of one is swept later.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

import anyio
import asyncpg

from orchestrator import events
from orchestrator.database import Database, Row
from orchestrator.problems import Conflict, NotFound, RequestInvalid, TooLarge
from orchestrator.sql import artifacts as sql
from schema import times
from schema.ids import uuid7
from schema.wire import Artifact, ArtifactSave

CHUNK_BYTES: Final = 1024 * 1024
BLOB_BYTES_MAXIMUM: Final = 16 * 1024**3
NAME_LENGTH_MAXIMUM: Final = 255
CLEANUP_SECONDS: Final = 10.0
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_CONTENT_TYPE: Final = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(?:; ?[\w-]+=[\w.+-]+)*", re.ASCII)


def check_sha256(text: str) -> str:
    """Refuse what is no SHA-256 in hex.

    :raises NotFound: for a path names nothing then.
    """
    if not _SHA256.fullmatch(text):
        raise NotFound(f"`{text[:80]}` is no SHA-256 in 64 lower-case hex digits", code="blob_unknown")
    return text


async def upload(database: Database, sha256: str, body: AsyncIterator[bytes]) -> None:
    """Store a content, unless it is there already.

    :raises RequestInvalid: when what came has another hash; nothing of it stays.
    """
    if await database.value(sql.BLOB_EXISTS, sha256) is not None:
        async for _ in body:  # its sender waits for the answer only after it has sent all
            pass
        return
    blob = uuid7()
    await database.rows(sql.BLOB_BEGIN, blob)
    is_stored = False
    try:
        digest = hashlib.sha256()
        size = 0
        async for position, chunk in _chunks(body):
            digest.update(chunk)
            size += len(chunk)
            if size > BLOB_BYTES_MAXIMUM:
                raise TooLarge(f"an artifact has at most {BLOB_BYTES_MAXIMUM // 1024**3} GiB")
            await database.rows(sql.BLOB_CHUNK, blob, position, chunk)
        if digest.hexdigest() != sha256:
            raise RequestInvalid(
                f"the content has SHA-256 {digest.hexdigest()}, and was sent as {sha256}", code="blob_damaged"
            )
        is_stored = await _finish(database, blob, sha256, size)
    finally:
        if not is_stored:
            with anyio.CancelScope(shield=True), anyio.move_on_after(CLEANUP_SECONDS):
                await database.rows(sql.BLOB_DISCARD, blob)


async def save(database: Database, runner: UUID, job: UUID, attempt: int, message: ArtifactSave) -> Artifact:
    """Give an uploaded content a name among the job's artifacts.

    :raises Conflict: when the attempt is not the runner's, or has an artifact of that name.
    """
    name = message.name
    if not 0 < len(name) <= NAME_LENGTH_MAXIMUM or not name.isprintable() or not _is_relative(name):
        raise RequestInvalid(
            f"{name[:60]!r} cannot be an artifact's name: it is a relative path without `..` or control characters, "
            f"of at most {NAME_LENGTH_MAXIMUM} characters"
        )
    if not _CONTENT_TYPE.fullmatch(message.content_type) or len(message.content_type) > NAME_LENGTH_MAXIMUM:
        raise RequestInvalid(f"`content_type` is {message.content_type[:60]!r}, which is no media type")
    async with database.transaction() as connection:
        if await connection.fetchrow(sql.ATTEMPT_HOLD, job, attempt, runner) is None:
            raise events.gone(job, attempt)
        blob = await connection.fetchrow(sql.BLOB_GET, message.sha256)
        if blob is None:
            raise NotFound(
                f"no content with SHA-256 {message.sha256[:80]!r} was uploaded",
                code="blob_unknown",
                hint=f"PUT it to /v1/runner/blobs/{message.sha256[:64]} first.",
            )
        if blob["size_bytes"] != message.size_bytes:
            raise RequestInvalid(f"`size_bytes` is {message.size_bytes}, and the content has {blob['size_bytes']}")
        row = await connection.fetchrow(sql.ARTIFACT_SAVE, job, name, attempt, blob["id"], message.content_type)
        if row is None:
            raise Conflict(
                f"the job has an artifact `{name}` already",
                code="artifact_exists",
                hint="Give this one another `name`.",
            )
    return Artifact(
        job=str(job),
        name=name,
        sha256=message.sha256,
        size_bytes=message.size_bytes,
        content_type=message.content_type,
        created_at=times.rfc3339(row["created_at"]),
    )


async def listed(database: Database, job: UUID) -> list[Artifact]:
    return [
        Artifact(
            job=str(job),
            name=row["name"],
            sha256=row["sha256"],
            size_bytes=row["size_bytes"],
            content_type=row["content_type"],
            created_at=times.rfc3339(row["created_at"]),
        )
        for row in await database.rows(sql.ARTIFACTS_LIST, job)
    ]


async def find(database: Database, job: UUID, name: str) -> Row:
    """Find an artifact's content.

    :raises NotFound: with the names that there are.
    """
    row = await database.row(sql.ARTIFACT_GET, job, name.replace("\0", "\N{REPLACEMENT CHARACTER}"))
    if row is not None:
        return row
    names = ", ".join(f"`{kept.name}`" for kept in (await listed(database, job))[:20])
    raise NotFound(
        f"job {job} has no artifact `{name[:NAME_LENGTH_MAXIMUM]}`",
        code="artifact_unknown",
        hint=f"It kept {names}." if names else "It kept none.",
    )


async def content(database: Database, blob: UUID, size: int) -> AsyncIterator[bytes]:
    """Give a content, chunk by chunk."""
    position = 0
    while size > 0:
        chunk: bytes = await database.value(sql.BLOB_CHUNK_GET, blob, position)
        size -= len(chunk)
        position += 1
        yield chunk


async def _finish(database: Database, blob: UUID, sha256: str, size: int) -> bool:
    try:
        return await database.row(sql.BLOB_FINISH, blob, sha256, size) is not None
    except asyncpg.UniqueViolationError:
        return False  # somebody else's copy of the same content came first: it serves as well


async def _chunks(body: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, bytes]]:
    """Cut a body into chunks of one size, whatever pieces it comes in."""
    position = 0
    gathered = bytearray()
    async for piece in body:
        gathered += piece
        while len(gathered) >= CHUNK_BYTES:
            yield position, bytes(gathered[:CHUNK_BYTES])
            del gathered[:CHUNK_BYTES]
            position += 1
    if gathered:
        yield position, bytes(gathered)


def _is_relative(name: str) -> bool:
    return "\\" not in name and all(part not in {"", ".", ".."} for part in name.split("/"))
