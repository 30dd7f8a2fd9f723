"""Alembic's entry: runs migrations in the transaction that ``schema.database`` began and locked."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection


def run() -> None:
    connection = context.config.attributes["connection"]
    assert isinstance(connection, Connection), "schema.database hands in its connection"
    context.configure(
        connection=connection,
        version_table="schema_version",
        version_table_schema="moonyard",
    )
    with context.begin_transaction():
        context.run_migrations()


run()
