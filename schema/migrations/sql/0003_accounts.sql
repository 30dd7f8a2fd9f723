-- Who people are, and what they may do. Roles and permissions have their meanings in schema/permissions.py and
-- docs/permissions.md; here is who holds them.

CREATE TABLE moonyard.accounts (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    -- argon2id, as a PHC string with its parameters and salt. None: it logs in by an identity provider, or not at all.
    password_hash text,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    last_login_at timestamptz,
    disabled_at timestamptz,
    CONSTRAINT account_name_is_unique UNIQUE (name),
    CONSTRAINT account_name_is_plain CHECK (name ~ '^[a-z0-9][a-z0-9._@+-]{0,99}$'),
    CONSTRAINT password_is_hashed_by_argon2id CHECK (password_hash LIKE '$argon2id$%')
);
COMMENT ON TABLE moonyard.accounts IS 'People, and programs that act for themselves. A disabled one can do nothing; none is removed, for the audit names it.';

CREATE TABLE moonyard.account_identities (
    issuer text NOT NULL,
    subject text NOT NULL,
    account_id uuid NOT NULL REFERENCES moonyard.accounts (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT account_identities_pkey PRIMARY KEY (issuer, subject)
);
COMMENT ON TABLE moonyard.account_identities IS 'Who an account is at an identity provider (OpenID Connect): issuer and subject, which never change there.';

CREATE TABLE moonyard.groups (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    CONSTRAINT group_name_is_unique UNIQUE (name),
    CONSTRAINT group_name_is_plain CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,99}$')
);
COMMENT ON TABLE moonyard.groups IS 'Accounts that hold roles together.';

CREATE TABLE moonyard.group_members (
    group_id uuid NOT NULL REFERENCES moonyard.groups (id) ON DELETE CASCADE,
    account_id uuid NOT NULL REFERENCES moonyard.accounts (id) ON DELETE CASCADE,
    CONSTRAINT group_members_pkey PRIMARY KEY (group_id, account_id)
);
CREATE INDEX groups_of_account ON moonyard.group_members (account_id);

CREATE TABLE moonyard.roles (
    name text PRIMARY KEY,
    permissions text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    CONSTRAINT role_name_is_plain CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,99}$'),
    CONSTRAINT role_says_something CHECK (cardinality(permissions) > 0)
);
COMMENT ON TABLE moonyard.roles IS 'Roles of this installation''s own, beside those that come along (admin, maintainer, operator, developer, viewer).';

CREATE TABLE moonyard.role_bindings (
    id uuid PRIMARY KEY,
    account_id uuid REFERENCES moonyard.accounts (id) ON DELETE CASCADE,
    group_id uuid REFERENCES moonyard.groups (id) ON DELETE CASCADE,
    role text NOT NULL,  -- one that comes along, or one of moonyard.roles; what is neither gives nothing
    pipelines text NOT NULL DEFAULT '*',
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    CONSTRAINT binding_is_of_an_account_or_a_group CHECK ((account_id IS NULL) <> (group_id IS NULL)),
    CONSTRAINT binding_names_pipelines CHECK (length(pipelines) BETWEEN 1 AND 200),
    CONSTRAINT binding_is_unique UNIQUE NULLS NOT DISTINCT (account_id, group_id, role, pipelines)
);
COMMENT ON TABLE moonyard.role_bindings IS 'Who holds which role for which pipelines: in the pattern, * stands for any text.';
CREATE INDEX role_bindings_of_group ON moonyard.role_bindings (group_id) WHERE group_id IS NOT NULL;

ALTER TABLE moonyard.tokens
    ADD COLUMN account_id uuid REFERENCES moonyard.accounts (id) ON DELETE CASCADE,
    ADD COLUMN permissions text[],
    ADD COLUMN pipelines text[],
    DROP CONSTRAINT token_kind_is_known,
    ADD CONSTRAINT token_kind_is_known CHECK (
        kind IN ('admin', 'registration', 'runner', 'setup', 'invitation', 'user', 'session')
    ),
    ADD CONSTRAINT tokens_of_people_have_an_account CHECK (
        (kind IN ('invitation', 'user', 'session')) = (account_id IS NOT NULL)
    ),
    DROP CONSTRAINT uses_are_counted_for_registrations,
    ADD CONSTRAINT uses_are_counted_for_registrations CHECK (uses_left IS NULL OR kind IN ('registration', 'setup', 'invitation')),
    ADD CONSTRAINT scopes_are_of_user_tokens CHECK (kind = 'user' OR (permissions IS NULL AND pipelines IS NULL));
