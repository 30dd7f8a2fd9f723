from __future__ import annotations

import hashlib

import pytest

from schema.client import OrchestratorRefused
from schema.wire import Job, JobSubmit, PipelineList, PipelinePush, PipelineVersion
from tests.orchestrator.installation import SOURCE, Installation

OTHER = SOURCE.replace("greet", "welcome")


async def push(installation: Installation, source: str, filename: str = "hello.lua") -> PipelineVersion:
    client = await installation.client()
    return await client.post("/v1/pipelines", PipelineVersion, PipelinePush(filename=filename, source=source))


async def refused(installation: Installation, source: str, filename: str = "hello.lua") -> OrchestratorRefused:
    with pytest.raises(OrchestratorRefused) as raised:
        await push(installation, source, filename)
    assert await installation.fetch("SELECT 1 FROM moonyard.pipelines") == []
    assert await installation.fetch("SELECT 1 FROM moonyard.pipeline_versions") == []
    return raised.value


async def test_a_push_brings_a_version_and_pushing_it_again_changes_nothing(installation: Installation):
    await installation.replica()
    first = await push(installation, SOURCE)
    assert (first.name, first.unchanged) == ("hello", False)
    assert first.version == hashlib.sha256(SOURCE.encode()).hexdigest()
    assert [stage.name for stage in first.definition.stages] == ["greet"]
    assert (await push(installation, SOURCE)).unchanged
    client = await installation.client()
    [listed] = (await client.get("/v1/pipelines", PipelineList)).pipelines
    assert listed.version == first.version
    assert (await client.get("/v1/pipelines/hello", PipelineVersion)).source == SOURCE


async def test_what_was_pushed_last_is_the_newest_also_when_it_is_an_old_version(installation: Installation):
    await installation.replica()
    old = await push(installation, SOURCE)
    new = await push(installation, OTHER)
    client = await installation.client()
    assert (await client.post("/v1/jobs", Job, JobSubmit(pipeline="hello"))).version == new.version
    chosen = JobSubmit(pipeline="hello", version=old.version)
    assert (await client.post("/v1/jobs", Job, chosen)).version == old.version
    again = await push(installation, SOURCE)
    assert (again.version, again.unchanged) == (old.version, False)
    assert (await client.post("/v1/jobs", Job, JobSubmit(pipeline="hello"))).version == old.version
    shown = await client.get("/v1/pipelines/hello", PipelineVersion, query={"version": new.version})
    assert shown.source == OTHER


async def test_a_second_submit_with_the_same_key_gives_the_first_ones_job(installation: Installation):
    await installation.replica()
    await push(installation, SOURCE)
    first = await installation.submit(idempotency_key="once")
    second = await installation.submit(idempotency_key="once")
    assert second.id == first.id
    assert (await installation.submit(idempotency_key="twice")).id != first.id
    assert len(await installation.fetch("SELECT 1 FROM moonyard.event_batches")) == 2


async def test_a_file_that_is_no_pipeline_is_refused_with_all_its_problems(installation: Installation):
    await installation.replica()
    error = await refused(installation, 'return { name = "x y", stages = { {} }, color = "red" }')
    assert error.status == 422
    problems = error.problem.problems or []
    assert len(problems) >= 3
    assert all(problem.where.startswith("hello.lua") for problem in problems)


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("this is not Lua", 422),
        ("", 422),
        ("return 7", 422),
        ("\0", 422),
        ("while true do end", 422),
        ('return { name = "x", requires = { "git" }, stages = {} }', 422),
        ("-- " + "x" * 1_100_000, 413),
        ("-- " + "x" * 10_000_000, 413),
    ],
    ids=["text", "empty", "number", "NUL", "endless", "requires", "1 MB", "10 MB"],
)
async def test_bad_files_are_refused_and_leave_nothing(installation: Installation, source: str, status: int):
    await installation.replica()
    error = await refused(installation, source)
    assert error.status == status, error.problem


@pytest.mark.parametrize("filename", ["", "a/b.lua", "x" * 300, "new\nline.lua"])
async def test_a_filename_is_a_name_without_folders(installation: Installation, filename: str):
    await installation.replica()
    assert (await refused(installation, SOURCE, filename)).status == 422
