"""How often all runners together ask a host by ``http``: the third limit, after a client's own and its runner's.

    operator ── set ──> moonyard.http_limits: a row a host or pattern, with the time at which the next request is due
                               │        ▲
             which there are   │        │  one UPDATE a batch: the time moves on by so many requests
                               ▼        │
    replica (looks every 5 s) ── claims, heartbeats ──> runner ── POST /v1/runner/http/permits ──> replica

Runners learn with each claim and heartbeat which hosts have a limit, so nothing is asked about any other host, and
where there is no limit a replica's look at an empty table is all. For a host that has one, a runner takes permits in
batches: a piece of the limit's time, behind the piece of whoever asked before. A batch is no more than comes in a
second, and a runner takes the next one when the last is used, so runners take turns whatever each of them has waiting.
A runner that asks before its last permit is due is told of the same ones again: it was started again, and forgot them,
or wants more than its turn, which nobody waits for. What is not used lapses with its time. The times are the
database's: the answer says how long until the first permit.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from orchestrator.database import Database
from orchestrator.problems import NotFound
from orchestrator.sql import http_limits as sql
from schema import times
from schema.wire import HttpCeiling, HttpLimit, HttpPermits

PERMITS_MAXIMUM: Final = 1000
"""Of a batch."""


class HttpLimits:
    """The limits, as this replica saw them last."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.known: list[HttpCeiling] = []

    async def look(self) -> None:
        rows = await self._database.rows(sql.HTTP_LIMITS_KNOWN)
        self.known = [HttpCeiling(host=row["host"], rate=row["rate"]) for row in rows]

    async def listed(self) -> list[HttpLimit]:
        rows = await self._database.rows(sql.HTTP_LIMITS_LIST)
        return [
            HttpLimit(
                host=row["host"],
                rate=row["rate"],
                burst=row["burst"],
                permits=row["permits"],
                set_by=row["set_by"],
                set_at=times.rfc3339(row["set_at"]),
            )
            for row in rows
        ]

    async def set(self, host: str, rate: str, burst: int | None, actor: str) -> HttpLimit:
        """Set a limit.

        :raises RequestInvalid: when host, rate or burst are none.
        """
        row = await self._database.row(sql.HTTP_LIMIT_SET, _clean(host), _clean(rate), burst, actor)
        assert row is not None, "the function gives what it stored"
        await self.look()
        return HttpLimit(
            host=row["host"],
            rate=row["rate"],
            burst=row["burst"],
            permits=row["permits"],
            set_by=row["set_by"],
            set_at=times.rfc3339(row["set_at"]),
        )

    async def remove(self, host: str, actor: str) -> str:
        """Remove a limit, and give its host as it was stored.

        :raises NotFound: when there is none.
        """
        removed: str = await self._database.value(sql.HTTP_LIMIT_REMOVE, _clean(host), actor)
        await self.look()
        return removed

    async def take(self, host: str, runner: UUID, wanted: int) -> HttpPermits:
        """Take permits for a runner; one that has some that are not due yet is told of those again.

        :raises NotFound: when the limit is there no more.
        """
        row = await self._database.row(sql.HTTP_PERMITS_TAKE, _clean(host), runner, wanted, PERMITS_MAXIMUM)
        if row is None:
            raise NotFound(f"there is no limit for `{host[:80]}`", code="http_limit_unknown")
        return HttpPermits(granted=row["size"], delay=row["delay"], interval=row["interval_seconds"], rate=row["rate"])


def _clean(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
