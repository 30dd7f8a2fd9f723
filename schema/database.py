"""The database's schema: its version, the way up and down, and what it means that a database cannot be reached.

Migrations are run by ``moonyard db upgrade`` (and by ``moonyard up``), never by a replica: a replica only compares
versions. A lock in the database makes runs at the same time wait for each other.

    MoonyardError
    ├── DatabaseUnavailable    cannot be reached, or does not answer
    ├── DatabaseUrlInvalid     the setting is no URL of a Postgres
    └── SchemaVersionWrong     reached, but not of the version that this Moonyard needs
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import psycopg
from psycopg import conninfo, sql

from schema.errors import MoonyardError

CONNECT_SECONDS: Final = 5
POSTGRES_VERSION_MINIMUM: Final = 15
DatabaseRole = Literal["orchestrator", "operator", "reader"]
"""What a login may do: docs/permissions.md."""
_VERSIONS: Final = Path(__file__).parent / "migrations" / "versions"
_VERSION: Final = re.compile(r"v(\d{4})_\w+\.py")
_UPGRADE: Final = "Run: moonyard db upgrade, with the same `database_url`."
_UNKNOWN_HOST: Final = re.compile(r"failed to resolve host '(.*?)': (?:\[Errno -?\d+\] )?(.*)")
# Stricter than the drivers, which read a password with an unescaped `@` or `/` as a part of the host or the database:
# those are named in messages.
_URL: Final = re.compile(
    r"""postgres(?:ql)?://
    (?:[^@/?\#]*@)?                        # user and password
    (?:\[[0-9a-fA-F:.]*\]|[^@/?\#:\[\]]*)  # host
    (?::[0-9]{0,5})?
    (?:,(?:\[[0-9a-fA-F:.]*\]|[^@/?\#:,\[\]]*)(?::[0-9]{0,5})?)*  # more hosts
    (?:/[^@/?\#]*)?
    (?:\?(?:[^@/?\#=]+=[^?\#]*)?)?""",
    re.VERBOSE,
)
_LOGIN: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
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
    """Give the schema version that this Moonyard needs: that of the newest migration."""
    return max(found[1] for path in _VERSIONS.iterdir() if (found := _VERSION.fullmatch(path.name)))


def upgrade(url: str, revision: str = "head") -> None:
    """Run the migrations that the database lacks. One that runs at the same moment elsewhere is waited for.

    :raises DatabaseUnavailable: when it cannot be reached.
    :raises SchemaVersionWrong: when a newer Moonyard upgraded it.
    """
    with _connection(url) as connection:
        current = _current(connection)
        if current is not None and current > head():
            raise schema_version_wrong(url, current, head())
        major = connection.info.server_version // 10000
        if major < POSTGRES_VERSION_MINIMUM:
            raise MoonyardError(
                f"{described(url)} is PostgreSQL {major}, and Moonyard needs {POSTGRES_VERSION_MINIMUM} or newer",
                code="database_too_old",
            )
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise MoonyardError(
                f"{described(url)} has the encoding {encoding}, and Moonyard needs UTF8: logs hold any character",
                code="database_encoding_wrong",
                hint="Make another, and name it in `database_url`: createdb --encoding UTF8 --template template0 NAME",
            )
        # Late: it takes as long to import as half of a replica, which never migrates.
        from schema.migrations import running

        running.upgrade(connection, revision)


def add_login(url: str, name: str, role: DatabaseRole, password: str | None) -> bool:
    """Make a login with a role, or give one that is there that role and password; say whether it is new.

    :param password: None where Postgres lets it in by something else: a certificate, the user of a local socket.
    :raises DatabaseUnavailable: when the database cannot be reached.
    :raises MoonyardError: when the name cannot be one, or whoever is connected may not make logins.
    """
    if not _LOGIN.fullmatch(name):
        raise MoonyardError(
            f"`{name[:63]}` cannot be the name of a login",
            code="login_invalid",
            hint="A name has up to 63 lower-case letters, digits and `_`, the first of them a letter.",
        )
    with _connection(url) as connection:
        if _current(connection) != head():
            raise schema_version_wrong(url, _current(connection), head())
        found = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", [name]).fetchone()
        if found is not None and found[0]:
            raise MoonyardError(
                f"`{name}` is a superuser of {described(url)}: no role makes it less", code="login_invalid"
            )
        login, group = sql.Identifier(name), sql.Identifier(f"moonyard_{role}")
        change = sql.SQL("ALTER ROLE {} LOGIN") if found is not None else sql.SQL("CREATE ROLE {} LOGIN")
        statement: sql.Composed = change.format(login)
        if password is not None:
            # Hashed here: statements are logged.
            hashed = connection.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256")
            statement += sql.SQL(" PASSWORD {}").format(sql.Literal(hashed.decode()))
        try:
            with connection.transaction():
                connection.execute("SELECT moonyard.grant_roles()")
                connection.execute(statement)
                connection.execute(sql.SQL("GRANT {} TO {}").format(group, login))
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedObject) as error:
            raise MoonyardError(
                f"whoever `database_url` names may not make logins of {described(url)} ({reason(error)})",
                code="login_refused",
                hint="A superuser may, or a user with CREATEROLE that owns the schema: docs/operations.md has the SQL.",
            ) from error
        return found is None


def downgrade(url: str, revision: str) -> None:
    """Undo the migrations after ``revision``; ``base`` undoes all, and loses all that Moonyard kept."""
    with _connection(url) as connection:
        from schema.migrations import running

        running.downgrade(connection, revision)


def schema_version_wrong(url: str, current: str | None, needed: str) -> SchemaVersionWrong:
    """Say what is wrong with a database's schema version, and what to run."""
    if current is None:
        return SchemaVersionWrong(
            f"{described(url)} has no schema of Moonyard's yet, and version {needed} is needed", hint=_UPGRADE
        )
    if current > needed:
        return SchemaVersionWrong(
            f"{described(url)} has schema version {current}, which is newer than {needed}, the one this Moonyard needs",
            hint="Run a Moonyard as new as the one that upgraded the database (`moonyard --version`).",
        )
    return SchemaVersionWrong(
        f"{described(url)} has schema version {current}, and this Moonyard needs {needed}", hint=_UPGRADE
    )


def unavailable(url: str, error: BaseException) -> DatabaseUnavailable:
    """Say which database cannot be used and why; never its password."""
    why = reason(error)
    return DatabaseUnavailable(f"{described(url)} cannot be used ({why})", hint=_what_next(url, why))


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
    # psycopg: `failed to resolve host 'db.example': [Errno -2] Name or service not known`
    if found := _UNKNOWN_HOST.match(first):
        why = "is not known" if "not known" in found[2] else f"cannot be resolved: {found[2].lower()}"
        return f"host name `{found[1]}` {why}"
    # libpq: `connection failed: connection to server at "127.0.0.1", port 5432 failed: Connection refused`
    words = first.rsplit(" failed: ", 1)[-1].removeprefix("FATAL:").strip()
    return words[:1].lower() + words[1:]


def check_url(url: str, setting: str = "database_url") -> None:
    """See that a setting is the URL of a Postgres.

    :raises DatabaseUrlInvalid: when it is none.
    """
    _parts(url, setting)


def libpq_environment(url: str) -> dict[str, str]:
    """Give a URL as the environment variables that `psql` and its kind read."""
    return {_LIBPQ_VARIABLES[name]: value for name, value in _parts(url).items() if name in _LIBPQ_VARIABLES and value}


@contextmanager
def _connection(url: str) -> Generator[psycopg.Connection]:
    _parts(url)
    try:
        connection = psycopg.connect(
            url,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
            application_name="moonyard db",
            prepare_threshold=None,  # a connection pooler may stand before it
        )
    except psycopg.OperationalError as error:
        raise unavailable(url, error) from error
    try:
        yield connection
    finally:
        connection.close()


def _parts(url: str, setting: str = "database_url") -> dict[str, str]:
    try:
        if _URL.fullmatch(url):
            return {name: str(value) for name, value in conninfo.conninfo_to_dict(url).items() if value is not None}
    except psycopg.ProgrammingError:
        pass  # what the driver says may repeat the URL, and with it a password
    raise DatabaseUrlInvalid(
        f"`{setting}` is not the URL of a Postgres",
        hint="It looks like postgresql://user:password@host:5432/database. In a user or password, characters such as "
        "`@`, `/`, `?` and `#` are written as %40, %2F, %3F and %23.",
    )


def _what_next(url: str, why: str) -> str:
    if "does not exist" in why and "database" in why:
        name = _parts(url).get("dbname") or "moonyard"
        return f"Create it (`createdb {name}`) and run: moonyard db upgrade. Or is the name in `database_url` another?"
    if "authentication failed" in why or "no password supplied" in why or "role" in why:
        return (
            "Are user and password in `database_url` right? (A password needs no flag: MOONYARD_DATABASE_URL is read.)"
        )
    if why.startswith("host name"):
        return "Is the host in `database_url` right? `moonyard up` brings a Postgres of its own."
    return "Is it running, and is `database_url` right? `moonyard up` brings a Postgres of its own."


def _current(connection: psycopg.Connection) -> str | None:
    exists = connection.execute("SELECT to_regclass('moonyard.schema_version') IS NOT NULL").fetchone()
    if exists is None or not exists[0]:
        return None
    row = connection.execute("SELECT version_num FROM moonyard.schema_version").fetchone()
    return None if row is None else str(row[0])
