"""Which pipelines' jobs go to which runners: runners that are bound, and pipelines that are reserved for them."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from orchestrator.sql import claims as sql
from schema.client import OrchestratorRefused
from schema.definition import PipelineDefinition, StageDefinition
from schema.wire import (
    Job,
    Reservation,
    ReservationList,
    ReservationSet,
    RunnerBind,
    RunnerList,
    RunnersChanged,
)
from tests.orchestrator.installation import DEADLINE_SECONDS, Attempt, Installation, SpokenRunner
from tests.orchestrator.plans import plan
from tests.postgres import psql

STAGES = [StageDefinition(name="greet")]


async def push(installation: Installation, *names: str, **fields: Any) -> None:
    for name in names:
        await installation.push(PipelineDefinition(name=name, stages=STAGES, **fields))


async def bind(installation: Installation, name: str, *pipelines: str) -> list[str]:
    admin = await installation.client()
    message = RunnerBind(pipelines=list(pipelines))
    return (await admin.post(f"/v1/runners/{name}/bind", RunnersChanged, message)).runners


async def reserve(installation: Installation, pipelines: str, *, reserved: bool = True) -> None:
    admin = await installation.client()
    await admin.post("/v1/reservations", ReservationSet, ReservationSet(pipelines=pipelines, reserved=reserved))


async def submit(installation: Installation, pipeline: str) -> int:
    return (await installation.submit(pipeline=pipeline)).number


async def drawn(runner: SpokenRunner, count: int) -> list[int]:
    """Claim until so many came, and see that there is no more."""
    numbers: list[int] = []
    with anyio.fail_after(DEADLINE_SECONDS):
        while len(numbers) < count:
            numbers += [assignment.number for assignment in await runner.claim(slots=count - len(numbers))]
    assert await runner.claim(wait=0) == []
    return sorted(numbers)


async def why(installation: Installation, number: int) -> str | None:
    return (await (await installation.client()).get(f"/v1/jobs/{number}", Job)).waits_for


async def test_a_bound_runner_takes_jobs_of_its_pipelines_alone_and_others_take_them_too(installation: Installation):
    await installation.replica()
    await push(installation, "deploy-eu", "deploy-us", "build")
    bound, free = await installation.runner("bound"), await installation.runner("free")
    assert await bind(installation, "bound", "deploy-*") == [bound.registered.id]
    build, europe, states = [await submit(installation, name) for name in ("build", "deploy-eu", "deploy-us")]
    assert await drawn(bound, 2) == [europe, states]
    assert await drawn(free, 1) == [build]
    again = [await submit(installation, name) for name in ("build", "deploy-eu", "deploy-us")]
    assert await drawn(free, 3) == again
    listed = {one.name: one for one in (await (await installation.client()).get("/v1/runners", RunnerList)).runners}
    assert (listed["bound"].pipelines, listed["free"].pipelines) == (["deploy-*"], [])
    assert listed["bound"].tags == []


async def test_jobs_of_a_reserved_pipeline_go_to_bound_runners_only(installation: Installation):
    await installation.replica()
    await push(installation, "deploy", "build")
    bound, free = await installation.runner("bound"), await installation.runner("free")
    await reserve(installation, "deploy")
    number = await submit(installation, "deploy")
    assert await free.claim(wait=0) == []
    assert await bound.claim(wait=0) == [], "it is not bound yet"
    assert await why(installation, number) == "no runner has a binding to deploy"
    await bind(installation, "bound", "deploy")
    assert await free.claim(wait=0) == []
    assert await drawn(bound, 1) == [number]
    waiting = await submit(installation, "deploy")
    await bind(installation, "bound")
    assert await bound.claim(wait=0) == []
    await reserve(installation, "deploy", reserved=False)
    assert await drawn(free, 1) == [waiting]


async def test_a_job_that_was_queued_or_ended_before_its_pipeline_was_reserved_goes_to_no_other_runner(
    installation: Installation,
):
    await installation.replica()
    await push(installation, "deploy")
    bound, free = await installation.runner("bound"), await installation.runner("free")
    ended, running, queued = [await submit(installation, "deploy") for _ in range(3)]
    [first, second] = [Attempt(one) for _ in range(2) for one in await free.claim()]
    await free.send(first, first.state("running"), first.state("failed"))
    await free.send(second, second.state("running"))
    await reserve(installation, "deploy")
    await bind(installation, "bound", "dep*")
    admin = await installation.client()
    await admin.post(f"/v1/jobs/{ended}/retry", Job)
    await admin.post("/v1/runners/free/revoke", RunnersChanged)
    other = await installation.runner("other")
    assert await other.claim(wait=0) == []
    assert await drawn(bound, 3) == [ended, running, queued]


async def test_bindings_and_reservations_hold_for_pipelines_and_versions_that_come_later(installation: Installation):
    await installation.replica()
    bound, free = await installation.runner("bound"), await installation.runner("free")
    await bind(installation, "bound", "deploy-*", "site")
    await reserve(installation, "deploy-p*")
    await push(installation, "deploy-production", "deploy-staging", "site", "build")
    later = await installation.runner("later")
    numbers = {
        name: await submit(installation, name) for name in ("deploy-production", "deploy-staging", "site", "build")
    }
    assert await drawn(later, 3) == [numbers["deploy-staging"], numbers["site"], numbers["build"]]
    assert await free.claim(wait=0) == []
    assert await drawn(bound, 1) == [numbers["deploy-production"]]
    tagging = PipelineDefinition(name="deploy-production", stages=STAGES, tags=["gpu"])
    await installation.push(tagging, "-- another version")
    tagged = await submit(installation, "deploy-production")
    assert await bound.claim(wait=0) == []
    assert await why(installation, tagged) == "no runner has a binding to deploy-production and tag gpu"
    assert await free.claim(wait=0) == []


async def test_a_bound_runner_with_tags_takes_nothing_else_that_asks_for_them(installation: Installation):
    await installation.replica()
    await push(installation, "train", "deploy", tags=["gpu"])
    bound, free = await installation.runner("bound"), await installation.runner("free")
    await installation.fetch("UPDATE moonyard.runners SET tags = '{gpu}', reach = '{gpu}'")
    await bind(installation, "bound", "deploy")
    train, deploy = await submit(installation, "train"), await submit(installation, "deploy")
    assert await drawn(bound, 1) == [deploy]
    assert await drawn(free, 1) == [train]


async def test_a_change_reaches_runners_that_wait_already(installation: Installation):
    await installation.replica()
    await push(installation, "deploy", "build")
    bound, free = await installation.runner("bound"), await installation.runner("free")
    numbers: dict[str, int] = {}
    submitted: dict[str, int] = {}

    async def claim(name: str, runner: SpokenRunner) -> None:
        while name not in numbers:
            for assignment in await runner.claim(wait=50.0):
                numbers[name] = assignment.number

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(claim, "bound", bound)
            tasks.start_soon(claim, "free", free)
            while installation.replicas[0].parts.dispatcher.waiting_count < 2:
                await anyio.lowlevel.checkpoint()
            await reserve(installation, "deploy")
            await bind(installation, "bound", "deploy")
            for name in ("deploy", "build"):
                submitted[name] = await submit(installation, name)
    assert numbers == {"bound": submitted["deploy"], "free": submitted["build"]}


async def test_a_bound_runner_that_finds_nothing_keeps_no_other_from_what_is_queued(installation: Installation):
    replica = await installation.replica()
    await push(installation, "deploy", "build")
    bound, free = await installation.runner("bound"), await installation.runner("free")
    await bind(installation, "bound", "deploy")
    numbers = [await submit(installation, "build") for _ in range(3)]
    for number in numbers:
        assert await bound.claim(wait=0) == []
        # The look from the start, once a second, would find it in any case.
        replica.parts.dispatcher._look_from_start_at = anyio.current_time() + 3600  # pyright: ignore[reportPrivateUsage]
        with anyio.fail_after(DEADLINE_SECONDS):
            assert [one.number for one in await free.claim()] == [number]


async def test_classes_are_few_however_many_pipelines_there_are(installation: Installation):
    await installation.replica()
    await push(installation, *(f"deploy-{number}" for number in range(20)), "build")
    await installation.runner("bound")
    await installation.runner("free")
    await bind(installation, "bound", "deploy-*")
    await reserve(installation, "deploy-1*")
    [row] = await installation.fetch("SELECT count(*) AS count FROM moonyard.tag_sets")
    [classes] = await installation.fetch(
        "SELECT array_agg(DISTINCT class ORDER BY class) AS all FROM moonyard.pipelines"
    )
    assert classes["all"] == ["!deploy-* deploy-1*", "@deploy-*", None]
    assert row["count"] == 2
    rows = await installation.fetch("SELECT name, reach FROM moonyard.runners")
    assert {row["name"]: set(row["reach"]) for row in rows} == {
        "bound": {"@", "@deploy-*", "!deploy-* deploy-1*"},
        "free": {"@deploy-*"},
    }


async def test_what_is_no_pattern_is_refused_whole(installation: Installation):
    await installation.replica()
    await installation.runner("bound")
    for pattern in ("", "a b", "!x", "@x", "a" * 101, "a\0", "ä"):
        with pytest.raises(OrchestratorRefused) as refused:
            await bind(installation, "bound", "good", pattern)
        assert (refused.value.status, refused.value.code) == (422, "request_invalid")
        with pytest.raises(OrchestratorRefused) as refused:
            await reserve(installation, pattern)
        assert (refused.value.status, refused.value.code) == (422, "request_invalid")
    with pytest.raises(OrchestratorRefused) as refused:
        await bind(installation, "bound", *(f"p{number}" for number in range(101)))
    assert refused.value.code == "request_invalid"
    with pytest.raises(OrchestratorRefused) as refused:
        await bind(installation, "nobody", "good")
    assert refused.value.code == "runner_unknown"
    with pytest.raises(OrchestratorRefused) as refused:
        await reserve(installation, "good", reserved=False)
    assert (refused.value.status, refused.value.code) == (404, "reservation_unknown")
    assert await installation.fetch("SELECT FROM moonyard.runner_bindings") == []
    assert await installation.fetch("SELECT FROM moonyard.reservations") == []


async def test_who_holds_the_queue_for_long_has_a_binding_refused_and_nothing_changed(installation: Installation):
    await installation.replica()
    await push(installation, "deploy")
    await installation.runner("bound")
    await submit(installation, "deploy")
    async with installation.database.transaction() as connection:
        await connection.execute("UPDATE moonyard.jobs SET priority = priority")
        with pytest.raises(OrchestratorRefused) as refused:
            await bind(installation, "bound", "deploy")
    assert (refused.value.status, refused.value.code) == (409, "busy")
    assert await installation.fetch("SELECT FROM moonyard.runner_bindings") == []
    assert await bind(installation, "bound", "deploy")


async def test_a_job_that_is_submitted_while_its_pipeline_is_reserved_goes_to_no_other_runner(
    installation: Installation,
):
    await installation.replica()
    await push(installation, "deploy")
    free = await installation.runner("free")
    submitted: list[int] = []

    async def submit_many() -> None:
        while not submitted or submitted[-1] >= 0:
            submitted.append(await submit(installation, "deploy"))

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(submit_many)
            while len(submitted) < 10:
                await anyio.lowlevel.checkpoint()
            await reserve(installation, "deploy")
            seen = len(submitted)
            while len(submitted) < seen + 10:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    assert await free.claim(wait=0) == []
    rows = await installation.fetch(
        "SELECT count(*) AS count FROM moonyard.jobs AS job "
        "LEFT JOIN moonyard.tag_sets AS known ON known.id = job.tag_set WHERE known.has_class IS NOT TRUE"
    )
    assert rows[0]["count"] == 0


async def test_an_operator_binds_and_reserves_in_psql_and_the_audit_says_so(installation: Installation):
    await installation.replica()
    await push(installation, "deploy-eu")
    bound = await installation.runner("bound")
    assert psql(installation.url, "SELECT control.bind_runner('bound', '{deploy-*}')", "-At").strip() == "1"
    psql(installation.url, "SELECT control.reserve('deploy-*')")
    shown = psql(installation.url, "SELECT * FROM inspect.bindings", "-AtF", " ")
    assert shown == "deploy-* t bound 1\n"
    number = await submit(installation, "deploy-eu")
    assert await drawn(bound, 1) == [number]
    admin = await installation.client()
    [reserved] = (await admin.get("/v1/reservations", ReservationList)).reservations
    assert reserved == Reservation(
        pipelines="deploy-*", reserved_by="postgres", reserved_at=reserved.reserved_at, runners=["bound"]
    )
    psql(installation.url, "SELECT control.unreserve('deploy-*'), control.bind_runner('bound', '{}')")
    assert psql(installation.url, "SELECT * FROM inspect.bindings", "-At") == ""
    rows = await installation.fetch("SELECT action, subject FROM moonyard.audit WHERE actor = 'postgres' ORDER BY id")
    assert [tuple(row) for row in rows] == [
        ("bind", "runner bound"),
        ("reserve", "pipelines deploy-*"),
        ("unreserve", "pipelines deploy-*"),
        ("unbind", "runner bound"),
    ]
    classes = await installation.fetch("SELECT class FROM moonyard.pipelines")
    assert [row["class"] for row in classes] == [None]


async def test_the_role_of_replicas_suffices_for_all_of_it(installation: Installation):
    await installation.replica()
    await push(installation, "deploy-eu")
    bound = await installation.runner("bound")
    as_replica = """
        SELECT * FROM moonyard.runner_bind('bound', '{deploy-*}', 'test');
        SELECT * FROM moonyard.reserve('deploy-*', true, 'test');
        INSERT INTO moonyard.pipelines (id, name) VALUES (gen_random_uuid(), 'deploy-us');
        INSERT INTO moonyard.pipeline_versions (id, pipeline_id, sha256, filename, source, definition)
        SELECT gen_random_uuid(), id, repeat('a', 64), 'x.lua', '', '{"tags": ["gpu"]}' FROM moonyard.pipelines
        WHERE name = 'deploy-us';
        INSERT INTO moonyard.runners (id, name) VALUES (gen_random_uuid(), 'later');
        SELECT moonyard.runner_token_use(id) FROM moonyard.tokens WHERE kind = 'runner';
        SELECT * FROM moonyard.runner_rotate('bound', 'test');
        SELECT * FROM moonyard.runner_revoke('later', 'test', true);
    """
    psql(installation.url, as_replica, role="moonyard_orchestrator")
    number = await submit(installation, "deploy-eu")
    assert await drawn(bound, 1) == [number]


async def test_claims_of_bound_and_other_runners_use_their_indexes_among_many_finished_jobs(installation: Installation):
    await push(installation, "deploy", "build")
    await installation.fetch(
        """
        INSERT INTO moonyard.jobs (id, pipeline_id, version_id, inputs, state, attempt, finished_at)
        SELECT gen_random_uuid(), id, version_id, '{}', 'succeeded', 1, now()
        FROM moonyard.pipelines CROSS JOIN generate_series(1, 50000)
        """
    )
    await installation.fetch("INSERT INTO moonyard.runners (id, name) VALUES (gen_random_uuid(), 'bound')")
    await installation.fetch("SELECT * FROM moonyard.runner_bind('bound', '{deploy}', 'test')")
    await installation.fetch("SELECT * FROM moonyard.reserve('deploy', true, 'test')")
    await installation.fetch(
        """
        INSERT INTO moonyard.jobs (id, pipeline_id, version_id, inputs, tag_set)
        SELECT gen_random_uuid(), pipeline.id, pipeline.version_id, '{}', (version.rules ->> 'tag_set')::integer
        FROM moonyard.pipelines AS pipeline
        JOIN moonyard.pipeline_versions AS version ON version.id = pipeline.version_id
        CROSS JOIN generate_series(1, 2000)
        """
    )
    await installation.fetch("VACUUM ANALYZE moonyard.jobs")
    [row] = await installation.fetch("SELECT id, reach FROM moonyard.runners")
    assert set(row["reach"]) == {"@", "!deploy"}
    for reach in ("ARRAY['@', '!deploy']", "'{}'"):
        given = ("0", "16", f"array_fill('{row['id']}'::uuid, ARRAY[16])", "15.0", reach)
        claim = await plan(installation, sql.JOBS_CLAIM, *given)
        assert "jobs_ready" in claim
        assert "jobs_ready_tagged" in claim
        assert "Seq Scan on jobs" not in claim
        walked = await plan(installation, sql.JOBS_CLAIM, *given, analyze=True)
        # What asks for something else is not passed by, it is not seen.
        assert "Rows Removed by Filter: 2000" not in walked
