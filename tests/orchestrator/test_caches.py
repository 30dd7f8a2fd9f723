"""Who may read and write which cache, what a key names, limits, and what operators see and do."""

from __future__ import annotations

import hashlib
import io
from typing import Any
from uuid import uuid4

import anyio
import pytest

from orchestrator import maintenance, retention
from orchestrator.events import GONE
from orchestrator.sql import blobs as blobs_sql
from schema.client import OrchestratorRefused
from schema.definition import CacheDefinition, InputDefinition, PipelineDefinition, StageDefinition
from schema.wire import CacheFind, CacheFound, CacheList, CacheSave, CacheSaved, CachesForget, CachesForgotten
from tests.orchestrator.installation import DEADLINE_SECONDS, Attempt, Installation, SpokenRunner
from tests.postgres import psql

HASHED = 32 * "a"
LEASE_SECONDS = 3600.0
"""Nobody renews it here."""


def definition(name: str = "hello", **fields: Any) -> PipelineDefinition:
    told: dict[str, Any] = {"key": "deps", "paths": ["node_modules"]} | fields
    return PipelineDefinition(
        name=name,
        inputs={"ref": InputDefinition(type="string", default="main")},
        cache=[CacheDefinition(**told)],
        stages=[StageDefinition(name="greet", cache=[CacheDefinition(key="own", paths=["target"])])],
    )


async def begin(installation: Installation, pipeline: PipelineDefinition, **inputs: str) -> Held:
    """Have a runner that holds an attempt of a new job."""
    if not installation.replicas:
        await installation.replica(lease_seconds=LEASE_SECONDS)
    await installation.push(pipeline, f"-- {pipeline}")
    await installation.submit(pipeline=pipeline.name, inputs=inputs)
    runner = await installation.runner()
    [assignment] = await runner.claim()
    return Held(runner, Attempt(assignment))


class Held:
    """An attempt, and the runner that holds it."""

    def __init__(self, runner: SpokenRunner, attempt: Attempt) -> None:
        self.runner = runner
        self.attempt = attempt
        self.path = f"/v1/runner/jobs/{attempt.assignment.job}/{attempt.assignment.attempt}/caches"

    async def find(self, key: str = "deps", stage: str | None = None, *, exact: bool = False) -> CacheFound:
        message = CacheFind(stage=stage, place=0, key=key, exact=exact)
        return await self.runner.client.post(f"{self.path}/find", CacheFound, message)

    async def save(self, content: bytes, key: str = "deps", stage: str | None = None) -> bool:
        sha256 = hashlib.sha256(content).hexdigest()
        await self.runner.client.put(
            f"/v1/runner/blobs/{sha256}", object, io.BytesIO(content), seconds=DEADLINE_SECONDS
        )
        message = CacheSave(stage=stage, place=0, key=key, sha256=sha256)
        return (await self.runner.client.post(self.path, CacheSaved, message)).saved

    async def fetch(self, cache: str | None) -> bytes:
        async with self.runner.client.stream(f"{self.path}/{cache}") as stream:
            return b"".join([chunk async for chunk in stream.chunks()])

    async def finds(self, key: str = "deps", stage: str | None = None) -> bytes | None:
        found = await self.find(key, stage)
        return None if found.id is None else await self.fetch(found.id)


async def test_what_a_job_saved_a_later_one_of_its_pipeline_finds(installation: Installation):
    first = await begin(installation, definition())
    assert (await first.find()).id is None
    assert await first.save(b"packed")
    second = await begin(installation, definition())
    found = await second.find()
    assert (found.key, found.scope, found.size_bytes) == ("deps", "", 6)
    assert found.sha256 == hashlib.sha256(b"packed").hexdigest()
    assert await second.fetch(found.id) == b"packed"


async def test_a_key_never_changes_what_it_names(installation: Installation):
    first = await begin(installation, definition())
    second = await begin(installation, definition())
    assert await first.save(b"first")
    assert not await second.save(b"second")
    assert await second.finds() == b"first"


