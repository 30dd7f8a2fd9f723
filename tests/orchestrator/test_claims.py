from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest

from orchestrator.sql import claims as sql
from orchestrator.sql import events as events_sql
from orchestrator.sql import jobs as jobs_sql
from schema.client import OrchestratorRefused
from schema.wire import Assignment
from tests.orchestrator.installation import DEADLINE_SECONDS, Installation, SpokenRunner
from tests.orchestrator.plans import plan

JOBS = 120


async def queue_jobs(installation: Installation, count: int) -> None:
    await installation.push()
    await installation.fetch(
        """
        INSERT INTO moonyard.jobs (id, pipeline_id, version_id, inputs)
        SELECT gen_random_uuid(), id, version_id, '{}' FROM moonyard.pipelines CROSS JOIN generate_series(1, $1)
        """,
        count,
    )


async def test_replicas_never_hand_a_job_out_twice(installation: Installation):
    replicas = [await installation.replica() for _ in range(3)]
    runners = [await installation.runner(f"runner {number}", replicas[number % 3].address) for number in range(6)]
    await queue_jobs(installation, JOBS)
    claimed: list[Assignment] = []

    async def claim_until_enough(runner: SpokenRunner) -> None:
        while len(claimed) < JOBS:
            claimed.extend(await runner.claim(slots=7, wait=0.5))

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            for runner in runners:
                tasks.start_soon(claim_until_enough, runner)
    times = Counter(assignment.job for assignment in claimed)
    assert len(times) == JOBS
    assert set(times.values()) == {1}
    assert {assignment.attempt for assignment in claimed} == {1}


async def test_jobs_come_in_the_order_in_which_they_were_submitted(installation: Installation):
    await installation.replica()
    runner = await installation.runner()
    await queue_jobs(installation, 5)
    numbers = [assignment.number for _ in range(5) for assignment in await runner.claim()]
    assert numbers == sorted(numbers)
    assert len(numbers) == 5


async def test_every_runner_gets_a_first_job_before_one_gets_a_second(installation: Installation):
    replica = await installation.replica()
    await installation.push()
    runners = [await installation.runner(f"runner {number}") for number in range(3)]
    dispatcher = replica.parts.dispatcher
    waiting = [dispatcher.enter(identity, 4) for identity in await runner_ids(installation)]
    await queue_jobs(installation, 3)
    replica.parts.notifications.queued()
    with anyio.fail_after(DEADLINE_SECONDS):
        for place in waiting:
            await place.wait()
    assert [len(await dispatcher.leave(place)) for place in waiting] == [1] * len(runners)


async def runner_ids(installation: Installation) -> list[Any]:
    return [row["id"] for row in await installation.fetch("SELECT id FROM moonyard.runners ORDER BY name")]


async def test_a_submit_wakes_runners_that_wait_on_every_replica(installation: Installation):
    first, second = await installation.replica(), await installation.replica()
    await installation.push()
    near, far = await installation.runner("near", first.address), await installation.runner("far", second.address)
    claimed: list[Assignment] = []

    async def claim(runner: SpokenRunner) -> None:
        claimed.extend(await runner.claim())

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(claim, near)
            tasks.start_soon(claim, far)
            await installation.submit()
            await installation.submit()
    assert len({assignment.job for assignment in claimed}) == 2


async def test_a_claim_without_jobs_is_answered_empty_when_its_wait_is_over(installation: Installation):
    await installation.replica()
    runner = await installation.runner()
    assert await runner.claim(wait=0) == []


async def test_a_job_claimed_for_a_runner_that_hung_up_is_queued_again_at_once(installation: Installation):
    await installation.replica(lease_seconds=600)
    await installation.push()
    leaving, staying = await installation.runner("leaving"), await installation.runner("staying")
    await queue_jobs(installation, 1)
    row = await installation.fetch("SELECT id FROM moonyard.jobs")
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leaving.claim, 1, 60.0)
            await wait_for_waiting(installation, 1)
            tasks.cancel_scope.cancel()
        installation.replicas[0].parts.notifications.queued()
        [assignment] = await staying.claim()
    assert assignment.job == str(row[0]["id"])
    [job] = await installation.fetch("SELECT losses FROM moonyard.jobs")
    assert job["losses"] == 0


