"""Runs a file of SQL statements inside a migration."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import psycopg
from alembic import op

FOLDER: Final = Path(__file__).parent / "sql"


def execute(name: str) -> None:
    """Run all statements of ``sql/<name>`` in the migration's transaction.

    They go to the driver as they are: SQLAlchemy would look for parameters in them.
    """
    driver = op.get_bind().connection.driver_connection
    assert isinstance(driver, psycopg.Connection), "migrations run over psycopg"
    driver.execute((FOLDER / name).read_bytes())