COMMENT ON COLUMN moonyard.tokens.permissions IS 'What it may be used for at most, of what its account may; NULL for all of that.';
COMMENT ON COLUMN moonyard.tokens.pipelines IS 'Patterns of pipelines that it may be used for at most; NULL for all that its account may.';
CREATE INDEX tokens_of_account ON moonyard.tokens (account_id) WHERE account_id IS NOT NULL;
CREATE INDEX sessions_expired ON moonyard.tokens (expires_at) WHERE kind = 'session';

-- Failed logins, by account and by address. A row goes when its time is over.
CREATE TABLE moonyard.login_failures (
    key text PRIMARY KEY,
    failures integer NOT NULL,
    last_at timestamptz NOT NULL,
    CONSTRAINT login_failures_are_counted CHECK (failures > 0)
) WITH (fillfactor = 50);
COMMENT ON TABLE moonyard.login_failures IS 'How often a login went wrong lately, by account and by address: what makes the next one wait.';

CREATE TABLE moonyard.device_logins (
    id uuid PRIMARY KEY,
    device_hash bytea NOT NULL,
    user_code text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    address text,
    share text,
    client text NOT NULL,
    account_id uuid REFERENCES moonyard.accounts (id) ON DELETE CASCADE,
    answered_at timestamptz,
    CONSTRAINT device_hash_is_unique UNIQUE (device_hash),
    CONSTRAINT user_code_is_unique UNIQUE (user_code)
);
COMMENT ON COLUMN moonyard.device_logins.share IS 'The address, or of IPv6 its network of 64 bits: of one, only so many may wait.';
COMMENT ON TABLE moonyard.device_logins IS 'Logins of command lines that wait for a browser (RFC 8628): answered, with an account when it was a yes.';

ALTER TABLE moonyard.roles ADD CONSTRAINT role_is_none_that_comes_along
    CHECK (name NOT IN ('admin', 'maintainer', 'operator', 'developer', 'viewer'));

CREATE FUNCTION moonyard.login_wait(key text, failures integer) RETURNS interval
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN key LIKE 'account:%' AND failures >= 5 THEN make_interval(secs => least(2.0 ^ (failures - 5), 60))
    WHEN key NOT LIKE 'account:%' AND failures >= 20 THEN make_interval(secs => least(2.0 ^ (failures - 20), 300))
    ELSE interval '0'
END;
COMMENT ON FUNCTION moonyard.login_wait IS 'How long the next login has to wait after some that failed. It doubles with each; for an account only to a minute, so that nobody can lock another out.';

CREATE FUNCTION moonyard.login_try(keys text[]) RETURNS interval
LANGUAGE plpgsql AS $$
DECLARE
    item text;
BEGIN
    -- Counted as failed before the password is looked at: of many tries at the same moment, each finds those before it.
    -- The first key that has to wait ends it, uncounted: an address that has to wait makes no account wait any longer.
    FOREACH item IN ARRAY keys LOOP
        INSERT INTO moonyard.login_failures AS known (key, failures, last_at) VALUES (item, 1, now())
        ON CONFLICT (key) DO UPDATE SET
            failures = CASE WHEN known.last_at < now() - interval '1 hour' THEN 1 ELSE known.failures + 1 END,
            last_at = now()
        WHERE known.last_at + moonyard.login_wait(known.key, known.failures) <= now();
        IF NOT FOUND THEN
            RETURN coalesce(
                (
                    SELECT greatest(known.last_at + moonyard.login_wait(known.key, known.failures) - now(), interval '1 second')
                    FROM moonyard.login_failures AS known WHERE known.key = item
                ),
                interval '1 second'
            );
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION moonyard.login_try IS 'Counts a login that is about to be tried, by its address and then by its account; NULL, or how long it has to wait.';

CREATE FUNCTION moonyard.names_fit(name text, held text[], within text[]) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN EXISTS (SELECT FROM unnest(held) AS pattern WHERE moonyard.pattern_fits(pattern, name))
    AND (within IS NULL OR EXISTS (SELECT FROM unnest(within) AS pattern WHERE moonyard.pattern_fits(pattern, name)));
