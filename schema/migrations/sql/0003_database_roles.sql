-- Who may do what in the database itself: docs/permissions.md has the table, docs/operations.md how a login is made.
--
--     moonyard_orchestrator   what a replica needs: it changes rows, and neither the schema nor the audit
--     moonyard_operator       acts by the functions of `control`, and looks
--     moonyard_reader         looks: the views and functions of `inspect`
--
-- Roles belong to the whole cluster: another database may have made them, and whoever migrates may not be allowed to.
-- So all that they are granted is in a function that can be called again: once somebody made them, and by later
-- migrations that make tables.

CREATE FUNCTION moonyard.grant_roles() RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    role text;
    there text[];
BEGIN
    FOREACH role IN ARRAY ARRAY['moonyard_orchestrator', 'moonyard_operator', 'moonyard_reader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            EXCEPTION WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
    END LOOP;
    there := ARRAY(SELECT rolname::text FROM pg_roles WHERE rolname ~ '^moonyard_(orchestrator|operator|reader)$' ORDER BY 1);

    IF 'moonyard_orchestrator' = ANY (there) THEN
        GRANT USAGE ON SCHEMA moonyard, inspect TO moonyard_orchestrator;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA moonyard TO moonyard_orchestrator;
        GRANT SELECT, UPDATE ON SEQUENCE moonyard.turns TO moonyard_orchestrator;
        GRANT SELECT ON inspect.runners TO moonyard_orchestrator;  -- for the metrics
        -- What is never changed, or never removed, by anybody.
        REVOKE UPDATE, DELETE ON moonyard.pipeline_versions, moonyard.plugins, moonyard.plugin_contents, moonyard.tag_sets
            FROM moonyard_orchestrator;
        REVOKE UPDATE ON moonyard.event_batches, moonyard.commands, moonyard.grants, moonyard.grant_confirmations,
            moonyard.secret_versions FROM moonyard_orchestrator;
        REVOKE DELETE ON moonyard.accounts, moonyard.runners FROM moonyard_orchestrator;
        GRANT UPDATE (key_id, wrapped_nonce, wrapped_key) ON moonyard.secret_versions TO moonyard_orchestrator;
        -- Contents that nothing names any more are swept; what they are is never changed.
        GRANT UPDATE (created_at), DELETE ON moonyard.plugin_contents TO moonyard_orchestrator;
        -- Rows of the audit are added, under the database's own time and number. The chain is sealed, and cut when it is
        -- old, by functions that run as their owner.
        REVOKE ALL ON moonyard.audit, moonyard.audit_chain, moonyard.audit_unsealed, moonyard.schema_version
            FROM moonyard_orchestrator;
        GRANT SELECT ON moonyard.audit, moonyard.audit_chain, moonyard.schema_version TO moonyard_orchestrator;
        GRANT INSERT (actor, address, action, subject, result, detail) ON moonyard.audit TO moonyard_orchestrator;
        GRANT EXECUTE ON FUNCTION moonyard.audit_seal, moonyard.audit_check, moonyard.audit_end, moonyard.audit_retire,
            moonyard.classes_settle TO moonyard_orchestrator;
    END IF;
    REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA control FROM PUBLIC;
    REVOKE EXECUTE ON FUNCTION moonyard.classes_settle FROM PUBLIC;
    IF 'moonyard_operator' = ANY (there) THEN
        GRANT USAGE ON SCHEMA control, inspect TO moonyard_operator;
        GRANT SELECT ON ALL TABLES IN SCHEMA inspect TO moonyard_operator;
        -- By name: what comes later is for the owner, until somebody says that it is for operators.
        GRANT EXECUTE ON FUNCTION control.submit, control.cancel(text, boolean), control.cancel(bigint, boolean),
            control.retry(text, text, boolean), control.retry(bigint, text, boolean), control.release(text),
            control.release(bigint), control.pause, control.resume, control.drain, control.undrain, control.forget_cache,
            control.set_http_limit, control.remove_http_limit, control.revoke, control.rotate_runner, control.revoke_runner,
            control.remove_runner, control.bind_runner, control.reserve, control.unreserve, control.audit_verify,
            control.approve, control.refuse
            TO moonyard_operator;
    END IF;
    IF 'moonyard_reader' = ANY (there) THEN
        GRANT USAGE ON SCHEMA inspect TO moonyard_reader;
        GRANT SELECT ON ALL TABLES IN SCHEMA inspect TO moonyard_reader;
    END IF;
    RETURN there;
END $$;
COMMENT ON FUNCTION moonyard.grant_roles IS 'Makes the roles that are missing, if whoever calls may, and grants each what it needs; gives those that there are. For the owner.';
REVOKE EXECUTE ON FUNCTION moonyard.grant_roles FROM PUBLIC;

-- A replica with more rights than it needs is a worry.
ALTER VIEW inspect.health SET SCHEMA moonyard;
ALTER VIEW moonyard.health RENAME TO health_without_roles;
CREATE VIEW inspect.health AS
SELECT subject, state, detail FROM moonyard.health_without_roles
UNION ALL
SELECT 'database role', CASE WHEN count(*) > 0 THEN 'worry' ELSE 'ok' END,
    CASE WHEN count(*) = 0 THEN 'no orchestrator has more rights than it needs'
        ELSE string_agg(
            DISTINCT 'an orchestrator is connected as ' || inspect.shortened(login.rolname, 20) || ', '
                || CASE WHEN login.rolsuper THEN 'a superuser' ELSE 'who owns the schema' END,
            '; '
        ) || ': moonyard db add-login' END
FROM pg_stat_activity AS session
JOIN pg_roles AS login ON login.oid = session.usesysid
JOIN pg_namespace AS home ON home.nspname = 'moonyard'
WHERE session.datname = current_database() AND session.application_name LIKE 'moonyard orchestrator%'
    AND (login.rolsuper OR pg_has_role(login.oid, home.nspowner, 'MEMBER'));
COMMENT ON VIEW inspect.health IS 'What an operator should worry about: SELECT * FROM inspect.health WHERE state = ''worry'';';

SELECT moonyard.grant_roles();