async def test_of_two_who_save_a_key_at_once_one_does(installation: Installation):
    held = [await begin(installation, definition()) for _ in range(3)]
    saved: list[bool] = []

    async def save(one: Held, content: bytes) -> None:
        saved.append(await one.save(content))

    async with anyio.create_task_group() as tasks:
        for number, one in enumerate(held):
            tasks.start_soon(save, one, f"content {number}".encode())
    assert sorted(saved) == [False, False, True]


async def test_another_pipelines_caches_are_never_read(installation: Installation):
    mine = await begin(installation, definition())
    assert await mine.save(b"mine")
    theirs = await begin(installation, definition("other"))
    assert await theirs.finds() is None
    with pytest.raises(OrchestratorRefused) as refused:
        await theirs.fetch((await mine.find()).id)
    assert (refused.value.status, refused.value.code) == (404, "cache_unknown")
    assert await theirs.save(b"theirs")
    assert await mine.finds() == b"mine"


async def test_a_branch_reads_the_scope_of_the_defaults_and_never_writes_it(installation: Installation):
    pipeline = definition(scope="${ref}")
    main = await begin(installation, pipeline)
    assert await main.save(b"of main")
    feature = await begin(installation, pipeline, ref="feature")
    found = await feature.find()
    assert (found.scope, await feature.fetch(found.id)) == ("main", b"of main")
    assert (await feature.find(exact=True)).id is None  # so it may save its own
    assert await feature.save(b"of feature")
    assert await feature.finds() == b"of feature"
    assert await main.finds() == b"of main"
    other = await begin(installation, pipeline, ref="other")
    assert await other.finds() == b"of main"
    with pytest.raises(OrchestratorRefused) as refused:
        await other.fetch((await feature.find()).id)
    assert refused.value.code == "cache_unknown"


async def test_a_runner_cannot_name_a_scope_or_a_key_that_is_not_its_jobs(installation: Installation):
    held = await begin(installation, definition(key="deps-${ref}", files=["lock"]), ref="feature")
    for key in ("deps-main", f"deps-main-{HASHED}", "deps-feature", f"deps-feature-{HASHED[1:]}", ""):
        with pytest.raises(OrchestratorRefused) as refused:
            await held.save(b"poison", key)
        assert (refused.value.status, refused.value.code) == (422, "request_invalid")
    assert await held.save(b"fine", f"deps-feature-{HASHED}")
    for stage, place in ((None, 1), (None, -1), ("greet", 5), ("nowhere", 0)):
        message = CacheFind(stage=stage, place=place, key="deps")
        with pytest.raises(OrchestratorRefused) as refused:
            await held.runner.client.post(f"{held.path}/find", CacheFound, message)
        assert refused.value.code == "request_invalid"


async def test_a_stale_attempt_and_anothers_attempt_are_refused(installation: Installation):
    stale = await begin(installation, definition())
    await installation.let_leases_run_out()
    [assignment] = await stale.runner.claim()
    fresh = Held(stale.runner, Attempt(assignment))
    assert await fresh.save(b"fresh")
    stranger = Held(await installation.runner("stranger"), fresh.attempt)
    for held in (stale, stranger):
        for act in (held.find(), held.save(b"stale"), held.fetch((await fresh.find()).id)):
            with pytest.raises(OrchestratorRefused) as refused:
                await act
            assert (refused.value.status, refused.value.code) == (409, GONE)
    await fresh.runner.send(fresh.attempt, fresh.attempt.state("running"), fresh.attempt.state("succeeded"))
    with pytest.raises(OrchestratorRefused) as refused:
        await fresh.save(b"after the end")
    assert refused.value.code == GONE


async def test_a_cache_that_is_only_restored_cannot_be_saved(installation: Installation):
    held = await begin(installation, definition(policy="restore"))
    with pytest.raises(OrchestratorRefused) as refused:
        await held.save(b"packed")
    assert (refused.value.status, refused.value.code) == (403, "cache_read_only")


async def test_other_paths_are_another_cache(installation: Installation):
    first = await begin(installation, definition())
    assert await first.save(b"packed")
    second = await begin(installation, definition(paths=["node_modules", "vendor"]))
    assert await second.finds() is None
    assert await second.save(b"packed with more")


