"""A Postgres for one benchmark: an embedded one of its own, as it comes, in a folder that is thrown away afterwards."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from cli import embedded
from schema import database

SETTLE_SECONDS_MAXIMUM: Final = 300.0
VACUUMS: Final = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'"


class Cluster:
    """A running Postgres with room for several databases."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._template: str | None = None

    def create(self, name: str, template: str = "template1") -> str:
        """Create an empty database and give its URL."""
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(statement)
        return self.url(name)

    def drop(self, name: str) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))

    def url(self, name: str) -> str:
        return urlsplit(self._url)._replace(path=f"/{name}").geturl()

    def create_migrated(self, name: str) -> str:
        """Create a database with the newest schema and give its URL."""
        if self._template is None:
            self._template = f"{name}_template"
            database.upgrade(self.create(self._template))
        return self.create(name, self._template)

    def settle(self) -> None:
        """Wait until what was written before is on its way no more: no vacuum at work, and a checkpoint done.

        A Postgres that has run for hours has vacuumed, and writes over log files that it has; one that was filled a
        minute ago vacuums, and makes each 16 MB of its log anew, for which all commits wait some 50 ms.

        :raises TimeoutError: when vacuums go on for five minutes.
        """
        ends_at = time.monotonic() + SETTLE_SECONDS_MAXIMUM
        with psycopg.connect(self._url, autocommit=True) as connection:
            while connection.execute(VACUUMS).fetchone() != (0,):
                if time.monotonic() > ends_at:
                    raise TimeoutError("autovacuum did not come to an end")
                time.sleep(0.2)
            connection.execute("CHECKPOINT")

    def version(self) -> str:
        with psycopg.connect(self._url) as connection:
            return str(connection.info.parameter_status("server_version"))


@contextmanager
def cluster() -> Generator[Cluster]:
    """Have a Postgres for the span of a block."""
    with tempfile.TemporaryDirectory(prefix="moonyard-bench-") as folder, embedded.postgres(Path(folder) / "pg") as url:
        yield Cluster(url)


@contextmanager
def open_transaction(url: str) -> Generator[None]:
    """Have another session's transaction open for the span of a block, as a backup or an open psql has.

    It has read something and does nothing more; until it ends, no row that dies meanwhile can be cleaned away.
    """
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT count(*) FROM pg_class")
        yield
        connection.rollback()
