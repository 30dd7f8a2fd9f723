"""Statements about secrets and grants."""

from __future__ import annotations

from typing import Final

# $1 id for a new one, $2 scope, $3 name, $4 who sets it. It takes the next version's number; the row is locked until
# that version is there. `before` says whether scripts may read the version that is the newest by now.
VERSION_TAKE: Final = """
INSERT INTO moonyard.secrets AS secret (id, scope, name, last_version, created_by) VALUES ($1, $2, $3, 1, $4)
ON CONFLICT (scope, name) DO UPDATE SET last_version = secret.last_version + 1
RETURNING secret.id, secret.last_version AS version, (
    SELECT readable FROM moonyard.secret_versions WHERE secret_id = secret.id ORDER BY number DESC LIMIT 1
) AS before
"""

PIPELINE_EXISTS: Final = "SELECT moonyard.pipeline_of($1)"

VERSION_STORE: Final = """
INSERT INTO moonyard.secret_versions
    (id, secret_id, number, readable, nonce, ciphertext, key_id, wrapped_nonce, wrapped_key, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""

NOTE: Final = "SELECT moonyard.note($1, $2, $3, $4::jsonb)"

# $5 where from, $6 with which result
NOTE_ASKED: Final = "SELECT moonyard.note($1, $2, $3, $4::jsonb, $5, $6)"

# $1 a secret as people name it
NAMED_FIND: Final = "SELECT (moonyard.secret_of($1)).id"

# $1 secret, or NULL for all; $2 and $3 the patterns of pipelines whose secrets may be seen. One that is for any
# pipeline has no scope: it is seen by who may manage those of all.
SECRETS_LIST: Final = """
SELECT secret.id, secret.scope, secret.name, secret.created_at, newest.number AS version, newest.readable,
    newest.key_id, newest.created_at AS changed_at, newest.created_by AS changed_by,
    (SELECT count(*) FROM moonyard.grants WHERE secret_id = secret.id) AS grants
FROM moonyard.secrets AS secret
CROSS JOIN LATERAL (
    SELECT * FROM moonyard.secret_versions WHERE secret_id = secret.id ORDER BY number DESC LIMIT 1
) AS newest
WHERE ($1::uuid IS NULL OR secret.id = $1) AND moonyard.names_fit(secret.scope, $2::text[], $3::text[])
ORDER BY secret.scope, secret.name
LIMIT 1000
"""

VERSIONS_LIST: Final = """
SELECT number, readable, key_id, created_at, created_by FROM moonyard.secret_versions
WHERE secret_id = $1
ORDER BY number DESC
LIMIT 1000
"""

# $1 secret, $2 who wants it, $3 version
NAMED_REMOVE: Final = "SELECT versions, grants FROM moonyard.secret_remove($1, $2, $3)"

# $1 the key in use, $2 the keys that are here, $3 how many. Whoever else rewraps passes these rows over.
VERSIONS_TO_REWRAP: Final = """
SELECT version.id, version.secret_id, version.number, version.readable, version.key_id, version.wrapped_nonce,
    version.wrapped_key, secret.scope, secret.name
FROM moonyard.secret_versions AS version JOIN moonyard.secrets AS secret ON secret.id = version.secret_id
WHERE version.key_id <> $1 AND version.key_id = ANY ($2::text[])
ORDER BY version.id
LIMIT $3
FOR UPDATE OF version SKIP LOCKED
"""

VERSION_REWRAP: Final = """
UPDATE moonyard.secret_versions SET key_id = $2, wrapped_nonce = $3, wrapped_key = $4 WHERE id = $1
"""

# $1 the keys that are here
VERSIONS_OF_OTHER_KEYS: Final = """
SELECT key_id, count(*) AS versions
FROM (SELECT key_id FROM moonyard.secret_versions UNION ALL SELECT key_id FROM moonyard.hook_secrets) AS stored
WHERE key_id <> ALL ($1::text[])
GROUP BY key_id
ORDER BY key_id
"""

# $1 secret, $2 pipeline, $3 stages, $4 inputs, $5 runners, $6 follows, $7 who wants it
GRANT_ADD: Final = "SELECT moonyard.grant_add($1, $2, $3, $4::jsonb, $5, $6, $7)"

# $1 grant, $2 who wants it
GRANT_REMOVE: Final = "SELECT moonyard.grant_remove($1, $2)"

# $1 pipeline, $2 who wants it, $3 version, $4 grant
GRANTS_CONFIRM: Final = "SELECT sha256, secrets FROM moonyard.grants_confirm($1, $2, $3, $4)"

# $1 grant, $2 secret, $3 a pipeline's name: each or NULL; $4 and $5 the patterns that whoever asks may manage
GRANTS_LIST: Final = """
SELECT held.id, moonyard.secret_reference(secret.scope, secret.name) AS secret, held.pipeline, held.stages, held.inputs,
    held.follows, held.created_at, held.created_by,
    ARRAY(SELECT name FROM moonyard.runners WHERE id = ANY (held.runners) ORDER BY name) AS runners,
    ARRAY(
        SELECT pipeline.name FROM moonyard.pipelines AS pipeline
        WHERE NOT held.follows AND pipeline.version_id IS NOT NULL
            AND moonyard.pattern_fits(held.pipeline, pipeline.name)
            AND NOT EXISTS (
                SELECT FROM moonyard.grant_confirmations AS confirmed
                WHERE confirmed.grant_id = held.id AND confirmed.version_id = pipeline.version_id
            )
        ORDER BY pipeline.name
        LIMIT 100
    ) AS waits_for
