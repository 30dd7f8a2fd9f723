"""Outputs of stages and tests of reports, through the API and in psql; what made a job."""

from __future__ import annotations

import msgspec
import pytest

from orchestrator import retention
from schema.client import OrchestratorRefused
from schema.events import StageEvent
from schema.wire import (
    Job,
    JobTestList,
    Output,
    ReportAdd,
    ReportAdded,
    ReportedTest,
    Trigger,
)
from tests.orchestrator.installation import Attempt, Installation, SpokenRunner
from tests.postgres import psql

LEASE_SECONDS = 3600.0
TESTS = [
    ReportedTest(suite="a", name="good", state="passed", duration=0.5),
    ReportedTest(suite="a", name="bad", state="failed", duration=0.25, message="1 is not 2"),
    ReportedTest(suite="b", name="torn", state="error"),
    ReportedTest(suite="b", name="later", state="skipped", message="not now"),
]


async def claimed(installation: Installation) -> tuple[SpokenRunner, Attempt]:
    await installation.replica(lease_seconds=LEASE_SECONDS)
    await installation.push()
    runner = await installation.runner()
    await installation.submit()
    [assignment] = await runner.claim()
    return runner, Attempt(assignment)


def told(attempt: Attempt, stage: str, **outputs: object) -> StageEvent:
    event = attempt.stage("succeeded", stage=stage)
    return msgspec.structs.replace(event, outputs=outputs)


async def add(runner: SpokenRunner, attempt: Attempt, tests: list[ReportedTest], position: int = 0) -> ReportAdded:
    path = f"/v1/runner/jobs/{attempt.assignment.job}/{attempt.assignment.attempt}/tests"
    message = ReportAdd(stage="greet", report="report.xml", position=position, tests=tests)
    return await runner.client.post(path, ReportAdded, message)


async def test_outputs_come_with_the_end_of_their_stage(installation: Installation):
    runner, attempt = await claimed(installation)
    await runner.send(attempt, attempt.stage("running"), told(attempt, "greet", image="app:1", sizes={"app": [1, 2]}))
    job = await (await installation.client()).get("/v1/jobs/1", Job)
    assert job.outputs == [
        Output(stage="greet", name="image", value="app:1"),
        Output(stage="greet", name="sizes", value={"app": [1, 2]}),
    ]
    shown = psql(installation.url, "SELECT stage, output, value FROM inspect.outputs WHERE job = 1")
    assert "app:1" in shown
    assert '{"app": [1, 2]}' in shown


async def test_a_stage_that_runs_again_has_told_nothing_yet(installation: Installation):
    runner, attempt = await claimed(installation)
    failed = msgspec.structs.replace(attempt.stage("failed"), outputs={"image": "of the first try"})
    await runner.send(attempt, failed, attempt.stage("running"))
    assert (await (await installation.client()).get("/v1/jobs/1", Job)).outputs == []


async def test_an_attempt_that_begins_later_gets_what_the_stages_before_told(installation: Installation):
    runner, attempt = await claimed(installation)
    await runner.send(attempt, told(attempt, "greet", image="app:1"), attempt.state("failed"))
    await installation.fetch(
        "UPDATE moonyard.jobs SET state = 'queued', finished_at = NULL, resume = $1",
        '{"stage": "greet", "workspace": false}',
    )
    [assignment] = await runner.claim()
    assert assignment.resume is not None
    assert assignment.resume.outputs == {"greet": {"image": "app:1"}}


async def test_a_job_says_what_made_it(installation: Installation):
    await installation.replica(lease_seconds=LEASE_SECONDS)
    await installation.push()
    await installation.submit()
    psql(installation.url, "SELECT control.submit('hello')")
    client = await installation.client()
    assert (await client.get("/v1/jobs/1", Job)).trigger == Trigger(kind="submit", by="test")
    by_hand = (await client.get("/v1/jobs/2", Job)).trigger
    assert by_hand is not None
    assert (by_hand.kind, bool(by_hand.by)) == ("psql", True)
    runner = await installation.runner()
    assert [one.trigger and one.trigger.kind for one in await runner.claim(slots=2)] == ["submit", "psql"]


async def test_tests_of_a_report_are_rows_and_come_once(installation: Installation):
    runner, attempt = await claimed(installation)
    assert (await add(runner, attempt, TESTS[:2])).accepted == 2
    for _ in range(2):  # the answer was lost
        await add(runner, attempt, TESTS[2:], position=2)
    client = await installation.client()
    job = await client.get("/v1/jobs/1", Job)
    assert job.tests is not None
    assert (job.tests.passed, job.tests.failed, job.tests.errors, job.tests.skipped) == (1, 1, 1, 1)
    assert job.tests.duration == 0.75
    assert [test.name for test in job.tests.worst] == ["bad", "torn"]
    listed = (await client.get("/v1/jobs/1/tests", JobTestList)).tests
    assert [(test.suite, test.name, test.state, test.duration, test.message) for test in listed] == [
        (test.suite, test.name, test.state, test.duration, test.message) for test in TESTS
    ]
    only = await client.get("/v1/jobs/1/tests", JobTestList, query={"state": "skipped"})
    assert [test.name for test in only.tests] == ["later"]
    assert "1 is not 2" in psql(installation.url, "SELECT * FROM inspect.tests WHERE state = 'failed'")


async def test_a_report_that_is_read_again_takes_the_place_of_what_was_told_of_it(installation: Installation):
    runner, attempt = await claimed(installation)
    await add(runner, attempt, TESTS)
    await add(runner, attempt, TESTS[:1])
    listed = (await (await installation.client()).get("/v1/jobs/1/tests", JobTestList)).tests
    assert [test.name for test in listed] == ["good"]


async def test_tests_go_with_their_job(installation: Installation):
    runner, attempt = await claimed(installation)
    await add(runner, attempt, TESTS)
    await runner.send(attempt, attempt.state("succeeded"))
    await installation.fetch("UPDATE moonyard.jobs SET finished_at = now() - interval '2 days'")
    assert await retention.remove_old_jobs(installation.database, 1) == 1
    assert await installation.fetch("SELECT 1 FROM moonyard.tests") == []


@pytest.mark.parametrize(
    "test",
    [
        ReportedTest(suite="x" * 2000, name="a", state="passed"),
        ReportedTest(suite="x", name="a\0", state="passed"),
        ReportedTest(suite="x", name="a", state="failed", message="m" * 20_000),
        ReportedTest(suite="x", name="a", state="passed", duration=-1.0),
    ],
    ids=["name", "nul", "message", "duration"],
)
async def test_a_test_that_cannot_be_stored_is_refused(installation: Installation, test: ReportedTest):
    runner, attempt = await claimed(installation)
    with pytest.raises(OrchestratorRefused) as refused:
        await add(runner, attempt, [test])
    assert (refused.value.status, refused.value.code) == (422, "request_invalid")


async def test_a_report_of_an_attempt_that_is_over_is_refused(installation: Installation):
    runner, attempt = await claimed(installation)
    await runner.send(attempt, attempt.state("succeeded"))
    with pytest.raises(OrchestratorRefused) as refused:
        await add(runner, attempt, TESTS)
    assert refused.value.code == "attempt_gone"
