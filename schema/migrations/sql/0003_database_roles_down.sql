-- The roles stay, they belong to the whole cluster; what they were granted here goes.
DROP VIEW inspect.health;
ALTER VIEW moonyard.health_without_roles RENAME TO health;
ALTER VIEW moonyard.health SET SCHEMA inspect;
DROP FUNCTION moonyard.grant_roles;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moonyard_orchestrator') THEN
        REVOKE ALL ON ALL TABLES IN SCHEMA moonyard, inspect FROM moonyard_orchestrator;
        REVOKE ALL ON ALL SEQUENCES IN SCHEMA moonyard FROM moonyard_orchestrator;
        REVOKE ALL ON ALL FUNCTIONS IN SCHEMA moonyard FROM moonyard_orchestrator;
        REVOKE ALL ON SCHEMA moonyard, inspect FROM moonyard_orchestrator;
    END IF;
END $$;
