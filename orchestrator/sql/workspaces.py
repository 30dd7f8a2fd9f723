"""Statements about kept workspaces."""

from __future__ import annotations

from typing import Final

# $1 job, $2 attempt, $3 runner, $4 content: fenced as all that a runner sends. How long it is kept says the pipeline,
# not the runner; the newest attempt's takes the place of an older one's.
WORKSPACE_KEEP: Final = """
INSERT INTO moonyard.kept_workspaces AS kept (job_id, attempt, blob_id, expires_at)
SELECT held.job_id, held.number, $4,
    now() + make_interval(secs => (version.definition ->> 'keep_workspace')::double precision)
FROM moonyard.attempts AS held
JOIN moonyard.jobs AS job ON job.id = held.job_id
JOIN moonyard.pipeline_versions AS version ON version.id = job.version_id
WHERE held.job_id = $1 AND held.number = $2 AND held.runner_id = $3 AND held.finished_at IS NULL
    AND version.definition ->> 'keep_workspace' IS NOT NULL
ON CONFLICT (job_id) DO UPDATE SET
    attempt = excluded.attempt, blob_id = excluded.blob_id, kept_at = excluded.kept_at, expires_at = excluded.expires_at
WHERE kept.attempt <= excluded.attempt
RETURNING expires_at
"""

# $1 job, $2 attempt, $3 runner: what an attempt that resumes has to begin with.
WORKSPACE_GET: Final = """
SELECT kept.attempt, blob.id, blob.sha256, blob.size_bytes
FROM moonyard.attempts AS held
JOIN moonyard.jobs AS job ON job.id = held.job_id AND (job.resume ->> 'workspace')::boolean
JOIN moonyard.kept_workspaces AS kept ON kept.job_id = job.id
JOIN moonyard.blobs AS blob ON blob.id = kept.blob_id
WHERE held.job_id = $1 AND held.number = $2 AND held.runner_id = $3 AND held.finished_at IS NULL
"""

WORKSPACE_OF_JOB: Final = """
SELECT attempt, expires_at FROM moonyard.kept_workspaces WHERE job_id = $1 AND expires_at > now()
"""

# $1 how many. One that a job under way begins with stays until that job ends.
WORKSPACES_REMOVE_EXPIRED: Final = """
WITH expired AS MATERIALIZED (
    SELECT kept.job_id
    FROM moonyard.kept_workspaces AS kept JOIN moonyard.jobs AS job ON job.id = kept.job_id
    WHERE kept.expires_at < now() AND (job.finished_at IS NOT NULL OR job.resume IS NULL)
    ORDER BY kept.expires_at
    LIMIT $1
    FOR UPDATE OF kept SKIP LOCKED
)
DELETE FROM moonyard.kept_workspaces WHERE job_id = ANY (ARRAY(SELECT job_id FROM expired))
RETURNING job_id
"""
