from __future__ import annotations

import subprocess
import threading
from collections.abc import Generator
from urllib.parse import urlsplit

import psycopg
import pytest
from alembic.script import ScriptDirectory

from schema import database
from schema.errors import MoonyardError
from schema.migrations import running
from tests.postgres import Cluster, program


@pytest.fixture
def empty_database(postgres_cluster: Cluster) -> Generator[str]:
    url = postgres_cluster.create()
    yield url
    postgres_cluster.drop(url)


def dump(url: str) -> str:
    """Give the schema as pg_dump writes it. (The key is random in each dump, unless it is given.)"""
    argv = [program("pg_dump"), "--schema-only", "--restrict-key=test", url]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


def test_there_is_one_newest_migration():
    assert ScriptDirectory.from_config(running.configuration()).get_heads() == [database.head()]


def test_up_down_and_up_again_gives_the_same_schema(empty_database: str):
    database.upgrade(empty_database)
    first = dump(empty_database)
    database.downgrade(empty_database, "base")
    assert database.check(empty_database)[0] is None
    with psycopg.connect(empty_database) as connection:
        left = connection.execute(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname IN ('moonyard', 'inspect', 'control') AND c.relkind IN ('r', 'v', 'S')"
        ).fetchall()
    assert left == [("moonyard", "schema_version")]
    database.upgrade(empty_database)
    assert dump(empty_database) == first


def test_jobs_of_the_version_before_are_what_they_were_after_an_upgrade(empty_database: str):
    database.upgrade(empty_database, "0001")
    with psycopg.connect(empty_database) as connection:
        connection.execute(
            """
            INSERT INTO moonyard.pipelines (id, name) VALUES (gen_random_uuid(), 'build');
            INSERT INTO moonyard.pipeline_versions (id, pipeline_id, sha256, filename, source, definition)
            SELECT gen_random_uuid(), id, repeat('a', 64), 'build.lua', '', '{"name": "build", "stages": []}'
            FROM moonyard.pipelines;
            UPDATE moonyard.pipelines SET version_id = (SELECT id FROM moonyard.pipeline_versions);
            INSERT INTO moonyard.jobs (id, pipeline_id, version_id, inputs, state, finished_at)
            SELECT gen_random_uuid(), pipeline.id, version_id, '{}', state, CASE state WHEN 'failed' THEN now() END
            FROM moonyard.pipelines AS pipeline CROSS JOIN unnest(ARRAY['queued', 'failed']) AS state;
            """
        )
    database.upgrade(empty_database)
    with psycopg.connect(empty_database) as connection:
        jobs = connection.execute("SELECT state, priority, parked FROM moonyard.jobs ORDER BY number").fetchall()
        assert jobs == [("queued", 0, None), ("failed", 0, None)]
        # What the version before does to the tables goes on to work: its replicas are still there.
        connection.execute(
            "INSERT INTO moonyard.jobs (id, pipeline_id, version_id, inputs) "
            "SELECT gen_random_uuid(), id, version_id, '{}' FROM moonyard.pipelines"
        )
        connection.execute("SELECT control.retry(2), control.submit('build')")
        waiting = connection.execute("SELECT job FROM inspect.queue").fetchall()
    assert waiting == [(1,), (2,), (3,), (4,)]
    database.downgrade(empty_database, "0001")
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT count(*) FROM inspect.queue").fetchone() == (4,)


def test_upgrading_twice_changes_nothing(empty_database: str):
    database.upgrade(empty_database)
    database.upgrade(empty_database)
    current, head = database.check(empty_database)
    assert current == head


def test_a_database_that_cannot_hold_any_character_is_refused(empty_database: str):
    other = "plain"
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {other} ENCODING SQL_ASCII LOCALE 'C' TEMPLATE template0")
        url = urlsplit(empty_database)._replace(path=f"/{other}").geturl()
        try:
            with pytest.raises(MoonyardError, match=r"database `plain` has the encoding SQL_ASCII") as refused:
                database.upgrade(url)
        finally:
            connection.execute(f"DROP DATABASE {other} WITH (FORCE)")
    assert refused.value.code == "database_encoding_wrong"


