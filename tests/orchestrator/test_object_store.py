"""Contents in an object store: a real server that speaks S3."""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import anyio
import msgspec
import pytest
from obstore.store import S3Store

from orchestrator import blobs
from orchestrator.blobs import Blobs
from orchestrator.database import Database
from orchestrator.object_store import ObjectStore, ObjectStoreInvalid
from orchestrator.problems import StoreUnavailable
from orchestrator.sql import blobs as sql
from schema.client import Client, OrchestratorRefused
from schema.wire import Artifact, ArtifactSave, BlobState
from tests import object_store
from tests.orchestrator.installation import DEADLINE_SECONDS, Attempt, Installation, SpokenRunner

if TYPE_CHECKING:  # the library has these for checkers alone
    from obstore import ObjectMeta
    from obstore.store import S3Config

CONTENT = bytes(range(256)) * (2 * blobs.OBJECT_CHUNK_BYTES // 256) + b"and a little more"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


class Bucket(NamedTuple):
    name: str
    store: S3Store


@pytest.fixture(scope="session")
def endpoint() -> Generator[str]:
    with object_store.running() as address:
        yield address


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket of the test's own, with credentials for it in the environment."""
    import boto3

    for variable, value in CREDENTIALS.items():
        monkeypatch.setenv(variable, value)
    name = f"bucket-{uuid4().hex}"
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=name)  # pyright: ignore[reportUnknownMemberType]
    config: S3Config = {"endpoint": endpoint, "region": "us-east-1"}
    return Bucket(name, S3Store(name, config=config, client_options={"allow_http": True}))


async def begin(installation: Installation, bucket: Bucket, endpoint: str) -> tuple[SpokenRunner, Attempt]:
    await installation.replica(artifact_store=f"s3://{bucket.name}/contents", artifact_endpoint=endpoint)
    await installation.push()
    runner = await installation.runner()
    await installation.submit()
    [assignment] = await runner.claim()
    return runner, Attempt(assignment)


async def save(runner: SpokenRunner, attempt: Attempt, content: bytes) -> Artifact:
    sha256 = hashlib.sha256(content).hexdigest()
    await runner.client.put(f"/v1/runner/blobs/{sha256}", object, io.BytesIO(content), seconds=DEADLINE_SECONDS)
    path = f"/v1/runner/jobs/{attempt.assignment.job}/1/artifacts"
    message = ArtifactSave(name="kept", sha256=sha256, size_bytes=len(content))
    return await runner.client.post(path, Artifact, message)


async def download(client: Client) -> bytes:
    async with client.stream("/v1/jobs/1/artifacts/kept") as stream:
        return b"".join([chunk async for chunk in stream.chunks()])


def objects(bucket: Bucket) -> list[str]:
    pages: Iterable[Sequence[ObjectMeta]] = bucket.store.list()  # pyright: ignore[reportUnknownMemberType]  # not typed
    return sorted(found["path"] for page in pages for found in page)


async def test_a_content_is_in_the_bucket_and_comes_back(installation: Installation, bucket: Bucket, endpoint: str):
    runner, attempt = await begin(installation, bucket, endpoint)
    await save(runner, attempt, CONTENT)
    [row] = await installation.fetch("SELECT id, store FROM moonyard.blobs")
    assert row["store"] == "objects"
    kept = await installation.fetch(
        "SELECT convert_from(data, 'UTF8') AS name FROM moonyard.blob_chunks ORDER BY position"
    )
    assert objects(bucket) == [f"contents/{row['id']}/{chunk['name']}" for chunk in kept]
    assert [chunk["name"].partition("-")[0] for chunk in kept] == ["00000000", "00000001", "00000002"]
    assert await download(await installation.client()) == CONTENT


async def test_what_is_in_postgres_stays_readable(installation: Installation, bucket: Bucket, endpoint: str):
    await installation.replica()
    await installation.push()
    runner = await installation.runner()
    await installation.submit()
    [assignment] = await runner.claim()
    await save(runner, Attempt(assignment), b"before")
    another = await installation.replica(artifact_store=f"s3://{bucket.name}", artifact_endpoint=endpoint)
    assert await download(await installation.client(address=another.address)) == b"before"
    assert objects(bucket) == []


