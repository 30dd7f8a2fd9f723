from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from orchestrator import blobs, maintenance, retention
from orchestrator.events import GONE
from orchestrator.sql import blobs as sql
from runner import delivery
from schema.client import Client, OrchestratorRefused
from schema.definition import PipelineDefinition, StageDefinition
from schema.wire import Artifact, ArtifactList, ArtifactSave, ArtifactsFind, ArtifactsFound, BlobState
from tests.orchestrator.installation import DEADLINE_SECONDS, Attempt, Installation, SpokenRunner

LARGE = bytes(range(256)) * 14_000  # three chunks and a half


async def claimed(installation: Installation) -> tuple[SpokenRunner, Attempt]:
    await installation.replica()
    await installation.push()
    runner = await installation.runner()
    await installation.submit()
    [assignment] = await runner.claim()
    return runner, Attempt(assignment)


async def upload(runner: SpokenRunner, content: bytes) -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    await runner.client.put(f"/v1/runner/blobs/{sha256}", object, io.BytesIO(content), seconds=DEADLINE_SECONDS)
    return sha256


async def save(runner: SpokenRunner, attempt: Attempt, name: str, content: bytes) -> Artifact:
    sha256 = await upload(runner, content)
    path = f"/v1/runner/jobs/{attempt.assignment.job}/{attempt.assignment.attempt}/artifacts"
    message = ArtifactSave(name=name, sha256=sha256, size_bytes=len(content), content_type="text/plain")
    return await runner.client.post(path, Artifact, message)


async def download(client: Client, job: str, name: str) -> tuple[bytes, str]:
    async with client.stream(f"/v1/jobs/{job}/artifacts/{name}") as stream:
        assert stream.headers["Content-Type"].startswith("text/plain")
        return b"".join([chunk async for chunk in stream.chunks()]), stream.headers["ETag"].strip('"')


@pytest.mark.parametrize(
    "content", [b"", b"small", LARGE, LARGE[: 1024 * 1024]], ids=["empty", "small", "large", "chunk"]
)
async def test_an_artifact_comes_back_as_it_was_kept(installation: Installation, content: bytes):
    runner, attempt = await claimed(installation)
    kept = await save(runner, attempt, "dist/pack age-ü.txt", content)
    client = await installation.client()
    assert await download(client, "1", "dist/pack%20age-ü.txt") == (content, kept.sha256)
    [listed] = (await client.get("/v1/jobs/1/artifacts", ArtifactList)).artifacts
    assert listed == kept


async def test_the_same_content_is_stored_once(installation: Installation):
    runner, attempt = await claimed(installation)
    await save(runner, attempt, "one", LARGE)
    await save(runner, attempt, "two", LARGE)
    content = b"at the same time"
    sha256 = hashlib.sha256(content).hexdigest()

    async def upload_as_runners_do() -> None:
        # Of uploads of one runner the newest wins; the others look again, and find it whole.
        await delivery.upload(runner.client, "a file", io.BytesIO(content), sha256, len(content))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(upload_as_runners_do)
    rows = await installation.fetch("SELECT sha256 FROM moonyard.blobs")
    assert len(rows) == 2
    assert None not in {row["sha256"] for row in rows}


async def test_a_name_is_taken_within_an_attempt_and_naming_again_is_the_same(installation: Installation):
    runner, attempt = await claimed(installation)
    first = await save(runner, attempt, "report", b"one")
    assert (await save(runner, attempt, "report", b"one")).sha256 == first.sha256
    with pytest.raises(OrchestratorRefused) as refused:
        await save(runner, attempt, "report", b"two")
    assert (refused.value.status, refused.value.code) == (409, "artifact_exists")


async def test_a_later_attempt_takes_the_place_of_a_lost_one(installation: Installation):
    runner, attempt = await claimed(installation)
    await save(runner, attempt, "report", b"first")
    await installation.let_leases_run_out()
    [assignment] = await runner.claim()
    await save(runner, Attempt(assignment), "report", b"second")
    assert (await download(await installation.client(), "1", "report"))[0] == b"second"
    with pytest.raises(OrchestratorRefused) as refused:
        await save(runner, attempt, "report", b"third")
    assert (refused.value.status, refused.value.code) == (409, GONE)