async def wait_for_waiting(installation: Installation, count: int) -> None:
    dispatcher = installation.replicas[0].parts.dispatcher
    while dispatcher.waiting_count < count:
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("fields", [{"slots": 0}, {"slots": 5000}, {"wait": -1.0}, {"wait": 1e9}])
async def test_a_claim_that_makes_no_sense_is_refused(installation: Installation, fields: dict[str, Any]):
    await installation.replica()
    runner = await installation.runner()
    with pytest.raises(OrchestratorRefused) as refused:
        await runner.claim(**fields)
    assert refused.value.status == 422


async def test_hot_statements_use_their_indexes_among_many_finished_jobs(installation: Installation):
    await queue_jobs(installation, 1)
    await installation.fetch(
        """
        INSERT INTO moonyard.jobs (id, pipeline_id, version_id, inputs, state, attempt, finished_at)
        SELECT gen_random_uuid(), id, version_id, '{}', 'succeeded', 1, now()
        FROM moonyard.pipelines CROSS JOIN generate_series(1, 100000)
        """
    )
    await queue_jobs(installation, 300)
    await installation.fetch("INSERT INTO moonyard.runners (id, name) VALUES (gen_random_uuid(), 'one')")
    await installation.fetch(
        """
        INSERT INTO moonyard.attempts (job_id, number, runner_id, state, lease_expires_at, finished_at)
        SELECT job.id, 1, runner.id, job.state, now(), now()
        FROM moonyard.jobs AS job CROSS JOIN moonyard.runners AS runner WHERE job.state = 'succeeded'
        """
    )
    await installation.fetch("ANALYZE moonyard.jobs, moonyard.attempts")
    [runner] = await runner_ids(installation)
    [job] = [
        row["id"] for row in await installation.fetch("SELECT id FROM moonyard.jobs WHERE state = 'queued' LIMIT 1")
    ]
    claim = await plan(
        installation, sql.JOBS_CLAIM, "0", "16", f"array_fill('{runner}'::uuid, ARRAY[16])", "15.0", "'{}'"
    )
    assert "jobs_ready" in claim
    assert "jobs_ready_tagged" in claim
    assert "Seq Scan on jobs" not in claim
    renew = await plan(
        installation, sql.LEASES_RENEW, f"'{runner}'", f"ARRAY['{job}']::uuid[]", "ARRAY[1]", "15.0", "false"
    )
    assert "Seq Scan on attempts" not in renew
    assert "Seq Scan on jobs" not in renew
    expired = await plan(installation, sql.LEASES_EXPIRED)
    assert "attempts_running" in expired
    batch = (
        f"'{job}'::uuid",
        "1",
        f"'{runner}'::uuid",
        "1",
        "2",
        "'succeeded'::text",
        "9",
        "'line'::text",
        "NULL::text",
        "1",
        "0",
    )
    *arrays, secrets = (f"array_fill({value}, ARRAY[200])" for value in batch)
    store = await plan(installation, events_sql.EVENTS_STORE, *arrays, "'[]'", "'[]'", secrets)
    # The fence goes by primary key: the index of running attempts is full of dead entries when it matters.
    assert "attempts_pkey" in store
    assert "attempts_running" not in store
    assert "Seq Scan" not in store
    assert "Seq Scan" not in await plan(installation, events_sql.EVENTS_READ, f"'{job}'", "1", "1", "1000")
    for state, index in (
        ("queued", "jobs_queued_listed"),
        ("running", "attempts_running"),
        (None, "job_number_is_unique"),
    ):
        assert index in await plan(installation, jobs_sql.jobs_list(state, of_pipeline=False), "1000", "20")
    # In its own order, so that its first rows cost nothing however many wait.
    shown = await plan(installation, "SELECT * FROM inspect.queue LIMIT 20")
    assert "jobs_queued_in_order" in shown
    assert "Sort Key: ((job.parked" not in shown
    for state in ("queued", "running", "failed", None):
        of_one = await plan(installation, jobs_sql.jobs_list(state, of_pipeline=True), "1000", "20", "'hello'")
        assert "Seq Scan on jobs" not in of_one
