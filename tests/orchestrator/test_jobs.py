from __future__ import annotations

from schema.wire import Job, JobList
from tests.orchestrator.installation import Attempt, Installation


async def test_a_job_goes_from_submit_to_its_end(installation: Installation):
    await installation.replica()
    await installation.push()
    submitted = await installation.submit(inputs={"who": "you"})
    assert (submitted.state, submitted.attempt, submitted.inputs) == ("queued", 0, {"who": "you", "times": 1})
    runner = await installation.runner()
    [assignment] = await runner.claim()
    assert (assignment.job, assignment.attempt, assignment.inputs["who"]) == (submitted.id, 1, "you")
    attempt = Attempt(assignment)
    assert await runner.send(attempt, attempt.state("running"), attempt.stage("running", container="alpine")) == 3
    assert await runner.send(attempt, attempt.log("hi"), attempt.command(), attempt.stage("succeeded")) == 6
    assert await runner.send(attempt, attempt.state("succeeded")) == 7
    admin = await installation.client()
    job = await admin.get(f"/v1/jobs/{submitted.number}", Job)
    assert (job.state, job.attempt, job.runner) == ("succeeded", 1, "runner")
    assert job.stages is not None
    assert [(stage.name, stage.state, stage.container) for stage in job.stages] == [("greet", "succeeded", "alpine")]
    assert (await admin.get("/v1/jobs", JobList)).jobs[0].id == job.id
    async with admin.stream(f"/v1/jobs/{job.id}/events", query={"follow": "true"}) as stream:
        lines = [line async for line in stream.lines()]
    assert len(lines) == 7
    assert b'"state":"queued"' in lines[0]
    assert b'"state":"succeeded"' in lines[-1]
