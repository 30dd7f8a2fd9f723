"""Statements by which ``moonyard doctor`` looks at a database. They change nothing."""

from __future__ import annotations

from typing import Final

# Settings as this session has them, for a login or a database may have its own.
FACTS: Final = """
SELECT
    current_setting('server_version_num')::integer AS version_number,
    current_setting('server_version') AS version,
    pg_is_in_recovery() AS is_standby,
    clock_timestamp() AS now,
    current_setting('fsync') = 'on' AS fsync,
    current_setting('full_page_writes') = 'on' AS full_page_writes,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('autovacuum') = 'on' AND current_setting('track_counts') = 'on' AS autovacuum,
    current_setting('password_encryption') AS password_encryption,
    -- How many connections are left to all who are no superusers, by the narrowest of the limits.
    least(
        current_setting('max_connections')::integer
            - current_setting('superuser_reserved_connections')::integer
            - coalesce(current_setting('reserved_connections', true), '0')::integer,
        nullif((SELECT datconnlimit FROM pg_database WHERE datname = current_database()), -1),
        nullif(login.rolconnlimit, -1)
    ) AS connections,
    login.rolname::text AS login,
    login.rolsuper AS is_superuser,
    login.rolcreaterole OR login.rolcreatedb OR login.rolreplication OR login.rolbypassrls AS may_more,
    EXISTS (
        SELECT FROM pg_namespace WHERE nspname = 'moonyard' AND pg_has_role(login.oid, nspowner, 'USAGE')
    ) AS is_owner,
    inet_client_addr() IS NULL OR inet_client_addr() <<= '127.0.0.0/8' OR inet_client_addr() = '::1'
        OR inet_client_addr() = inet_server_addr() AS is_local,
    coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS is_encrypted,
    (SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()) AS transactions_unfrozen,
    (
        SELECT count(*)::integer FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'moonyard orchestrator, listening'
    ) AS orchestrators,
    (
        SELECT string_agg(slot_name, ', ' ORDER BY slot_name) FROM pg_replication_slots
        WHERE NOT active AND wal_status IN ('extended', 'unreserved')
    ) AS slots_behind
FROM pg_roles AS login WHERE login.rolname = current_user
"""

# What this login may read of all that is looked at. A name that is not there is not in the answer.
READABLE: Final = """
SELECT relation.oid::regclass::text AS name,
    has_schema_privilege(namespace.oid, 'USAGE') AND has_table_privilege(relation.oid, 'SELECT') AS readable
FROM pg_class AS relation
JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace
WHERE (namespace.nspname, relation.relname) IN (
    ('moonyard', 'schema_version'), ('moonyard', 'secret_versions'), ('inspect', 'health'),
    ('pg_catalog', 'pg_hba_file_rules')
)
"""

SCHEMA_VERSION: Final = "SELECT version_num FROM moonyard.schema_version"

# For superusers and members of pg_read_all_settings alone.
LOOSE_LOGINS: Final = """
SELECT line_number, auth_method, coalesce(address, 'any socket') AS address FROM pg_hba_file_rules
WHERE type <> 'local' AND auth_method IN ('trust', 'password', 'md5')
    AND coalesce(address, '') NOT IN ('127.0.0.1', '::1', 'localhost', 'samehost')
ORDER BY line_number LIMIT 10
"""

HEALTH: Final = "SELECT subject, state, detail FROM inspect.health ORDER BY subject"

# How many values are under each master key.
MASTER_KEYS: Final = """
SELECT key_id, count(*)::integer AS secrets FROM moonyard.secret_versions GROUP BY key_id ORDER BY key_id
"""
