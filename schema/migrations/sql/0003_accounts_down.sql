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
