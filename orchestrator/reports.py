"""Tests of the reports that jobs read: stored a row each, so that people can look for them in SQL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, get_args
from uuid import UUID

from orchestrator import events
from orchestrator.database import Database, Row
from orchestrator.problems import RequestInvalid, TooLarge
from orchestrator.sql import artifacts as artifacts_sql
from orchestrator.sql import reports as sql
from schema.wire import JobTest, JobTests, ReportAdd, TestState

PART_MAXIMUM: Final = 1000
TESTS_MAXIMUM: Final = 100_000
"""Of an attempt."""
NAME_LENGTH_MAXIMUM: Final = 1000
MESSAGE_LENGTH_MAXIMUM: Final = 10_000
WORST_MAXIMUM: Final = 20
LISTED_MAXIMUM: Final = 10_000
STATES: Final[tuple[TestState, ...]] = get_args(TestState)


async def add(database: Database, runner: UUID, job: UUID, attempt: int, message: ReportAdd) -> None:
    """Store tests of a report.

    :raises Conflict: when the attempt is not the runner's.
    :raises TooLarge: when an attempt would have too many.
    """
    _check(message)
    tests = message.tests
    async with database.transaction() as connection:
        if await connection.fetchrow(artifacts_sql.ATTEMPT_HOLD, job, attempt, runner) is None:
            raise events.gone(job, attempt)
        if message.position == 0:
            await connection.execute(sql.TESTS_FORGET, job, attempt, message.stage, message.report)
        if await connection.fetchval(sql.TESTS_COUNT, job, attempt) + len(tests) > TESTS_MAXIMUM:
            raise TooLarge(f"an attempt of a job has at most {TESTS_MAXIMUM:,} tests of reports")
        await connection.execute(
            sql.TESTS_ADD,
            job,
            attempt,
            message.stage,
            message.report,
            message.position,
            [test.suite for test in tests],
            [test.name for test in tests],
            [test.state for test in tests],
            [test.duration for test in tests],
            [test.message for test in tests],
        )


async def summary(database: Database, job: UUID) -> JobTests | None:
    """Sum up the tests of a job's newest attempt; None where it has none."""
    row = await database.row(sql.TESTS_SUMMARY, job)
    if row is None or not row["all"]:
        return None
    worst: list[JobTest] = []
    if row["failed"] or row["errors"]:
        worst = await listed(database, job, ("failed", "error"), WORST_MAXIMUM)
    return JobTests(
        passed=row["passed"],
        failed=row["failed"],
        errors=row["errors"],
        skipped=row["skipped"],
        duration=row["seconds"],
        worst=worst,
    )


async def listed(
    database: Database, job: UUID, states: Sequence[TestState] = STATES, limit: int = LISTED_MAXIMUM
) -> list[JobTest]:
    """List the tests of a job's newest attempt that ended in one of ``states``."""
    return [_result(row) for row in await database.rows(sql.TESTS_LIST, job, list(states), limit)]


def _result(row: Row) -> JobTest:
    return JobTest(
        attempt=row["attempt"],
        stage=row["stage"],
        report=row["report"],
        suite=row["suite"],
        name=row["name"],
        state=row["state"],
        duration=row["duration_seconds"],
        message=row["message"],
    )


def _check(message: ReportAdd) -> None:
    if not 0 < len(message.tests) <= PART_MAXIMUM and not (message.position == 0 and not message.tests):
        raise RequestInvalid(f"a part of a report has 1 to {PART_MAXIMUM} tests, and this one has {len(message.tests)}")
    if not 0 <= message.position <= TESTS_MAXIMUM:
        raise RequestInvalid(f"`position` is {message.position}, and goes from 0 to {TESTS_MAXIMUM}")
    texts = [message.stage, message.report, *(text for test in message.tests for text in (test.suite, test.name))]
    if any(len(text) > NAME_LENGTH_MAXIMUM or "\0" in text for text in texts):
        raise RequestInvalid(f"names have at most {NAME_LENGTH_MAXIMUM} characters, and no NUL")
    for test in message.tests:
        if test.message is not None and (len(test.message) > MESSAGE_LENGTH_MAXIMUM or "\0" in test.message):
            raise RequestInvalid(f"a message has at most {MESSAGE_LENGTH_MAXIMUM} characters, and no NUL")
        if test.duration is not None and not (math.isfinite(test.duration) and test.duration >= 0):
            raise RequestInvalid(f"`duration` is {test.duration}: expected seconds")
