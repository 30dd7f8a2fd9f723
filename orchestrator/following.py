"""Reads the record of a job, and goes on as it grows.

The lines are read from the database in pages of bounded size, as fast as the reader takes them; between pages a
follower waits for the job's bell, and looks anyway every two seconds. Which replica stores the events is all the same.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final
from uuid import UUID

import anyio
import msgspec

from orchestrator.database import Database, Row
from orchestrator.notifications import Notifications
from orchestrator.problems import RequestInvalid
from orchestrator.sql import events as sql
from schema.database import DatabaseUnavailable
from schema.events import JobEvent, decode_line
from schema.states import FINAL_JOB_STATES

log: Final = logging.getLogger(__name__)

POLL_SECONDS: Final = 2.0
KEEP_ALIVE_SECONDS: Final = 10.0
RIGHTS_SECONDS: Final = 5.0
PAGE_BYTES: Final = 1024 * 1024
_POSITION: Final = re.compile(r"(\d{1,9})\.(\d{1,18})")


class Position(msgspec.Struct, frozen=True):
    """The event that is wanted next."""

    attempt: int = 0
    seq: int = 1

    @classmethod
    def after(cls, text: str | None) -> Position:
        """Read a client's ``after``: the ``ATTEMPT.SEQ`` of the last event that it has.

        :raises RequestInvalid: when it is none.
        """
        if text is None:
            return cls()
        found = _POSITION.fullmatch(text)
        if found is None:
            raise RequestInvalid(f"`after` is `{text[:40]}`: expected ATTEMPT.SEQ of the last event read, such as 1.17")
        return cls(int(found[1]), int(found[2]) + 1)


async def read(database: Database, job: UUID, position: Position) -> AsyncIterator[bytes]:
    """Give the lines of a job that are there."""
    while rows := await _page(database, job, position):
        for row in rows:
            yield _lines(row, position)
            position = Position(row["attempt"], row["next_seq"])


async def follow(
    database: Database,
    notifications: Notifications,
    draining: anyio.Event,
    job: UUID,
    position: Position,
    may_go_on: Callable[[], Awaitable[bool]],
) -> AsyncIterator[bytes]:
    """Give the lines of a job until its last one, and an empty line now and then while there are none.

    When the replica drains it ends early: another replica goes on where the reader says. So it does when the reader may
    read no longer, and is told so when it asks again.

    :param may_go_on: says whether the reader still may, and is asked every five seconds.
    """
    with notifications.jobs.listen(job) as bell:
        told_at = asked_at = anyio.current_time()
        has_ended = False
        while not draining.is_set():
            try:
                if anyio.current_time() - asked_at >= RIGHTS_SECONDS:
                    if not await may_go_on():
                        return
                    asked_at = anyio.current_time()
                rows = await _page(database, job, position)
            except DatabaseUnavailable as error:
                log.warning("following job %s: %s; going on when it is back", job, error.message)
            else:
                if not rows and has_ended:
                    return
                for row in rows:
                    lines = _lines(row, position)
                    yield lines
                    position = Position(row["attempt"], row["next_seq"])
                    # A job that was retried by hand has an end in its record, and goes on after it.
                    has_ended = _is_last(lines)
                if rows:
                    told_at = anyio.current_time()
                    continue
            await bell.wait(POLL_SECONDS)
            if anyio.current_time() - told_at >= KEEP_ALIVE_SECONDS:
                yield b"\n"
                told_at = anyio.current_time()


async def _page(database: Database, job: UUID, position: Position) -> list[Row]:
    return await database.rows(sql.EVENTS_READ, job, position.attempt, position.seq, PAGE_BYTES)


def _lines(row: Row, position: Position) -> bytes:
    lines: bytes = row["lines"].encode()
    if row["attempt"] != position.attempt or row["first_seq"] >= position.seq:
        return lines
    start = 0
    for _ in range(position.seq - row["first_seq"]):
        start = lines.index(b"\n", start) + 1
    return lines[start:]


def _is_last(lines: bytes) -> bool:
    """Say whether these lines end the job: a final event is the last one of its batch."""
    event = decode_line(lines[lines.rfind(b"\n", 0, -1) + 1 :])
    return isinstance(event, JobEvent) and event.state in FINAL_JOB_STATES
