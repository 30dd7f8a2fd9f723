"""Limits on how many jobs of a group are under way, with any number of replicas."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest

from orchestrator import releases
from schema.client import OrchestratorRefused
from schema.definition import Concurrency, InputDefinition, PipelineDefinition, StageDefinition
from schema.wire import Heartbeat, HeartbeatAnswer, Holding, Job
from tests.orchestrator.installation import DEADLINE_SECONDS, Attempt, Installation, SpokenRunner
from tests.orchestrator.plans import plan

INPUTS = {
    "ref": InputDefinition(type="string", default="main"),
    "other": InputDefinition(type="string", default="x"),
}


async def push(installation: Installation, name: str = "deploy", **fields: Any) -> None:
    chosen: dict[str, Any] = {"group": "deploy-${ref}"} | fields
    stages = [StageDefinition(name="greet")]
    definition = PipelineDefinition(name=name, inputs=INPUTS, stages=stages, concurrency=Concurrency(**chosen))
    await installation.push(definition, f"-- {name} {fields}")


async def submit(installation: Installation, ref: str = "main", pipeline: str = "deploy", **fields: Any) -> Job:
    return await installation.submit(pipeline=pipeline, inputs={"ref": ref}, **fields)


async def ended(runner: SpokenRunner, attempt: Attempt, state: Any = "succeeded") -> None:
    await runner.send(attempt, attempt.state(state))


async def why(installation: Installation, job: Job) -> str | None:
    return (await (await installation.client()).get(f"/v1/jobs/{job.id}", Job)).waits_for


async def test_the_second_job_of_a_group_waits_for_the_first_and_others_do_not(installation: Installation):
    await installation.replica()
    await push(installation)
    runner = await installation.runner()
    first, second, other = await submit(installation), await submit(installation), await submit(installation, "stable")
    claimed = await runner.claim(slots=3, wait=0)
    assert [assignment.number for assignment in claimed] == [first.number, other.number]
    assert await runner.claim(wait=0) == []
    assert second.concurrency_group == "deploy-main"
    assert await why(installation, second) == f"concurrency group deploy-main is taken by job {first.number}"
    await ended(runner, Attempt(claimed[0]))
    [next_one] = await runner.claim()
    assert next_one.number == second.number


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
async def test_the_end_of_a_job_wakes_the_runner_that_waits_for_the_next(installation: Installation, state: str):
    await installation.replica()
    await push(installation)
    busy, waiting = await installation.runner("busy"), await installation.runner("waiting")
    await submit(installation)
    second = await submit(installation)
    [first] = await busy.claim()
    numbers: list[int] = []

    async def wait() -> None:
        numbers.extend(assignment.number for assignment in await waiting.claim())

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await ended(busy, Attempt(first), state)
    assert numbers == [second.number]


async def test_a_lost_job_keeps_its_slot_until_it_ends(installation: Installation):
    await installation.replica()
    await push(installation)
    runner = await installation.runner()
    first, second = await submit(installation), await submit(installation)
    await runner.claim()
    await installation.let_leases_run_out()
    [again] = await runner.claim()
    assert (again.number, again.attempt) == (first.number, 2)
    assert await runner.claim(wait=0) == []
    await ended(runner, Attempt(again))
    assert [assignment.number for assignment in await runner.claim()] == [second.number]


async def test_a_cancelled_job_that_has_not_started_makes_room(installation: Installation):
    await installation.replica()
    await push(installation)
    runner = await installation.runner()
    first, second = await submit(installation), await submit(installation)
    await (await installation.client()).post(f"/v1/jobs/{first.id}/cancel", Job)
    assert [assignment.number for assignment in await runner.claim()] == [second.number]


async def test_a_limit_without_a_group_is_the_pipelines_own(installation: Installation):
    await installation.replica()
    await push(installation, group=None, limit=2)
    runner = await installation.runner()
    jobs = [await submit(installation, ref) for ref in ("a", "b", "c")]
    assert [assignment.number for assignment in await runner.claim(slots=3, wait=0)] == [jobs[0].number, jobs[1].number]
    said = await why(installation, jobs[2])
    assert said == f"the limit of deploy is taken by job {jobs[0].number} and 1 more"


async def test_a_group_is_shared_by_the_pipelines_that_name_it(installation: Installation):
    await installation.replica()
    await push(installation, "one", group="shared")
    await push(installation, "two", group="shared")
    runner = await installation.runner()
    first = await submit(installation, pipeline="one")
    await submit(installation, pipeline="two")
    assert [assignment.number for assignment in await runner.claim(slots=2, wait=0)] == [first.number]


async def test_with_priority_a_job_goes_first_in_its_group_too(installation: Installation):
    await installation.replica()
    await push(installation)
    runner = await installation.runner()
    await submit(installation)
    [first] = await runner.claim()
    low, high = await submit(installation), await submit(installation, priority=50)
    await ended(runner, Attempt(first))
    [second] = await runner.claim()
    assert second.number == high.number
    await ended(runner, Attempt(second))
    assert [assignment.number for assignment in await runner.claim()] == [low.number]


async def test_a_new_job_cancels_what_is_before_it_where_the_pipeline_says_so(installation: Installation):
    await installation.replica()
    await push(installation, cancel_running=True)
    runner = await installation.runner()
    await submit(installation)
    [running] = await runner.claim()
    admin = await installation.client()
    waiting = await submit(installation)
    newest = await submit(installation)
    superseded = await admin.get(f"/v1/jobs/{waiting.id}", Job)
    assert superseded.error is not None
    assert (superseded.state, superseded.error.code) == ("cancelled", "job_superseded")
    assert f"job {newest.number} came after" in superseded.error.message
    holding = [Holding(job=running.job, attempt=1)]
    told = await runner.client.post("/v1/runner/heartbeat", HeartbeatAnswer, Heartbeat(holding=holding))
    assert told.cancel == [running.job]
    assert await runner.claim(wait=0) == []
    await ended(runner, Attempt(running), "cancelled")
    assert [assignment.number for assignment in await runner.claim()] == [newest.number]


@pytest.mark.parametrize(
    ("victim", "group", "is_cancelled"),
    [
        ({"group": "shared", "cancel_running": True}, "shared", True),
        ({"group": "shared"}, "shared", False),
        ({"group": None, "cancel_running": True}, "pipeline:other", False),
    ],
)
async def test_a_pipeline_cancels_jobs_of_another_only_where_both_say_so(
    installation: Installation, victim: dict[str, Any], group: str, *, is_cancelled: bool
):
    await installation.replica()
    await push(installation, "other", **victim)
    await push(installation, "mine", group=group, cancel_running=True)
    admin, runner = await installation.client(), await installation.runner()
    running = await submit(installation, pipeline="other")
    await runner.claim()
    await submit(installation, pipeline="mine")
    found = await admin.get(f"/v1/jobs/{running.id}", Job)
    assert found.concurrency_group == group
    assert (found.cancel_requested_at is not None) == is_cancelled
    waiting = await submit(installation, pipeline="other")
    await submit(installation, pipeline="mine")
    found = await admin.get(f"/v1/jobs/{waiting.id}", Job)
    assert found.state == ("cancelled" if is_cancelled else "queued")


async def test_what_an_input_says_is_taken_as_it_is(installation: Installation):
    await installation.replica()
    await push(installation)
    job = await submit(installation, "${other} $ ${ref} `')")
    assert job.concurrency_group == "deploy-${other} $ ${ref} `')"


async def test_a_group_of_ten_kilobytes_is_refused_and_nothing_is_queued(installation: Installation):
    await installation.replica()
    await push(installation)
    with pytest.raises(OrchestratorRefused) as refused:
        await submit(installation, "x" * 10_000)
    assert (refused.value.status, refused.value.code) == (422, "concurrency_group_invalid")
    assert "10007 characters" in refused.value.message
    assert await installation.fetch("SELECT FROM moonyard.jobs") == []


async def test_no_limit_is_ever_passed_however_many_replicas_hand_out(installation: Installation):
    """Every claim and every end is counted from outside: what runs at once, in each group."""
    replicas = [await installation.replica() for _ in range(3)]
    runners = [await installation.runner(f"runner {number}", replicas[number % 3].address) for number in range(6)]
    limits = {"a": 1, "b": 2, "c": 3}
    for name, limit in limits.items():
        await push(installation, name, group=name, limit=limit)
    jobs = 60
    admin = await installation.client()
    groups: dict[str, str] = {}
    for number in range(jobs):
        name = "abc"[number % 3]
        groups[(await submit(installation, pipeline=name)).id] = name
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    done: list[str] = []

    async def work(runner: SpokenRunner) -> None:
        while len(done) < jobs:
            for assignment in await runner.claim(slots=3, wait=0.3):
                name = groups[assignment.job]
                running[name] += 1
                most[name] = max(most[name], running[name])
                attempt = Attempt(assignment)
                await runner.send(attempt, attempt.state("running"))
                running[name] -= 1
                await ended(runner, attempt)
                done.append(assignment.job)

    with anyio.fail_after(DEADLINE_SECONDS * 2):
        async with anyio.create_task_group() as tasks:
            for runner in runners:
                tasks.start_soon(work, runner)
    assert sorted(done) == sorted(groups)
    assert all(most[name] <= limit for name, limit in limits.items()), most
    assert await installation.fetch("SELECT FROM moonyard.concurrency_slots") == []
    assert (await admin.get(f"/v1/jobs/{done[0]}", Job)).state == "succeeded"


async def test_replicas_that_fill_a_group_at_once_do_not_pass_its_limit(installation: Installation):
    replicas = [await installation.replica() for _ in range(3)]
    await push(installation, limit=5)
    clients = [await installation.client(address=replica.address) for replica in replicas]
    async with anyio.create_task_group() as tasks:
        for number in range(30):
            body = {"pipeline": "deploy", "inputs": {"ref": "main"}}
            tasks.start_soon(post, clients[number % 3], body)
    await releases.release(replicas[0].parts.database, replicas[0].parts.notifications)
    [row] = await installation.fetch(
        "SELECT count(*) FILTER (WHERE parked IS NULL) AS free, count(*) AS jobs FROM moonyard.jobs"
    )
    assert (row["free"], row["jobs"]) == (5, 30)


async def post(client: Any, body: dict[str, Any]) -> None:
    from schema.wire import JobSubmit

    await client.post("/v1/jobs", Job, JobSubmit(**body))


async def test_a_full_group_with_100000_jobs_hides_nobody(installation: Installation):
    replica = await installation.replica()
    await push(installation)
    await installation.push()
    await installation.fetch(
        """
        INSERT INTO moonyard.jobs (id, pipeline_id, version_id, inputs, parked, concurrency_group, concurrency_limit)
        SELECT gen_random_uuid(), id, version_id, '{}', 'group', 'deploy-main', 1
        FROM moonyard.pipelines CROSS JOIN generate_series(1, 100000) WHERE name = 'deploy'
        """
    )
    await installation.fetch("ANALYZE moonyard.jobs")
    await releases.release(replica.parts.database, replica.parts.notifications)
    runner = await installation.runner()
    other = await installation.submit()
    claimed = await runner.claim(slots=10, wait=0)
    assert len(claimed) == 2
    assert other.number in {assignment.number for assignment in claimed}
    looked = await plan(
        installation,
        """
        SELECT id, concurrency_limit FROM moonyard.jobs
        WHERE state = 'queued' AND parked = 'group' AND concurrency_group = 'deploy-main'
        ORDER BY turn - 1000 * priority, number LIMIT 1000 FOR UPDATE SKIP LOCKED
        """,
    )
    assert "jobs_behind_group" in looked
    assert "Sort" not in looked
