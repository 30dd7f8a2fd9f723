"""The database's schema: its version, the way up and down, and what it means that a database cannot be reached.

Migrations are run by ``moonyard db upgrade`` (and by ``moonyard up``), never by a replica: a replica only compares
versions. A lock in the database makes runs at the same time wait for each other.

    MoonyardError
    ├── DatabaseUnavailable    cannot be reached, or does not answer
    ├── DatabaseUrlInvalid     the setting is no URL of a Postgres
    └── SchemaVersionWrong     reached, but not of the version that this Moonyard needs
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import conninfo
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from schema.errors import MoonyardError

CONNECT_SECONDS: Final = 5
POSTGRES_VERSION_MINIMUM: Final = 15
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 0x6D6F6F6E79617264
"""The advisory lock's key: `moonyard` in ASCII."""
_LIBPQ_VARIABLES: Final = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "passfile": "PGPASSFILE",
    "service": "PGSERVICE",
    "options": "PGOPTIONS",
    "application_name": "PGAPPNAME",
    "sslmode": "PGSSLMODE",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslrootcert": "PGSSLROOTCERT",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
}


class DatabaseUnavailable(MoonyardError):
    """The database cannot be reached, or does not answer in time."""

    code = "database_unavailable"


class DatabaseUrlInvalid(MoonyardError):
    """A setting that is no URL of a Postgres."""

    code = "settings_invalid"


class SchemaVersionWrong(MoonyardError):
    """The database has another schema version than this Moonyard needs."""

    code = "schema_version_wrong"


def check(url: str) -> tuple[str | None, str]:
    """Give the database's schema version, None for an empty database, and the one that this Moonyard needs.

    :raises DatabaseUnavailable: when it cannot be reached.
    """
    with _connection(url) as connection:
        return _current(connection), head()


def head() -> str:
    """Give the schema version that this Moonyard needs."""
    found = ScriptDirectory.from_config(configuration()).get_current_head()
    assert found is not None, "there are migrations"
    return found


def upgrade(url: str, revision: str = "head") -> None:
    """Run the migrations that the database lacks. One that runs at the same moment elsewhere is waited for.

    :raises DatabaseUnavailable: when it cannot be reached.
    """
    with _connection(url) as connection:
        major = connection.info.server_version // 10000
        if major < POSTGRES_VERSION_MINIMUM:
            raise MoonyardError(
                f"{described(url)} is PostgreSQL {major}, and Moonyard needs {POSTGRES_VERSION_MINIMUM} or newer",
                code="database_too_old",
            )
        _migrate(connection, lambda config: command.upgrade(config, revision))


def downgrade(url: str, revision: str) -> None:
    """Undo the migrations after ``revision``; ``base`` undoes all, and loses all that Moonyard kept."""
    with _connection(url) as connection:
        _migrate(connection, lambda config: command.downgrade(config, revision))


def schema_version_wrong(current: str | None, needed: str) -> SchemaVersionWrong:
    """Say what is wrong with a database's schema version, and what to run."""
    if current is not None and current > needed:
        return SchemaVersionWrong(
            f"the database has schema version {current}, which is newer than {needed}, the one this Moonyard needs",
            hint="Run a Moonyard as new as the one that upgraded the database.",
        )
    return SchemaVersionWrong(
        f"the database has schema version {current or 'none'}, and this Moonyard needs {needed}",
        hint="Run: moonyard db upgrade",
    )


def unavailable(url: str, error: BaseException) -> DatabaseUnavailable:
    """Say which database cannot be used and why; never its password."""
    return DatabaseUnavailable(
        f"{described(url)} cannot be reached ({reason(error)})",
        hint="Is it running, and is `database_url` right? `moonyard up` brings a Postgres of its own.",
    )


def described(url: str) -> str:
    """Name a database as people know it: host, port and name, without user and password."""
    parts = _parts(url)
    host = parts.get("host") or parts.get("hostaddr") or "the local socket"
    port = parts.get("port") or "5432"
    where = f"socket folder {host}" if host.startswith("/") else f"{host}:{port}"
    return f"Postgres at {where}, database `{parts.get('dbname') or parts.get('user') or 'postgres'}`"


def reason(error: BaseException) -> str:
    """Shorten a driver's words to the reason."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # libpq: `connection failed: connection to server at "127.0.0.1", port 5432 failed: Connection refused`
    return first.rsplit(" failed: ", 1)[-1].removeprefix("FATAL:").strip()


def libpq_environment(url: str) -> dict[str, str]:
    """Give a URL as the environment variables that `psql` and its kind read."""
    return {_LIBPQ_VARIABLES[name]: value for name, value in _parts(url).items() if name in _LIBPQ_VARIABLES and value}


@contextmanager
def _connection(url: str) -> Generator[psycopg.Connection]:
    _parts(url)
    try:
        connection = psycopg.connect(
            url, autocommit=True, connect_timeout=CONNECT_SECONDS, application_name="moonyard db"
        )
    except psycopg.OperationalError as error:
        raise unavailable(url, error) from error
    try:
        yield connection
    finally:
        connection.close()


def _parts(url: str) -> dict[str, str]:
    try:
        if url.startswith(("postgresql://", "postgres://")):
            return {name: str(value) for name, value in conninfo.conninfo_to_dict(url).items() if value is not None}
    except psycopg.ProgrammingError:
        pass  # what the driver says may repeat the URL, and with it a password
    raise DatabaseUrlInvalid(
        "`database_url` is not the URL of a Postgres",
        hint="It looks like postgresql://user:password@host:5432/database.",
    )


def _current(connection: psycopg.Connection) -> str | None:
    exists = connection.execute("SELECT to_regclass('moonyard.schema_version') IS NOT NULL").fetchone()
    if exists is None or not exists[0]:
        return None
    row = connection.execute("SELECT version_num FROM moonyard.schema_version").fetchone()
    return None if row is None else str(row[0])


def _migrate(connection: psycopg.Connection, run: Callable[[Config], None]) -> None:
    connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
    connection.execute("CREATE SCHEMA IF NOT EXISTS moonyard")
    connection.autocommit = False
    engine = create_engine("postgresql+psycopg://", creator=lambda: connection, poolclass=StaticPool)
    with engine.connect() as wrapped:
        run(configuration(attributes={"connection": wrapped}))
        wrapped.commit()


def configuration(attributes: dict[str, object] | None = None) -> Config:
    """Make Alembic's configuration, which stands in no file: it works from an installed package as well."""
    config = Config(attributes=attributes or {})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("version_path_separator", "os")
    return config
