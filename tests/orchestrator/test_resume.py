"""Retries that begin with a later stage: what is refused, what the next attempt is told, and kept workspaces."""

from __future__ import annotations

import hashlib
import io
from datetime import datetime

import pytest

from orchestrator import retention
from orchestrator.events import GONE
from schema.client import OrchestratorRefused
from schema.definition import PipelineDefinition, StageDefinition
from schema.errors import ErrorInfo
from schema.wire import Job, Resume, WorkspaceKeep, WorkspaceKept
from tests.orchestrator.installation import DEADLINE_SECONDS, Attempt, Installation, SpokenRunner

PACKED = b"a packed workspace, for all that an orchestrator knows"
BROKEN = ErrorInfo(code="stage_failed", message="stage `test` failed")


async def failed_in_test(installation: Installation, keep: float | None = 3600.0) -> tuple[SpokenRunner, Job]:
    """Have a job of three stages whose second failed, and whose workspace was kept."""
    await installation.replica()
    stages = [StageDefinition(name=name) for name in ("build", "test", "deploy")]
    await installation.push(PipelineDefinition(name="hello", stages=stages, keep_workspace=keep))
    runner = await installation.runner()
    job = await installation.submit()
    attempt = await begin(runner)
    events = [attempt.state("running")]
    events += [attempt.stage("running", stage="build"), attempt.stage("succeeded", stage="build")]  # pyright: ignore[reportArgumentType]
    events += [attempt.stage("running", stage="test"), attempt.stage("failed", stage="test")]  # pyright: ignore[reportArgumentType]
    await runner.send(attempt, *events)
    if keep is not None:
        await keep_workspace(runner, attempt)
    await runner.send(attempt, attempt.stage("skipped", stage="deploy"), attempt.state("failed", BROKEN))
    return runner, job


async def failed_in_a_matrix(installation: Installation) -> Job:
    """Have a job that failed in one combination of a matrix, after stages that did not have to succeed."""
    await installation.replica()
    stages = [
        StageDefinition(name="lint", allow_failure=True),
        StageDefinition(name="rescue", when="on_failure"),
        StageDefinition(name="build"),
        StageDefinition(name="test (v=1)", of="test", matrix={"v": 1}),
        StageDefinition(name="test (v=2)", of="test", matrix={"v": 2}),
        StageDefinition(name="deploy"),
    ]
    await installation.push(PipelineDefinition(name="hello", stages=stages))
    runner = await installation.runner()
    job = await installation.submit()
    attempt = await begin(runner)
    states = ("failed", "skipped", "succeeded", "failed", "succeeded", "skipped")
    events = [attempt.state("running")]
    events += [attempt.stage(state, stage=stage.name) for stage, state in zip(stages, states, strict=True)]  # pyright: ignore[reportArgumentType]
    await runner.send(attempt, *events, attempt.state("failed", BROKEN))
    return job


async def begin(runner: SpokenRunner) -> Attempt:
    [assignment] = await runner.claim()
    return Attempt(assignment)


def workspace_path(attempt: Attempt) -> str:
    return f"/v1/runner/jobs/{attempt.assignment.job}/{attempt.assignment.attempt}/workspace"


async def keep_workspace(runner: SpokenRunner, attempt: Attempt, content: bytes = PACKED) -> WorkspaceKept:
    sha256 = hashlib.sha256(content).hexdigest()
    await runner.client.put(f"/v1/runner/blobs/{sha256}", object, io.BytesIO(content), seconds=DEADLINE_SECONDS)
    return await runner.client.post(workspace_path(attempt), WorkspaceKept, WorkspaceKeep(sha256=sha256))


async def fetch_workspace(runner: SpokenRunner, attempt: Attempt) -> bytes:
    async with runner.client.stream(workspace_path(attempt)) as stream:
        return b"".join([chunk async for chunk in stream.chunks()])


async def retry(installation: Installation, job: Job, query: str) -> Job:
    return await (await installation.client()).post(f"/v1/jobs/{job.number}/retry?{query}", Job)


async def refusal(installation: Installation, job: Job, query: str) -> OrchestratorRefused:
    with pytest.raises(OrchestratorRefused) as raised:
        await retry(installation, job, query)
    assert (await (await installation.client()).get(f"/v1/jobs/{job.id}", Job)).state != "queued"
    return raised.value


async def test_a_retry_from_a_stage_gives_the_next_attempt_the_stage_and_the_workspace(installation: Installation):
    runner, job = await failed_in_test(installation)
    shown = await (await installation.client()).get(f"/v1/jobs/{job.id}", Job)
    assert shown.workspace_kept_until is not None
    assert shown.finished_at is not None
    kept = datetime.fromisoformat(shown.workspace_kept_until) - datetime.fromisoformat(shown.finished_at)
    assert 3500 < kept.total_seconds() <= 3600
    queued = await retry(installation, job, "from=test")
    assert (queued.state, queued.resume) == ("queued", Resume(stage="test", workspace=True))
    attempt = await begin(runner)
    assert (attempt.assignment.attempt, attempt.assignment.resume) == (2, Resume(stage="test", workspace=True))
    assert await fetch_workspace(runner, attempt) == PACKED


