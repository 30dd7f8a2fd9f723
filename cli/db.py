"""``moonyard db``: the database's schema."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Final, Literal

import click

from cli import settings
from schema.errors import MoonyardError

PASSWORD_LENGTH_MAXIMUM: Final = 1024


@click.group()
def db() -> None:
    """Upgrade or check the database, make logins of it, open psql."""


@db.command(short_help="Run the migrations that the database lacks.")
@settings.setting("database_url")
def upgrade(*, database_url: str | None) -> None:
    """Run the migrations that the database lacks.

    Safe to run anywhere and any number of times: one run waits for another.
    """
    from schema import database

    url = _required(database_url)
    before, head = database.check(url)
    database.upgrade(url)
    if before == head:
        click.echo(f"the database has schema version {head} already")
    else:
        click.echo(f"the database went from schema version {before or 'none'} to {head}")


@db.command(short_help="Compare the schema's version with the one needed.")
@settings.setting("database_url")
def check(*, database_url: str | None) -> None:
    """Compare the database's schema version with the one that this Moonyard needs."""
    from schema import database

    url = _required(database_url)
    current, head = database.check(url)
    if current != head:
        raise database.schema_version_wrong(url, current, head)
    click.echo(f"the database has schema version {head}, as this Moonyard needs")


@db.command("add-login", short_help="Make a login of the database that may do no more than it needs.")
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(["orchestrator", "operator", "reader"]),
    default="orchestrator",
    show_default=True,
    help="What it may do: what an orchestrator needs; `control` and `inspect` in psql; `inspect` alone.",
)
@click.option("--no-password", is_flag=True, help="Postgres lets it in by something else: a certificate, a local user.")
@settings.setting("database_url")
def add_login(
    name: str, *, role: Literal["orchestrator", "operator", "reader"], no_password: bool, database_url: str | None
) -> None:
    """Make a login NAME of the database that may do what a role needs, or give that role to one that is there.

    Its password is in MOONYARD_LOGIN_PASSWORD, or is asked for, or is the first line of stdin. `--database-url` names
    the database with a user that may make logins: its owner with CREATEROLE, or a superuser.
    """
    from schema import database

    url = _required(database_url)
    is_new = database.add_login(url, name, role, None if no_password else _password())
    click.echo(f"login `{name}` {'is made' if is_new else 'was there'}: it has role moonyard_{role}")


def _password() -> str:
    password = os.environ.get("MOONYARD_LOGIN_PASSWORD") or ""
    if not password and sys.stdin.isatty():
        password = click.prompt("password", hide_input=True, confirmation_prompt=True, err=True)
    password = password or sys.stdin.readline(PASSWORD_LENGTH_MAXIMUM).rstrip("\r\n")
    if not password:
        raise MoonyardError(
            "a login needs a password, and none was given",
            code="password_missing",
            hint="MOONYARD_LOGIN_PASSWORD holds it, or stdin; --no-password where Postgres asks for none.",
        )
    return password


@db.command(short_help="Open psql on the database.")
@click.option("-c", "--command", "statements", multiple=True, help="Run this statement and end; may come again.")
@settings.setting("database_url")
def psql(statements: tuple[str, ...], *, database_url: str | None) -> None:
    """Open `psql` on the database: of this machine's `moonyard up`, or the one that is named.

    \b
    Try: SELECT * FROM inspect.jobs LIMIT 10;     \\d inspect.*
         SELECT * FROM inspect.log('17');
    """
    from cli import embedded
    from schema import database

    url = _required(database_url or settings.Credentials.of().database_url)
    program = shutil.which("psql") or str(embedded.psql_program())
    # A URL may hold a password: it goes by the environment, not by an argument that everybody can read.
    environment = {**os.environ, "PGSERVICEFILE": os.devnull} | database.libpq_environment(url)
    arguments = [word for statement in statements for word in ("--command", statement)]
    os.execvpe(program, [program, *arguments], environment)  # noqa: S606  # becomes psql, with its terminal


def _required(database_url: str | None) -> str:
    if database_url is None:
        raise MoonyardError(
            "there is no database to work on",
            code="setting_missing",
            hint="Give --database-url, MOONYARD_DATABASE_URL, or `database_url` in moonyard.toml.",
        )
    return database_url
