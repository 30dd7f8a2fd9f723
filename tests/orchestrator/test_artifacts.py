from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator

import anyio
import pytest

from orchestrator import maintenance
from orchestrator.events import GONE
from orchestrator.sql import artifacts as sql
from schema.client import Client, OrchestratorRefused
from schema.wire import Artifact, ArtifactList, ArtifactSave
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
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(upload, runner, b"at the same time")
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


async def test_an_upload_that_breaks_off_leaves_nothing(installation: Installation):
    runner, _ = await claimed(installation)
    sent = anyio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield LARGE
        sent.set()
        await anyio.sleep_forever()

    async def put() -> None:
        sha256 = hashlib.sha256(LARGE + b"more").hexdigest()
        await runner.client.put(f"/v1/runner/blobs/{sha256}", object, half(), seconds=DEADLINE_SECONDS)

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(put)
            await sent.wait()
            while not await installation.fetch("SELECT 1 FROM moonyard.blob_chunks"):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        while await installation.fetch("SELECT 1 FROM moonyard.blobs"):
            await anyio.lowlevel.checkpoint()
    await nothing_is_stored(installation)


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
