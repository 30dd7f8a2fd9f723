"""Statements about caches."""

from __future__ import annotations

from typing import Final

# $1 job, $2 attempt, $3 runner: the fence, as for events, and what a cache's key and scope follow from.
CACHE_ATTEMPT: Final = """
SELECT job.pipeline_id, job.version_id, job.inputs, job.number
FROM moonyard.attempts AS held JOIN moonyard.jobs AS job ON job.id = held.job_id
WHERE held.job_id = $1 AND held.number = $2 AND held.runner_id = $3 AND held.finished_at IS NULL
"""

# $1 pipeline, $2 scopes in the order in which they count, $3 paths, $4 key, $5 how other keys may begin, in order. The
# newest is taken of those that begin in the same way.
CACHE_FIND: Final = """
WITH known AS (
    SELECT cache.id, array_position($2::text[], cache.scope) AS scope_place, start.place, cache.created_at
    FROM moonyard.caches AS cache
    CROSS JOIN LATERAL (
        SELECT 0 AS place WHERE cache.key = $4
        UNION ALL
        SELECT given.place FROM unnest($5::text[]) WITH ORDINALITY AS given (start, place)
        WHERE starts_with(cache.key, given.start)
        ORDER BY place
        LIMIT 1
    ) AS start
    WHERE cache.pipeline_id = $1 AND cache.scope = ANY ($2) AND cache.paths = $3
    ORDER BY scope_place, start.place, cache.created_at DESC, cache.id DESC
    LIMIT 1
)
UPDATE moonyard.caches AS cache SET used_at = now(), hits = hits + 1
FROM known, moonyard.blobs AS blob
WHERE cache.id = known.id AND blob.id = cache.blob_id
RETURNING cache.id, cache.scope, cache.key, blob.sha256, blob.size_bytes
"""

# $1 pipeline, $2 scope, $3 paths, $4 key
CACHE_HAS: Final = """
SELECT cache.id, cache.scope, cache.key, blob.sha256, blob.size_bytes
FROM moonyard.caches AS cache JOIN moonyard.blobs AS blob ON blob.id = cache.blob_id
WHERE cache.pipeline_id = $1 AND cache.scope = $2 AND cache.paths = $3 AND cache.key = $4
"""

# $1 cache, $2 pipeline
CACHE_GET: Final = """
SELECT cache.scope, cache.paths, blob.id, blob.sha256, blob.size_bytes
FROM moonyard.caches AS cache JOIN moonyard.blobs AS blob ON blob.id = cache.blob_id
WHERE cache.id = $1 AND cache.pipeline_id = $2
"""

# The unique constraint decides between two who save the same key: what the first saved stays.
CACHE_SAVE: Final = """
INSERT INTO moonyard.caches (id, pipeline_id, scope, key, paths, blob_id, size_bytes, job_number)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (pipeline_id, scope, paths_hash, key) DO NOTHING
RETURNING id
"""

# $1 pipeline, $2 how many bytes stay, of those that were used last; $3 a scope that gives way first, but for $4 in it,
# which was saved just now: a branch that saves again and again pushes out its own, and not what all others read.
CACHES_REMOVE_BEYOND: Final = """
WITH ranked AS (
    SELECT id, sum(size_bytes) OVER (
        ORDER BY scope IS NOT DISTINCT FROM $3 AND id <> $4, used_at DESC, id DESC
    ) AS total
    FROM moonyard.caches WHERE pipeline_id = $1
)
DELETE FROM moonyard.caches WHERE id = ANY (ARRAY(SELECT id FROM ranked WHERE total > $2))
RETURNING key, size_bytes
"""

# $1 seconds, $2 how many
CACHES_REMOVE_UNUSED: Final = """
WITH unused AS MATERIALIZED (
    SELECT id FROM moonyard.caches WHERE used_at < now() - make_interval(secs => $1)
    ORDER BY used_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
)
DELETE FROM moonyard.caches WHERE id = ANY (ARRAY(SELECT id FROM unused))
RETURNING id
"""

# $1 pipeline's name, or NULL for all; $2 how many; $3 and $4 the patterns of pipelines that may be seen
CACHES_LIST: Final = """
SELECT
    pipeline.name AS pipeline, cache.scope, cache.key, cache.paths, cache.size_bytes, cache.created_at, cache.used_at,
    cache.hits, cache.job_number
FROM moonyard.caches AS cache JOIN moonyard.pipelines AS pipeline ON pipeline.id = cache.pipeline_id
WHERE ($1::text IS NULL OR pipeline.name = $1) AND moonyard.names_fit(pipeline.name, $3::text[], $4::text[])
ORDER BY cache.used_at DESC, cache.id DESC
LIMIT $2
"""

# $1 pipeline's name, $2 who wants it, $3 key, $4 scope
CACHES_FORGET: Final = "SELECT moonyard.caches_forget($1, $2, $3, $4)"
