from __future__ import annotations

from uuid import UUID

import anyio
import msgspec
import pytest

from schema.accounts import Account, Binding, BindingList
from schema.client import Client, OrchestratorRefused
from schema.wire import Job
from tests.orchestrator.installation import DEADLINE_SECONDS, Attempt, Installation
from tests.orchestrator.people import account


class Position(msgspec.Struct):
    attempt: int
    seq: int


async def positions(client: Client, job: str, **query: str) -> list[tuple[int, int]]:
    async with client.stream(f"/v1/jobs/{job}/events", query=query) as stream:
        decoded = [msgspec.json.decode(line, type=Position) async for line in stream.lines()]
    return [(position.attempt, position.seq) for position in decoded]


async def test_a_follower_on_another_replica_sees_each_line_as_it_comes_and_ends_with_the_job(
    installation: Installation,
):
    near, far = await installation.replica(), await installation.replica()
    await installation.push()
    runner = await installation.runner(address=near.address)
    job = await installation.submit()
    [assignment] = await runner.claim()
    attempt = Attempt(assignment)
    send, receive = anyio.create_memory_object_stream[bytes](100)

    async def follow() -> None:
        client = await installation.client(address=far.address)
        async with send, client.stream(f"/v1/jobs/{job.number}/events", query={"follow": "true"}) as stream:
            async for line in stream.lines():
                await send.send(line)

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks, receive:
            tasks.start_soon(follow)
            assert b'"queued"' in await receive.receive()
            await runner.send(attempt, attempt.state("running"))
            assert b'"running"' in await receive.receive()
            for number in range(5):
                await runner.send(attempt, attempt.log(f"line {number}"))
                assert f"line {number}".encode() in await receive.receive()
            await runner.send(attempt, attempt.state("succeeded"))
            assert b'"succeeded"' in await receive.receive()
            with pytest.raises(anyio.EndOfStream):
                await receive.receive()


@pytest.mark.parametrize("what", ["role", "token"])
async def test_who_may_read_no_longer_is_told_no_more(installation: Installation, what: str):
    await installation.replica()
    await installation.push()
    job = await installation.submit()
    ada, admin = await account(installation, "ada", ("viewer", "hello")), await installation.client()
    query = {"follow": "true"}
    with anyio.fail_after(DEADLINE_SECONDS):
        async with ada.stream(f"/v1/jobs/{job.number}/events", query=query) as stream:
            lines = stream.lines()
            assert b'"queued"' in await anext(lines)
            if what == "role":
                [held] = (await admin.get("/v1/role-bindings", BindingList)).bindings
                await admin.delete(f"/v1/role-bindings/{held.id}", Binding)
            else:
                await admin.post("/v1/accounts/ada/disable", Account)
            assert [line async for line in lines if line.strip()] == []


async def test_a_record_is_read_on_from_any_of_its_events(installation: Installation):
    await installation.replica()
    await installation.push()
    runner = await installation.runner()
    job = await installation.submit()
    [assignment] = await runner.claim()
    attempt = Attempt(assignment)
    await runner.send(attempt, attempt.state("running"), attempt.log("a"), attempt.log("b"))
    await runner.send(attempt, attempt.log("c"))
    await runner.send(attempt, attempt.log("d"), attempt.state("succeeded"))
    client = await installation.client()
    everything = [(0, 1), *((1, seq) for seq in range(1, 7))]
    for follow in ("true", "false"):
        assert await positions(client, job.id, follow=follow) == everything
        for count, (number, seq) in enumerate(everything[:-1], 1):
            rest = await positions(client, job.id, follow=follow, after=f"{number}.{seq}")
            assert rest == everything[count:]
    assert await positions(client, job.id, after="1.6") == []


async def test_a_long_record_is_read_in_pages(installation: Installation):
    await installation.replica()
    await installation.push()
    runner = await installation.runner()
    job = await installation.submit()
    [assignment] = await runner.claim()
    attempt = Attempt(assignment)
    await runner.send(attempt, attempt.state("running"))
    for _ in range(250):
        await runner.send(attempt, attempt.log("small"))
    for _ in range(8):
        await runner.send(attempt, attempt.log("large " * 100_000))
    await runner.send(attempt, attempt.state("succeeded"))
    read = await positions(await installation.client(), job.id, follow="true")
    assert read == [(0, 1), *((1, seq) for seq in range(1, 261))]


async def test_a_follower_that_hung_up_leaves_nothing_behind(installation: Installation):
    replica = await installation.replica()
    await installation.push()
    job = await installation.submit()
    bells = replica.parts.notifications.jobs
    client = await installation.client()
    with anyio.fail_after(DEADLINE_SECONDS):
        async with client.stream(f"/v1/jobs/{job.id}/events", query={"follow": "true"}) as stream:
            await anext(stream.lines())
            assert bells.is_heard(UUID(job.id))
        while bells.is_heard(UUID(job.id)):
            await anyio.lowlevel.checkpoint()


async def test_without_follow_the_record_ends_where_it_ends(installation: Installation):
    await installation.replica()
    await installation.push()
    job = await installation.submit()
    with anyio.fail_after(DEADLINE_SECONDS):
        assert await positions(await installation.client(), job.id) == [(0, 1)]


@pytest.mark.parametrize("after", ["", "1", "1.x", "-1.1", "1.1.1", "9" * 40 + ".1"])
async def test_an_after_that_is_no_position_is_refused(installation: Installation, after: str):
    await installation.replica()
    await installation.push()
    job = await installation.submit()
    with pytest.raises(OrchestratorRefused) as refused:
        await positions(await installation.client(), job.id, after=after)
    assert (refused.value.status, refused.value.code) == (422, "request_invalid")


@pytest.mark.parametrize("job", ["99", "nonsense", "00000000-0000-0000-0000-000000000000", "9" * 30, "%00", "1%2F2"])
async def test_a_job_that_does_not_exist_is_not_found(installation: Installation, job: str):
    await installation.replica()
    client = await installation.client()
    for path in (f"/v1/jobs/{job}", f"/v1/jobs/{job}/events", f"/v1/jobs/{job}/artifacts"):
        with pytest.raises(OrchestratorRefused) as refused:
            await client.get(path, Job)
        assert refused.value.status == 404
