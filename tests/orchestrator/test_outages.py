from __future__ import annotations

from collections.abc import Generator

import anyio
import anyio.to_thread
import msgspec
import pytest

from orchestrator import authentication
from schema.client import Client, OrchestratorRefused
from schema.errors import MoonyardError
from schema.events import JobEvent, decode_line
from schema.wire import Assignment, Claim, Claimed, Health, JobList
from tests import postgres
from tests.orchestrator.installation import DEADLINE_SECONDS, Attempt
from tests.orchestrator.installation import installation as opened
from tests.postgres import Cluster


@pytest.fixture
def cluster() -> Generator[Cluster]:
    """A Postgres of the test's own, that it may stop."""
    with postgres.cluster() as running:
        yield running


async def test_a_database_that_goes_and_comes_back_delays_everything_and_loses_nothing(cluster: Cluster):
    async with opened(cluster.create_migrated()) as installation:
        await installation.replica()
        await installation.push()
        runner = await installation.runner()
        job = await installation.submit()
        [assignment] = await runner.claim()
        attempt = Attempt(assignment)
        await runner.send(attempt, attempt.state("running"))
        admin = await installation.client()
        lines: list[bytes] = []
        claimed: list[Assignment] = []
        following = anyio.Event()

        async def follow() -> None:
            async with admin.stream(f"/v1/jobs/{job.id}/events", query={"follow": "true"}) as stream:
                async for line in stream.lines():
                    lines.append(line)
                    following.set()

        async def claim() -> None:
            claimed.extend(await runner.claim(wait=60.0))

        with anyio.fail_after(DEADLINE_SECONDS * 2):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow)
                tasks.start_soon(claim)
                await following.wait()
                await anyio.to_thread.run_sync(cluster.stop)
                await refuses(admin)
                with pytest.raises(OrchestratorRefused) as refused:
                    await runner.send(attempt, attempt.log("meanwhile"))
                assert (refused.value.status, refused.value.code) == (503, "database_unavailable")
                await anyio.to_thread.run_sync(cluster.start)
                await answers(admin)
                again = Attempt(assignment)
                again.state("running")
                await runner.send(again, again.log("meanwhile"), again.state("succeeded"))
                await installation.submit()
        assert [assignment.number for assignment in claimed] == [2]
        final = decode_line(lines[-1])
        assert isinstance(final, JobEvent)
        assert (final.state, len(lines)) == ("succeeded", 4)


async def test_where_and_why_a_database_is_away_is_told_to_who_looks_after_it_alone(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(authentication, "REMEMBER_SECONDS", 3600.0)  # nobody could be looked up
    async with opened(cluster.create_migrated()) as installation:
        replica = await installation.replica()
        admin, runner = await installation.client(), (await installation.runner()).client
        await admin.get("/v1/jobs", JobList)
        await runner.post("/v1/runner/claim", Claimed, Claim(slots=1, wait=0.0, capacity=1, version="test"))
        await anyio.to_thread.run_sync(cluster.stop)
        told = await refusal(admin, "/v1/jobs")
        assert "Postgres at " in told.message
        async with Client.open([replica.address], None) as nobody:
            for client, path in (
                (nobody, "/v1/health"),
                (runner, "/v1/health"),
                (runner, f"/v1/runner/blobs/{64 * '0'}"),
            ):
                told = await refusal(client, path)
                assert told.message == "the orchestrator cannot use its database just now"
                assert told.problem.request_id is not None
                assert told.hint is not None
                assert told.problem.request_id in told.hint
                assert "Postgres" not in msgspec.json.encode(told.problem).decode()


async def refusal(client: Client, path: str) -> OrchestratorRefused:
    with pytest.raises(OrchestratorRefused) as refused:
        await client.get(path, object)
    assert (refused.value.status, refused.value.code) == (503, "database_unavailable")
    return refused.value


async def refuses(admin: Client) -> None:
    for path, kind in (("/v1/health", Health), ("/v1/jobs", JobList)):
        with pytest.raises(OrchestratorRefused) as refused:
            await admin.get(path, kind)
        assert (refused.value.status, refused.value.code) == (503, "database_unavailable")


async def answers(admin: Client) -> None:
    while True:
        try:
            await admin.get("/v1/health", Health)
        except MoonyardError:
            continue
        return
