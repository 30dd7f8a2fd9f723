"""What each role of the database may do, and that replicas get by with what theirs may."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import psycopg
import pytest

from orchestrator import master_keys, passwords
from schema.migrations.versions import v0003_security
from schema.secrets import SecretSet
from tests.orchestrator.installation import Installation
from tests.orchestrator.test_audited import CONTROL, NEW
from tests.postgres import REPLICA, as_replica, psql

PAGE = Path(__file__).parents[2] / "docs" / "permissions.md"
STRANGER = "moonyard_test_stranger"
ROLES = {
    "none": STRANGER,
    "reader": "moonyard_reader",
    "operator": "moonyard_operator",
    "orchestrator": "moonyard_orchestrator",
    "owner": "postgres",
}
AUDIT_VERIFY = "control.audit_verify()"
PASSWORD = "a horse, a battery and 7 staples"
HIDDEN = """
SELECT c.relname || '.' || a.attname AS name
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'moonyard' AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
    AND (a.atttypid = 'bytea'::regtype OR a.attname ~ 'hash|cipher|nonce|wrapped|secret_text|user_code')
"""
"""Columns with what nobody is to read: hashes of tokens and passwords, ciphertexts, contents."""
USED = """
SELECT DISTINCT v.relname AS view, c.relname || '.' || a.attname AS name
FROM pg_rewrite AS r
JOIN pg_class AS v ON v.oid = r.ev_class JOIN pg_namespace AS n ON n.oid = v.relnamespace
JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
JOIN pg_class AS c ON c.oid = d.refobjid
JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE n.nspname = 'inspect'
"""
HELD = """
SELECT c.relname AS name, ARRAY(
    SELECT privilege
    FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS privilege
    WHERE has_table_privilege('moonyard_orchestrator', c.oid, privilege)
) AS held
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'moonyard' AND c.relkind = 'r'
"""
UNCHANGING = {"pipeline_versions", "plugins", "tag_sets"}
AUDIT = {"audit", "audit_chain", "audit_unsealed", "schema_version"}


def documented() -> dict[str, dict[str, bool]]:
    """Read the table of the documentation: which role may call which function."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## In psql\n")[2].partition("\n## ")[0]
    lines = [re.split(r" *\| *", line.strip("| ")) for line in section.splitlines() if line.startswith("|")]
    start = next(place for place, cells in enumerate(lines) if cells[0] == "function")
    columns = lines[start][1:]
    return {
        cells[0].strip("`"): dict(zip(columns, (cell == "yes" for cell in cells[1:]), strict=True))
        for cells in lines[start + 2 :]
    }


async def test_each_role_may_call_the_functions_of_control_that_the_documentation_says(installation: Installation):
    known = await installation.fetch(
        "SELECT DISTINCT p.proname AS name FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace "
        "WHERE n.nspname = 'control'"
    )
    table = documented()
    assert sorted(table) == sorted(row["name"] for row in known)
    calls = [call for call, _ in CONTROL.values()] + [AUDIT_VERIFY]
    await installation.fetch(f"DROP ROLE IF EXISTS {STRANGER}")
    await installation.fetch(f"CREATE ROLE {STRANGER}")
    # Without a cache: a statement that one role prepared is not looked at again when another runs it.
    connection = await asyncpg.connect(installation.url, statement_cache_size=0)
    try:
        for column, role in ROLES.items():
            for call in calls:
                name = call.removeprefix("control.").partition("(")[0]
                assert await may(connection, role, call) == table[name][column], (column, call)
    finally:
        await connection.close()
        await installation.fetch(f"DROP ROLE {STRANGER}")


async def may(connection: asyncpg.Connection, role: str, call: str) -> bool:
    """Whether a role may call a function: whatever else is wrong with the call."""
    # What the call looks up for itself is not what is asked for here.
    call = call.replace("(SELECT id FROM moonyard.grants)", "NULL")
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"SET LOCAL ROLE {role}")
        await connection.fetch(f"SELECT * FROM {call}" if "audit" in call else f"SELECT {call}")  # noqa: S608
    except asyncpg.InsufficientPrivilegeError:
        return False
    except asyncpg.PostgresError:
        return True
    finally:
        await transaction.rollback()
    return True


async def test_functions_that_run_as_their_owner_are_nobodys_by_default(installation: Installation):
    open_to_all = await installation.fetch(
        "SELECT p.oid::regproc::text AS name FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace "
        "WHERE n.nspname IN ('moonyard', 'control') AND p.prosecdef AND p.prorettype <> 'trigger'::regtype "
        "AND has_function_privilege('pg_monitor', p.oid, 'EXECUTE')"
    )
    assert [row["name"] for row in open_to_all] == []
    unsafe = await installation.fetch(
        "SELECT p.proname AS name FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace "
        "WHERE n.nspname IN ('moonyard', 'control', 'inspect') AND p.prosecdef "
        "AND NOT coalesce(p.proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false)"
    )
    assert [row["name"] for row in unsafe] == []


async def test_no_view_for_people_holds_a_hash_or_a_ciphertext(installation: Installation):
    hidden = {row["name"] for row in await installation.fetch(HIDDEN)}
    assert {"tokens.hash", "accounts.password_hash", "secret_versions.ciphertext", "blob_chunks.data"} <= hidden
    used = await installation.fetch(USED)
    assert {row["view"] for row in used} >= {"jobs", "audit", "secrets"}
    assert [tuple(row) for row in used if row["name"] in hidden] == []


