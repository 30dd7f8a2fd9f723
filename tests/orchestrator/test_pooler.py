"""Orchestrators behind a connection pooler in transaction mode, where each transaction may be on another connection."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from orchestrator.database import Database
from schema import database
from schema.database import DatabaseUrlInvalid
from schema.events import LogEvent, decode_line
from schema.wire import Heartbeat, HeartbeatAnswer, Holding, Job, JobsSubmit, JobsSubmitted, JobSubmit
from tests import pgbouncer
from tests.cli.command import moonyard
from tests.orchestrator.installation import DEADLINE_SECONDS, Attempt, Installation, installation
from tests.postgres import Cluster, psql

LISTENING = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'moonyard orchestrator, listening'"
LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"


@pytest.fixture
def pooled_url(database_url: str) -> Generator[str]:
    with pgbouncer.before(database_url) as url:
        yield url


async def follow(made: Installation, address: str, job: str, started: anyio.Event) -> list[str]:
    """Read a job's lines to its end through one replica; give the texts of its log."""
    texts: list[str] = []
    client = await made.client(address=address)
    async with client.stream(f"/v1/jobs/{job}/events", query={"follow": "true"}) as stream:
        async for line in stream.lines():
            started.set()
            event = decode_line(line)
            if isinstance(event, LogEvent):
                texts.append(event.text)
    return texts


@pytest.mark.parametrize("listen", ["to Postgres itself", "off", "not told"])
async def test_replicas_behind_a_pooler_wake_each_other_and_lose_nothing(
    database_url: str, pooled_url: str, listen: str
):
    listen_url = {"to Postgres itself": database_url, "off": "off", "not told": None}[listen]
    async with installation(pooled_url) as made:
        first = await made.replica(listen_url=listen_url)
        second = await made.replica(listen_url=listen_url)
        assert first.parts.database.is_pooled
        await made.push()
        admin = await made.client(address=first.address)
        runner = await made.runner(address=second.address)

        async def claimed() -> Attempt:
            """Wait at one replica for what is submitted at the other."""
            found: list[Attempt] = []

            async def claim() -> None:
                [assignment] = await runner.claim()
                found.append(Attempt(assignment))

            with anyio.fail_after(DEADLINE_SECONDS):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(claim)
                    while second.parts.dispatcher.waiting_count == 0:
                        await anyio.lowlevel.checkpoint()
                    await admin.post("/v1/jobs", Job, JobSubmit(pipeline="hello"))
            return found[0]

        attempt = await claimed()
        texts: list[str] = []
        started = anyio.Event()

        async def read() -> None:
            texts.extend(await follow(made, first.address, attempt.assignment.job, started))

        with anyio.fail_after(DEADLINE_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await started.wait()
                # More of the same than a driver takes before it prepares a statement.
                for number in range(12):
                    await runner.send(attempt, attempt.log(str(number)))
                await runner.send(attempt, attempt.state("succeeded"))
        assert texts == [str(number) for number in range(12)]

        attempt = await claimed()
        holding = [Holding(job=attempt.assignment.job, attempt=attempt.assignment.attempt)]
        heard: list[HeartbeatAnswer] = []

        async def beat() -> None:
            message = Heartbeat(holding=holding, wait=DEADLINE_SECONDS)
            heard.append(await runner.client.post("/v1/runner/heartbeat", HeartbeatAnswer, message, seconds=60))

        with anyio.fail_after(DEADLINE_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(beat)
                while not second.parts.notifications.runners.heard():
                    await anyio.lowlevel.checkpoint()
                await admin.post(f"/v1/jobs/{attempt.assignment.job}/cancel", Job)
        assert heard[0].cancel == [attempt.assignment.job]

        batch = JobsSubmit(jobs=[JobSubmit(pipeline="hello") for _ in range(50)])
        assert len((await admin.post("/v1/jobs/batch", JobsSubmitted, batch)).jobs) == 50
        with anyio.fail_after(DEADLINE_SECONDS):
            assert len(await runner.claim(slots=50)) == 50
        listening = psql(database_url, LISTENING, "-At").strip()
        assert listening == ("2" if listen == "to Postgres itself" else "0")


async def test_a_runner_is_drained_through_another_replica_where_nobody_listens(pooled_url: str):
    async with installation(pooled_url) as made:
        first, second = [await made.replica(listen_url="off") for _ in range(2)]
        runner = await made.runner(address=second.address)
        with anyio.fail_after(DEADLINE_SECONDS):
            async with anyio.create_task_group() as tasks:
                # Its claim is answered before its time, for it has something to hear: its next one gets nothing.
                tasks.start_soon(runner.claim, 1, DEADLINE_SECONDS * 2)
                while not second.parts.notifications.runners.heard():
                    await anyio.lowlevel.checkpoint()
                admin = await made.client(address=first.address)
                await admin.post(f"/v1/runners/{runner.registered.name}/drain", object)


async def test_a_database_is_upgraded_through_a_pooler_by_several_at_once(postgres_cluster: Cluster):
    direct = postgres_cluster.create()
    with pgbouncer.before(direct) as url:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(anyio.to_thread.run_sync, database.upgrade, url)
        assert database.check(url) == (database.head(), database.head())
        assert psql(direct, LOCKS, "-At").strip() == "0"
    postgres_cluster.drop(direct)


async def test_a_pooler_is_found_by_itself(database_url: str, pooled_url: str):
    for url, is_pooled in ((database_url, False), (pooled_url, True)):
        async with Database.open(url, connections_maximum=1) as opened:
            assert opened.is_pooled == is_pooled
            assert opened.listen_url == (None if is_pooled else url)


async def test_a_place_to_listen_at_that_is_no_url_is_told_by_its_own_name(pooled_url: str):
    with pytest.raises(DatabaseUrlInvalid, match="`listen_url` is not the URL of a Postgres"):
        async with Database.open(pooled_url, connections_maximum=1, listen_url="on"):
            pass


async def test_a_token_is_made_through_a_pooler(pooled_url: str, tmp_path: Path):
    made = await moonyard("token", "create", "--name", "me", cwd=tmp_path, MOONYARD_DATABASE_URL=pooled_url)
    assert made.code == 0, made.stderr
    assert made.stdout.startswith("moonyard_admin_")