async def test_a_content_with_another_hash_leaves_nothing(installation: Installation):
    runner, _ = await claimed(installation)
    wrong = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(OrchestratorRefused) as refused:
        await runner.client.put(f"/v1/runner/blobs/{wrong}", object, io.BytesIO(LARGE), seconds=DEADLINE_SECONDS)
    assert (refused.value.status, refused.value.code) == (422, "blob_damaged")
    await nothing_is_stored(installation)


async def break_off(installation: Installation, runner: SpokenRunner, content: bytes, chunks: int) -> None:
    """Begin an upload, and cut it when so many chunks are stored."""
    sent = anyio.Event()
    sha256 = hashlib.sha256(content).hexdigest()

    async def half() -> AsyncIterator[bytes]:
        yield content[: chunks * blobs.CHUNK_BYTES + 1000]
        sent.set()
        await anyio.sleep_forever()

    async def put() -> None:
        await runner.client.put(f"/v1/runner/blobs/{sha256}", object, half(), seconds=DEADLINE_SECONDS)

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(put)
            await sent.wait()
            while await stored_chunks(installation) < chunks:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()


async def stored_chunks(installation: Installation) -> int:
    [row] = await installation.fetch("SELECT count(*) AS chunks FROM moonyard.blob_chunks")
    return row["chunks"]


async def test_an_upload_that_breaks_off_goes_on_where_it_ended(installation: Installation):
    runner, attempt = await claimed(installation)
    await break_off(installation, runner, LARGE, 2)
    sha256 = hashlib.sha256(LARGE).hexdigest()
    assert await runner.client.get(f"/v1/runner/blobs/{sha256}", BlobState) == BlobState(
        is_whole=False, size_bytes=2 * blobs.CHUNK_BYTES
    )
    rest = io.BytesIO(LARGE[2 * blobs.CHUNK_BYTES :])
    path = f"/v1/runner/blobs/{sha256}?offset={2 * blobs.CHUNK_BYTES}"
    await runner.client.put(path, object, rest, seconds=DEADLINE_SECONDS)
    assert (await runner.client.get(f"/v1/runner/blobs/{sha256}", BlobState)).is_whole
    await save(runner, attempt, "large", LARGE)
    assert (await download(await installation.client(), "1", "large"))[0] == LARGE


async def test_an_upload_goes_on_only_from_where_it_is_and_by_whom_it_was_begun(installation: Installation):
    runner, _ = await claimed(installation)
    await break_off(installation, runner, LARGE, 2)
    sha256 = hashlib.sha256(LARGE).hexdigest()
    another = await installation.runner("another")
    assert (await another.client.get(f"/v1/runner/blobs/{sha256}", BlobState)).size_bytes == 0
    for client, offset in ((runner.client, blobs.CHUNK_BYTES), (another.client, 2 * blobs.CHUNK_BYTES)):
        path = f"/v1/runner/blobs/{sha256}?offset={offset}"
        with pytest.raises(OrchestratorRefused) as refused:
            await client.put(path, object, io.BytesIO(b"x"), seconds=DEADLINE_SECONDS)
        assert (refused.value.status, refused.value.code) == (409, "upload_moved")


async def test_what_goes_on_wrongly_leaves_nothing(installation: Installation):
    runner, _ = await claimed(installation)
    await break_off(installation, runner, LARGE, 2)
    path = f"/v1/runner/blobs/{hashlib.sha256(LARGE).hexdigest()}?offset={2 * blobs.CHUNK_BYTES}"
    with pytest.raises(OrchestratorRefused) as refused:
        await runner.client.put(path, object, io.BytesIO(b"something else"), seconds=DEADLINE_SECONDS)
    assert refused.value.code == "blob_damaged"
    await nothing_is_stored(installation)


async def test_a_runner_takes_its_own_upload_up_by_itself(installation: Installation, tmp_path: Path):
    runner, _ = await claimed(installation)
    content = LARGE * 3
    await break_off(installation, runner, content, 3)
    file = tmp_path / "content"
    file.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    with file.open("rb") as opened:
        await delivery.upload(runner.client, "a file", opened, sha256, len(content))
    [row] = await installation.fetch("SELECT sha256, size_bytes FROM moonyard.blobs")
    assert (row["sha256"], row["size_bytes"]) == (sha256, len(content))


