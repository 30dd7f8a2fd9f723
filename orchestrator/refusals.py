"""What was refused, for the audit: gathered, so that whoever asks a million times fills nothing.

What is refused is answered at once, and noted here. A second later its row is written; what the same actor was refused
of the same kind meanwhile is counted, and told in one more row when a minute is over. Beyond so many different ones in
a minute, the others are counted together.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final

import msgspec

from orchestrator.database import Database
from orchestrator.sql import audit as sql
from schema.database import DatabaseUnavailable

log: Final = logging.getLogger(__name__)

WINDOW_SECONDS: Final = 60.0
KEYS_MAXIMUM: Final = 200
"""Of one minute and replica: with two rows each at most."""
SUBJECT_LENGTH_MAXIMUM: Final = 200
MESSAGE_LENGTH_MAXIMUM: Final = 300
NOBODY: Final = "nobody"
"""Who showed no valid token."""


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    actor: str
    address: str
    action: str
    subject: str
    code: str
    message: str


class _Gathered(msgspec.Struct):
    first: Refused
    began_at: float
    count: int = 0
    is_told: bool = False


class Refusals:
    """Gathers what this replica refused. ``flush`` has to be called every second."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._gathered: dict[tuple[str, ...], _Gathered] = {}

    def note(self, refused: Refused) -> None:
        """Note a refusal: it waits for nothing."""
        key = (refused.actor, refused.address, refused.action, refused.code)
        if key not in self._gathered and len(self._gathered) >= KEYS_MAXIMUM:
            key = ("", "", "", "")
            refused = Refused(
                actor="many",
                address="many",
                action="many",
                subject="more than are told one by one",
                code=refused.code,
                message=f"more than {KEYS_MAXIMUM} different requests were refused within a minute",
            )
        gathered = self._gathered.setdefault(key, _Gathered(refused, time.monotonic()))
        gathered.count += 1

    async def flush(self, *, is_last: bool = False) -> None:
        """Write what is due: what is new, and the counts whose minute is over; with ``is_last``, all."""
        now = time.monotonic()
        due: list[tuple[Refused, int]] = []
        for key, gathered in list(self._gathered.items()):
            is_over = is_last or now - gathered.began_at >= WINDOW_SECONDS
            if gathered.count and (is_over or not gathered.is_told):
                due.append((gathered.first, gathered.count))
                gathered.count, gathered.is_told = 0, True
            if is_over:
                del self._gathered[key]
        if due:
            await self._write(due)

    async def _write(self, due: list[tuple[Refused, int]]) -> None:
        try:
            await self._database.rows(
                sql.NOTE_REFUSED,
                [_text(refused.actor) for refused, _ in due],
                [refused.address for refused, _ in due],
                [_text(refused.action) for refused, _ in due],
                [_text(refused.subject) for refused, _ in due],
                [_detail(refused, count) for refused, count in due],
            )
        except DatabaseUnavailable as error:
            # There is no place for it now, and no queue that could hold what comes while there is none.
            log.warning("%d refusals are not in the audit: %s", sum(count for _, count in due), error.message)


def _detail(refused: Refused, count: int) -> str:
    detail: dict[str, Any] = {"code": refused.code, "message": _text(refused.message, MESSAGE_LENGTH_MAXIMUM)}
    if count > 1:
        detail["times"] = count
    return msgspec.json.encode(detail).decode()


def _text(text: str, maximum: int = SUBJECT_LENGTH_MAXIMUM) -> str:
    return text.replace("\0", "")[:maximum]
