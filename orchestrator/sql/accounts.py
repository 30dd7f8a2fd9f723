"""Statements about accounts, groups, roles and logins."""

from __future__ import annotations

from typing import Final

# $1 account: what it holds, itself and by its groups.
HOLDINGS: Final = """
SELECT held.role, held.pipelines, own.permissions, member.name AS "group"
FROM moonyard.role_bindings AS held
LEFT JOIN moonyard.roles AS own ON own.name = held.role
LEFT JOIN moonyard.groups AS member ON member.id = held.group_id
WHERE held.account_id = $1
    OR held.group_id IN (SELECT group_id FROM moonyard.group_members WHERE account_id = $1)
ORDER BY held.role, held.pipelines
"""

# $1 id, $2 name, $3 the password's hash, $4 who wants it
ACCOUNT_CREATE: Final = """
WITH made AS (
    INSERT INTO moonyard.accounts (id, name, password_hash, created_by) VALUES ($1, $2, $3, $4)
    ON CONFLICT (name) DO NOTHING
    RETURNING id, name
)
SELECT id, moonyard.note($4, 'create', 'account ' || name) FROM made
"""

# $1 a name, or NULL for all
ACCOUNTS_LIST: Final = """
SELECT account.id, account.name, account.created_at, account.created_by, account.last_login_at, account.disabled_at,
    account.password_hash IS NOT NULL AS has_password,
    ARRAY(
        SELECT known.name FROM moonyard.group_members AS member
        JOIN moonyard.groups AS known ON known.id = member.group_id
        WHERE member.account_id = account.id ORDER BY known.name
    ) AS groups
FROM moonyard.accounts AS account
WHERE $1::text IS NULL OR account.name = $1
ORDER BY account.name
LIMIT 10000
"""

# $1 name, $2 whether it is disabled, $3 who wants it. Its logins end: one that is enabled again begins anew.
ACCOUNT_DISABLE: Final = """
WITH changed AS (
    UPDATE moonyard.accounts SET disabled_at = CASE WHEN $2 THEN coalesce(disabled_at, now()) END
    WHERE id = moonyard.account_of($1)
    RETURNING id, name
),
ended AS (
    UPDATE moonyard.tokens SET revoked_at = now()
    WHERE $2 AND account_id IN (SELECT id FROM changed) AND kind IN ('session', 'invitation') AND revoked_at IS NULL
),
forgotten AS (DELETE FROM moonyard.device_logins WHERE $2 AND account_id IN (SELECT id FROM changed))
SELECT moonyard.note($3, CASE WHEN $2 THEN 'disable' ELSE 'enable' END, 'account ' || name) FROM changed
"""

LOGIN_TRY: Final = "SELECT extract(epoch FROM moonyard.login_try($1)) AS seconds"

# $1 the account's key, $2 the address's: the login went well, so what was counted before it is taken back.
LOGIN_WENT_WELL: Final = """
WITH account AS (DELETE FROM moonyard.login_failures WHERE key = $1)
UPDATE moonyard.login_failures SET failures = failures - 1 WHERE key = $2 AND failures > 1
"""

LOGIN_FAILURES_FORGET: Final = "DELETE FROM moonyard.login_failures WHERE last_at < now() - interval '1 hour'"

ACCOUNT_BY_NAME: Final = "SELECT id, name, password_hash, disabled_at FROM moonyard.accounts WHERE name = $1"

ACCOUNT_BY_ID: Final = "SELECT id, name, password_hash, disabled_at FROM moonyard.accounts WHERE id = $1"

# Before HASH_SET, in its transaction: a login with the password of before has made its session by then, or makes none.
ACCOUNT_HOLD: Final = "SELECT id FROM moonyard.accounts WHERE id = $1 FOR UPDATE"

# $1 account, $2 the hash, $3 who wants it, $4 a token that stays: other sessions and invitations end, and what was said
# yes to and has not been taken.
HASH_SET: Final = """
WITH changed AS (
    UPDATE moonyard.accounts SET password_hash = $2 WHERE id = $1 RETURNING name
),
ended AS (
    UPDATE moonyard.tokens SET revoked_at = now()
    WHERE account_id = $1 AND kind IN ('session', 'invitation') AND revoked_at IS NULL AND id IS DISTINCT FROM $4
),
forgotten AS (DELETE FROM moonyard.device_logins WHERE account_id = $1)
SELECT moonyard.note($3, 'set password', 'account ' || name) FROM changed
"""

# $1 account, $2 the hash, $3 that of before: the same password under today's parameters.
HASH_RENEW: Final = "UPDATE moonyard.accounts SET password_hash = $2 WHERE id = $1 AND password_hash = $3"