async def nothing_is_stored(installation: Installation) -> None:
    assert await installation.fetch("SELECT 1 FROM moonyard.blobs") == []
    assert await installation.fetch("SELECT 1 FROM moonyard.blob_chunks") == []


async def test_what_a_dead_replica_left_and_what_nobody_named_is_swept(installation: Installation):
    runner, attempt = await claimed(installation)
    await save(runner, attempt, "kept", b"named")
    await upload(runner, b"never named")
    await installation.fetch("INSERT INTO moonyard.blobs (id) VALUES (gen_random_uuid())")
    await installation.fetch("UPDATE moonyard.blobs SET created_at = now() - interval '2 days'")
    await installation.fetch(sql.BLOBS_SWEEP_NASCENT, maintenance.UPLOAD_AGE_MAXIMUM)
    await installation.fetch(sql.BLOBS_SWEEP_UNNAMED, maintenance.UNNAMED_AGE_MAXIMUM)
    [row] = await installation.fetch("SELECT sha256 FROM moonyard.blobs")
    assert row["sha256"] == hashlib.sha256(b"named").hexdigest()


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../up", "a/../b", "a//b", "new\nline", "x" * 300, "back\\slash"])
async def test_a_name_that_is_no_relative_path_is_refused(installation: Installation, name: str):
    runner, attempt = await claimed(installation)
    with pytest.raises(OrchestratorRefused) as refused:
        await save(runner, attempt, name, b"x")
    assert refused.value.status == 422


async def test_what_was_not_uploaded_cannot_be_named_and_what_was_not_kept_is_not_found(installation: Installation):
    runner, attempt = await claimed(installation)
    path = f"/v1/runner/jobs/{attempt.assignment.job}/1/artifacts"
    with pytest.raises(OrchestratorRefused) as refused:
        await runner.client.post(path, Artifact, ArtifactSave(name="x", sha256="0" * 64, size_bytes=1))
    assert (refused.value.status, refused.value.code) == (404, "blob_unknown")
    await save(runner, attempt, "report.txt", b"x")
    with pytest.raises(OrchestratorRefused) as refused:
        await download(await installation.client(), "1", "reprot.txt")
    assert (refused.value.status, refused.value.code) == (404, "artifact_unknown")
    assert refused.value.hint is not None
    assert "report.txt" in refused.value.hint
    with pytest.raises(OrchestratorRefused) as refused:
        await runner.client.put("/v1/runner/blobs/abc", object, b"x", seconds=DEADLINE_SECONDS)
    assert refused.value.status == 404


async def test_an_artifact_with_a_retention_goes_when_it_is_over(installation: Installation):
    runner, attempt = await claimed(installation)
    sha256 = await upload(runner, b"short")
    path = f"/v1/runner/jobs/{attempt.assignment.job}/1/artifacts"
    message = ArtifactSave(name="short", sha256=sha256, size_bytes=5, retention=3600.0, stage="greet")
    kept = await runner.client.post(path, Artifact, message)
    assert kept.expires_at is not None
    await save(runner, attempt, "long", b"long")
    await installation.fetch(
        "UPDATE moonyard.artifacts SET expires_at = now() - interval '1 second' WHERE name = 'short'"
    )
    listed = (await (await installation.client()).get("/v1/jobs/1/artifacts", ArtifactList)).artifacts
    assert [one.name for one in listed] == ["long"]
    with pytest.raises(OrchestratorRefused):
        await download(await installation.client(), "1", "short")
    assert await retention.remove_expired_artifacts(installation.database) == 1
    await runner.client.post(path, Artifact, message)


async def find(runner: SpokenRunner, attempt: Attempt, **wanted: str) -> ArtifactsFound:
    path = f"/v1/runner/jobs/{attempt.assignment.job}/{attempt.assignment.attempt}/artifacts/find"
    return await runner.client.post(path, ArtifactsFound, ArtifactsFind(**wanted))


