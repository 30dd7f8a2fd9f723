"""Whatever queues a job tells its place: claims then need not look for it from the start of the queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import anyio
import asyncpg

from orchestrator import leases, releases, schedules
from orchestrator.notifications import QUEUE_CHANNEL
from schema.definition import Concurrency, PipelineDefinition, StageDefinition
from schema.wire import Job, Schedule, ScheduleCreate
from tests.orchestrator.installation import DEADLINE_SECONDS, Attempt, Installation, SpokenRunner

TOMORROW = datetime.now(UTC) + timedelta(days=1)


class Heard:
    """What is told of the queue."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._told: asyncio.Queue[str] = asyncio.Queue()

    def hear(self, _connection: object, _process: int, _channel: str, payload: object) -> None:
        self._told.put_nowait(str(payload).partition(":")[2])

    async def is_told(self, job: Job) -> None:
        """See that the next that is told is the place of a job."""
        with anyio.fail_after(DEADLINE_SECONDS):
            told = await self._told.get()
        [row] = await self._installation.fetch(
            "SELECT turn - 1000 * priority AS place FROM moonyard.jobs WHERE number = $1", job.number
        )
        assert told == str(row["place"])


@asynccontextmanager
async def listening(installation: Installation) -> AsyncGenerator[Heard]:
    heard = Heard(installation)
    connection = await asyncpg.connect(installation.url)
    try:
        await connection.add_listener(QUEUE_CHANNEL, heard.hear)
        yield heard
    finally:
        await connection.close()


async def push(installation: Installation, **fields: object) -> None:
    stages = [StageDefinition(name="greet")]
    await installation.push(PipelineDefinition(name="hello", stages=stages, **fields))  # pyright: ignore[reportArgumentType]


async def started(runner: SpokenRunner) -> Attempt:
    with anyio.fail_after(DEADLINE_SECONDS):
        [assignment] = await runner.claim()
    attempt = Attempt(assignment)
    await runner.send(attempt, attempt.state("running"))
    return attempt


async def test_a_job_that_is_queued_again_tells_its_place(installation: Installation) -> None:
    replica = await installation.replica()
    await push(installation, retries=1)
    runner = await installation.runner()
    async with listening(installation) as heard:
        job = await installation.submit(priority=3)
        await heard.is_told(job)
        failed = await started(runner)
        await runner.send(failed, failed.state("failed"))
        await heard.is_told(job)
        await started(runner)
        await installation.let_leases_run_out()
        await leases.lose_expired(replica.parts.database, replica.parts.notifications, losses_maximum=5)
        await heard.is_told(job)
        ended = await started(runner)
        await runner.send(ended, ended.state("failed"))
        await (await installation.client()).post(f"/v1/jobs/{job.id}/retry", Job)
        await heard.is_told(job)
        ended = await started(runner)
        await runner.send(ended, ended.state("succeeded"))
        await installation.fetch("SELECT control.retry($1::text)", str(job.number))
        await heard.is_told(job)


async def test_a_job_whose_time_has_come_tells_its_place(installation: Installation) -> None:
    replica = await installation.replica()
    await push(installation)
    admin = await installation.client()
    async with listening(installation) as heard:
        job = await installation.submit(delay=3600.0)
        await heard.is_told(job)
        await releases.release(replica.parts.database, replica.parts.notifications, TOMORROW)
        await heard.is_told(job)
        await admin.post("/v1/schedules", Schedule, ScheduleCreate(name="s", pipeline="hello", cron="0 6 * * *"))
        parts = replica.parts
        assert await schedules.fire_due(parts.database, parts.submissions, parts.notifications, TOMORROW) == 1
        [row] = await installation.fetch("SELECT max(number) AS number FROM moonyard.jobs")
        await heard.is_told(await admin.get(f"/v1/jobs/{row['number']}", Job))


async def test_a_job_whose_group_has_room_tells_its_place(installation: Installation) -> None:
    await installation.replica()
    await push(installation, concurrency=Concurrency(group="one"))
    runner = await installation.runner()
    async with listening(installation) as heard:
        first = await installation.submit()
        await heard.is_told(first)  # by the database, and by the replica
        await heard.is_told(first)
        second = await installation.submit()
        await heard.is_told(second)
        attempt = await started(runner)
        await runner.send(attempt, attempt.state("succeeded"))
        await heard.is_told(second)