COMMENT ON FUNCTION moonyard.names_fit IS 'Whether a pipeline''s name fits one of the patterns that are held, and one of those that a token is narrowed to.';

CREATE FUNCTION moonyard.account_of(account text) RETURNS uuid
LANGUAGE plpgsql STABLE AS $$
DECLARE
    found uuid := (SELECT id FROM moonyard.accounts AS known WHERE known.name = account);
BEGIN
    IF found IS NULL THEN
        PERFORM moonyard.refuse(
            'account_unknown', format('there is no account `%s`', left(account, 100)), '`moonyard account list` lists them.'
        );
    END IF;
    RETURN found;
END $$;
COMMENT ON FUNCTION moonyard.account_of IS 'Finds an account by its name.';

CREATE FUNCTION moonyard.group_of("group" text) RETURNS uuid
LANGUAGE plpgsql STABLE AS $$
DECLARE
    found uuid := (SELECT id FROM moonyard.groups AS known WHERE known.name = "group");
BEGIN
    IF found IS NULL THEN
        PERFORM moonyard.refuse(
            'group_unknown', format('there is no group `%s`', left("group", 100)), '`moonyard group list` lists them.'
        );
    END IF;
    RETURN found;
END $$;
COMMENT ON FUNCTION moonyard.group_of IS 'Finds a group by its name.';

CREATE VIEW inspect.accounts AS
SELECT account.name, account.created_at, account.created_by, account.last_login_at, account.disabled_at,
    ARRAY(
        SELECT known.name FROM moonyard.group_members AS member JOIN moonyard.groups AS known ON known.id = member.group_id
        WHERE member.account_id = account.id ORDER BY known.name
    ) AS groups
FROM moonyard.accounts AS account
ORDER BY account.name;
COMMENT ON VIEW inspect.accounts IS 'Accounts, and the groups that they are in.';

CREATE VIEW inspect.roles AS
SELECT coalesce('account ' || account.name, 'group ' || known.name) AS holder, held.role, held.pipelines, held.created_at,
    held.created_by
FROM moonyard.role_bindings AS held
LEFT JOIN moonyard.accounts AS account ON account.id = held.account_id
LEFT JOIN moonyard.groups AS known ON known.id = held.group_id
ORDER BY 1, 2, 3;
COMMENT ON VIEW inspect.roles IS 'Who holds which role for which pipelines. What a role permits: docs/permissions.md, and `moonyard role list`.';

CREATE OR REPLACE FUNCTION moonyard.group_supersede(grouped text, newest bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    older record;
    called uuid;
    error jsonb := jsonb_build_object(
        'code', 'job_superseded',
        'message', format('job %s came after this one in concurrency group `%s`', newest, grouped)
    );
BEGIN
    FOR older IN
        SELECT before.id, before.state
        FROM moonyard.jobs AS before JOIN moonyard.pipeline_versions AS version ON version.id = before.version_id
        WHERE before.number < newest AND before.finished_at IS NULL AND before.id IN (
            SELECT id FROM moonyard.jobs WHERE state = 'queued' AND parked = 'group' AND concurrency_group = grouped
            UNION ALL
            SELECT job_id FROM moonyard.concurrency_slots WHERE concurrency_group = grouped
        ) AND (
            -- Who may push one pipeline names any group: another's job ends by it only where that one shares the group,
            -- and says the same of it.
            before.pipeline_id = (SELECT pipeline_id FROM moonyard.jobs WHERE number = newest)
            OR version.rules #>> '{concurrency,group}' IS NOT NULL
                AND (version.rules #>> '{concurrency,cancel_running}')::boolean
        )
        ORDER BY before.id
        FOR UPDATE OF before
    LOOP
        IF moonyard.job_end_queued(older.id, 'cancelled', error) THEN
            PERFORM moonyard.tell('jobs', older.id);
        ELSE
            SELECT runner INTO called FROM moonyard.job_cancel(older.id);
            IF called IS NOT NULL THEN
                PERFORM moonyard.tell('runners', called);
            END IF;
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION moonyard.group_supersede IS 'Cancels what is in a group before a job, of its own pipeline, or of others that say the same of the group: for groups with cancel_running.';
