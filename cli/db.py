"""``moonyard db``: the database's schema."""

from __future__ import annotations

import os
import shutil

import click

from cli import settings
from schema.errors import MoonyardError


@click.group()
def db() -> None:
    """Upgrade or check the database's schema, or open psql."""


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