FROM moonyard.grants AS held JOIN moonyard.secrets AS secret ON secret.id = held.secret_id
WHERE ($1::uuid IS NULL OR held.id = $1)
    AND ($2::uuid IS NULL OR held.secret_id = $2)
    AND ($3::text IS NULL OR moonyard.pattern_fits(held.pipeline, $3))
    AND moonyard.names_fit(held.pipeline, $4::text[], $5::text[])
ORDER BY secret.scope, secret.name, held.pipeline, held.id
LIMIT 1000
"""

# $1 job, $2 attempt, $3 runner: the fence, as for events.
ATTEMPT_VERSION: Final = """
SELECT job.version_id
FROM moonyard.attempts AS held JOIN moonyard.jobs AS job ON job.id = held.job_id
WHERE held.job_id = $1 AND held.number = $2 AND held.runner_id = $3 AND held.finished_at IS NULL
"""

# The same. The row stays locked until the delivery is written down, so that no events are stored meanwhile which nobody
# looked through for it.
ATTEMPT_ASKING: Final = """
SELECT job.number, held.number AS attempt, pipeline.name AS pipeline,
    coalesce(held.secret_requests, 0) AS requests
FROM moonyard.attempts AS held
JOIN moonyard.jobs AS job ON job.id = held.job_id
JOIN moonyard.pipelines AS pipeline ON pipeline.id = job.pipeline_id
WHERE held.job_id = $1 AND held.number = $2 AND held.runner_id = $3 AND held.finished_at IS NULL
FOR UPDATE OF held
"""

# $1 name, $2 pipeline. What is the pipeline's own comes before what is for any.
NEWEST_FIND: Final = """
SELECT secret.id AS secret_id, secret.scope, secret.name, newest.*
FROM moonyard.secrets AS secret
CROSS JOIN LATERAL (
    SELECT id, number, readable, nonce, ciphertext, key_id, wrapped_nonce, wrapped_key FROM moonyard.secret_versions
    WHERE secret_id = secret.id
    ORDER BY number DESC
    LIMIT 1
) AS newest
WHERE secret.name = $1 AND secret.scope IN ('', $2)
ORDER BY secret.scope DESC
LIMIT 1
"""

# $1 secret, $2 job, $3 the stage's names, $4 runner
GRANT_FITTING: Final = "SELECT id, is_confirmed FROM moonyard.grants_fitting($1, $2, $3, $4) LIMIT 1"

# $1 job, $2 attempt, $3 the version that is delivered, or NULL where it is refused
ATTEMPT_NOTE_ASKED: Final = """
UPDATE moonyard.attempts SET
    secret_requests = coalesce(secret_requests, 0) + 1,
    secret_versions = CASE
        WHEN $3::uuid IS NULL OR $3 = ANY (secret_versions) THEN secret_versions
        ELSE array_append(secret_versions, $3)
    END
WHERE job_id = $1 AND number = $2
"""

# $1 versions' ids
VERSIONS_GET: Final = """
SELECT version.id, version.secret_id, version.number, version.readable, version.nonce, version.ciphertext,
    version.key_id, version.wrapped_nonce, version.wrapped_key, secret.scope, secret.name
FROM moonyard.secret_versions AS version JOIN moonyard.secrets AS secret ON secret.id = version.secret_id
WHERE version.id = ANY ($1::uuid[])
"""

# $1 job, $2 attempt
ATTEMPT_SECRETS: Final = "SELECT secret_versions FROM moonyard.attempts WHERE job_id = $1 AND number = $2"

# $1 runner, $2 the secret's name, $3 job, $4 attempt, $5 the events' seqs
LEAK_NOTE: Final = """
SELECT moonyard.note(
    'runner ' || (SELECT name FROM moonyard.runners WHERE id = $1), 'send secret in plain', 'secret ' || $2::text,
    jsonb_build_object(
        'job', (SELECT number FROM moonyard.jobs WHERE id = $3), 'attempt', $4::integer, 'events', $5::bigint[]
    )
)
"""