async def test_the_newest_of_the_first_restore_key_that_fits_is_taken(installation: Installation):
    pipeline = definition(key="deps", files=["lock"], restore_keys=["deps-a", "deps-"], scope="${ref}")
    main = await begin(installation, pipeline)
    for start in ("b", "a0", "a1", "c"):
        assert await main.save(start.encode(), f"deps-{start.ljust(32, '0')}")
    found = await main.find(f"deps-{32 * 'd'}")
    assert found.key == f"deps-{'a1'.ljust(32, '0')}"
    assert (await main.find(f"deps-{'b'.ljust(32, '0')}")).key.startswith("deps-b")
    # A job's own scope comes first, whatever begins how there.
    feature = await begin(installation, pipeline, ref="feature")
    assert await feature.save(b"own", f"deps-{32 * 'e'}")
    assert (await feature.find(f"deps-{32 * 'd'}")).key == f"deps-{32 * 'e'}"


async def test_what_is_too_large_is_refused_and_the_limit_is_told_before(installation: Installation):
    await installation.replica(lease_seconds=LEASE_SECONDS, cache_size=10)
    held = await begin(installation, definition())
    assert (await held.find()).size_maximum == 10
    with pytest.raises(OrchestratorRefused) as refused:
        await held.save(b"more than ten bytes")
    assert (refused.value.status, refused.value.code) == (413, "cache_too_large")


async def test_beyond_a_pipelines_budget_what_was_not_used_longest_goes(installation: Installation):
    await installation.replica(lease_seconds=LEASE_SECONDS, cache_size=10, cache_pipeline_budget=20)
    pipeline = definition(files=["lock"])
    other = await begin(installation, definition("other"))
    assert await other.save(10 * b"o")
    held = await begin(installation, pipeline)
    keys = [f"deps-{32 * digit}" for digit in "123"]
    assert await held.save(10 * b"1", keys[0])
    assert await held.save(10 * b"2", keys[1])
    assert await held.finds(keys[0]) == 10 * b"1"
    assert await held.save(10 * b"3", keys[2])
    assert [await held.finds(key) for key in keys] == [10 * b"1", None, 10 * b"3"]
    assert await other.finds() == 10 * b"o"


async def test_a_branch_that_saves_again_and_again_pushes_out_its_own(installation: Installation):
    await installation.replica(lease_seconds=LEASE_SECONDS, cache_size=10, cache_pipeline_budget=20)
    pipeline = definition(files=["lock"], scope="${ref}")
    main = await begin(installation, pipeline)
    branch = await begin(installation, pipeline, ref="branch")
    keys = [f"deps-{32 * digit}" for digit in "1234"]
    assert await main.save(10 * b"1", keys[0])
    for digit in (b"2", b"3", b"4"):
        assert await branch.save(10 * digit, f"deps-{32 * digit.decode()}")
    assert [await branch.finds(key) for key in keys] == [10 * b"1", None, None, 10 * b"4"]
    # What main saves is for all, so it is by their last use alone that others go.
    assert await main.finds(keys[0]) == 10 * b"1"
    assert await main.save(10 * b"5", f"deps-{32 * '5'}")
    assert await branch.finds(keys[3]) is None


async def test_a_cache_goes_some_days_after_its_last_use_and_its_content_with_it(installation: Installation):
    held = await begin(installation, definition())
    assert await held.save(b"used")
    assert await held.save(b"unused", "own", "greet")
    await installation.fetch("UPDATE moonyard.caches SET used_at = now() - interval '3 days'")
    await installation.fetch("UPDATE moonyard.blobs SET created_at = now() - interval '3 days'")
    assert await held.finds() == b"used"
    assert await retention.remove_unused_caches(installation.database, 2.0) == 1
    await maintenance_sweep(installation)
    assert await held.finds() == b"used"
    assert await held.finds("own", "greet") is None
    assert len(await installation.fetch("SELECT FROM moonyard.blobs")) == 1


async def maintenance_sweep(installation: Installation) -> None:
    await installation.database.rows(blobs_sql.BLOBS_SWEEP_UNNAMED, maintenance.UNNAMED_AGE_MAXIMUM)


