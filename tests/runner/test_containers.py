"""The containers of a job: made when needed, a stage's own one ahead, and all gone at its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from runner.containers import JobContainers
from runner.engine.engine import Engine
from runner.event_stream import EventStream
from schema.definition import StageDefinition
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
            containers = JobContainers(
                engine=engine, stream=stream, workspace=workspace, environment={}, tasks=removals
            )
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
