"""The containers of a job: made when needed, a stage's own one ahead, and all gone at its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest

from runner.containers import JobContainers
from runner.engine import bridge_ports
from runner.engine.allowances import Allowance
from runner.engine.engine import Engine
from runner.engine.settings import EngineSettings
from runner.event_stream import EventStream
from schema.definition import Rights, StageDefinition
from schema.errors import MoonyardError

PYTHON = "docker.io/library/python:3.11"


class Nowhere:
    gathering_seconds = 0.0

    async def deliver(self, first_seq: int, lines: Sequence[bytes]) -> None:
        del first_seq, lines


@asynccontextmanager
async def job(engine: Engine, workspace: Path) -> AsyncGenerator[JobContainers]:
    stream = EventStream(job="a-job", number=1, attempt=1, sink=Nowhere())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.deliver_all)
        async with anyio.create_task_group() as removals:
            containers = JobContainers(engine=engine, stream=stream, workspace=workspace, tasks=removals)
            try:
                yield containers
            finally:
                with anyio.CancelScope(shield=True):
                    await containers.remove_all()
        stream.finish()


async def test_a_prepared_container_is_the_one_that_the_stage_gets(engine: Engine, workspace: Path) -> None:
    stage = StageDefinition(name="s", container=PYTHON)
    async with job(engine, workspace) as containers:
        containers.prepare(stage)
        containers.prepare(stage)
        first = await containers.for_command(stage, None)
        assert await containers.for_command(stage, None) is first
        containers.end_stage("s")
        # A second try gets a container of its own.
        assert await containers.for_command(stage, None) is not first


async def test_one_that_is_not_waited_for_is_gone_with_the_job(engine: Engine, workspace: Path) -> None:
    owner = engine._owner
    async with job(engine, workspace) as containers:
        containers.prepare(StageDefinition(name="s", container=PYTHON))
        await anyio.lowlevel.checkpoint()
        containers.end_stage("s")
    assert await engine.remove_containers(owner) == 0


async def test_what_went_wrong_ahead_is_told_when_the_container_is_needed(engine: Engine, workspace: Path) -> None:
    stage = StageDefinition(name="s", container="localhost/no/such:image")
    async with job(engine, workspace) as containers:
        containers.prepare(stage)
        with pytest.raises(MoonyardError) as raised:
            await containers.for_command(stage, None)
        assert raised.value.code == "image_not_found"


async def networks_of(job: str, owner: str) -> list[str]:
    filters = [word for label in (f"job={job}", f"owner={owner}") for word in ("--filter", f"label=moonyard.{label}")]
    listed = await anyio.run_process(["podman", "network", "ls", "--format", "{{.Name}}", *filters])
    return listed.stdout.decode().split()


async def test_one_that_has_more_rights_than_all_is_on_a_network_of_its_jobs_own(
    engine_settings: EngineSettings, workspace: Path
) -> None:
    # Who may change the network could pass for another on one that is shared.
    allow = [Allowance(images=[PYTHON], capabilities=["NET_ADMIN"])]
    plain = StageDefinition(name="plain", container=PYTHON)
    loose = StageDefinition(name="loose", container=PYTHON, rights=Rights(capabilities=["NET_ADMIN"]))
    async with Engine.open(msgspec.structs.replace(engine_settings, allow=allow), "loosened") as engine:
        async with job(engine, workspace) as containers:
            containers.check(loose)
            first, second = [await containers.for_command(stage, None) for stage in (plain, loose)]
            own = await networks_of("a-job", "loosened")
            assert list(second.addresses) == own
            assert first.addresses.keys().isdisjoint(own)
        await engine.finish()
        assert await networks_of("a-job", "loosened") == []


async def test_where_containers_cannot_be_kept_apart_on_one_network_each_job_has_its_own(
    engine: Engine, workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bridge_ports, "_DEVICES", tmp_path)  # as where the engine's network devices are elsewhere
    async with job(engine, workspace) as containers:
        stages = [StageDefinition(name="s", container=PYTHON), StageDefinition(name="t")]
        made = [await containers.for_command(stage, None) for stage in stages]
        assert [list(container.addresses) for container in made] == [await networks_of("a-job", engine._owner)] * 2
