"""The audit: rows that are only added, sealed into a chain a moment later, read by whoever may.

Rows are written where what they speak of is done, in the same transaction (`moonyard.note`). What is refused changes
nothing and so has none: that is gathered in ``orchestrator.refusals``.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final

import anyio
import msgspec

from orchestrator.database import Database, Row
from orchestrator.problems import RequestInvalid
from orchestrator.sql import audit as sql
from schema import times
from schema.audit import HEAD_PATTERN, AuditEntry, AuditPage, AuditVerified
from schema.database import DatabaseUnavailable

log: Final = logging.getLogger(__name__)

BLOCK_ROWS: Final = 1000
BLOCKS_A_LOOK: Final = 5
CHECK_BLOCKS: Final = 200
RETIRE_BLOCKS: Final = 100
STEPS_MAXIMUM: Final = 200
"""In one go: what is left then is the next one's."""
PAUSE_SECONDS: Final = 0.05
POLL_SECONDS: Final = 1.0
KEEP_ALIVE_SECONDS: Final = 15.0
KEEP_DAYS_MINIMUM: Final = 30.0
"""The database holds to it as well: a replica that somebody took over is not to remove what it did."""
_ID_MAXIMUM: Final = 2**63 - 1


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows are wanted; in ``actor`` and ``action``, ``*`` stands for any text."""

    since: datetime | None = None
    until: datetime | None = None
    actor: str | None = None
    action: str | None = None
    result: str | None = None

    @property
    def values(self) -> tuple[datetime | None, datetime | None, str | None, str | None, str | None]:
        """What statements take, in their order."""
        return self.since, self.until, _searchable(self.actor), _searchable(self.action), self.result


async def seal(database: Database) -> int:
    """Put rows that are in no block of the chain yet into blocks, and give how many; one replica at a time does."""
    sealed = 0
    for _ in range(STEPS_MAXIMUM):
        amount: int = await database.value(sql.SEAL, BLOCK_ROWS)
        sealed += amount
        if amount < BLOCK_ROWS:
            break
    return sealed


async def head(database: Database) -> str | None:
    """Give the newest block's number and hash, None while there is no block."""
    found: str | None = await database.value(sql.HEAD)
    return found


async def remove_old(database: Database, days: float) -> int:
    """Remove rows that are older than ``days`` days, by whole blocks from the first on, and give how many there were.

    The last block's hash stays, so that what is left can be verified, and a new row says what was removed.
    """
    removed = 0
    for _ in range(STEPS_MAXIMUM):
        amount: int = await database.value(sql.RETIRE, days * 86400.0, RETIRE_BLOCKS)
        if not amount:
            break
        removed += amount
        await anyio.sleep(PAUSE_SECONDS)
    if removed:
        log.info("removed %d rows of the audit that are older than %g days", removed, days)
    return removed


async def verify(database: Database, known: str | None = None) -> AuditVerified:
    """Verify the whole chain, and whether it still has a block that was noted once.

    :param known: that block's number and hash.
    :raises RequestInvalid: when it is no such thing.
    """
    if known is not None and not HEAD_PATTERN.fullmatch(known):
        raise RequestInvalid(
            f"`{known[:90]}` is no head of the audit",
            hint="A head is a block's number and its hash, as replicas write it in their log: 17:0f3a...",
        )
    after, entries, broken = 0, 0, None
    while broken is None:
        row = await database.row(sql.CHECK, after, CHECK_BLOCKS)
        assert row is not None, "it gives one row"
        entries += row["entries"]
        broken = row["broken"]
        if row["last"] == after:
            break
        after = row["last"]
    ending = await database.row(sql.END, known)
    assert ending is not None, "it gives one row"
    broken = broken or ending["broken"]
    return AuditVerified(
        state="whole" if broken is None else "broken",
        blocks=ending["blocks"],
        entries=entries,
        unsealed=ending["unsealed"],
        head=ending["newest"],
        detail=broken,
    )


async def page(
    database: Database, wanted: AuditFilter, *, limit: int, before: int | None = None, after: int | None = None
) -> AuditPage:
    """Give rows, the newest first before an id, or the oldest first after one.

    :raises RequestInvalid: when both are given.
    """
    if before is not None and after is not None:
        raise RequestInvalid("`before` and `after` ask for two orders: give one of them")
    if after is not None:
        rows = await database.rows(sql.OLDEST, *wanted.values, after, limit)
    else:
        rows = await database.rows(sql.NEWEST, *wanted.values, _ID_MAXIMUM if before is None else before, limit)
    return AuditPage(entries=[_entry(row) for row in rows])


async def stream(
    database: Database, draining: anyio.Event, wanted: AuditFilter, after: int, *, follow: bool
) -> AsyncIterator[bytes]:
    """Give rows in the chain's order after a block, as JSON lines; with ``follow``, go on until the replica drains.

    An empty line comes now and then while there are none. Each row comes once, whenever its transaction ended.
    """
    told_at = anyio.current_time()
    while not draining.is_set():
        try:
            rows = await database.rows(sql.IN_BLOCKS, *wanted.values, after, BLOCKS_A_LOOK)
        except DatabaseUnavailable as error:
            if not follow:
                raise
            log.warning("following the audit: %s; going on when it is back", error.message)
            rows = []
        lines = b"".join(msgspec.json.encode(_entry(row)) + b"\n" for row in rows if row["id"] is not None)
        if lines:
            yield lines
            told_at = anyio.current_time()
        if rows:
            after = rows[-1]["block"]
            continue
        if not follow:
            return
        if anyio.current_time() - told_at >= KEEP_ALIVE_SECONDS:
            yield b"\n"
            told_at = anyio.current_time()
        with anyio.move_on_after(POLL_SECONDS):
            await draining.wait()


def _searchable(text: str | None) -> str | None:
    return None if text is None else text.replace("\0", "")


def _entry(row: Row) -> AuditEntry:
    return AuditEntry(
        id=row["id"],
        at=times.rfc3339(row["at"]),
        actor=row["actor"],
        address=row["address"],
        action=row["action"],
        subject=row["subject"],
        result=row["result"],
        detail=None if row["detail"] is None else msgspec.json.decode(row["detail"]),
        block=row.get("block"),
    )
