"""Statements about artifacts and their contents."""

from __future__ import annotations

from typing import Final

# Whoever finds it will name it soon: the update keeps it from being swept until then.
BLOB_EXISTS: Final = "UPDATE moonyard.blobs SET created_at = now() WHERE sha256 = $1 RETURNING id"
BLOB_BEGIN: Final = "INSERT INTO moonyard.blobs (id) VALUES ($1)"
BLOB_CHUNK: Final = "INSERT INTO moonyard.blob_chunks (blob_id, position, data) VALUES ($1, $2, $3)"
BLOB_DISCARD: Final = "DELETE FROM moonyard.blobs WHERE id = $1 AND sha256 IS NULL"

# The unique constraint decides between two who upload the same content: the second's copy is discarded.
BLOB_FINISH: Final = """
UPDATE moonyard.blobs SET sha256 = $2, size_bytes = $3
WHERE id = $1 AND NOT EXISTS (SELECT FROM moonyard.blobs WHERE sha256 = $2)
RETURNING id
"""

# $1 how old uploads may be, in seconds
BLOBS_SWEEP_NASCENT: Final = """
DELETE FROM moonyard.blobs WHERE sha256 IS NULL AND created_at < now() - make_interval(secs => $1)
"""

# $1 how old contents may be that no artifact, no kept workspace and no cache names, in seconds
BLOBS_SWEEP_UNNAMED: Final = """
DELETE FROM moonyard.blobs AS blob
WHERE blob.sha256 IS NOT NULL AND blob.created_at < now() - make_interval(secs => $1)
    AND NOT EXISTS (SELECT FROM moonyard.artifacts WHERE blob_id = blob.id)
    AND NOT EXISTS (SELECT FROM moonyard.kept_workspaces WHERE blob_id = blob.id)
    AND NOT EXISTS (SELECT FROM moonyard.caches WHERE blob_id = blob.id)
"""

# $1 job, $2 attempt, $3 runner: the fence, as for events; the lock keeps the attempt as it is until the commit.
ATTEMPT_HOLD: Final = """
SELECT 1 FROM moonyard.attempts
WHERE job_id = $1 AND number = $2 AND runner_id = $3 AND finished_at IS NULL
FOR SHARE
"""

BLOB_GET: Final = "SELECT id, size_bytes FROM moonyard.blobs WHERE sha256 = $1 FOR KEY SHARE"

# A name is taken within an attempt; what a lost attempt kept gives way to its successor's.
ARTIFACT_SAVE: Final = """
INSERT INTO moonyard.artifacts AS artifact (job_id, name, attempt, blob_id, content_type) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (job_id, name) DO UPDATE SET
    attempt = excluded.attempt, blob_id = excluded.blob_id, content_type = excluded.content_type, created_at = now()
WHERE artifact.attempt < excluded.attempt
    OR (artifact.attempt = excluded.attempt AND artifact.blob_id = excluded.blob_id)
RETURNING created_at
"""

ARTIFACTS_LIST: Final = """
SELECT artifact.name, blob.sha256, blob.size_bytes, artifact.content_type, artifact.created_at
FROM moonyard.artifacts AS artifact JOIN moonyard.blobs AS blob ON blob.id = artifact.blob_id
WHERE artifact.job_id = $1
ORDER BY artifact.name
"""

ARTIFACT_GET: Final = """
SELECT blob.id, blob.sha256, blob.size_bytes, artifact.content_type
FROM moonyard.artifacts AS artifact JOIN moonyard.blobs AS blob ON blob.id = artifact.blob_id
WHERE artifact.job_id = $1 AND artifact.name = $2
"""

BLOB_CHUNK_GET: Final = "SELECT data FROM moonyard.blob_chunks WHERE blob_id = $1 AND position = $2"
