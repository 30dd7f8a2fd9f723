"""Asks Postgres itself, by nobody's proxy."""

from __future__ import annotations

from typing import Any

import asyncpg

Row = asyncpg.Record
AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What comes of asking a Postgres that was just killed."""


async def rows(url: str, statement: str, *values: Any) -> list[Row]:
    connection = await asyncpg.connect(url, timeout=10, command_timeout=30)
    try:
        return await connection.fetch(statement, *values)
    finally:
        connection.terminate()