async def test_caches_are_listed_and_forgotten(installation: Installation):
    held = await begin(installation, definition(scope="${ref}"))
    assert await held.save(b"one")
    assert await held.save(b"other", "own", "greet")
    await held.find()
    await held.find(exact=True)  # is no use of it
    client = await installation.client()
    [used, unused] = (await client.get("/v1/caches", CacheList, query={"pipeline": "hello"})).caches
    assert (used.pipeline, used.scope, used.key, used.paths) == ("hello", "main", "deps", ["node_modules"])
    assert (used.size_bytes, used.hits, used.job) == (3, 1, 1)
    assert (unused.scope, unused.key, unused.hits) == ("", "own", 0)
    assert (await client.get("/v1/caches", CacheList, query={"pipeline": "none"})).caches == []
    for body, code in (
        (CachesForget(pipeline="hello", key="deps", scope="feature"), "cache_unknown"),
        (CachesForget(pipeline="hello", key="nothing"), "cache_unknown"),
        (CachesForget(pipeline="none"), "pipeline_unknown"),
    ):
        with pytest.raises(OrchestratorRefused) as refused:
            await client.post("/v1/caches/forget", CachesForgotten, body)
        assert (refused.value.status, refused.value.code) == (404, code)
    body = CachesForget(pipeline="hello", key="deps")
    assert (await client.post("/v1/caches/forget", CachesForgotten, body)).forgotten == 1
    assert await held.finds() is None
    assert await held.save(b"again")
    assert (await client.post("/v1/caches/forget", CachesForgotten, CachesForget(pipeline="hello"))).forgotten == 2
    rows = await installation.fetch(
        "SELECT actor, subject FROM moonyard.audit WHERE action = 'forget cache' ORDER BY id"
    )
    assert [(row["actor"], row["subject"]) for row in rows] == 2 * [("token test", "pipeline hello")]


async def test_operators_see_and_forget_caches_in_psql(installation: Installation):
    held = await begin(installation, definition(scope="${ref}"))
    assert await held.save(b"one")
    shown = psql(installation.url, "SELECT pipeline, scope, key, size, hits, job FROM inspect.caches", "-At").strip()
    assert shown == "hello|main|deps|3 bytes|0|1"
    await fits_a_terminal(installation)
    for role, statement in (
        ("moonyard_reader", "SELECT count(*) FROM inspect.caches"),
        ("moonyard_operator", "SELECT control.forget_cache('hello', scope => 'main')"),
    ):
        assert psql(installation.url, f"SET ROLE {role}; {statement}", "-qAt").strip() == "1"
    assert await held.finds() is None
    [row] = await installation.fetch("SELECT actor, action, subject FROM moonyard.audit ORDER BY id DESC LIMIT 1")
    assert (row["action"], row["subject"]) == ("forget cache", "pipeline hello")


async def fits_a_terminal(installation: Installation) -> None:
    wide = "scope = repeat('s', 200), key = repeat('k', 250), size_bytes = 2147483647, hits = 12345"
    facts = "SELECT scope, key, size_bytes, hits FROM moonyard.caches"
    [row] = await installation.fetch(facts)
    await installation.fetch(f"UPDATE moonyard.caches SET {wide}, used_at = now() - interval '13.4 days'")  # noqa: S608
    assert max(map(len, psql(installation.url, "TABLE inspect.caches").splitlines())) <= 120
    await installation.fetch("UPDATE moonyard.caches SET scope = $1, key = $2, size_bytes = $3, hits = $4", *row)


async def test_a_cache_outlives_the_job_that_saved_it(installation: Installation):
    first = await begin(installation, definition())
    assert await first.save(b"packed")
    await first.runner.send(first.attempt, first.attempt.state("running"), first.attempt.state("succeeded"))
    await installation.fetch("UPDATE moonyard.jobs SET finished_at = now() - interval '9 days'")
    assert await retention.remove_old_jobs(installation.database, 1.0) == 1
    assert await (await begin(installation, definition())).finds() == b"packed"


@pytest.mark.parametrize("cache", ["no-id", str(uuid4())])
async def test_a_cache_that_is_not_there_is_not_found(installation: Installation, cache: str):
    held = await begin(installation, definition())
    with pytest.raises(OrchestratorRefused) as refused:
        await held.fetch(cache)
    assert (refused.value.status, refused.value.code) == (404, "cache_unknown")
