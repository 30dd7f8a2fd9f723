"""Statements about tokens and the runners that register with them."""

from __future__ import annotations

from typing import Final

# One that is not valid is found too: whoever holds it may know why it is refused.
FIND: Final = """
SELECT
    id, kind, runner_id, name, revoked_at, expires_at,
    CASE
        WHEN revoked_at IS NOT NULL THEN 'revoked'
        WHEN expires_at <= now() THEN 'expired'
        WHEN uses_left <= 0 THEN 'used up'
        ELSE 'valid'
    END AS state
FROM moonyard.tokens
WHERE hash = $1
"""

# $7 who wants it; who has the database itself is known to it alone
CREATE: Final = """
WITH made AS (
    INSERT INTO moonyard.tokens (id, kind, name, hash, uses_left, expires_at)
    VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6))
    RETURNING id, kind, name, created_at, expires_at, revoked_at, last_used_at, uses_left
)
SELECT made.*, moonyard.note(coalesce($7, session_user), 'create', made.kind || ' token ' || made.name) FROM made
"""

CREATE_FOR_RUNNER: Final = """
INSERT INTO moonyard.tokens (id, kind, name, hash, runner_id) VALUES ($1, 'runner', $2, $3, $4)
"""

LIST: Final = """
SELECT id, kind, name, created_at, expires_at, revoked_at, last_used_at, uses_left
FROM moonyard.tokens ORDER BY created_at DESC, id DESC LIMIT 1000
"""

# $2 who wants it
REVOKE: Final = """
WITH revoked AS (
    UPDATE moonyard.tokens SET revoked_at = coalesce(revoked_at, now()) WHERE id = $1
    RETURNING id, kind, name, created_at, expires_at, revoked_at, last_used_at, uses_left
)
SELECT revoked.*, moonyard.note($2, 'revoke', revoked.kind || ' token ' || revoked.name) FROM revoked
"""

# The update decides who gets the last use: the row's lock puts two who want it in order, and the second finds none.
USE: Final = """
UPDATE moonyard.tokens SET uses_left = uses_left - 1, last_used_at = now()
WHERE id = $1 AND kind = 'registration' AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
    AND (uses_left IS NULL OR uses_left > 0)
RETURNING id
"""

# In the order of ids, as everything that locks several rows: two replicas that meet here wait instead of dying.
TOUCH: Final = """
WITH touched AS MATERIALIZED (
    SELECT id FROM moonyard.tokens WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE
)
UPDATE moonyard.tokens AS token SET last_used_at = now() FROM touched WHERE token.id = touched.id
"""

# $4 who registers it
RUNNER_CREATE: Final = """
WITH made AS (INSERT INTO moonyard.runners (id, name, tags) VALUES ($1, $2, $3) RETURNING name)
SELECT moonyard.note($4, 'register', 'runner ' || name) FROM made
"""

RUNNERS_LIST: Final = """
SELECT
    runner.id, runner.name, runner.registered_at, runner.seen_at, runner.version, runner.capacity, runner.tags,
    runner.drained_by,
    CASE
        WHEN runner.seen_at IS NULL OR runner.seen_at < now() - interval '30 seconds' THEN 'offline'
        WHEN runner.draining OR runner.drained_at IS NOT NULL THEN 'draining'
        ELSE 'online'
    END AS state,
    (SELECT count(*) FROM moonyard.attempts WHERE runner_id = runner.id AND state = 'running') AS running
FROM moonyard.runners AS runner
ORDER BY runner.name, runner.id
LIMIT 1000
"""

RUNNER_SEEN: Final = """
UPDATE moonyard.runners SET seen_at = now(), draining = false, capacity = $2, version = $3 WHERE id = $1
RETURNING tags, drained_at IS NOT NULL AS drained
"""

# $1 runner's name or id, $2 whether it is drained, $3 who wants it
RUNNER_DRAIN: Final = "SELECT moonyard.drain($1, $2, $3) AS id"
