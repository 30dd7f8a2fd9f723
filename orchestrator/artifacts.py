"""What jobs keep: names for contents (``orchestrator.blobs``), and who may read them.

A job reads its own artifacts and those of its pipeline's other jobs. Those of another pipeline it reads where that
one's newest version names the job's pipeline in `artifact_readers`, and not otherwise; to all others it says the same
as for what does not exist.
"""

from __future__ import annotations

import math
import re
from typing import Final
from uuid import UUID

import msgspec

from orchestrator import events, jobs
from orchestrator.database import Database, Row
from orchestrator.problems import Conflict, NotFound, RequestInvalid
from orchestrator.sql import artifacts as sql
from orchestrator.sql import blobs as blobs_sql
from orchestrator.tokens import moment
from schema import times
from schema.wire import Artifact, ArtifactSave, ArtifactsFind, ArtifactsFound

NAME_LENGTH_MAXIMUM: Final = 255
RETENTION_SECONDS_MAXIMUM: Final = 10 * 366 * 86400.0
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_CONTENT_TYPE: Final = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(?:; ?[\w-]+=[\w.+-]+)*", re.ASCII)


def check_sha256(text: str) -> str:
    """Refuse what is no SHA-256 in hex.

    :raises NotFound: for a path names nothing then.
    """
    if not _SHA256.fullmatch(text):
        raise NotFound(f"`{text[:80]}` is no SHA-256 in 64 lower-case hex digits", code="blob_unknown")
    return text


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
    if message.retention is not None and not (
        math.isfinite(message.retention) and 0 < message.retention <= RETENTION_SECONDS_MAXIMUM
    ):
        raise RequestInvalid(f"`retention` is {message.retention}: expected seconds, more than 0, at most ten years")
    async with database.transaction() as connection:
        if await connection.fetchrow(sql.ATTEMPT_HOLD, job, attempt, runner) is None:
            raise events.gone(job, attempt)
        blob = await connection.fetchrow(blobs_sql.BLOB_GET, message.sha256, runner)
        if blob is None:
            raise NotFound(
                f"no content with SHA-256 {message.sha256[:80]!r} was uploaded by this runner",
                code="blob_unknown",
                hint=f"PUT it to /v1/runner/blobs/{message.sha256[:64]} first.",
            )
        if blob["size_bytes"] != message.size_bytes:
            raise RequestInvalid(f"`size_bytes` is {message.size_bytes}, and the content has {blob['size_bytes']}")
        stage = None if message.stage is None else message.stage[:NAME_LENGTH_MAXIMUM].replace("\0", "")
        row = await connection.fetchrow(
            sql.ARTIFACT_SAVE, job, name, attempt, blob["id"], message.content_type, stage, message.retention
        )
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
        stage=stage,
        expires_at=moment(row["expires_at"]),
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
            stage=row["stage"],
            expires_at=moment(row["expires_at"]),
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


async def found(database: Database, runner: UUID, job: UUID, attempt: int, message: ArtifactsFind) -> ArtifactsFound:
    """Find artifacts that a job may read.

    :raises Conflict: when the attempt is not the runner's.
    :raises NotFound: when there are none, or they are not for this job.
    """
    source = await _source(database, await _reader(database, runner, job, attempt), message)
    artifacts = await listed(database, source["id"])
    if message.name is not None:
        await find(database, source["id"], message.name)
        artifacts = [artifact for artifact in artifacts if artifact.name == message.name]
    return ArtifactsFound(
        job=str(source["id"]), number=source["number"], pipeline=source["pipeline"], artifacts=artifacts
    )


async def readable(database: Database, runner: UUID, job: UUID, attempt: int, source: UUID, name: str) -> Row:
    """Find an artifact's content that a job may read.

    :raises Conflict: when the attempt is not the runner's.
    :raises NotFound: when there is none, or it is not for this job.
    """
    reader = await _reader(database, runner, job, attempt)
    await _source(database, reader, ArtifactsFind(job=str(source)))
    return await find(database, source, name)


async def _reader(database: Database, runner: UUID, job: UUID, attempt: int) -> Row:
    row = await database.row(sql.READER, job, attempt, runner)
    if row is None:
        raise events.gone(job, attempt)
    return row


async def _source(database: Database, reader: Row, message: ArtifactsFind) -> Row:
    if message.pipeline is not None and message.job is not None:
        raise RequestInvalid("`job` and `pipeline` both say whose artifacts are wanted: give one of them")
    if message.pipeline is not None:
        row = await database.row(sql.SOURCE_OF_PIPELINE, message.pipeline.replace("\0", ""))
        what = f"pipeline `{message.pipeline[:100]}` has no job that succeeded"
    elif message.job is not None:
        row = await _job_row(database, message.job)
        what = f"there is no job `{message.job[:60]}`"
    else:
        return reader
    if row is None or not _may_read(reader, row):
        raise NotFound(
            f"{what}, or pipeline `{reader['pipeline']}` may not read its artifacts",
            code="artifact_unknown",
            hint="The other pipeline says who may: `artifact_readers = { ... }`, in its newest version.",
        )
    return row


async def _job_row(database: Database, reference: str) -> Row | None:
    try:
        return await database.row(sql.SOURCE_OF_JOB, await jobs.resolve(database, reference))
    except NotFound:
        return None  # and the answer is that to a job whose artifacts may not be read


def _may_read(reader: Row, source: Row) -> bool:
    if source["pipeline_id"] == reader["pipeline_id"]:
        return True
    readers = source["readers"]
    return readers is not None and reader["pipeline"] in msgspec.json.decode(readers, type=list[str])


def _is_relative(name: str) -> bool:
    return "\\" not in name and all(part not in {"", ".", ".."} for part in name.split("/"))
