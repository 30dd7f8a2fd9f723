"""Statements about webhooks."""

from __future__ import annotations

from typing import Final

CREATE: Final = """
INSERT INTO moonyard.hooks (id, name, pipeline_id, kind, rules, created_by) VALUES ($1, $2, $3, $4, $5::jsonb, $6)
ON CONFLICT (name) DO NOTHING
RETURNING id
"""

# $1 actor, $2 action, $3 subject, $4 detail
NOTE: Final = "SELECT moonyard.note($1, $2, $3, $4::jsonb)"

# $1 name, or NULL for all; $2 and $3 of which pipelines
LIST: Final = """
SELECT
    hook.id, hook.name, pipeline.name AS pipeline, hook.kind, hook.rules, hook.created_at, hook.created_by,
    hook.paused_by, hook.refused, hook.refused_at, hook.refused_why,
    newest.delivery, newest.event, newest.sender, newest.received_at, newest.received, newest.result, newest.reason,
    newest.error, newest.job
FROM moonyard.hooks AS hook
JOIN moonyard.pipelines AS pipeline ON pipeline.id = hook.pipeline_id
LEFT JOIN LATERAL (
    SELECT delivery.*, job.number AS job
    FROM moonyard.hook_deliveries AS delivery LEFT JOIN moonyard.jobs AS job ON job.id = delivery.job_id
    WHERE delivery.hook_id = hook.id
    ORDER BY delivery.id DESC
    LIMIT 1
) AS newest ON true
WHERE ($1::text IS NULL OR hook.name = $1) AND moonyard.names_fit(pipeline.name, $2::text[], $3::text[])
ORDER BY hook.name
LIMIT 1000
"""

PIPELINE_HAS_GRANTS: Final = """
SELECT EXISTS (SELECT FROM moonyard.grants AS held WHERE moonyard.pattern_fits(held.pipeline, $1))
"""

# $1 hook, $2 how many
DELIVERIES: Final = """
SELECT
    delivery.delivery, delivery.event, delivery.sender, delivery.received_at, delivery.received, delivery.result,
    delivery.reason, delivery.error, job.number AS job
FROM moonyard.hook_deliveries AS delivery LEFT JOIN moonyard.jobs AS job ON job.id = delivery.job_id
WHERE delivery.hook_id = $1
ORDER BY delivery.id DESC
LIMIT $2
"""

# $1 name, $2 rules, $3 who wants it
CHANGE: Final = """
WITH changed AS (UPDATE moonyard.hooks SET rules = $2::jsonb WHERE name = $1 RETURNING id, name)
SELECT id, moonyard.note($3, 'change hook', 'hook ' || name, $2::jsonb) FROM changed
"""

# $1 name, $2 who wants it
REMOVE: Final = """
WITH gone AS (DELETE FROM moonyard.hooks WHERE name = $1 RETURNING id, name, pipeline_id)
SELECT gone.id, moonyard.note(
    $2, 'remove hook', 'hook ' || gone.name,
    (SELECT jsonb_build_object('pipeline', name) FROM moonyard.pipelines WHERE id = gone.pipeline_id)
)
FROM gone
"""

# $1 name, $2 who wants it
PAUSE: Final = """
WITH paused AS (
    UPDATE moonyard.hooks SET paused_at = coalesce(paused_at, now()), paused_by = coalesce(paused_by, $2)
    WHERE name = $1
    RETURNING id, name
)
SELECT id, moonyard.note($2, 'pause', 'hook ' || name) FROM paused
"""

# $1 name, $2 who wants it
RESUME: Final = """
WITH resumed AS (
    UPDATE moonyard.hooks SET paused_at = NULL, paused_by = NULL WHERE name = $1 RETURNING id, name
)
SELECT id, moonyard.note($2, 'resume', 'hook ' || name) FROM resumed
"""

# --- secrets

# $1 hook: the number of its next secret. The hook's row is locked until that secret is there.
NEWEST_TAKE: Final = """
UPDATE moonyard.hooks SET last_secret = last_secret + 1 WHERE id = $1 RETURNING last_secret
"""

# $1 hook, $2 the newest's number, $3 for how many seconds those before it hold on, unless they end sooner.
SECRETS_EXPIRE: Final = """
UPDATE moonyard.hook_secrets SET expires_at = least(expires_at, now() + make_interval(secs => $3))
WHERE hook_id = $1 AND number < $2
"""

