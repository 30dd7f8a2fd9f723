"""Statements about contents and their chunks."""

from __future__ import annotations

from typing import Final

# Whoever finds it will name it soon: the update keeps it from being swept until then.
BLOB_EXISTS: Final = "UPDATE moonyard.blobs SET created_at = now() WHERE sha256 = $1 RETURNING id, size_bytes"

# $1 SHA-256, $2 runner: one that it has sent.
BLOB_KNOWN: Final = """
UPDATE moonyard.blobs AS blob SET created_at = now() FROM moonyard.blob_senders AS sender
WHERE blob.sha256 = $1 AND sender.blob_id = blob.id AND sender.runner_id = $2
RETURNING blob.size_bytes
"""

# $1 id, $2 store, $3 bytes of a chunk, $4 SHA-256 it is to have, $5 runner, $6 writer. An upload of the same content by
# the same runner that broke off gives way.
BLOB_BEGIN: Final = """
WITH earlier AS (
    DELETE FROM moonyard.blobs WHERE sha256 IS NULL AND upload_runner_id = $5 AND upload_sha256 = $4 RETURNING id
)
INSERT INTO moonyard.blobs (id, store, chunk_bytes, upload_sha256, upload_runner_id, upload_writer)
SELECT $1, $2, $3, $4, $5, $6 FROM (SELECT count(*) FROM earlier) AS gone  -- not before it has gone
"""

# $1 runner, $2 SHA-256: an upload that broke off.
UPLOAD_FIND: Final = """
SELECT id, store, chunk_bytes, upload_chunks FROM moonyard.blobs
WHERE sha256 IS NULL AND upload_runner_id = $1 AND upload_sha256 = $2
"""

# $1 id, $2 writer, $3 how many chunks the writer knows of: takes the upload from whoever wrote it before.
UPLOAD_TAKE: Final = """
UPDATE moonyard.blobs SET upload_writer = $2, created_at = now()
WHERE id = $1 AND sha256 IS NULL AND upload_chunks = $3
RETURNING id
"""

# $1 id, $2 position, $3 data, or the name of the object that has it, $4 writer. Nothing where another request has taken
# the upload over.
CHUNK_ADD: Final = """
WITH ours AS (
    UPDATE moonyard.blobs SET upload_chunks = $2 + 1, created_at = now()
    WHERE id = $1 AND upload_writer = $4 AND upload_chunks = $2
    RETURNING id
)
INSERT INTO moonyard.blob_chunks (blob_id, position, data) SELECT id, $2, $3 FROM ours
RETURNING position
"""

CHUNK_GET: Final = "SELECT data FROM moonyard.blob_chunks WHERE blob_id = $1 AND position = $2"

# The unique constraint decides between two who upload the same content: the second's copy is discarded.
BLOB_FINISH: Final = """
UPDATE moonyard.blobs
SET sha256 = $2, size_bytes = $3, upload_sha256 = NULL, upload_runner_id = NULL, upload_writer = NULL
WHERE id = $1 AND upload_writer = $4 AND NOT EXISTS (SELECT FROM moonyard.blobs WHERE sha256 = $2)
RETURNING id
"""

# $1 id, $2 writer
BLOB_DISCARD: Final = "DELETE FROM moonyard.blobs WHERE id = $1 AND sha256 IS NULL AND upload_writer = $2"

BLOB_PLACE: Final = "SELECT store, chunk_bytes FROM moonyard.blobs WHERE id = $1"

# $1 how old uploads may be, in seconds, since their last chunk
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

# $1 SHA-256, $2 runner: that it has sent all of it once. (It may name it soon: it is not swept until then.)
BLOB_SENT: Final = """
WITH whole AS (
    UPDATE moonyard.blobs SET created_at = now() WHERE sha256 = $1 RETURNING id, size_bytes
)
INSERT INTO moonyard.blob_senders (blob_id, runner_id) SELECT id, $2 FROM whole
ON CONFLICT (blob_id, runner_id) DO NOTHING
"""

# $1 SHA-256, $2 runner: a content that it has sent, to be named. To all others it is not there.
BLOB_GET: Final = """
SELECT blob.id, blob.size_bytes FROM moonyard.blobs AS blob
JOIN moonyard.blob_senders AS sender ON sender.blob_id = blob.id AND sender.runner_id = $2
WHERE blob.sha256 = $1
FOR KEY SHARE OF blob
"""

# $1 how many: contents whose chunks have to go from the object store. Two replicas may do it at once.
REMNANTS_LIST: Final = "SELECT blob_id FROM moonyard.blob_remnants ORDER BY removed_at LIMIT $1"
REMNANT_DONE: Final = "DELETE FROM moonyard.blob_remnants WHERE blob_id = $1"
