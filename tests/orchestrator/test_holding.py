"""What operators hold back: pipelines that are paused, runners that are drained; and which runner may have a job."""

from __future__ import annotations

import anyio
import pytest

from schema.client import OrchestratorRefused
from schema.definition import PipelineDefinition, StageDefinition
from schema.wire import (
    Job,
    Pause,
    Paused,
    RunnerList,
    RunnerRegister,
    RunnerRegistered,
    RunnersDrained,
    Token,
    TokenCreate,
)
from tests.orchestrator.installation import DEADLINE_SECONDS, Installation, SpokenRunner
from tests.orchestrator.test_claims import queue_jobs

STAGES = [StageDefinition(name="greet")]


async def pause(installation: Installation, pipeline: str | None = None, act: str = "pause") -> Paused:
    return await (await installation.client()).post(f"/v1/queue/{act}", Paused, Pause(pipeline=pipeline))


async def why(installation: Installation, job: Job) -> str | None:
    return (await (await installation.client()).get(f"/v1/jobs/{job.id}", Job)).waits_for


async def drain(installation: Installation, runner: str, act: str = "drain") -> list[str]:
    return (await (await installation.client()).post(f"/v1/runners/{runner}/{act}", RunnersDrained)).runners


async def tagged(installation: Installation, name: str, *tags: str) -> SpokenRunner:
    admin = await installation.client()
    token = await admin.post("/v1/tokens", Token, TokenCreate(kind="registration", name=name, uses=1))
    body = RunnerRegister(name=name, tags=list(tags))
    registered = await (await installation.client(token.secret)).post("/v1/runners/register", RunnerRegistered, body)
    return SpokenRunner(await installation.client(registered.token), registered)


async def test_the_jobs_of_a_paused_pipeline_wait_and_others_do_not(installation: Installation):
    await installation.replica()
    await installation.push()
    await installation.push(PipelineDefinition(name="other", stages=STAGES))
    runner = await installation.runner()
    held = await installation.submit()
    await pause(installation, "hello")
    later, other = await installation.submit(), await installation.submit(pipeline="other")
    assert [assignment.number for assignment in await runner.claim()] == [other.number]
    assert await runner.claim(wait=0) == []
    assert await why(installation, held) == "paused by token test"
    assert await why(installation, later) == "paused by token test"
    await pause(installation, "hello", "resume")
    numbers = [assignment.number for assignment in await runner.claim(slots=2)]
    assert numbers == [held.number, later.number]
    rows = await installation.fetch(
        "SELECT action, subject FROM moonyard.audit WHERE action ~ 'pause|resume' ORDER BY id"
    )
    assert [tuple(row) for row in rows] == [("pause", "pipeline hello"), ("resume", "pipeline hello")]


async def test_everything_can_be_paused_and_a_resume_wakes_who_waits(installation: Installation):
    await installation.replica()
    await installation.push()
    runner = await installation.runner()
    await pause(installation)
    await pause(installation)
    job = await installation.submit()
    assert await runner.claim(wait=0) == []
    assert await why(installation, job) == "everything is paused by token test"
    numbers: list[int] = []

    async def claim() -> None:
        numbers.extend(assignment.number for assignment in await runner.claim())

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(claim)
            await pause(installation, None, "resume")
    assert numbers == [job.number]


async def test_ten_thousand_paused_jobs_hide_nobody_and_come_back(installation: Installation):
    await installation.replica()
    await queue_jobs(installation, 10_000)
    await installation.push(PipelineDefinition(name="other", stages=STAGES))
    await pause(installation, "hello")
    other = await installation.submit(pipeline="other")
    runner = await installation.runner()
    assert [assignment.number for assignment in await runner.claim(slots=100)] == [other.number]
    await pause(installation, "hello", "resume")
    assert await installation.fetch("SELECT FROM moonyard.jobs WHERE parked IS NOT NULL") == []
    assert len(await runner.claim(slots=60)) == 60


async def test_a_pipeline_that_does_not_exist_cannot_be_paused(installation: Installation):
    await installation.replica()
    with pytest.raises(OrchestratorRefused) as refused:
        await pause(installation, "nothing")
    assert (refused.value.status, refused.value.code) == (404, "pipeline_unknown")
    assert await installation.fetch("SELECT FROM moonyard.audit WHERE action = 'pause'") == []


