"""``moonyard doctor`` on a database: a real Postgres, in each state that it warns of."""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import psycopg
import pytest
from psycopg import conninfo, sql

from cli.checkups import database as checkup
from schema import database
from schema.findings import Finding
from tests import pgbouncer, postgres
from tests.cli.command import moonyard
from tests.postgres import Cluster


@pytest.fixture(scope="module")
def cluster() -> Generator[Cluster]:
    """A Postgres whose settings are this module's to change."""
    with postgres.cluster() as running:
        yield running


@pytest.fixture
def url(cluster: Cluster) -> Generator[str]:
    made = cluster.create_migrated()
    yield made
    cluster.drop(made)


async def look(url: str, listen_url: str | None = None) -> dict[str, Finding]:
    found = await checkup.examine(url, listen_url)
    for finding in found:
        assert finding.part == "database"
        assert finding.state == "ok" or (finding.why and finding.hint), finding
    return {finding.check: finding for finding in found}


def name_of(url: str) -> sql.Identifier:
    return sql.Identifier(str(conninfo.conninfo_to_dict(url)["dbname"]))


def set_here(cluster: Cluster, url: str, name: str, value: str) -> None:
    """Change a setting of one database."""
    cluster.run(sql.SQL("ALTER DATABASE {} SET {} = {}").format(name_of(url), sql.Identifier(name), value))


@pytest.fixture
def system(cluster: Cluster) -> Generator[Cluster]:
    """The cluster, whose settings are put back after the test."""
    yield cluster
    cluster.run(sql.SQL("ALTER SYSTEM RESET ALL").format())
    cluster.run(sql.SQL("SELECT pg_reload_conf()").format())


def set_for_all(cluster: Cluster, name: str, value: str) -> None:
    """Change a setting of the cluster, and wait until new sessions have it."""
    cluster.run(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), value))
    cluster.run(sql.SQL("SELECT pg_reload_conf()").format())
    shown = None
    while shown != value:
        with psycopg.connect(cluster.url()) as connection:
            shown = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
            shown = None if shown is None else shown[0]


async def test_a_database_as_it_should_be_has_nothing_weak_but_its_owners_login(system: Cluster, url: str) -> None:
    set_for_all(system, "fsync", "on")
    found = await look(url)
    fine = {
        "version",
        "what is kept",
        "clock of the database",
        "connections",
        "way to the database",
        "passwords",
        "schema",
    }
    assert {check for check, finding in found.items() if finding.state == "ok"} >= fine
    weak = {check for check, finding in found.items() if finding.state != "ok"}
    # Nobody runs here yet.
    assert weak == {"login", "health: orchestrators", "health: runners"}


@pytest.mark.parametrize(
    ("name", "value", "check", "text"),
    [
        ("fsync", "off", "what is kept", "`fsync` is off"),
        ("full_page_writes", "off", "what is kept", "`full_page_writes` is off"),
        ("autovacuum", "off", "cleaning up", "`autovacuum`, or what it counts by, is off"),
    ],
)
async def test_a_setting_of_the_cluster_that_loses_something_is_weak(
    system: Cluster, url: str, name: str, value: str, check: str, text: str
) -> None:
    set_for_all(system, "fsync", "on")
    set_for_all(system, name, value)
    found = (await look(url))[check]
    assert (found.state, found.text) == ("weak", text)
    assert found.hint == f"ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf();"


@pytest.mark.parametrize(
    ("name", "value", "check", "text"),
    [
        ("synchronous_commit", "off", "what is kept", "`synchronous_commit` is off"),
        ("password_encryption", "md5", "passwords", "new ones are kept as md5"),
        ("track_counts", "off", "cleaning up", "`autovacuum`, or what it counts by, is off"),
    ],
)
async def test_a_setting_of_one_database_counts_as_well(
    system: Cluster, url: str, name: str, value: str, check: str, text: str
) -> None:
    set_for_all(system, "fsync", "on")
    set_here(system, url, name, value)
    found = (await look(url))[check]
    assert (found.state, found.text) == ("weak", text)


