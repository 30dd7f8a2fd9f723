"""Workspaces of failed attempts, kept for a retry that begins at a stage: packed, among the contents of artifacts."""

from __future__ import annotations

from uuid import UUID

from orchestrator import events
from orchestrator.database import Database, Row
from orchestrator.problems import NotFound, RequestInvalid
from orchestrator.sql import artifacts as artifacts_sql
from orchestrator.sql import blobs as blobs_sql
from orchestrator.sql import workspaces as sql
from schema import times
from schema.wire import WorkspaceKeep, WorkspaceKept


async def keep(database: Database, runner: UUID, job: UUID, attempt: int, message: WorkspaceKeep) -> WorkspaceKept:
    """Keep an uploaded content as the workspace of an attempt, for as long as the pipeline says.

    :raises Conflict: when the attempt is not the runner's.
    :raises RequestInvalid: when the pipeline does not keep workspaces.
    """
    async with database.transaction() as connection:
        if await connection.fetchrow(artifacts_sql.ATTEMPT_HOLD, job, attempt, runner) is None:
            raise events.gone(job, attempt)
        blob = await connection.fetchrow(blobs_sql.BLOB_GET, message.sha256, runner)
        if blob is None:
            raise NotFound(
                f"no content with SHA-256 {message.sha256[:80]!r} was uploaded by this runner", code="blob_unknown"
            )
        row = await connection.fetchrow(sql.WORKSPACE_KEEP, job, attempt, runner, blob["id"])
    if row is None:
        raise RequestInvalid(f"the pipeline of job {job} does not keep workspaces")
    return WorkspaceKept(expires_at=times.rfc3339(row["expires_at"]))


async def find(database: Database, runner: UUID, job: UUID, attempt: int) -> Row:
    """Find the workspace that an attempt is to begin with.

    :raises NotFound: when there is none for it.
    """
    row = await database.row(sql.WORKSPACE_GET, job, attempt, runner)
    if row is None:
        raise NotFound(f"attempt {attempt} of job {job} has no kept workspace to begin with", code="workspace_not_kept")
    return row
