from __future__ import annotations

import anyio
import pytest

from orchestrator import leases
from orchestrator.events import GONE
from schema.client import Client, OrchestratorRefused
from schema.events import AnyEvent, JobEvent, decode_line
from schema.wire import Heartbeat, HeartbeatAnswer, Holding, Job, RunnerList
from tests.orchestrator.installation import DEADLINE_SECONDS, Attempt, Installation, SpokenRunner


async def heartbeat(runner: SpokenRunner, *attempts: Attempt, wait: float = 0.0, **fields: bool) -> HeartbeatAnswer:
    holding = [
        Holding(job=attempt.assignment.job, attempt=attempt.assignment.attempt, **fields) for attempt in attempts
    ]
    return await runner.client.post("/v1/runner/heartbeat", HeartbeatAnswer, Heartbeat(holding=holding, wait=wait))


async def started(installation: Installation, runner: SpokenRunner) -> Attempt:
    [assignment] = await runner.claim()
    attempt = Attempt(assignment)
    await runner.send(attempt, attempt.state("running"), attempt.stage("running"))
    return attempt


async def followed(client: Client, job: str) -> list[AnyEvent]:
    with anyio.fail_after(DEADLINE_SECONDS):
        async with client.stream(f"/v1/jobs/{job}/events", query={"follow": "true"}) as stream:
            return [decode_line(line) async for line in stream.lines()]


async def test_a_job_whose_lease_ran_out_is_run_again_and_its_old_runner_changes_nothing(installation: Installation):
    await installation.replica()
    await installation.push()
    asleep, awake = await installation.runner("asleep"), await installation.runner("awake")
    job = await installation.submit()
    stale = await started(installation, asleep)
    await installation.let_leases_run_out()
    [assignment] = await awake.claim()
    assert (assignment.job, assignment.attempt) == (job.id, 2)

    fresh = Attempt(assignment)
    await awake.send(fresh, fresh.state("running"))
    with pytest.raises(OrchestratorRefused) as refused:
        await asleep.send(stale, stale.log("too late"), stale.state("succeeded"))
    assert (refused.value.status, refused.value.code) == (409, GONE)
    assert (await heartbeat(asleep, stale)).gone == [job.id]
    assert (await heartbeat(awake, fresh)).gone == []
    await awake.send(fresh, fresh.state("succeeded"))

    events = await followed(await installation.client(), job.id)
    told = [(event.attempt, event.state) for event in events if isinstance(event, JobEvent)]
    assert told == [(0, "queued"), (1, "running"), (1, "queued"), (2, "running"), (2, "succeeded")]
    lost = next(event for event in events if isinstance(event, JobEvent) and event.attempt == 1 and event.error)
    assert lost.error is not None
    assert "runner `asleep`" in lost.error.message


async def test_a_job_that_is_lost_again_and_again_ends_with_an_error_that_says_so(installation: Installation):
    await installation.replica(losses_maximum=2)
    await installation.push()
    runner = await installation.runner("cursed")
    job = await installation.submit()
    for _ in range(3):
        await started(installation, runner)
        await installation.let_leases_run_out()
    final = (await followed(await installation.client(), job.id))[-1]
    assert isinstance(final, JobEvent)
    assert (final.state, final.attempt) == ("lost", 3)
    shown = await (await installation.client()).get(f"/v1/jobs/{job.id}", Job)
    assert shown.state == "lost"
    assert shown.error == final.error
    assert shown.error is not None
    assert (shown.error.code, "3 times" in shown.error.message) == ("job_lost", True)
    assert shown.error.cause is not None
    assert "cursed" in shown.error.cause.message
    assert shown.stages is not None
    assert [stage.state for stage in shown.stages] == ["cancelled"]


async def test_heartbeats_keep_leases_and_show_the_runner(installation: Installation):
    await installation.replica(lease_seconds=60)
    await installation.push()
    runner = await installation.runner()
    await installation.submit()
    attempt = await started(installation, runner)
    await installation.fetch(
        "UPDATE moonyard.attempts SET lease_expires_at = now() + interval '1 minute' - interval '50 s'"
    )
    answer = await heartbeat(runner, attempt)
    assert (answer.lease_seconds, answer.cancel, answer.gone) == (60, [], [])
    [row] = await installation.fetch(
        "SELECT lease_expires_at > now() + interval '30 s' AS renewed FROM moonyard.attempts"
    )
    assert row["renewed"]
    [shown] = (await (await installation.client()).get("/v1/runners", RunnerList)).runners
    assert (shown.state, shown.running, shown.capacity, shown.version) == ("online", 1, 4, "test")


