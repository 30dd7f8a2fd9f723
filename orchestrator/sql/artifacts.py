"""Statements about artifacts and their contents."""

from __future__ import annotations

from typing import Final

# $1 job, $2 attempt, $3 runner: the fence, as for events; the lock keeps the attempt as it is until the commit.
ATTEMPT_HOLD: Final = """
SELECT 1 FROM moonyard.attempts
WHERE job_id = $1 AND number = $2 AND runner_id = $3 AND finished_at IS NULL
FOR SHARE
"""

# A name is taken within an attempt; what a lost attempt kept gives way to its successor's.
ARTIFACT_SAVE: Final = """
INSERT INTO moonyard.artifacts AS artifact (job_id, name, attempt, blob_id, content_type, stage, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7))
ON CONFLICT (job_id, name) DO UPDATE SET
    attempt = excluded.attempt, blob_id = excluded.blob_id, content_type = excluded.content_type,
    stage = excluded.stage, expires_at = excluded.expires_at, created_at = now()
WHERE artifact.attempt < excluded.attempt
    OR (artifact.attempt = excluded.attempt AND artifact.blob_id = excluded.blob_id)
    OR artifact.expires_at < now()
RETURNING created_at, expires_at
"""

ARTIFACTS_LIST: Final = """
SELECT artifact.name, blob.sha256, blob.size_bytes, artifact.content_type, artifact.created_at, artifact.stage,
    artifact.expires_at
FROM moonyard.artifacts AS artifact JOIN moonyard.blobs AS blob ON blob.id = artifact.blob_id
WHERE artifact.job_id = $1 AND (artifact.expires_at IS NULL OR artifact.expires_at > now())
ORDER BY artifact.name
"""

ARTIFACT_GET: Final = """
SELECT blob.id, blob.sha256, blob.size_bytes, artifact.content_type
FROM moonyard.artifacts AS artifact JOIN moonyard.blobs AS blob ON blob.id = artifact.blob_id
WHERE artifact.job_id = $1 AND artifact.name = $2 AND (artifact.expires_at IS NULL OR artifact.expires_at > now())
"""

# $1 job, $2 attempt, $3 runner: the attempt that asks, and its pipeline.
READER: Final = """
SELECT job.id, job.number, job.pipeline_id, pipeline.name AS pipeline
FROM moonyard.attempts AS held
JOIN moonyard.jobs AS job ON job.id = held.job_id
JOIN moonyard.pipelines AS pipeline ON pipeline.id = job.pipeline_id
WHERE held.job_id = $1 AND held.number = $2 AND held.runner_id = $3 AND held.finished_at IS NULL
"""

# Whose artifacts are wanted. Who may read them says the newest version of the pipeline that they are of: what it says
# now counts, also for jobs of long ago.
_SOURCE: Final = """
SELECT
    job.id, job.number, job.pipeline_id, pipeline.name AS pipeline, newest.definition -> 'artifact_readers' AS readers
FROM moonyard.jobs AS job
JOIN moonyard.pipelines AS pipeline ON pipeline.id = job.pipeline_id
LEFT JOIN moonyard.pipeline_versions AS newest ON newest.id = pipeline.version_id
"""

SOURCE_OF_JOB: Final = f"{_SOURCE} WHERE job.id = $1"

# $1 a pipeline's name: its newest job that succeeded.
SOURCE_OF_PIPELINE: Final = f"""{_SOURCE}
WHERE job.pipeline_id = (SELECT id FROM moonyard.pipelines WHERE name = $1) AND job.state = 'succeeded'
ORDER BY job.number DESC
LIMIT 1
"""  # noqa: S608  # all of it stands here

# $1 how many
ARTIFACTS_REMOVE_EXPIRED: Final = """
WITH expired AS MATERIALIZED (
    SELECT job_id, name FROM moonyard.artifacts
    WHERE expires_at < now()
    ORDER BY expires_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
DELETE FROM moonyard.artifacts AS artifact USING expired
WHERE artifact.job_id = expired.job_id AND artifact.name = expired.name
RETURNING artifact.name
"""