def test_upgrades_at_the_same_time_wait_for_each_other(empty_database: str):
    failures: list[BaseException] = []

    def upgrade() -> None:
        try:
            database.upgrade(empty_database)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the test shows it
            failures.append(error)

    threads = [threading.Thread(target=upgrade) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    current, head = database.check(empty_database)
    assert current == head


def test_everything_that_people_read_has_a_comment(database_url: str):
    with psycopg.connect(database_url) as connection:
        silent = connection.execute(
            """
            SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname IN ('inspect', 'moonyard') AND c.relkind = 'v' AND obj_description(c.oid) IS NULL
            UNION ALL
            SELECT p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname IN ('inspect', 'moonyard', 'control') AND obj_description(p.oid) IS NULL
            """
        ).fetchall()
    assert silent == []


def test_a_database_that_is_not_there_is_named_with_the_reason_and_without_the_password(unused_port: int):
    with pytest.raises(database.DatabaseUnavailable) as raised:
        database.check(f"postgresql://user:hush@127.0.0.1:{unused_port}/moonyard")
    message = raised.value.message
    assert f"127.0.0.1:{unused_port}" in message
    assert "`moonyard`" in message
    assert "refused" in message.lower()
    assert "hush" not in message
    assert raised.value.hint is not None


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:hush@127.0.0.1/moonyard",
        "postgresql://me:sec@hush@127.0.0.1:1/moonyard",
        "postgresql://me:12/hush@127.0.0.1:1/moonyard",
        "postgresql://me:12?hush@127.0.0.1:1/moonyard",
        "postgresql://me:12#hush@127.0.0.1:1/moonyard",
        "postgresql://me:hush@127.0.0.1:abc/moonyard",
        "postgresql://me:hush@127.0.0.1/moonyard?no=such",
        "hush",
    ],
)
def test_what_is_no_url_of_a_postgres_is_refused_without_repeating_it(url: str):
    with pytest.raises(database.DatabaseUrlInvalid) as raised:
        database.check(url)
    assert "hush" not in str(raised.value.info)
    assert raised.value.hint is not None
    assert "%40" in raised.value.hint


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://me:h%40sh@db.example:6000/yard", "Postgres at db.example:6000, database `yard`"),
        ("postgres://me@[::1]:6000/yard?sslmode=require", "Postgres at ::1:6000, database `yard`"),
        ("postgresql://me:hush@/yard?host=/var/run/pg", "Postgres at socket folder /var/run/pg, database `yard`"),
        ("postgresql://me@a:1,b:2/yard", "Postgres at a,b:1,2, database `yard`"),
        ("postgresql://", "Postgres at the local socket:5432, database `postgres`"),
        ("postgresql:///yard?host=%2Ftmp%2Fa@b", "Postgres at socket folder /tmp/a@b, database `yard`"),
    ],
)
def test_a_database_is_named_without_user_and_password(url: str, said: str):
    assert database.described(url) == said


def test_a_wrong_schema_version_says_what_to_run():
    url = "postgresql://me:hush@127.0.0.1:6000/yard"
    behind = database.schema_version_wrong(url, None, "0001")
    assert behind.message.startswith("Postgres at 127.0.0.1:6000, database `yard` has no schema")
    assert behind.hint is not None
    assert "moonyard db upgrade" in behind.hint
    ahead = database.schema_version_wrong(url, "0002", "0001")
    assert "newer" in ahead.message


def test_a_url_becomes_the_environment_of_psql():
    environment = database.libpq_environment("postgresql://me:hush@db.example:6000/yard?sslmode=require")
    assert environment == {
        "PGHOST": "db.example",
        "PGPORT": "6000",
        "PGDATABASE": "yard",
        "PGUSER": "me",
        "PGPASSWORD": "hush",
        "PGSSLMODE": "require",
    }
