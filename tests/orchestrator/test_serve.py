from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import pytest
from anyio.streams.text import TextReceiveStream

from orchestrator import serve
from orchestrator.settings import OrchestratorSettings
from schema import database
from schema.client import Client
from schema.errors import MoonyardError, single_error
from schema.wire import Health, Heartbeat, HeartbeatAnswer, Job, JobSubmit
from tests.orchestrator.installation import DEADLINE_SECONDS, Installation, SpokenRunner
from tests.postgres import Cluster, as_replica

PROGRAM = """
import sys, anyio
from orchestrator import serve
from orchestrator.settings import OrchestratorSettings
settings = OrchestratorSettings(database_url=sys.argv[1], port=0)
anyio.run(lambda: serve.serve(settings, started=lambda address: print(address, flush=True)))
"""


@asynccontextmanager
async def process(url: str) -> AsyncGenerator[tuple[anyio.abc.Process, str]]:
    """Run a replica as a process of its own; give it and its address."""
    argv = [sys.executable, "-c", PROGRAM, url]
    async with await anyio.open_process(argv, stderr=None, env=os.environ) as started:
        assert started.stdout is not None
        try:
            with anyio.fail_after(DEADLINE_SECONDS):
                address = (await anext(TextReceiveStream(started.stdout))).strip()
            assert address.startswith("http://"), address
            yield started, address
        finally:
            if started.returncode is None:
                started.kill()


async def test_a_replica_says_that_it_is_healthy_without_a_token(installation: Installation):
    replica = await installation.replica()
    async with Client.open([replica.address], None) as client:
        health = await client.get("/v1/health", Health)
    assert (health.status, health.schema_version) == ("ok", database.head())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_replica_told_to_stop_lets_all_that_wait_go_and_loses_nothing(
    installation: Installation, number: signal.Signals
):
    async with process(as_replica(installation.url)) as (replica, address):
        await installation.push()
        async with Client.open([address], installation.admin_secret) as admin:
            job = await admin.post("/v1/jobs", Job, JobSubmit(pipeline="hello"))
            await admin.post(f"/v1/jobs/{job.id}/cancel", Job)
            job = await admin.post("/v1/jobs", Job, JobSubmit(pipeline="hello"))
            runner, attempts = await a_runner_that_took(installation, address)
            assert attempts == [job.id]
            ended: list[str] = []
            following = anyio.Event()

            async def claim() -> None:
                assert await runner.claim(wait=50.0) == []
                ended.append("claim")

            async def follow() -> None:
                async with admin.stream(f"/v1/jobs/{job.id}/events", query={"follow": "true"}) as stream:
                    async for _ in stream.lines():
                        following.set()
                ended.append("follow")

            async def beat() -> None:
                message = Heartbeat(holding=[], wait=50.0)
                await runner.client.post("/v1/runner/heartbeat", HeartbeatAnswer, message, seconds=60)
                ended.append("heartbeat")

            with anyio.fail_after(DEADLINE_SECONDS):
                async with anyio.create_task_group() as tasks:
                    for wait in (claim, follow, beat):
                        tasks.start_soon(wait)
                    await following.wait()
                    replica.send_signal(number)
                assert await replica.wait() == 0
            assert sorted(ended) == ["claim", "follow", "heartbeat"]
    [row] = await installation.fetch("SELECT state FROM moonyard.jobs WHERE number = 2")
    assert row["state"] == "running"


async def a_runner_that_took(installation: Installation, address: str) -> tuple[SpokenRunner, list[str]]:
    runner = await installation.runner(address=address)
    return runner, [assignment.job for assignment in await runner.claim()]


async def ends_with(settings: OrchestratorSettings) -> MoonyardError:
    with pytest.raises(MoonyardError) as raised, single_error():
        await serve.run(settings, stop=anyio.Event(), started=print)
    return raised.value


async def test_a_replica_does_not_start_on_a_database_without_the_schema(postgres_cluster: Cluster):
    url = postgres_cluster.create()
    error = await ends_with(OrchestratorSettings(database_url=url, port=0))
    assert error.code == "schema_version_wrong"
    assert error.hint is not None
    assert "moonyard db upgrade" in error.hint
    postgres_cluster.drop(url)


async def test_a_replica_without_a_database_says_which_and_why(unused_port: int):
    url = f"postgresql://me:hush@127.0.0.1:{unused_port}/yard"
    error = await ends_with(OrchestratorSettings(database_url=url, port=0))
    assert error.code == "database_unavailable"
    assert f"127.0.0.1:{unused_port}" in error.message
    assert "hush" not in error.message


async def test_a_replica_whose_port_is_taken_says_so(installation: Installation):
    replica = await installation.replica()
    port = int(replica.address.rsplit(":", 1)[1])
    error = await ends_with(OrchestratorSettings(database_url=installation.url, port=port))
    assert error.code == "address_unusable"
    assert f"127.0.0.1:{port}" in error.message