NEWEST_STORE: Final = """
INSERT INTO moonyard.hook_secrets
    (hook_id, number, nonce, ciphertext, key_id, wrapped_nonce, wrapped_key, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""

# $1 hook: those that hold, the newest first.
SECRETS_HELD: Final = """
SELECT number, created_at, created_by, expires_at, nonce, ciphertext, key_id, wrapped_nonce, wrapped_key
FROM moonyard.hook_secrets
WHERE hook_id = $1 AND (expires_at IS NULL OR expires_at > now())
ORDER BY number DESC
LIMIT 20
"""

# $1 how many
SECRETS_REMOVE_EXPIRED: Final = """
DELETE FROM moonyard.hook_secrets AS secret USING (
    SELECT hook_id, number FROM moonyard.hook_secrets WHERE expires_at < now() LIMIT $1
) AS expired
WHERE secret.hook_id = expired.hook_id AND secret.number = expired.number
RETURNING secret.number
"""

# $1 the key in use, $2 the keys that are here, $3 how many. Whoever else rewraps passes these rows over.
SECRETS_TO_REWRAP: Final = """
SELECT secret.hook_id, secret.number, secret.key_id, secret.wrapped_nonce, secret.wrapped_key, hook.name
FROM moonyard.hook_secrets AS secret JOIN moonyard.hooks AS hook ON hook.id = secret.hook_id
WHERE secret.key_id <> $1 AND secret.key_id = ANY ($2::text[])
ORDER BY secret.hook_id, secret.number
LIMIT $3
FOR UPDATE OF secret SKIP LOCKED
"""

REWRAP: Final = """
UPDATE moonyard.hook_secrets SET key_id = $3, wrapped_nonce = $4, wrapped_key = $5 WHERE hook_id = $1 AND number = $2
"""

# --- deliveries

# $1 hook. The time is the database's: what a delivery says of its own is measured by it.
FIND: Final = """
SELECT hook.id, hook.name, hook.kind, hook.rules, hook.paused_by, pipeline.name AS pipeline,
    extract(epoch FROM now())::double precision AS now
FROM moonyard.hooks AS hook JOIN moonyard.pipelines AS pipeline ON pipeline.id = hook.pipeline_id
WHERE hook.id = $1
"""

# $1 hook, $2 key: the job of an earlier delivery of the same. One that is counted again is not looked at any further.
DELIVERY_AGAIN: Final = """
WITH again AS (
    UPDATE moonyard.hook_deliveries SET received = received + 1
    WHERE hook_id = $1 AND key = $2 AND submitted_at IS NOT NULL
    RETURNING job_id
)
SELECT job.id, job.number FROM again LEFT JOIN moonyard.jobs AS job ON job.id = again.job_id
"""

# $1 hook, $2 key, $3 delivery, $4 event, $5 sender. Whoever is first has the row, and holds it to the end of the
# transaction; another replica that has the same delivery waits here, and then finds it submitted.
DELIVERY_TAKE: Final = """
INSERT INTO moonyard.hook_deliveries AS known (hook_id, key, delivery, event, sender, result)
VALUES ($1, $2, $3, $4, $5, 'submitted')
ON CONFLICT (hook_id, key) DO UPDATE SET received = known.received + 1
RETURNING id, job_id, submitted_at
"""

# A statement of its own after the one above: who waited there sees the row that it waited for, and not yet its job.
NUMBER_OF_JOB: Final = "SELECT number FROM moonyard.jobs WHERE id = $1"

# $1 hook, $2 delivery's row, $3 job, $4 delivery
DELIVERY_SUBMITTED: Final = """
UPDATE moonyard.hook_deliveries
SET result = 'submitted', submitted_at = now(), received_at = now(), job_id = $3, delivery = $4, reason = NULL,
    error = NULL
WHERE hook_id = $1 AND id = $2
"""

# $1 hook, $2 key, $3 delivery, $4 event, $5 sender, $6 result, $7 reason, $8 error: of what started no job. One that
# has a job by now keeps it.
DELIVERY_NOTE: Final = """
INSERT INTO moonyard.hook_deliveries AS known (hook_id, key, delivery, event, sender, result, reason, error)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb)
ON CONFLICT (hook_id, key) DO UPDATE
SET received = known.received + 1, received_at = now(), delivery = excluded.delivery, result = excluded.result,
    reason = excluded.reason, error = excluded.error
WHERE known.submitted_at IS NULL
"""

# $1 hook, $2 why
REFUSED: Final = """
UPDATE moonyard.hooks SET refused = refused + 1, refused_at = now(), refused_why = $2 WHERE id = $1
"""

# $1 days, $2 how many
DELIVERIES_REMOVE_OLD: Final = """
DELETE FROM moonyard.hook_deliveries WHERE (hook_id, id) IN (
    SELECT hook_id, id FROM moonyard.hook_deliveries WHERE received_at < now() - make_interval(secs => $1) LIMIT $2
)
RETURNING id
"""

# $1 how many of each hook stay, $2 how many go: the oldest of those that are too many.
DELIVERIES_REMOVE_MANY: Final = """
DELETE FROM moonyard.hook_deliveries WHERE (hook_id, id) IN (
    SELECT hook.id, surplus.id
    FROM moonyard.hooks AS hook
    CROSS JOIN LATERAL (
        SELECT id FROM moonyard.hook_deliveries WHERE hook_id = hook.id ORDER BY id DESC OFFSET $1 LIMIT $2
    ) AS surplus
    LIMIT $2
)
RETURNING id
"""