async def read(runner: SpokenRunner, attempt: Attempt, source: str, name: str) -> bytes:
    path = f"/v1/runner/jobs/{attempt.assignment.job}/{attempt.assignment.attempt}/artifacts/{source}/{name}"
    async with runner.client.stream(path) as stream:
        return b"".join([chunk async for chunk in stream.chunks()])


async def begun(installation: Installation, runner: SpokenRunner, pipeline: str, *readers: str) -> Attempt:
    definition = PipelineDefinition(
        name=pipeline, stages=[StageDefinition(name="greet")], artifact_readers=list(readers)
    )
    await installation.push(definition, f"-- {definition}")
    await installation.submit(pipeline=pipeline)
    [assignment] = await runner.claim()
    return Attempt(assignment)


async def test_a_job_finds_what_it_kept_and_what_jobs_of_its_pipeline_kept(installation: Installation):
    runner, first = await claimed(installation)
    await save(runner, first, "dist/a b.txt", b"of the first")
    own = await find(runner, first)
    assert ([one.name for one in own.artifacts], own.number, own.pipeline) == (["dist/a b.txt"], 1, "hello")
    await runner.send(first, first.state("succeeded"))
    await installation.submit()
    [assignment] = await runner.claim()
    second = Attempt(assignment)
    for wanted in ({"job": "1"}, {"job": first.assignment.job}, {"pipeline": "hello"}):
        found = await find(runner, second, name="dist/a b.txt", **wanted)
        assert (found.job, found.number) == (first.assignment.job, 1)
        assert await read(runner, second, found.job, "dist/a%20b.txt") == b"of the first"
    with pytest.raises(OrchestratorRefused) as refused:
        await find(runner, second, name="dist/a b.txt")
    assert (refused.value.status, refused.value.code) == (404, "artifact_unknown")


async def test_the_newest_job_that_succeeded_is_the_one_that_is_meant(installation: Installation):
    runner, first = await claimed(installation)
    await save(runner, first, "a", b"good")
    await runner.send(first, first.state("succeeded"))
    await installation.submit()
    [assignment] = await runner.claim()
    second = Attempt(assignment)
    await save(runner, second, "a", b"bad")
    await runner.send(second, second.state("failed"))
    await installation.submit()
    [assignment] = await runner.claim()
    assert (await find(runner, Attempt(assignment), pipeline="hello")).number == 1


async def test_another_pipeline_reads_nothing_unless_it_is_let(installation: Installation):
    await installation.replica(lease_seconds=3600.0)
    runner = await installation.runner()
    source = await begun(installation, runner, "build")
    await save(runner, source, "a", b"of build")
    await runner.send(source, source.state("succeeded"))
    reader = await begun(installation, runner, "deploy")
    for wanted in ({"pipeline": "build"}, {"job": "1"}, {"job": source.assignment.job}, {"pipeline": "nobody"}):
        with pytest.raises(OrchestratorRefused) as refused:
            await find(runner, reader, **wanted)
        assert (refused.value.status, refused.value.code) == (404, "artifact_unknown")
    with pytest.raises(OrchestratorRefused) as refused:
        await read(runner, reader, source.assignment.job, "a")
    assert (refused.value.status, refused.value.code) == (404, "artifact_unknown")
    # The newest version of the pipeline that owns them says who may, also of what is there already.
    letting = PipelineDefinition(
        name="build", stages=[StageDefinition(name="greet")], artifact_readers=["release", "deploy"]
    )
    await installation.push(letting, "-- lets deploy")
    assert (await find(runner, reader, pipeline="build")).number == 1
    assert await read(runner, reader, source.assignment.job, "a") == b"of build"


async def test_whoever_does_not_hold_the_attempt_finds_nothing(installation: Installation):
    runner, attempt = await claimed(installation)
    await save(runner, attempt, "a", b"x")
    another = await installation.runner("another")
    with pytest.raises(OrchestratorRefused) as refused:
        await find(another, attempt)
    assert refused.value.code == GONE
    with pytest.raises(OrchestratorRefused) as refused:
        await read(another, attempt, attempt.assignment.job, "a")
    assert refused.value.code == GONE
