"""Readiness of a service that ended while it was looked at: what else answers in its place is not taken for it."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Literal

import anyio
import pytest

from runner.engine.connection import describe
from runner.engine.container import Container, ContainerSpec
from runner.engine.engine import Engine
from runner.event_stream import EventStream
from runner.services import Service, ServiceFailed
from schema.definition import Readiness, ServiceDefinition
from tests.engine.conftest import ALPINE, Said
from tests.runner.test_event_stream import Collected, stream_to

Seen = Literal["while it ran", "after its end"]


@pytest.fixture
def stream() -> EventStream:
    return stream_to(Collected())


@pytest.fixture
async def port() -> AsyncGenerator[int]:
    """One at which something else listens, at the address that is taken for the service's."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield int(other.getsockname()[1])


@pytest.mark.parametrize("seen", ["while it ran", "after its end"])
async def test_a_service_that_has_ended_is_not_taken_for_another_that_answers(
    engine: Engine, image_map: dict[str, str], workspace: Path, stream: EventStream, port: int, seen: Seen
) -> None:
    command = ["sh", "-c", "echo no password; exec sleep 1000"]
    assert image_map, "images are there"
    spec = ContainerSpec(
        image=ALPINE, job="a-job", attempt=1, workspace=workspace, network="none", kind="service", command=command
    )
    container, said = await engine.create_service(spec, Said())
    facts = await describe(container._container)
    assert await container.end()
    # The engine learns of the end a moment after it.
    await container._container.wait()  # pyright: ignore[reportUnknownMemberType]
    if seen == "after its end":
        facts = await describe(container._container)
    with anyio.fail_after(10):
        # Killed, it is there until its parent has heard of it.
        while facts["State"]["Pid"] and await anyio.Path(f"/proc/{facts['State']['Pid']}").exists():
            await anyio.lowlevel.checkpoint()
    late = Container(container._connection, container._container, spec, facts | {"ImageDigest": None}, None)
    assert late.first_process is None
    definition = ServiceDefinition(image=ALPINE, ready=Readiness(port=port, timeout=60.0))
    service = Service("db", definition, late, stream, None, "127.0.0.1")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.follow, said)
        words = r"`db` .* ended with exit code 137 before it was ready; the last it said: no password$"
        with pytest.raises(ServiceFailed, match=words):
            await service.wait_until_ready()
    await container.remove()
