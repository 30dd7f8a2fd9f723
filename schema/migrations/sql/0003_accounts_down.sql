DROP VIEW inspect.accounts, inspect.roles;
DROP FUNCTION moonyard.login_wait, moonyard.login_try, moonyard.names_fit, moonyard.account_of, moonyard.group_of;
DELETE FROM moonyard.tokens WHERE kind IN ('setup', 'invitation', 'user', 'session');
DROP INDEX moonyard.sessions_expired, moonyard.tokens_of_account;
ALTER TABLE moonyard.tokens
    DROP CONSTRAINT scopes_are_of_user_tokens,
    DROP CONSTRAINT uses_are_counted_for_registrations,
    ADD CONSTRAINT uses_are_counted_for_registrations CHECK (uses_left IS NULL OR kind = 'registration'),
    DROP CONSTRAINT tokens_of_people_have_an_account,
    DROP CONSTRAINT token_kind_is_known,
    ADD CONSTRAINT token_kind_is_known CHECK (kind IN ('admin', 'registration', 'runner')),
    DROP COLUMN account_id, DROP COLUMN permissions, DROP COLUMN pipelines;
DROP TABLE moonyard.device_logins, moonyard.login_failures, moonyard.role_bindings, moonyard.roles, moonyard.group_members,
    moonyard.groups, moonyard.account_identities, moonyard.accounts;
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
        SELECT id, state FROM moonyard.jobs
        WHERE number < newest AND finished_at IS NULL AND id IN (
            SELECT id FROM moonyard.jobs WHERE state = 'queued' AND parked = 'group' AND concurrency_group = grouped
            UNION ALL
            SELECT job_id FROM moonyard.concurrency_slots WHERE concurrency_group = grouped
        )
        ORDER BY id
        FOR UPDATE
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
COMMENT ON FUNCTION moonyard.group_supersede IS 'Cancels what is in a group before a job: for groups with cancel_running.';