async def test_connections_that_do_not_suffice_are_weak(cluster: Cluster, url: str) -> None:
    listening = conninfo.make_conninfo(url, application_name="moonyard orchestrator, listening")
    cluster.run(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 20").format(name_of(url)))
    assert (await look(url))["connections"].state == "ok"  # one orchestrator has room
    with psycopg.connect(listening), psycopg.connect(listening):
        found = (await look(url))["connections"]
    assert found.state == "weak"
    assert found.text == "there is room for 20; 2 orchestrators listen, which may need 37"


async def test_a_login_says_what_rights_it_has(cluster: Cluster, url: str) -> None:
    assert (await look(url))["login"].text == "`postgres` is a superuser"
    owner, plain = f"owner_{id(url)}", f"plain_{id(url)}"
    for name in (owner, plain):
        cluster.run(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    try:
        with psycopg.connect(url) as connection:
            connection.execute(sql.SQL("ALTER SCHEMA moonyard OWNER TO {}").format(sql.Identifier(owner)))
            connection.execute(sql.SQL("GRANT moonyard_orchestrator TO {}").format(sql.Identifier(plain)))
            connection.execute(sql.SQL("ALTER ROLE {} CREATEDB").format(sql.Identifier(owner)))
        found = (await look(conninfo_url(url, owner)))["login"]
        assert found.state == "weak"
        assert found.text.startswith(f"`{owner}` owns the schema and may make roles or databases")
        found = await look(conninfo_url(url, plain))
        assert found["login"].state == "ok"
        assert found["schema"].state == "ok"
        assert not [check for check in found if check.startswith("health: ")], "that is not for replicas to see"
    finally:
        with psycopg.connect(url) as connection:
            connection.execute("ALTER SCHEMA moonyard OWNER TO postgres")
        for name in (owner, plain):
            cluster.run(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def conninfo_url(url: str, user: str) -> str:
    parts = conninfo.conninfo_to_dict(url)
    return f"postgresql://{user}@/{parts['dbname']}?host={str(parts['host']).replace('/', '%2F')}"


@pytest.fixture
def logins(url: str) -> Generator[Path]:
    """The file that says who may log in how; it is put back after the test."""
    with psycopg.connect(url) as connection:
        [[path]] = connection.execute("SELECT current_setting('hba_file')").fetchall()
    file = Path(path)
    before = file.read_text(encoding="utf-8")
    with file.open("a", encoding="utf-8") as more:
        more.write("\nhost all all 192.0.2.0/24 trust\nhost all all 198.51.100.7/32 scram-sha-256\n")
    yield file
    file.write_text(before, encoding="utf-8")


async def test_logins_that_ask_for_too_little_are_told_line_by_line(url: str, logins: Path) -> None:
    found = await look(url)
    [loose] = [finding for check, finding in found.items() if check.startswith("pg_hba.conf:")]
    assert loose.state == "weak"
    assert loose.text == "from 192.0.2.0, logins are by `trust`"


async def test_what_worries_in_the_database_is_told_with_what_to_do(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO moonyard.pauses (paused_by) VALUES ('me')")
    found = (await look(url))["health: pauses"]
    assert found.state == "weak"
    assert found.text == "everything is paused by me"
    assert "moonyard resume" in str(found.hint)


async def test_a_database_without_the_schema_is_broken(cluster: Cluster) -> None:
    empty = cluster.create()
    try:
        found = (await look(empty))["schema"]
        assert found.state == "broken"
        assert "has no schema of Moonyard's yet" in found.text
        database.upgrade(empty, "0001")
        found = (await look(empty))["schema"]
        assert f"has schema version 0001, and this Moonyard needs {database.head()}" in found.text
    finally:
        cluster.drop(empty)


async def test_a_database_that_is_not_there_is_broken(tmp_path: Path, unused_port: int) -> None:
    url = f"postgresql://me:very-secret@127.0.0.1:{unused_port}/moonyard"
    done = await moonyard("doctor", "--json", "--only=database", cwd=tmp_path, MOONYARD_DATABASE_URL=url)
    assert done.code == 1
    [line] = done.lines
    assert (line["part"], line["state"]) == ("database", "broken")
    assert f"Postgres at 127.0.0.1:{unused_port}, database `moonyard` cannot be used" in line["text"]
    assert "very-secret" not in done.stdout + done.stderr


async def test_a_database_that_is_named_is_looked_at(tmp_path: Path, url: str) -> None:
    done = await moonyard("doctor", "--json", "--only=database", cwd=tmp_path, MOONYARD_DATABASE_URL=url)
    assert done.code == 0, done.stdout + done.stderr
    assert {"version", "schema"} <= {line["check"] for line in done.lines}
    assert (await moonyard("doctor", "--only=database", "--strict", cwd=tmp_path, MOONYARD_DATABASE_URL=url)).code == 1


async def test_a_pooler_without_a_way_past_it_is_weak(url: str) -> None:
    with pgbouncer.before(url) as pooled:
        found = await look(pooled)
        assert found["pooler"].state == "weak"
        assert "listen_url" in str(found["pooler"].hint)
        assert found["connections"].state == "ok"
        assert (await look(pooled, url))["pooler"].state == "ok"


async def facts(url: str) -> checkup.Facts:
    async with checkup.reached(url, None) as reaching:
        return await checkup.facts(reaching)


@pytest.mark.parametrize(
    ("query", "is_encrypted", "state", "text"),
    [
        ("?sslmode=verify-full", True, "ok", "TLS, and whose certificate it is is checked"),
        ("?sslmode=require", True, "weak", "TLS, and whose certificate it is is not checked"),
        ("", True, "weak", "TLS, and whose certificate it is is not checked"),
        ("", False, "weak", "over a network, and without TLS that is asked for"),
    ],
)
async def test_a_way_over_a_network_is_fine_only_with_a_certificate_that_is_checked(
    url: str, query: str, is_encrypted: bool, state: str, text: str
) -> None:
    elsewhere = msgspec.structs.replace(await facts(url), is_local=False, is_encrypted=is_encrypted)
    found = checkup.way(f"postgresql://me@db.example/moonyard{query}", elsewhere, is_pooled=False)
    assert (found.state, found.text) == (state, text)


async def test_states_that_take_days_to_come_about(url: str) -> None:
    now, fine = datetime.now(UTC), await facts(url)
    old = msgspec.structs.replace(
        fine,
        transactions_unfrozen=1_500_000_000,
        slots_behind="standby_1",
        version="14.2",
        version_number=140002,
        now=now - timedelta(minutes=2),
    )
    found = {finding.check: finding for finding in checkup.judged(old, now, is_pooled=False)}
    assert "1500000000 transactions old" in found["cleaning up"].text
    assert "standby_1" in found["disk of Postgres"].text
    assert found["version"].state == "broken"
    assert found["clock of the database"].text == "it is 120 s apart from this machine's"
    standby = msgspec.structs.replace(fine, is_standby=True)
    [version] = [one for one in checkup.judged(standby, now, is_pooled=False) if one.check == "version"]
    assert version.state == "broken"
    assert "a standby" in version.text
