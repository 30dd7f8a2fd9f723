"""Alembic's entry: runs migrations on the connection that ``schema.database`` opened and locked."""

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
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
