"""Runs migrations on a connection. Alembic and SQLAlchemy are this module's alone: a replica starts without them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import psycopg
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text
from sqlalchemy.pool import StaticPool

_LOCK: Final = 0x6D6F6F6E79617264
"""The advisory lock's key: `moonyard` in ASCII."""


def upgrade(connection: psycopg.Connection, revision: str) -> None:
    """Run the migrations up to a revision that the database lacks."""
    _run(connection, lambda config: command.upgrade(config, revision))


def downgrade(connection: psycopg.Connection, revision: str) -> None:
    """Undo the migrations after a revision."""
    _run(connection, lambda config: command.downgrade(config, revision))


def configuration(attributes: dict[str, object] | None = None) -> Config:
    """Make Alembic's configuration, which stands in no file: it works from an installed package as well."""
    config = Config(attributes=attributes or {})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("version_path_separator", "os")
    return config


def _run(connection: psycopg.Connection, run: Callable[[Config], None]) -> None:
    connection.autocommit = False
    engine = create_engine("postgresql+psycopg://", creator=lambda: connection, poolclass=StaticPool)
    with engine.connect() as wrapped:
        # All in one transaction, and the lock goes with it: behind a pooler there is nothing longer to hold it by.
        wrapped.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        wrapped.execute(text("CREATE SCHEMA IF NOT EXISTS moonyard"))
        run(configuration(attributes={"connection": wrapped}))
        wrapped.commit()