async def test_an_upload_that_broke_off_goes_on(installation: Installation, bucket: Bucket, endpoint: str):
    runner, _ = await begin(installation, bucket, endpoint)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    path = f"/v1/runner/blobs/{sha256}"
    stored = anyio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield CONTENT[: blobs.OBJECT_CHUNK_BYTES + 1]
        stored.set()
        await anyio.sleep_forever()

    async def put() -> None:
        await runner.client.put(path, object, half(), seconds=DEADLINE_SECONDS)

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(put)
            await stored.wait()
            while not await installation.fetch("SELECT FROM moonyard.blobs WHERE upload_chunks = 1"):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    state = await runner.client.get(path, BlobState)
    assert state == BlobState(is_whole=False, size_bytes=blobs.OBJECT_CHUNK_BYTES)
    rest = io.BytesIO(CONTENT[state.size_bytes :])
    await runner.client.put(f"{path}?offset={state.size_bytes}", object, rest, seconds=DEADLINE_SECONDS)
    assert (await runner.client.get(path, BlobState)).is_whole


async def test_who_writes_an_upload_no_more_takes_nothings_place(
    installation: Installation, bucket: Bucket, endpoint: str
):
    runner, attempt = await begin(installation, bucket, endpoint)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    path = f"/v1/runner/blobs/{sha256}"
    goes_on = anyio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield CONTENT[: blobs.OBJECT_CHUNK_BYTES]
        await goes_on.wait()
        yield b"x" * (blobs.OBJECT_CHUNK_BYTES + 1)

    async def put() -> None:
        with pytest.raises(OrchestratorRefused) as refused:
            await runner.client.put(path, object, slow(), seconds=DEADLINE_SECONDS)
        assert refused.value.code == "upload_moved"

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(put)
            while not await installation.fetch("SELECT FROM moonyard.blobs WHERE upload_chunks = 1"):
                await anyio.lowlevel.checkpoint()
            rest = io.BytesIO(CONTENT[blobs.OBJECT_CHUNK_BYTES :])
            offset = f"{path}?offset={blobs.OBJECT_CHUNK_BYTES}"
            await runner.client.put(offset, object, rest, seconds=DEADLINE_SECONDS)
            goes_on.set()
    await save(runner, attempt, CONTENT)
    assert await download(await installation.client()) == CONTENT
    assert len(objects(bucket)) == 4  # what nobody counts goes with the content


async def test_objects_of_removed_contents_are_removed(installation: Installation, bucket: Bucket, endpoint: str):
    runner, attempt = await begin(installation, bucket, endpoint)
    await save(runner, attempt, CONTENT)
    await installation.fetch("DELETE FROM moonyard.artifacts")
    await installation.fetch(sql.BLOBS_SWEEP_UNNAMED, -1.0)
    assert len(objects(bucket)) == 3
    await installation.replicas[0].parts.blobs.remove_remnants()
    assert objects(bucket) == []
    assert await installation.fetch("SELECT FROM moonyard.blob_remnants") == []


async def test_a_store_that_does_not_answer_is_told_and_tried_again_later(
    installation: Installation, bucket: Bucket, unused_port: int
):
    runner, attempt = await begin(installation, bucket, f"http://127.0.0.1:{unused_port}")
    with pytest.raises(OrchestratorRefused) as refused:
        await save(runner, attempt, b"x")
    assert (refused.value.status, refused.value.code) == (503, "artifact_store_failed")
    assert refused.value.message == "the orchestrator cannot use its store of contents just now"
    told = msgspec.json.encode(refused.value.problem).decode()
    assert "s3://" not in told
    assert str(unused_port) not in told


async def test_an_orchestrator_without_the_store_says_so(database_url: str):
    async with Database.open(database_url, connections_maximum=2) as database:
        await database.rows("INSERT INTO moonyard.blobs (id, store) VALUES ($1, 'objects')", blob := uuid4())
        with pytest.raises(StoreUnavailable) as raised:
            _ = [chunk async for chunk in Blobs(database).content(blob, 1)]
        assert "this orchestrator knows none" in raised.value.message


@pytest.mark.parametrize(
    "address", ["", "bucket", "s3://", "https://bucket", "s3://key:secret@bucket", "s3://bucket?x=1"]
)
def test_an_address_that_names_no_bucket_is_refused(address: str):
    with pytest.raises(ObjectStoreInvalid):
        ObjectStore(address)
