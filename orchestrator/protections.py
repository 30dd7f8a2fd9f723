"""Which pipelines have stages that wait for approvals whatever their file says, as this replica knows it.

It looks every two seconds, so that no claim has to: a job that begins within that time of a new protection may begin
its first stages unasked. Secrets do not go by this (``orchestrator.deliveries``).
"""

from __future__ import annotations

from typing import Final

from orchestrator import rights
from orchestrator.database import Database
from orchestrator.sql import approvals as sql

LOOK_SECONDS: Final = 2.0


class Protections:
    """Looked at when a job is handed out."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._patterns: list[str] = []

    async def look(self) -> None:
        """Find out what there is now."""
        rows = await self._database.rows(sql.PROTECTIONS, None, [rights.ALL], None)
        self._patterns = sorted({row["pipelines"] for row in rows})

    def cover(self, pipeline: str) -> bool:
        """Whether stages of a pipeline may be protected."""
        return any(rights.fits(pattern, pipeline) for pattern in self._patterns)
