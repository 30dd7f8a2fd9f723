DROP FUNCTION control.audit_verify;
DROP VIEW inspect.audit;
DROP TRIGGER audit_await_seal ON moonyard.audit;
DROP FUNCTION moonyard.audit_retire, moonyard.audit_end, moonyard.audit_check, moonyard.audit_seal, moonyard.audit_hash,
    moonyard.audit_await_seal;
DROP TABLE moonyard.audit_chain, moonyard.audit_unsealed;
DO $patch$
DECLARE
    body text := pg_get_functiondef('moonyard.jobs_submit'::regproc);
BEGIN
    body := replace(body, 'INSERT INTO moonyard.audit (actor, address, action, subject, detail)', 'INSERT INTO moonyard.audit (actor, action, subject, detail)');
    body := replace(body, 'wish.actor, coalesce(wish.address, moonyard.origin()), ''submit'',', 'wish.actor, ''submit'',');
    body := replace(body, 'AS wish (place integer, id uuid, actor text, address text, together boolean)', 'AS wish (place integer, id uuid, actor text, together boolean)');
    body := replace(body, 'GROUP BY wish.actor, wish.address, CASE', 'GROUP BY wish.actor, CASE');
    EXECUTE body;
END $patch$;
DROP FUNCTION moonyard.note;
CREATE FUNCTION moonyard.note(actor text, action text, subject text, detail jsonb DEFAULT NULL) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO moonyard.audit (actor, action, subject, detail) VALUES (actor, action, subject, detail);
$$;
COMMENT ON FUNCTION moonyard.note IS 'Writes a row of the audit.';
DROP FUNCTION moonyard.origin;
DROP INDEX moonyard.audit_by_time, moonyard.audit_of_removals;
ALTER TABLE moonyard.audit DROP COLUMN address, DROP COLUMN result;
COMMENT ON COLUMN moonyard.audit.detail IS NULL;
COMMENT ON TABLE moonyard.audit IS 'What operators did, through the API (actor: a token) or in psql (actor: the session''s user).';
CREATE VIEW inspect.audit AS
SELECT at::timestamptz(0) AS at, inspect.shortened(actor, 28) AS actor, action, inspect.shortened(subject, 40) AS subject
FROM moonyard.audit
ORDER BY id DESC;
COMMENT ON VIEW inspect.audit IS 'What operators did through the API or in schema control, the newest first.';
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_reader') THEN
        GRANT SELECT ON inspect.audit TO moonyard_reader;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_operator') THEN
        GRANT SELECT ON inspect.audit TO moonyard_operator;
    END IF;
END $$;
