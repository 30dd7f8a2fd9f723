"""Jobs that are tried again: because they failed, or a user says so; and many that are cancelled at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from orchestrator import releases
from orchestrator.events import GONE
from schema.client import OrchestratorRefused
from schema.definition import PipelineDefinition, StageDefinition
from schema.errors import ErrorInfo
from schema.events import JobEvent, decode_line
from schema.wire import Job, JobList, JobsCancel, JobsCancelled
from tests.orchestrator.installation import DEADLINE_SECONDS, Attempt, Installation, SpokenRunner

BROKEN = ErrorInfo(code="stage_failed", message="stage `greet` failed")


async def push(installation: Installation, **fields: Any) -> None:
    await installation.push(PipelineDefinition(name="hello", stages=[StageDefinition(name="greet")], **fields))


async def failed(runner: SpokenRunner) -> Attempt:
    """Claim a job and fail it."""
    with anyio.fail_after(DEADLINE_SECONDS):
        [assignment] = await runner.claim()
    attempt = Attempt(assignment)
    await runner.send(attempt, attempt.state("running"), attempt.log("trying"), attempt.state("failed", BROKEN))
    return attempt


async def told(installation: Installation, job: Job) -> list[tuple[int, str]]:
    admin = await installation.client()
    with anyio.fail_after(DEADLINE_SECONDS):
        async with admin.stream(f"/v1/jobs/{job.id}/events", query={"follow": "true"}) as stream:
            events = [decode_line(line) async for line in stream.lines()]
    return [(event.attempt, event.state) for event in events if isinstance(event, JobEvent)]


async def shown(installation: Installation, job: Job) -> Job:
    return await (await installation.client()).get(f"/v1/jobs/{job.id}", Job)


async def test_a_job_that_fails_is_tried_again_as_often_as_its_pipeline_says(installation: Installation):
    await installation.replica()
    await push(installation, retries=2)
    runner = await installation.runner()
    job = await installation.submit()
    for number in (1, 2, 3):
        assert (await failed(runner)).assignment.attempt == number
    ended = await shown(installation, job)
    assert (ended.state, ended.attempt, ended.error) == ("failed", 3, BROKEN)
    assert await told(installation, job) == [
        (0, "queued"),
        (1, "running"),
        (1, "queued"),
        (2, "running"),
        (2, "queued"),
        (3, "running"),
        (3, "failed"),
    ]
    attempts = await installation.fetch("SELECT state FROM moonyard.attempts ORDER BY number")
    assert [row["state"] for row in attempts] == ["failed"] * 3


async def test_a_failure_that_is_told_again_is_one_failure(installation: Installation):
    await installation.replica()
    await push(installation, retries=5)
    runner = await installation.runner()
    job = await installation.submit()
    [assignment] = await runner.claim()
    attempt = Attempt(assignment)
    running, last = attempt.state("running"), attempt.state("failed", BROKEN)
    assert await runner.send(attempt, running, last) == 3
    assert await runner.send(attempt, running, last) == 3
    assert await runner.send(attempt, last) == 3
    [again] = await runner.claim()
    assert again.attempt == 2
    assert await runner.send(attempt, running, last) == 3
    with pytest.raises(OrchestratorRefused) as refused:
        await runner.send(attempt, attempt.log("more"))
    assert refused.value.code == GONE
    [row] = await installation.fetch("SELECT failures, attempt FROM moonyard.jobs")
    assert (row["failures"], row["attempt"]) == (1, 2)
    assert (await shown(installation, job)).state == "running"


@pytest.mark.parametrize(("backoff", "seconds"), [("constant", [10, 10, 10]), ("exponential", [10, 20, 40])])
async def test_a_retry_waits_for_its_delay(installation: Installation, backoff: Any, seconds: list[int]):
    replica = await installation.replica()
    await push(installation, retries=3, retry_delay=10.0, retry_backoff=backoff)
    runner = await installation.runner()
    job = await installation.submit()
    for expected in seconds:
        await failed(runner)
        [row] = await installation.fetch(
            "SELECT parked, extract(epoch FROM not_before - attempt.finished_at)::float8 AS delay "
            "FROM moonyard.jobs JOIN moonyard.attempts AS attempt ON job_id = id AND attempt.number = attempt"
        )
        assert (row["parked"], row["delay"]) == ("delayed", expected)
        said = (await shown(installation, job)).waits_for
        assert said is not None
        assert said.endswith("after a failed attempt")
        assert await runner.claim(wait=0) == []
        later = datetime.now(UTC) + timedelta(days=1)
        assert await releases.release(replica.parts.database, replica.parts.notifications, later) == 1


async def test_a_loss_takes_nothing_from_the_retries_and_a_failure_nothing_from_the_losses(installation: Installation):
    await installation.replica(losses_maximum=1)
    await push(installation, retries=1)
    runner = await installation.runner()
    job = await installation.submit()
    await runner.claim()
    await installation.let_leases_run_out()
    assert (await failed(runner)).assignment.attempt == 2
    assert (await failed(runner)).assignment.attempt == 3
    ended = await shown(installation, job)
    assert (ended.state, ended.attempt) == ("failed", 3)


async def test_a_job_to_be_cancelled_is_not_tried_again(installation: Installation):
    await installation.replica()
    await push(installation, retries=5)
    runner = await installation.runner()
    job = await installation.submit()
    [assignment] = await runner.claim()
    await (await installation.client()).post(f"/v1/jobs/{job.id}/cancel", Job)
    attempt = Attempt(assignment)
    await runner.send(attempt, attempt.state("failed", BROKEN))
    assert (await shown(installation, job)).state == "failed"


async def test_a_failure_of_another_runners_attempt_changes_nothing(installation: Installation):
    await installation.replica()
    await push(installation, retries=5)
    runner, stranger = await installation.runner("runner"), await installation.runner("stranger")
    job = await installation.submit()
    [assignment] = await runner.claim()
    attempt = Attempt(assignment)
    with pytest.raises(OrchestratorRefused) as refused:
        await stranger.send(attempt, attempt.state("failed", BROKEN))
    assert refused.value.code == GONE
    assert (await shown(installation, job)).state == "running"


async def test_a_failed_job_is_run_again_by_hand_as_its_next_attempt(installation: Installation):
    await installation.replica()
    await push(installation)
    runner = await installation.runner()
    job = await installation.submit()
    stale = await failed(runner)
    admin = await installation.client()
    again = await admin.post(f"/v1/jobs/{job.number}/retry", Job)
    assert (again.id, again.state, again.attempt, again.error) == (job.id, "queued", 1, None)
    [assignment] = await runner.claim()
    assert (assignment.job, assignment.attempt) == (job.id, 2)
    with pytest.raises(OrchestratorRefused) as refused:
        await runner.send(stale, stale.log("still here"))
    assert refused.value.code == GONE
    attempt = Attempt(assignment)
    await runner.send(attempt, attempt.state("running"), attempt.state("succeeded"))
    assert (await shown(installation, job)).state == "succeeded"
    # The record has both ends, and whoever follows it from the start reads on to the last.
    assert await told(installation, job) == [
        (0, "queued"),
        (1, "running"),
        (1, "failed"),
        (1, "queued"),
        (2, "running"),
        (2, "succeeded"),
    ]
    [row] = await installation.fetch("SELECT actor, action, subject FROM moonyard.audit WHERE action = 'retry'")
    assert tuple(row) == ("token test", "retry", f"job {job.number}")


async def test_a_runner_that_wakes_after_a_retry_by_hand_changes_nothing(installation: Installation):
    await installation.replica(losses_maximum=0)
    await push(installation)
    asleep, awake = await installation.runner("asleep"), await installation.runner("awake")
    job = await installation.submit()
    [assignment] = await asleep.claim()
    stale = Attempt(assignment)
    await asleep.send(stale, stale.state("running"))
    await installation.let_leases_run_out()
    assert (await told(installation, job))[-1] == (1, "lost")
    await (await installation.client()).post(f"/v1/jobs/{job.id}/retry", Job)
    [fresh] = await awake.claim()
    assert fresh.attempt == 2
    with pytest.raises(OrchestratorRefused) as refused:
        await asleep.send(stale, stale.state("succeeded"))
    assert refused.value.code == GONE
    assert (await shown(installation, job)).state == "running"


async def test_a_job_that_has_not_ended_cannot_be_retried(installation: Installation):
    await installation.replica()
    await push(installation)
    job = await installation.submit()
    with pytest.raises(OrchestratorRefused) as refused:
        await (await installation.client()).post(f"/v1/jobs/{job.id}/retry", Job)
    assert (refused.value.status, refused.value.code) == (409, "job_unfinished")
    assert f"job {job.number} is queued" in refused.value.message
    with pytest.raises(OrchestratorRefused) as refused:
        await (await installation.client()).post("/v1/jobs/99/retry", Job)
    assert (refused.value.status, refused.value.code) == (404, "job_unknown")


async def test_all_jobs_of_a_pipeline_that_wait_are_cancelled_at_once_and_what_runs_goes_on(
    installation: Installation,
):
    await installation.replica()
    await push(installation)
    await installation.push(PipelineDefinition(name="other", stages=[StageDefinition(name="greet")]))
    runner = await installation.runner()
    running = await installation.submit()
    await runner.claim()
    waiting = [await installation.submit(delay=60.0 if number else None) for number in range(3)]
    kept = await installation.submit(pipeline="other")
    admin = await installation.client()
    done = await admin.post("/v1/jobs/cancel", JobsCancelled, JobsCancel(pipeline="hello", state="queued"))
    assert done.cancelled == 3
    states = {job.number: job.state for job in (await admin.get("/v1/jobs", JobList)).jobs}
    assert states == {job.number: "cancelled" for job in waiting} | {running.number: "running", kept.number: "queued"}
    assert (await told(installation, waiting[0]))[-1] == (0, "cancelled")
    assert (await admin.post("/v1/jobs/cancel", JobsCancelled, JobsCancel(state="queued"))).cancelled == 1
