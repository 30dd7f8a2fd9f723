"""Attempts that their runner reports as lost."""

from __future__ import annotations

import anyio
import pytest

from orchestrator.events import GONE
from schema.client import OrchestratorRefused
from schema.definition import PipelineDefinition, StageDefinition
from schema.errors import ErrorInfo
from schema.events import JobEvent, decode_line
from schema.wire import Job
from tests.orchestrator.installation import DEADLINE_SECONDS, Attempt, Installation, SpokenRunner

WHY = ErrorInfo(
    code="attempt_lost",
    message="attempt 1 was lost: the engine was lost",
    cause=ErrorInfo(code="engine_lost", message="the engine was lost"),
)


async def claimed(runner: SpokenRunner) -> Attempt:
    with anyio.fail_after(DEADLINE_SECONDS):
        [assignment] = await runner.claim()
    return Attempt(assignment)


async def lost(runner: SpokenRunner) -> Attempt:
    """Claim a job and lose its attempt."""
    attempt = await claimed(runner)
    await runner.send(attempt, attempt.state("running"), attempt.stage("running"), attempt.state("lost", WHY))
    return attempt


async def job_events(installation: Installation, job: Job) -> list[JobEvent]:
    admin = await installation.client()
    with anyio.fail_after(DEADLINE_SECONDS):
        async with admin.stream(f"/v1/jobs/{job.id}/events", query={"follow": "true"}) as stream:
            events = [decode_line(line) async for line in stream.lines()]
    assert [event.seq for event in events if event.attempt == 1] == list(
        range(1, 1 + sum(event.attempt == 1 for event in events))
    )
    return [event for event in events if isinstance(event, JobEvent)]


async def test_a_lost_attempt_is_queued_again_at_once_and_takes_nothing_from_the_retries(installation: Installation):
    await installation.replica()
    await installation.push(PipelineDefinition(name="hello", stages=[StageDefinition(name="greet")], retries=1))
    runner = await installation.runner()
    job = await installation.submit()
    await lost(runner)
    second = await claimed(runner)
    await runner.send(second, second.state("running"), second.state("succeeded"))
    events = await job_events(installation, job)
    assert [(event.attempt, event.state) for event in events] == [
        (0, "queued"), (1, "running"), (1, "queued"), (2, "running"), (2, "succeeded"),
    ]  # fmt: skip
    assert [event.error for event in events] == [None, None, WHY, None, None]
    [row] = await installation.fetch("SELECT losses, failures FROM moonyard.jobs")
    assert tuple(row) == (1, 0)
    attempts = await installation.fetch("SELECT state FROM moonyard.attempts ORDER BY number")
    assert [row["state"] for row in attempts] == ["lost", "succeeded"]
    [stage] = await installation.fetch("SELECT state FROM moonyard.stages WHERE attempt = 1")
    assert stage["state"] == "cancelled"


async def test_losses_that_are_reported_and_those_that_are_not_share_one_allowance(installation: Installation):
    await installation.replica(losses_maximum=1)
    await installation.push()
    runner = await installation.runner()
    job = await installation.submit()
    await claimed(runner)
    await installation.let_leases_run_out()
    await lost(runner)
    final = (await job_events(installation, job))[-1]
    assert (final.state, final.attempt) == ("lost", 2)
    assert final.error is not None
    assert (final.error.code, final.error.cause) == ("job_lost", WHY)
    shown = await (await installation.client()).get(f"/v1/jobs/{job.id}", Job)
    assert (shown.state, shown.error) == ("lost", final.error)


async def test_a_loss_is_taken_once_from_whom_the_attempt_is_and_after_all_that_went_before(installation: Installation):
    await installation.replica()
    await installation.push()
    runner, other = await installation.runner(), await installation.runner("other")
    job = await installation.submit()
    attempt = await claimed(runner)
    running, report = attempt.state("running"), attempt.state("lost", WHY)
    for speaker, code in ((other, GONE), (runner, "events_gap")):
        with pytest.raises(OrchestratorRefused) as refused:
            await speaker.send(attempt, report)
        assert (refused.value.status, refused.value.code) == (409, code)
    assert await runner.send(attempt, running) == 2
    assert await runner.send(attempt, running, report) == 3
    again = await claimed(other)
    assert again.assignment.attempt == 2
    # Once more, as after a lost answer: it is over, and what was counted is not counted twice.
    for stale in ((running, report), (report,)):
        with pytest.raises(OrchestratorRefused) as refused:
            await runner.send(attempt, *stale)
        assert (refused.value.status, refused.value.code) == (409, GONE)
    [row] = await installation.fetch("SELECT losses, state, attempt FROM moonyard.jobs")
    assert tuple(row) == (1, "running", 2)
    await other.send(again, again.state("succeeded"))
    assert [event.state for event in await job_events(installation, job)][-1] == "succeeded"


async def test_a_lost_attempt_of_a_job_that_was_to_be_cancelled_ends_it(installation: Installation):
    await installation.replica()
    await installation.push()
    runner = await installation.runner()
    job = await installation.submit()
    attempt = await claimed(runner)
    await (await installation.client()).post(f"/v1/jobs/{job.id}/cancel", Job)
    await runner.send(attempt, attempt.state("running"), attempt.state("lost", WHY))
    final = (await job_events(installation, job))[-1]
    assert (final.state, final.error) == ("cancelled", WHY)
