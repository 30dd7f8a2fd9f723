"""Jobs by the clock: one firing for all replicas, and what becomes of times that were missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from orchestrator import schedules
from schema.client import OrchestratorRefused
from schema.wire import Job, JobList, Schedule, ScheduleCreate, ScheduleList
from tests.orchestrator.installation import Installation, Replica


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


async def create(installation: Installation, cron: str = "30 6 * * *", **fields: Any) -> Schedule:
    admin = await installation.client()
    chosen: dict[str, Any] = {"name": "nightly", "pipeline": "hello", "cron": cron} | fields
    return await admin.post("/v1/schedules", Schedule, ScheduleCreate(**chosen))


async def fire(replica: Replica, now: datetime) -> int:
    return await schedules.fire_due(replica.parts.database, replica.parts.submissions, replica.parts.notifications, now)


async def shown(installation: Installation, name: str = "nightly") -> Schedule:
    found = (await (await installation.client()).get("/v1/schedules", ScheduleList)).schedules
    return next(schedule for schedule in found if schedule.name == name)


async def submitted(installation: Installation) -> list[Job]:
    return (await (await installation.client()).get("/v1/jobs", JobList, query={"limit": 1000})).jobs


async def test_a_schedule_submits_its_job_when_its_time_comes(installation: Installation):
    replica = await installation.replica()
    await installation.push()
    made = await create(installation, inputs={"who": "night"}, priority=7)
    assert made.next_at is not None
    due = datetime.fromisoformat(made.next_at)
    assert (due.hour, due.minute, due.second) == (6, 30, 0)
    assert await fire(replica, due - timedelta(seconds=1)) == 0
    assert await fire(replica, due) == 1
    [job] = await submitted(installation)
    assert (job.inputs["who"], job.priority) == ("night", 7)
    after = await shown(installation)
    assert after.last_job == job.number
    assert after.next_at is not None
    assert datetime.fromisoformat(after.next_at) == due + timedelta(days=1)
    assert await fire(replica, due) == 0


async def test_a_replica_fires_by_the_databases_clock_and_a_waiting_runner_gets_the_job(installation: Installation):
    await installation.replica()
    await installation.push()
    await create(installation)
    await installation.fetch("UPDATE moonyard.schedules SET next_at = now() - interval '1 second'")
    runner = await installation.runner()
    [assignment] = await runner.claim()
    assert assignment.pipeline == "hello"


async def test_replicas_that_look_at_the_same_moment_fire_once(installation: Installation):
    replicas = [await installation.replica() for _ in range(3)]
    await installation.push()
    made = await create(installation)
    assert made.next_at is not None
    due = datetime.fromisoformat(made.next_at)
    counts: list[int] = []

    async def look(replica: Replica) -> None:
        counts.append(await fire(replica, due))

    async with anyio.create_task_group() as tasks:
        for replica in replicas * 3:
            tasks.start_soon(look, replica)
    assert sum(counts) == 1
    assert len(await submitted(installation)) == 1


@pytest.mark.parametrize(("catch_up", "count"), [("skip", 0), ("once", 1), ("all", 48)])
async def test_times_that_were_missed_are_made_up_for_as_the_schedule_says(
    installation: Installation, catch_up: str, count: int
):
    replica = await installation.replica()
    await installation.push()
    made = await create(installation, "0 * * * *", catch_up=catch_up)
    assert made.next_at is not None
    # 48 times have passed, the last of them half an hour ago.
    now = datetime.fromisoformat(made.next_at) + timedelta(hours=47, minutes=30)
    assert await fire(replica, now) == count
    assert len(await submitted(installation)) == count
    after = await shown(installation)
    assert after.next_at is not None
    assert datetime.fromisoformat(after.next_at) == datetime.fromisoformat(made.next_at) + timedelta(hours=48)


async def test_a_schedule_that_skips_fires_on_time(installation: Installation):
    replica = await installation.replica()
    await installation.push()
    made = await create(installation, catch_up="skip")
    assert made.next_at is not None
    assert await fire(replica, datetime.fromisoformat(made.next_at) + timedelta(seconds=20)) == 1


async def test_a_year_of_missed_minutes_makes_a_hundred_jobs_and_no_more(installation: Installation):
    replica = await installation.replica()
    await installation.push()
    made = await create(installation, "* * * * *", catch_up="all")
    assert made.next_at is not None
    assert await fire(replica, datetime.fromisoformat(made.next_at) + timedelta(days=365)) == 100


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2026-03-28T12:00", "2026-03-29T04:30"),  # the day on which clocks go forward: 06:30 is 04:30 UTC from then on
        ("2026-03-27T12:00", "2026-03-28T05:30"),
        ("2026-10-24T12:00", "2026-10-25T05:30"),  # and back
    ],
)
def test_times_are_those_of_the_time_zone(now: str, expected: str):
    assert schedules.next_after("30 6 * * *", "Europe/Berlin", at(now)) == at(expected)


def test_a_time_that_happens_twice_fires_once():
    first = schedules.next_after("30 2 * * *", "Europe/Berlin", at("2026-10-24T12:00"))
    second = schedules.next_after("30 2 * * *", "Europe/Berlin", first)
    assert second - first > timedelta(hours=20)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cron": "nonsense"}, "`nonsense` is not a cron expression"),
        ({"cron": "61 * * * *"}, "bad minute"),
        ({"cron": "* * * * * *"}, "wrong number of fields"),
        ({"cron": "0 0 31 2 *"}, "0 0 31 2 *"),
        ({"cron": "0 0 30 2 *"}, "0 0 30 2 *"),
        ({"time_zone": "Mars/Olympus"}, "`Mars/Olympus` is not a time zone"),
        ({"time_zone": "../../etc/passwd"}, "is not a time zone"),
        ({"time_zone": ""}, "is not a time zone"),
    ],
)
async def test_a_schedule_that_cannot_be_is_refused(installation: Installation, fields: dict[str, str], said: str):
    await installation.replica()
    await installation.push()
    with pytest.raises(OrchestratorRefused) as refused:
        await create(installation, **fields)
    assert (refused.value.status, refused.value.code) == (422, "schedule_invalid")
    assert said in refused.value.message
    assert await installation.fetch("SELECT FROM moonyard.schedules") == []


async def test_a_schedule_with_inputs_that_its_pipeline_does_not_take_is_refused(installation: Installation):
    await installation.replica()
    await installation.push()
    with pytest.raises(OrchestratorRefused) as refused:
        await create(installation, inputs={"times": 9})
    assert refused.value.code == "inputs_invalid"


async def test_a_schedule_whose_pipeline_takes_its_inputs_no_longer_says_so_and_goes_on(installation: Installation):
    replica = await installation.replica()
    await installation.push()
    made = await create(installation, inputs={"who": "you"})
    assert made.next_at is not None
    from schema.definition import PipelineDefinition, StageDefinition

    await installation.push(PipelineDefinition(name="hello", stages=[StageDefinition(name="greet")]), "-- no inputs\n")
    due = datetime.fromisoformat(made.next_at)
    assert await fire(replica, due) == 0
    broken = await shown(installation)
    assert broken.error is not None
    assert broken.error.code == "inputs_invalid"
    await installation.push()
    assert await fire(replica, due + timedelta(days=1)) == 1
    assert (await shown(installation)).error is None


async def test_a_row_that_was_broken_by_hand_does_not_stop_the_others(installation: Installation):
    replica = await installation.replica()
    await installation.push()
    made = await create(installation)
    await create(installation, name="broken")
    await installation.fetch("UPDATE moonyard.schedules SET cron = 'nonsense' WHERE name = 'broken'")
    assert made.next_at is not None
    assert await fire(replica, datetime.fromisoformat(made.next_at)) == 1
    broken = await shown(installation, "broken")
    assert broken.error is not None
    assert broken.error.code == "schedule_invalid"


async def test_a_paused_schedule_rests_and_what_passed_meanwhile_is_not_made_up_for(installation: Installation):
    replica = await installation.replica()
    await installation.push()
    made = await create(installation, catch_up="all")
    assert made.next_at is not None
    admin = await installation.client()
    paused = await admin.post("/v1/schedules/nightly/pause", Schedule)
    assert (paused.next_at, paused.paused_by) == (None, "token test")
    assert await fire(replica, datetime.fromisoformat(made.next_at) + timedelta(days=9)) == 0
    resumed = await admin.post("/v1/schedules/nightly/resume", Schedule)
    assert (resumed.next_at, resumed.paused_by) == (made.next_at, None)


async def test_a_name_is_taken_once_and_free_after_a_delete(installation: Installation):
    await installation.replica()
    await installation.push()
    await create(installation)
    with pytest.raises(OrchestratorRefused) as refused:
        await create(installation)
    assert (refused.value.status, refused.value.code) == (409, "schedule_exists")
    admin = await installation.client()
    await admin.delete("/v1/schedules/nightly", Schedule)
    for act in ("pause", "resume"):
        with pytest.raises(OrchestratorRefused) as refused:
            await admin.post(f"/v1/schedules/nightly/{act}", Schedule)
        assert (refused.value.status, refused.value.code) == (404, "schedule_unknown")
    await create(installation)