async def test_a_cancel_reaches_a_waiting_heartbeat_on_another_replica(installation: Installation):
    first, second = await installation.replica(), await installation.replica()
    await installation.push()
    runner = await installation.runner(address=second.address)
    job = await installation.submit()
    attempt = await started(installation, runner)
    admin = await installation.client(address=first.address)
    answers: list[HeartbeatAnswer] = []

    async def wait() -> None:
        answers.append(await heartbeat(runner, attempt, wait=25.0))

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            cancelled = await admin.post(f"/v1/jobs/{job.number}/cancel", Job)
            assert cancelled.state == "running"
            assert cancelled.cancel_requested_at is not None
    assert answers[0].cancel == [job.id]
    assert (await heartbeat(runner, attempt, cancelling=True)).cancel == []
    await runner.send(attempt, attempt.state("cancelled"))
    assert (await admin.get(f"/v1/jobs/{job.id}", Job)).state == "cancelled"


async def test_a_forced_cancel_is_told_beside_the_plain_one_and_told_once(installation: Installation):
    await installation.replica()
    await installation.push()
    runner = await installation.runner()
    job = await installation.submit()
    attempt = await started(installation, runner)
    admin = await installation.client()
    await admin.post(f"/v1/jobs/{job.number}/cancel", Job)
    assert (await heartbeat(runner, attempt)).kill == []
    await admin.post(f"/v1/jobs/{job.number}/cancel?force=true", Job)
    await admin.post(f"/v1/jobs/{job.number}/cancel", Job)
    told = await heartbeat(runner, attempt, cancelling=True)
    assert (told.cancel, told.kill) == ([], [job.id])
    told = await heartbeat(runner, attempt, cancelling=True, killing=True)
    assert (told.cancel, told.kill) == ([], [])


async def test_a_job_that_waits_is_cancelled_at_once_and_never_handed_out(installation: Installation):
    await installation.replica()
    await installation.push()
    runner = await installation.runner()
    job = await installation.submit()
    admin = await installation.client()
    assert (await admin.post(f"/v1/jobs/{job.id}/cancel", Job)).state == "cancelled"
    assert (await admin.post(f"/v1/jobs/{job.id}/cancel", Job)).state == "cancelled"
    states = [event.state for event in await followed(admin, job.id) if isinstance(event, JobEvent)]
    assert states == ["queued", "cancelled"]
    assert await runner.claim(wait=0) == []


async def test_a_job_that_came_back_to_the_queue_can_be_cancelled_and_its_record_ends(installation: Installation):
    await installation.replica()
    await installation.push()
    runner = await installation.runner()
    job = await installation.submit()
    await started(installation, runner)
    await installation.let_leases_run_out()
    admin = await installation.client()
    with anyio.fail_after(DEADLINE_SECONDS):
        async with admin.stream(f"/v1/jobs/{job.id}/events", query={"follow": "true", "after": "1.2"}) as stream:
            assert b'"state":"queued"' in await anext(stream.lines())
    await admin.post(f"/v1/jobs/{job.id}/cancel", Job)
    states = [event.state for event in await followed(admin, job.id) if isinstance(event, JobEvent)]
    assert states == ["queued", "running", "queued", "cancelled"]


async def test_a_job_to_be_cancelled_whose_runner_is_lost_ends_cancelled(installation: Installation):
    await installation.replica()
    await installation.push()
    runner = await installation.runner()
    job = await installation.submit()
    await started(installation, runner)
    admin = await installation.client()
    await admin.post(f"/v1/jobs/{job.id}/cancel", Job)
    await installation.let_leases_run_out()
    final = (await followed(admin, job.id))[-1]
    assert isinstance(final, JobEvent)
    assert final.state == "cancelled"


async def test_a_finished_job_cannot_be_cancelled(installation: Installation):
    await installation.replica()
    await installation.push()
    runner = await installation.runner()
    job = await installation.submit()
    attempt = await started(installation, runner)
    await runner.send(attempt, attempt.state("succeeded"))
    with pytest.raises(OrchestratorRefused) as refused:
        await (await installation.client()).post(f"/v1/jobs/{job.id}/cancel", Job)
    assert (refused.value.status, refused.value.code) == (409, "job_finished")


async def test_a_job_given_back_unheard_is_queued_again_without_a_loss(installation: Installation):
    replica = await installation.replica(losses_maximum=0)
    await installation.push()
    runner = await installation.runner()
    job = await installation.submit()
    [assignment] = await runner.claim()
    attempt = Attempt(assignment)
    await leases.give_back(replica.parts.database, replica.parts.notifications, attempt.job, 1)
    [again] = await runner.claim()
    assert (again.job, again.attempt) == (job.id, 2)
    fresh = Attempt(again)
    await runner.send(fresh, fresh.state("running"))
    await leases.give_back(replica.parts.database, replica.parts.notifications, fresh.job, 2)
    assert await runner.send(fresh, fresh.state("succeeded")) == 3
