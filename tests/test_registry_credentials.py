"""The password of an image registry, stored and granted by people, delivered to a runner, and shown to the registry."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest

from orchestrator import master_keys
from runner.engine.settings import EngineSettings
from schema.errors import ErrorInfo, chain
from schema.secrets import Grant, GrantCreate, Secret, SecretSet
from schema.wire import Job
from tests.engine.registry import Registry
from tests.engine.test_images import proxy, registry
from tests.engine.test_private_images import PASSWORD, Guard, guard
from tests.orchestrator.installation import installation as opened
from tests.shells.conftest import LEASE_SECONDS, Debugged

__all__ = ["guard", "proxy", "registry"]


class Guarded(Debugged):
    """An installation with master keys and a secret, whose runners reach a registry that asks who they are."""

    async def start(self) -> None:
        keys = master_keys.parse(master_keys.generate(), "a test")
        for _ in range(2):
            await self.installation.replica(lease_seconds=LEASE_SECONDS, secret_keys=keys)
        self.admin = await self.installation.client()
        message = SecretSet(secret="REGISTRY_TOKEN", value=PASSWORD.encode(), readable=False)
        await self.admin.post("/v1/secrets", Secret, message)

    async def grant(self, pipeline: str, *stages: str) -> None:
        message = GrantCreate(secret="REGISTRY_TOKEN", pipeline=pipeline, stages=[*stages], follows=True)
        await self.admin.post("/v1/grants", Grant, message)

    async def ran(self, source: str) -> Job:
        """Run a pipeline to its end; see that nothing of it that is stored shows the password."""
        job = await self.submit(source)
        await self.ended(job)
        rows = await self.installation.fetch("SELECT lines FROM moonyard.event_batches WHERE job_id = $1", job.id)
        text = "".join(row["lines"] for row in rows)
        assert '"state":"running"' in text
        done = await self.admin.get(f"/v1/jobs/{job.id}", Job)
        encoded = base64.b64encode(f"robot:{PASSWORD}".encode()).decode()
        for form in (PASSWORD, encoded[:24]):
            assert form not in text
            assert form not in msgspec.json.encode(done).decode()
        return done

    async def deliveries(self, job: Job) -> list[tuple[str, str, str]]:
        rows = await self.installation.fetch(
            "SELECT stage, secret, use FROM inspect.secret_deliveries WHERE job = $1 ORDER BY 1, 2, 3", job.number
        )
        return [(row["stage"], row["secret"], row["use"]) for row in rows]


@pytest.fixture
async def guarded(
    database_url: str, engine_settings: EngineSettings, guard: Guard, tmp_path: Path
) -> AsyncGenerator[Guarded]:
    assert guard.proxy.address, "engines that start now know the registry"
    async with opened(database_url) as installation:
        made = Guarded(installation, engine_settings, tmp_path)
        await made.start()
        async with made.runner():
            yield made


def source(name: str, address: str, image: str, *, logs_in: bool = True, more: str = "") -> str:
    registries = f'registries = {{ ["{address}"] = {{ username = "robot", password_secret = "REGISTRY_TOKEN" }} }},'
    return (
        f'return {{ name = "{name}", {registries if logs_in else ""} {more} stages = {{'
        f' {{ name = "use", container = "{image}", script = function()'
        ' process.run({ command = "echo", args = { "runs" } }) end } } }'
    )


def last(job: Job) -> ErrorInfo:
    assert job.error is not None
    return chain(job.error)[-1]


async def test_only_jobs_that_were_granted_it_have_the_image_whoever_pulled_it_before(
    guarded: Guarded, registry: Registry, guard: Guard
) -> None:
    address = guard.proxy.address
    image = guard.proxy.named(registry.publish("team/app:1"))
    await guarded.submit(source("granted", address, image))  # a grant is for a pipeline that is there
    await guarded.grant("granted")
    job = await guarded.ran(source("granted", address, image))
    assert job.state == "succeeded", job.error
    assert await guarded.deliveries(job) == [("use", "REGISTRY_TOKEN", "registry")]
    asked = len(guard.proxy.asked)
    refused = await guarded.ran(source("not-granted", address, image))
    assert last(refused).code == "secret_not_granted"
    assert len(guard.proxy.asked) == asked
    stranger = await guarded.ran(source("stranger", address, image, logs_in=False))
    assert last(stranger).code == "image_access_denied"
    assert f"image `{image}` is not given to this runner by {address}" in last(stranger).message
    assert await guarded.deliveries(stranger) == []


async def test_a_grant_for_some_stages_is_for_their_containers_and_not_for_the_services_of_the_job(
    guarded: Guarded, registry: Registry, guard: Guard
) -> None:
    address = guard.proxy.address
    image, service = (guard.proxy.named(registry.publish(f"team/{name}:1")) for name in ("app", "service"))
    services = f'services = {{ db = {{ image = "{service}", command = {{ "sleep", "1000" }} }} }},'
    await guarded.submit(source("partly", address, image))
    await guarded.grant("partly", "use")
    job = await guarded.ran(source("partly", address, image))
    assert job.state == "succeeded", job.error
    job = await guarded.ran(source("partly", address, image, more=services))
    assert last(job).code == "secret_not_granted"
    assert job.error is not None
    assert "service `db` could not be started: no secret `REGISTRY_TOKEN` is granted to this job as a whole" in (
        chain(job.error)[-2].message
    )
    await guarded.grant("partly")
    job = await guarded.ran(source("partly", address, image, more=services))
    assert job.state == "succeeded", job.error
    assert await guarded.deliveries(job) == [
        ("", "REGISTRY_TOKEN", "registry"),
        ("use", "REGISTRY_TOKEN", "registry"),
    ]