async def test_a_drained_runner_gets_nothing_until_it_is_drained_no_longer(installation: Installation):
    await installation.replica()
    await installation.push()
    runner = await installation.runner("builder")
    claims: list[int] = []

    async def claim() -> None:
        claims.append(len(await runner.claim(wait=60.0)))

    # A claim that waits when the runner is drained comes back at once.
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(claim)
            while not installation.replicas[0].parts.dispatcher.waiting_count:
                await anyio.lowlevel.checkpoint()
            assert await drain(installation, "builder") == [runner.registered.id]
    assert claims == [0]
    job = await installation.submit()
    assert await runner.claim(wait=0) == []
    assert await why(installation, job) == "the only runner is draining"
    [listed] = (await (await installation.client()).get("/v1/runners", RunnerList)).runners
    assert (listed.state, listed.drained_by) == ("draining", "token test")
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(claim)
            await drain(installation, runner.registered.id, "undrain")
        while not claims[-1]:
            await claim()
    assert claims[-1] == 1


async def test_a_runner_that_does_not_exist_cannot_be_drained(installation: Installation):
    await installation.replica()
    with pytest.raises(OrchestratorRefused) as refused:
        await drain(installation, "nobody")
    assert (refused.value.status, refused.value.code) == (404, "runner_unknown")


async def test_a_job_with_tags_goes_to_runners_that_have_them_all(installation: Installation):
    await installation.replica()
    await installation.push()
    await installation.push(PipelineDefinition(name="train", stages=STAGES, tags=["gpu", "large"]))
    plain, gpu = await installation.runner("plain"), await tagged(installation, "gpu", "gpu")
    await plain.claim(wait=0)
    job = await installation.submit(pipeline="train")
    assert await plain.claim(wait=0) == []
    assert await gpu.claim(wait=0) == []
    assert await why(installation, job) == "no runner has tags gpu, large"
    both = await tagged(installation, "both", "large", "other", "gpu")
    assert await why(installation, job) == "no runner with tags gpu, large is connected"
    assert [assignment.number for assignment in await both.claim()] == [job.number]
    second, untagged = await installation.submit(pipeline="train"), await installation.submit()
    assert [assignment.number for assignment in await plain.claim(slots=5, wait=0)] == [untagged.number]
    third = await installation.submit()
    assert [assignment.number for assignment in await both.claim(slots=5)] == [second.number, third.number]


async def test_a_job_with_tags_wakes_the_runner_that_has_them_among_many_that_wait(installation: Installation):
    replica = await installation.replica()
    await installation.push(PipelineDefinition(name="train", stages=STAGES, tags=["gpu"]))
    plain, gpu = await installation.runner("plain"), await tagged(installation, "gpu", "gpu")
    got: dict[str, int] = {}

    async def claim(name: str, runner: SpokenRunner, wait: float) -> None:
        got[name] = len(await runner.claim(wait=wait))

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(claim, "plain", plain, 60.0)
            tasks.start_soon(claim, "gpu", gpu, 60.0)
            while replica.parts.dispatcher.waiting_count < 2:
                await anyio.lowlevel.checkpoint()
            await installation.submit(pipeline="train")
            while "gpu" not in got:
                await anyio.lowlevel.checkpoint()
            replica.parts.dispatcher.drain()
    assert got == {"plain": 0, "gpu": 1}


async def test_ten_thousand_jobs_for_absent_runners_hide_nobody(installation: Installation):
    await installation.replica()
    await installation.push()
    await installation.push(PipelineDefinition(name="train", stages=STAGES, tags=["gpu"]))
    await installation.fetch(
        """
        INSERT INTO moonyard.jobs (id, pipeline_id, version_id, inputs, tag_set)
        SELECT gen_random_uuid(), pipeline.id, version_id, '{}', tag_sets.id
        FROM moonyard.pipelines AS pipeline CROSS JOIN moonyard.tag_sets CROSS JOIN generate_series(1, 10000)
        WHERE pipeline.name = 'train'
        """
    )
    job = await installation.submit()
    runner = await tagged(installation, "arm", "arm64")
    assert [assignment.number for assignment in await runner.claim(slots=10)] == [job.number]


@pytest.mark.parametrize("tag", ["", "GPU", "with space", "x" * 51, "nul\0"])
async def test_a_runner_with_a_tag_that_is_none_is_refused(installation: Installation, tag: str):
    await installation.replica()
    with pytest.raises(OrchestratorRefused) as refused:
        await tagged(installation, "runner", tag)
    assert (refused.value.status, refused.value.code) == (422, "request_invalid")
    assert await installation.fetch("SELECT FROM moonyard.runners") == []


async def test_a_job_says_why_it_waits(installation: Installation):
    await installation.replica()
    await installation.push()
    job = await installation.submit()
    assert job.waits_for is None or job.waits_for == "no runner is connected"
    assert await why(installation, job) == "no runner is connected"
    runner = await installation.runner()
    for _ in range(3):
        await installation.submit()
    assert len(await runner.claim(slots=4)) == 4
    waiting = await installation.submit()
    assert await why(installation, waiting) == "the only runner is busy"
    assert await why(installation, job) is None
