"""In which order jobs are handed out, from when on, and until when they wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio
import pytest

from orchestrator import releases
from orchestrator.sql import claims as sql
from schema import times
from schema.client import OrchestratorRefused
from schema.definition import PipelineDefinition, StageDefinition
from schema.events import JobEvent, decode_line
from schema.wire import Job, JobSubmit
from tests.orchestrator.installation import DEADLINE_SECONDS, Installation, SpokenRunner
from tests.orchestrator.plans import plan

STAGES = [StageDefinition(name="greet")]
LATER = timedelta(days=2)


async def drawn(runner: SpokenRunner, count: int) -> list[int]:
    """Claim jobs one by one."""
    with anyio.fail_after(DEADLINE_SECONDS):
        return [assignment.number for _ in range(count) for assignment in await runner.claim()]


async def test_jobs_with_a_higher_priority_go_first(installation: Installation):
    await installation.replica()
    await installation.push()
    runner = await installation.runner()
    numbers = {priority: (await installation.submit(priority=priority)).number for priority in (0, -100, 100, 1)}
    assert await drawn(runner, 4) == [numbers[100], numbers[1], numbers[0], numbers[-100]]


async def test_a_pipelines_own_priority_counts_unless_a_submit_says_another(installation: Installation):
    await installation.replica()
    await installation.push()
    await installation.push(PipelineDefinition(name="urgent", stages=STAGES, priority=10))
    runner = await installation.runner()
    plain = await installation.submit()
    urgent = await installation.submit(pipeline="urgent")
    not_so = await installation.submit(pipeline="urgent", priority=-1)
    assert (urgent.priority, not_so.priority) == (10, -1)
    assert await drawn(runner, 3) == [urgent.number, plain.number, not_so.number]


async def test_a_job_is_overtaken_by_no_more_than_a_thousand_turns_a_point_of_priority(installation: Installation):
    await installation.replica()
    await installation.push()
    runner = await installation.runner()
    old = await installation.submit()
    [row] = await installation.fetch("SELECT turn FROM moonyard.jobs")
    await installation.fetch(f"SELECT setval('moonyard.turns', {row['turn'] + 998})")
    before = await installation.submit(priority=1)
    await installation.fetch(f"SELECT setval('moonyard.turns', {row['turn'] + 1000})")
    after = await installation.submit(priority=1)
    assert await drawn(runner, 3) == [before.number, old.number, after.number]


async def test_a_pipeline_with_thousands_of_jobs_keeps_none_of_another_waiting(installation: Installation):
    replica = await installation.replica()
    await installation.push()
    await installation.push(PipelineDefinition(name="other", stages=STAGES))
    runner = await installation.runner()
    many = await replica.parts.submissions.submit_all([JobSubmit(pipeline="hello")] * 5000)
    first = [job.number for job in many]
    assert await drawn(runner, 20) == first[:20]
    lone = await installation.submit(pipeline="other")
    assert await drawn(runner, 3) == [first[20], lone.number, first[21]]
    # What was far behind does not catch up for what it had not asked for: from here on they take turns.
    few = [(await installation.submit(pipeline="other")).number for _ in range(3)]
    assert sorted(await drawn(runner, 6)) == [*first[22:25], *few]
    # And its own jobs come in the order in which they were submitted.
    assert await drawn(runner, 3) == first[25:28]


async def test_jobs_that_were_queued_before_a_replica_started_keep_their_turns(installation: Installation):
    first = await installation.replica()
    await installation.push()
    runner = await installation.runner()
    many = await first.parts.submissions.submit_all([JobSubmit(pipeline="hello")] * 50)
    assert await drawn(runner, 10) == [job.number for job in many[:10]]
    second = await installation.replica()
    late = await second.parts.submissions.submit(JobSubmit(pipeline="hello"))
    assert await drawn(runner, 41) == [*(job.number for job in many[10:]), late.number]


@pytest.mark.parametrize("priority", [101, -101, 10**9])
async def test_a_priority_out_of_range_is_refused(installation: Installation, priority: int):
    await installation.replica()
    await installation.push()
    with pytest.raises(OrchestratorRefused) as refused:
        await installation.submit(priority=priority)
    assert (refused.value.status, refused.value.code) == (422, "request_invalid")
    assert "-100 to 100" in refused.value.message


async def test_a_delayed_job_starts_when_its_time_has_come(installation: Installation):
    replica = await installation.replica()
    await installation.push()
    runner = await installation.runner()
    delayed = await installation.submit(delay=86400.0)
    assert delayed.not_before is not None
    assert delayed.waits_for is not None
    assert delayed.waits_for.startswith("not before ")
    plain = await installation.submit()
    assert await drawn(runner, 1) == [plain.number]
    assert await runner.claim(wait=0) == []
    assert await releases.release(replica.parts.database, replica.parts.notifications) == 0
    now = datetime.now(UTC) + LATER
    assert await releases.release(replica.parts.database, replica.parts.notifications, now) == 1
    assert await drawn(runner, 1) == [delayed.number]


async def test_a_job_delayed_by_a_moment_starts_without_anybody_helping(installation: Installation):
    await installation.replica()
    await installation.push()
    runner = await installation.runner()
    delayed = await installation.submit(delay=0.3)
    assert await drawn(runner, 1) == [delayed.number]


async def test_a_time_that_has_passed_does_not_delay(installation: Installation):
    await installation.replica()
    await installation.push()
    runner = await installation.runner()
    job = await installation.submit(not_before="2020-01-01T00:00:00Z")
    assert job.not_before is None
    assert await drawn(runner, 1) == [job.number]


@pytest.mark.parametrize(
    "fields",
    [
        {"delay": -1.0},
        {"delay": 0.0},
        {"delay": 1e12},
        {"queue_timeout": 0.0},
        {"not_before": "tomorrow"},
        {"not_before": "2026-01-01T00:00:00"},
        {"not_before": "2026-01-01T00:00:00Z", "delay": 1.0},
    ],
)
async def test_a_delay_that_makes_no_sense_is_refused(installation: Installation, fields: dict[str, float | str]):
    await installation.replica()
    await installation.push()
    with pytest.raises(OrchestratorRefused) as refused:
        await installation.submit(**fields)
    assert (refused.value.status, refused.value.code) == (422, "request_invalid")
    assert await installation.fetch("SELECT FROM moonyard.jobs") == []


async def test_a_job_that_waited_too_long_fails_and_its_record_says_so(installation: Installation):
    replica = await installation.replica()
    await installation.push()
    runner = await installation.runner()
    job = await installation.submit(queue_timeout=3600.0)
    patient = await installation.submit()
    now = datetime.now(UTC) + LATER
    assert await releases.time_out(replica.parts.database, replica.parts.notifications, now) == 1
    admin = await installation.client()
    ended = await admin.get(f"/v1/jobs/{job.id}", Job)
    assert ended.error is not None
    assert (ended.state, ended.error.code) == ("failed", "queue_timeout")
    assert "3600 s" in ended.error.message
    async with admin.stream(f"/v1/jobs/{job.id}/events", query={"follow": "true"}) as stream:
        last = [decode_line(line) async for line in stream.lines()][-1]
    assert isinstance(last, JobEvent)
    assert (last.state, last.error) == ("failed", ended.error)
    assert await drawn(runner, 1) == [patient.number]


async def test_a_job_that_runs_is_not_ended_for_having_waited(installation: Installation):
    replica = await installation.replica()
    await installation.push(PipelineDefinition(name="hello", stages=STAGES, queue_timeout=5.0))
    runner = await installation.runner()
    await installation.submit()
    [assignment] = await runner.claim()
    now = datetime.now(UTC) + LATER
    assert await releases.time_out(replica.parts.database, replica.parts.notifications, now) == 0
    # Queued again after a loss, it has as long as at first.
    await installation.let_leases_run_out()
    [again] = await runner.claim()
    assert (again.job, again.attempt) == (assignment.job, 2)


async def test_the_wait_is_counted_from_when_a_delayed_job_may_start(installation: Installation):
    replica = await installation.replica()
    await installation.push()
    at = datetime.now(UTC) + timedelta(hours=10)
    await installation.submit(not_before=times.rfc3339(at), queue_timeout=60.0)
    early, late = at + timedelta(seconds=50), at + timedelta(seconds=70)
    assert await releases.time_out(replica.parts.database, replica.parts.notifications, early) == 0
    assert await releases.time_out(replica.parts.database, replica.parts.notifications, late) == 1


async def test_claims_and_releases_use_their_indexes_whatever_is_parked(installation: Installation):
    await installation.push()
    await installation.fetch("INSERT INTO moonyard.runners (id, name) VALUES (gen_random_uuid(), 'one')")
    await installation.fetch(
        """
        INSERT INTO moonyard.jobs
            (id, pipeline_id, version_id, inputs, parked, not_before, concurrency_group, concurrency_limit, priority)
        SELECT gen_random_uuid(), id, version_id, '{}', (ARRAY['delayed', 'group', 'paused', NULL])[1 + number % 4],
            now() + interval '1 day', 'deploy', 1, number % 100
        FROM moonyard.pipelines CROSS JOIN generate_series(1, 40000) AS number
        """
    )
    await installation.fetch("ANALYZE moonyard.jobs")
    [runner] = await installation.fetch("SELECT id FROM moonyard.runners")
    given = (str(-(2**62)), "16", f"array_fill('{runner['id']}'::uuid, ARRAY[16])", "15.0", "ARRAY['gpu']")
    claim = await plan(installation, sql.JOBS_CLAIM, *given)
    assert "Index Scan using jobs_ready on jobs" in claim
    assert "Index Scan using jobs_ready_tagged on jobs" in claim
    assert "Seq Scan on jobs" not in claim
    walked = await plan(installation, sql.JOBS_CLAIM, *given, analyze=True)
    # Sixteen jobs for sixteen slots: none of the thirty thousand that are parked was looked at.
    [line] = [line for line in walked.splitlines() if "Index Scan using jobs_ready on jobs" in line]
    assert "rows=16.00 loops=1" in line or "rows=16 loops=1" in line


async def test_a_backlog_that_the_statistics_do_not_know_of_is_claimed_in_one_short_walk(installation: Installation):
    await installation.push()
    await installation.fetch("INSERT INTO moonyard.runners (id, name) VALUES (gen_random_uuid(), 'one')")
    fill = """
        INSERT INTO moonyard.jobs (id, pipeline_id, version_id, inputs, state, finished_at)
        SELECT gen_random_uuid(), id, version_id, '{}', %s
        FROM moonyard.pipelines CROSS JOIN generate_series(1, 20000)
        """
    await installation.fetch(fill % "'succeeded', now()")
    await installation.fetch("ANALYZE moonyard.jobs")
    await installation.fetch(fill % "'queued', NULL")
    [runner] = await installation.fetch("SELECT id FROM moonyard.runners")
    given = (str(-(2**62)), "16", f"array_fill('{runner['id']}'::uuid, ARRAY[16])", "15.0", "'{}'")
    walked = await plan(installation, sql.JOBS_CLAIM, *given, analyze=True)
    [line] = [line for line in walked.splitlines() if "Index Scan using jobs_ready on jobs" in line]
    assert "rows=16.00 loops=1" in line or "rows=16 loops=1" in line, walked