# $1 token, $2 its hash, $3 account, $4 its name, $5 seconds that it is valid, $6 the actor, $7 the password's hash that
# was looked at, if one was. The account's row is locked first: a password that was changed meanwhile gives no session.
SESSION_CREATE: Final = """
WITH held AS MATERIALIZED (
    SELECT id FROM moonyard.accounts
    WHERE id = $3 AND disabled_at IS NULL AND ($7::text IS NULL OR password_hash = $7)
    FOR UPDATE
),
made AS (
    INSERT INTO moonyard.tokens (id, kind, name, hash, account_id, expires_at)
    SELECT $1, 'session', $4, $2, id, now() + make_interval(secs => $5) FROM held
    RETURNING account_id, expires_at
),
logged AS (
    UPDATE moonyard.accounts SET last_login_at = now() FROM made WHERE id = made.account_id
    RETURNING name, made.expires_at
)
SELECT name, expires_at, moonyard.note($6, 'login', 'account ' || name) FROM logged
"""

# $1 token, $2 its hash, $3 account, $4 seconds that it is valid, $5 who wants it: those before it end.
INVITATION_CREATE: Final = """
WITH ended AS (
    UPDATE moonyard.tokens SET revoked_at = now()
    WHERE account_id = $3 AND kind = 'invitation' AND revoked_at IS NULL
),
made AS (
    INSERT INTO moonyard.tokens (id, kind, name, hash, account_id, uses_left, expires_at)
    SELECT $1, 'invitation', name, $2, id, 1, now() + make_interval(secs => $4)
    FROM moonyard.accounts WHERE id = $3
    RETURNING name
)
SELECT moonyard.note($5, 'invite', 'account ' || name) FROM made
"""

SESSIONS_REMOVE: Final = """
DELETE FROM moonyard.tokens WHERE kind = 'session' AND expires_at < now() - interval '7 days'
"""

# $1 id, $2 name, $3 who wants it
GROUP_CREATE: Final = """
WITH made AS (
    INSERT INTO moonyard.groups (id, name, created_by) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING RETURNING name
)
SELECT name, moonyard.note($3, 'create', 'group ' || name) FROM made
"""

# $1 a name, or NULL for all
GROUPS_LIST: Final = """
SELECT known.id, known.name, known.created_at, known.created_by,
    ARRAY(
        SELECT account.name FROM moonyard.group_members AS member
        JOIN moonyard.accounts AS account ON account.id = member.account_id
        WHERE member.group_id = known.id ORDER BY account.name
    ) AS members
FROM moonyard.groups AS known
WHERE $1::text IS NULL OR known.name = $1
ORDER BY known.name
LIMIT 10000
"""

# $1 name, $2 who wants it
GROUP_DELETE: Final = """
WITH deleted AS (DELETE FROM moonyard.groups WHERE id = moonyard.group_of($1) RETURNING name)
SELECT name, moonyard.note($2, 'delete', 'group ' || name) FROM deleted
"""

# $1 group, $2 account, $3 who wants it; nothing where it is a member already
MEMBER_ADD: Final = """
WITH added AS (
    INSERT INTO moonyard.group_members (group_id, account_id) VALUES (moonyard.group_of($1), moonyard.account_of($2))
    ON CONFLICT DO NOTHING
    RETURNING group_id
)
SELECT moonyard.note($3, 'add member', 'group ' || $1::text, jsonb_build_object('account', $2::text)) FROM added
"""

MEMBER_REMOVE: Final = """
WITH removed AS (
    DELETE FROM moonyard.group_members
    WHERE group_id = moonyard.group_of($1) AND account_id = moonyard.account_of($2)
    RETURNING group_id
)
SELECT moonyard.note($3, 'remove member', 'group ' || $1::text, jsonb_build_object('account', $2::text)) FROM removed
"""

ROLES_LIST: Final = "SELECT name, permissions FROM moonyard.roles ORDER BY name LIMIT 10000"

ROLE_EXISTS: Final = "SELECT EXISTS (SELECT FROM moonyard.roles WHERE name = $1)"

# $1 name, $2 permissions, $3 who wants it
ROLE_CREATE: Final = """
WITH made AS (
    INSERT INTO moonyard.roles (name, permissions, created_by) VALUES ($1, $2, $3)
    ON CONFLICT (name) DO NOTHING
    RETURNING name
)
SELECT name, moonyard.note($3, 'create', 'role ' || name, jsonb_build_object('permissions', $2::text[])) FROM made
"""

# $1 name, $2 who wants it: bindings of it go with it
ROLE_DELETE: Final = """
WITH deleted AS (DELETE FROM moonyard.roles WHERE name = $1 RETURNING name),
bound AS (DELETE FROM moonyard.role_bindings WHERE role IN (SELECT name FROM deleted))
SELECT name, moonyard.note($2, 'delete', 'role ' || name) FROM deleted
"""