async def test_a_reader_finds_nothing_secret_in_any_column_of_any_view(installation: Installation):
    await installation.replica(secret_keys=master_keys.parse(NEW, "a test"))
    await installation.push()
    await installation.submit()
    await installation.runner()
    admin = await installation.client()
    await admin.post("/v1/secrets", object, SecretSet(secret="TOKEN", value=b"not to be seen 1234"))
    await installation.fetch(
        "INSERT INTO moonyard.accounts (id, name, password_hash, created_by) "
        "VALUES (gen_random_uuid(), 'ada', $1, 'x')",
        await passwords.hashed(PASSWORD),
    )
    rows = await installation.fetch(
        "SELECT encode(hash, 'hex') AS text FROM moonyard.tokens UNION ALL "
        "SELECT encode(ciphertext, 'hex') FROM moonyard.secret_versions UNION ALL "
        "SELECT encode(wrapped_key, 'hex') FROM moonyard.secret_versions UNION ALL "
        "SELECT password_hash FROM moonyard.accounts"
    )
    secret = [row["text"] for row in rows] + ["not to be seen", installation.admin_secret]
    assert len(secret) >= 7
    views = await installation.fetch(
        "SELECT c.relname AS name FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE n.nspname = 'inspect' AND c.relkind = 'v'"
    )
    assert len(views) > 20
    for view in views:
        text = psql(installation.url, f'TABLE inspect."{view["name"]}"', role="moonyard_reader")
        assert not [one for one in secret if one in text], view["name"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE moonyard.audit SET actor = 'somebody else'",
        "DELETE FROM moonyard.audit",
        "TRUNCATE moonyard.audit",
        "INSERT INTO moonyard.audit (at, actor, action, subject) VALUES ('2020-01-01', 'a', 'b', 'c')",
        "DELETE FROM moonyard.audit_unsealed",
        "UPDATE moonyard.audit_chain SET entries = 1",
        "DELETE FROM moonyard.audit_chain",
        "UPDATE moonyard.schema_version SET version_num = '0001'",
        "UPDATE moonyard.pipeline_versions SET source = ''",
        "UPDATE moonyard.secret_versions SET readable = true",
        "UPDATE moonyard.secret_versions SET secret_id = gen_random_uuid()",
        "UPDATE moonyard.grants SET pipeline = '*'",
        "SELECT setval('moonyard.audit_id_seq', 1)",
        "ALTER TABLE moonyard.audit DISABLE TRIGGER audit_await_seal",
        "ALTER TABLE moonyard.jobs ADD COLUMN mine text",
        "DROP TABLE moonyard.jobs",
        "CREATE TABLE moonyard.mine (id integer)",
        "CREATE OR REPLACE FUNCTION moonyard.audit_seal(most integer) RETURNS integer LANGUAGE sql RETURN 0",
        "CREATE SCHEMA mine",
        "CREATE ROLE mine",
        "TABLE inspect.jobs",
        "SELECT moonyard.grant_roles()",
        "SELECT control.pause()",
        "COPY moonyard.jobs TO PROGRAM 'true'",
    ],
)
async def test_a_replica_cannot_change_the_schema_or_the_audit(database_url: str, statement: str):
    with (
        psycopg.connect(as_replica(database_url)) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement.encode())


async def test_a_replicas_privileges_on_tables_are_these(installation: Installation):
    rows = await installation.fetch(HELD)
    held = {row["name"]: set(row["held"]) for row in rows}
    assert {name: held[name] for name in AUDIT} == {
        "audit": {"SELECT"},
        "audit_chain": {"SELECT"},
        "audit_unsealed": set(),
        "schema_version": {"SELECT"},
    }
    for name in set(held) - AUDIT:
        assert {"SELECT", "INSERT"} <= held[name] <= {"SELECT", "INSERT", "UPDATE", "DELETE"}, name
    assert {name for name in held if not held[name] & {"UPDATE", "DELETE"}} - AUDIT == UNCHANGING


async def test_tables_of_all_parts_are_granted_and_granting_again_changes_nothing(installation: Installation):
    assert v0003_security.PARTS[-1] == "database_roles", "it grants what the others made"
    statement = "SELECT array_agg(relacl::text ORDER BY oid) FROM pg_class"
    before = await installation.database.value(statement)
    assert await installation.database.value("SELECT moonyard.grant_roles()") == [
        "moonyard_operator",
        "moonyard_orchestrator",
        "moonyard_reader",
    ]
    assert await installation.database.value(statement) == before


async def test_a_replica_with_more_rights_than_it_needs_is_a_worry(installation: Installation):
    replica = await installation.replica()
    statement = "SELECT state, detail FROM inspect.health WHERE subject = 'database role'"
    [row] = await installation.fetch(statement)
    assert row["state"] == "worry", "the tests' own connection is a superuser's"
    assert row["detail"] == "an orchestrator is connected as postgres, a superuser: moonyard db add-login"
    users = await replica.parts.database.value("SELECT session_user")
    assert users == REPLICA
    assert "worry" in psql(installation.url, statement, role="moonyard_reader")
