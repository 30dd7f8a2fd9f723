"""Statements about tokens and the runners that register with them."""

from __future__ import annotations

from typing import Final

# One that is not valid is found too: whoever holds it may know why it is refused.
FIND: Final = """
SELECT
    token.id, token.kind, token.runner_id, token.name, token.revoked_at, token.expires_at, token.permissions,
    token.pipelines, token.account_id, account.name AS account,
    CASE
        WHEN runner.revoked_at IS NOT NULL THEN 'runner revoked'
        WHEN account.disabled_at IS NOT NULL THEN 'disabled'
        WHEN token.revoked_at IS NOT NULL THEN 'revoked'
        WHEN token.expires_at <= now() THEN 'expired'
        WHEN token.uses_left <= 0 THEN 'used up'
        -- What a runner had under way with a token may end; one that it never used is not under way.
        WHEN token.replaced_at IS NOT NULL
            AND (token.first_used_at IS NULL OR token.replaced_at < now() - interval '1 minute') THEN 'replaced'
        WHEN token.kind = 'runner' AND token.first_used_at IS NULL THEN 'new'
        ELSE 'valid'
    END AS state
FROM moonyard.tokens AS token
LEFT JOIN moonyard.accounts AS account ON account.id = token.account_id
LEFT JOIN moonyard.runners AS runner ON runner.id = token.runner_id
WHERE token.hash = $1
"""

# $7 who wants it; who has the database itself is known to it alone; $8 its account, $9 and $10 what it is narrowed to
CREATE: Final = """
WITH made AS (
    INSERT INTO moonyard.tokens (id, kind, name, hash, uses_left, expires_at, account_id, permissions, pipelines)
    VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6), $8, $9, $10)
    RETURNING id, kind, name, created_at, expires_at, revoked_at, last_used_at, uses_left, account_id, permissions,
        pipelines
)
SELECT made.*, (SELECT name FROM moonyard.accounts WHERE id = made.account_id) AS account,
    moonyard.note(coalesce($7, session_user), 'create', made.kind || ' token ' || made.name)
FROM made
"""

CREATE_FOR_RUNNER: Final = """
INSERT INTO moonyard.tokens (id, kind, name, hash, runner_id) VALUES ($1, 'runner', $2, $3, $4)
"""

# Those of an account ($1); with $2 those of runners too, with $3 all.
LIST: Final = """
SELECT token.id, token.kind, token.name, token.created_at, token.expires_at, token.revoked_at, token.last_used_at,
    token.uses_left, token.permissions, token.pipelines, account.name AS account
FROM moonyard.tokens AS token LEFT JOIN moonyard.accounts AS account ON account.id = token.account_id
WHERE token.replaced_at IS NULL
    AND ($3 OR token.account_id = $1 OR ($2 AND token.kind IN ('registration', 'runner')))
ORDER BY token.created_at DESC, token.id DESC
LIMIT 1000
"""

# $1 token, $2 who wants it; $3 to $5 which ones that may be, as for the list
REVOKE: Final = """
WITH revoked AS (
    UPDATE moonyard.tokens AS token SET revoked_at = coalesce(revoked_at, now())
    WHERE id = $1 AND ($5 OR account_id = $3 OR ($4 AND kind IN ('registration', 'runner')))
    RETURNING id, kind, name, created_at, expires_at, revoked_at, last_used_at, uses_left, permissions, pipelines,
        (SELECT name FROM moonyard.accounts WHERE id = token.account_id) AS account
)
SELECT revoked.*, moonyard.note($2, 'revoke', revoked.kind || ' token ' || revoked.name) FROM revoked
"""

EXPIRES_AT: Final = "SELECT expires_at FROM moonyard.tokens WHERE id = $1"

# The update decides who gets the last use: the row's lock puts two who want it in order, and the second finds none.
USE: Final = """
UPDATE moonyard.tokens SET uses_left = uses_left - 1, last_used_at = now()
WHERE id = $1 AND kind IN ('registration', 'setup', 'invitation') AND revoked_at IS NULL
    AND (expires_at IS NULL OR expires_at > now()) AND (uses_left IS NULL OR uses_left > 0)
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
    runner.drained_by, runner.revoked_by, runner.reused_at AS token_reused_at,
    ARRAY(
        SELECT bound.pipelines FROM moonyard.runner_bindings AS bound WHERE bound.runner_id = runner.id
        ORDER BY bound.pipelines
    ) AS pipelines,
    (
        SELECT max(created_at) FROM moonyard.tokens
        WHERE runner_id = runner.id AND first_used_at IS NOT NULL AND replaced_at IS NULL
    ) AS token_at,
    CASE
        WHEN runner.revoked_at IS NOT NULL THEN 'revoked'
        WHEN runner.seen_at IS NULL OR runner.seen_at < now() - interval '30 seconds' THEN 'offline'
        WHEN runner.draining OR runner.drained_at IS NOT NULL THEN 'draining'
        ELSE 'online'
    END AS state,
    (SELECT count(*) FROM moonyard.attempts WHERE runner_id = runner.id AND state = 'running') AS running
FROM moonyard.runners AS runner
WHERE runner.removed_at IS NULL
ORDER BY runner.name, runner.id
LIMIT 1000
"""

RUNNER_SEEN: Final = """
UPDATE moonyard.runners SET seen_at = now(), draining = false, capacity = $2, version = $3
WHERE id = $1 AND revoked_at IS NULL
RETURNING reach, drained_at IS NOT NULL AS drained
"""

# $1 runner's name or id, $2 whether it is drained, $3 who wants it
RUNNER_DRAIN: Final = "SELECT moonyard.drain($1, $2, $3) AS id"