# $1 id, $2 account, $3 group, $4 role, $5 pipelines, $6 who wants it
BINDING_CREATE: Final = """
WITH made AS (
    INSERT INTO moonyard.role_bindings (id, account_id, group_id, role, pipelines, created_by)
    VALUES (
        $1, CASE WHEN $2::text IS NOT NULL THEN moonyard.account_of($2) END,
        CASE WHEN $3::text IS NOT NULL THEN moonyard.group_of($3) END, $4, $5, $6
    )
    ON CONFLICT ON CONSTRAINT binding_is_unique DO NOTHING
    RETURNING id
)
SELECT id, moonyard.note(
    $6, 'grant role', coalesce('account ' || $2::text, 'group ' || $3::text),
    jsonb_build_object('role', $4::text, 'pipelines', $5::text)
)
FROM made
"""

# $1 id, $2 account, $3 group: each or NULL
BINDINGS_LIST: Final = """
SELECT held.id, held.role, held.pipelines, held.created_at, held.created_by, account.name AS account,
    known.name AS "group"
FROM moonyard.role_bindings AS held
LEFT JOIN moonyard.accounts AS account ON account.id = held.account_id
LEFT JOIN moonyard.groups AS known ON known.id = held.group_id
WHERE ($1::uuid IS NULL OR held.id = $1) AND ($2::text IS NULL OR account.name = $2)
    AND ($3::text IS NULL OR known.name = $3)
ORDER BY account.name, known.name, held.role, held.pipelines
LIMIT 10000
"""

# $1 id, $2 who wants it
BINDING_DELETE: Final = """
WITH deleted AS (DELETE FROM moonyard.role_bindings WHERE id = $1 RETURNING *)
SELECT moonyard.note(
    $2, 'revoke role', coalesce(
        'account ' || (SELECT name FROM moonyard.accounts WHERE id = deleted.account_id),
        'group ' || (SELECT name FROM moonyard.groups WHERE id = deleted.group_id)
    ), jsonb_build_object('role', deleted.role, 'pipelines', deleted.pipelines)
)
FROM deleted
"""

IDENTITY_FIND: Final = "SELECT account_id FROM moonyard.account_identities WHERE issuer = $1 AND subject = $2"

# $1 issuer, $2 subject, $3 account, $4 who says so; nothing where the account is somebody else's there.
IDENTITY_BIND: Final = """
WITH bound AS (
    INSERT INTO moonyard.account_identities (issuer, subject, account_id)
    SELECT $1, $2, $3
    WHERE NOT EXISTS (SELECT FROM moonyard.account_identities WHERE issuer = $1 AND account_id = $3)
    RETURNING account_id
)
SELECT account_id, moonyard.note($4, 'bind identity', 'account ' || (
    SELECT name FROM moonyard.accounts WHERE id = account_id
), jsonb_build_object('issuer', $1::text, 'subject', $2::text))
FROM bound
"""

# $1 id, $2 hash of the device code, $3 user code, $4 seconds, $5 address, $6 client, $7 whose address it is
DEVICE_BEGIN: Final = """
INSERT INTO moonyard.device_logins (id, device_hash, user_code, expires_at, address, client, share)
VALUES ($1, $2, $3, now() + make_interval(secs => $4), $5, $6, $7)
ON CONFLICT (user_code) DO NOTHING
RETURNING id
"""

# $1 hash of the device code: taken away with the answer, so that one session comes of it.
DEVICE_TAKE: Final = """
WITH answered AS (
    DELETE FROM moonyard.device_logins WHERE device_hash = $1 AND answered_at IS NOT NULL AND expires_at > now()
    RETURNING account_id, client
)
SELECT account_id, client, true AS answered FROM answered
UNION ALL
SELECT NULL, client, false FROM moonyard.device_logins
WHERE device_hash = $1 AND answered_at IS NULL AND expires_at > now()
"""

# $1 user code
DEVICE_FIND: Final = """
SELECT id, client, address, created_at FROM moonyard.device_logins
WHERE user_code = $1 AND answered_at IS NULL AND expires_at > now()
"""

# $1 user code, $2 account, NULL for a no, $3 who answers
DEVICE_ANSWER: Final = """
WITH answered AS (
    UPDATE moonyard.device_logins SET account_id = $2, answered_at = now()
    WHERE user_code = $1 AND answered_at IS NULL AND expires_at > now()
    RETURNING id, client, address
)
SELECT id, moonyard.note(
    $3, CASE WHEN $2::uuid IS NULL THEN 'refuse login' ELSE 'allow login' END, 'command line ' || client,
    jsonb_build_object('address', address)
)
FROM answered
"""

DEVICE_LOGINS_FORGET: Final = "DELETE FROM moonyard.device_logins WHERE expires_at < now() - interval '1 hour'"

# $1 whose address: how many wait, of all and of those
DEVICES_WAITING: Final = """
SELECT count(*) AS all, count(*) FILTER (WHERE share = $1) AS own FROM moonyard.device_logins WHERE expires_at > now()
"""