async def test_a_resumed_job_that_is_lost_or_fails_begins_there_again_and_a_plain_retry_does_not(
    installation: Installation,
):
    runner, job = await failed_in_test(installation)
    await retry(installation, job, "from=test&without_workspace=true")
    lost = await begin(runner)
    await installation.let_leases_run_out()
    attempt = await begin(runner)
    assert lost.assignment.resume == attempt.assignment.resume == Resume(stage="test", workspace=False)
    with pytest.raises(OrchestratorRefused) as raised:
        await fetch_workspace(runner, attempt)
    assert raised.value.code == "workspace_not_kept"
    await runner.send(attempt, attempt.state("running"), attempt.state("failed", BROKEN))
    await retry(installation, job, "")
    assert (await begin(runner)).assignment.resume is None


async def test_a_stage_that_was_done_in_an_earlier_attempt_is_done(installation: Installation):
    runner, job = await failed_in_test(installation)
    await retry(installation, job, "from=test")
    attempt = await begin(runner)
    await runner.send(
        attempt,
        attempt.state("running"),
        attempt.stage("skipped", stage="build"),
        attempt.stage("succeeded", stage="test"),
        attempt.stage("failed", stage="deploy"),
        attempt.state("failed", BROKEN),
    )
    assert (await retry(installation, job, "from=deploy")).resume == Resume(stage="deploy", workspace=True)


async def test_a_retry_from_the_first_stage_is_one_from_the_start(installation: Installation):
    runner, job = await failed_in_test(installation, keep=None)
    assert (await retry(installation, job, "from=build")).resume is None
    assert (await begin(runner)).assignment.resume is None


async def test_what_cannot_be_begun_with_is_refused_with_what_can(installation: Installation):
    _, job = await failed_in_test(installation, keep=None)
    unknown = await refusal(installation, job, "from=tests")
    assert (unknown.code, unknown.status) == ("stage_unknown", 404)
    assert unknown.hint == "Its stages are: build, test, deploy."
    early = await refusal(installation, job, "from=deploy&without_workspace=true")
    assert early.code == "stage_not_reached"
    assert "stage `test` before it has not succeeded" in early.message
    bare = await refusal(installation, job, "from=test")
    assert (bare.code, bare.status) == ("workspace_not_kept", 409)
    assert "its pipeline does not say `keep_workspace`" in bare.message
    assert "--without-workspace" in (bare.hint or "")
    assert (await retry(installation, job, "from=test&without_workspace=true")).state == "queued"
    with pytest.raises(OrchestratorRefused, match="only a job that ended can be retried"):
        await retry(installation, job, "from=test&without_workspace=true")


async def test_a_workspace_whose_time_is_over_is_refused_and_removed(installation: Installation):
    _, job = await failed_in_test(installation)
    await installation.fetch("UPDATE moonyard.kept_workspaces SET expires_at = now() - interval '1 second'")
    expired = await refusal(installation, job, "from=test")
    assert expired.code == "workspace_not_kept"
    assert "or no longer" in expired.message
    assert await retention.remove_expired_workspaces(installation.database) == 1
    assert await retention.remove_expired_workspaces(installation.database) == 0


async def test_a_workspace_that_a_job_begins_with_stays_until_that_job_ended(installation: Installation):
    runner, job = await failed_in_test(installation)
    await retry(installation, job, "from=test")
    await installation.fetch("UPDATE moonyard.kept_workspaces SET expires_at = now() - interval '1 second'")
    assert await retention.remove_expired_workspaces(installation.database) == 0
    attempt = await begin(runner)
    assert await fetch_workspace(runner, attempt) == PACKED
    await runner.send(attempt, attempt.state("running"), attempt.state("succeeded"))
    assert await retention.remove_expired_workspaces(installation.database) == 1


async def test_only_the_runner_of_an_attempt_keeps_and_fetches_its_workspace(installation: Installation):
    runner, job = await failed_in_test(installation)
    await retry(installation, job, "from=test")
    attempt = await begin(runner)
    other = await installation.runner("other")
    with pytest.raises(OrchestratorRefused) as kept:
        await keep_workspace(other, attempt, b"of somebody else")
    assert kept.value.code == GONE
    with pytest.raises(OrchestratorRefused) as fetched:
        await fetch_workspace(other, attempt)
    assert fetched.value.code == "workspace_not_kept"
    await keep_workspace(runner, attempt, b"newer")
    assert await fetch_workspace(runner, attempt) == b"newer"


async def test_a_runner_keeps_nothing_where_the_pipeline_does_not_say_so(installation: Installation):
    await installation.replica()
    await installation.push()
    runner = await installation.runner()
    await installation.submit()
    with pytest.raises(OrchestratorRefused, match="does not keep workspaces"):
        await keep_workspace(runner, await begin(runner))


@pytest.mark.parametrize(
    ("named", "begins"),
    [("test", "test (v=1)"), ("test%20(v=1)", "test (v=1)"), ("rescue", "rescue"), ("build", "build")],
)
async def test_a_retry_may_begin_after_stages_that_did_not_have_to_succeed_and_in_a_matrix(
    installation: Installation, named: str, begins: str
):
    job = await failed_in_a_matrix(installation)
    queued = await retry(installation, job, f"from={named}&without_workspace=true")
    assert queued.resume == Resume(stage=begins, workspace=False)


async def test_a_retry_does_not_begin_after_a_combination_that_failed(installation: Installation):
    job = await failed_in_a_matrix(installation)
    for named in ("test%20(v=2)", "deploy"):
        refused = await refusal(installation, job, f"from={named}&without_workspace=true")
        assert refused.code == "stage_not_reached"
        assert "stage `test (v=1)` before it has not succeeded" in refused.message
        assert refused.hint == "Begin with `--from 'test (v=1)'`, or from the start."
