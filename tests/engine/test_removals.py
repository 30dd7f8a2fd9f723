"""What is nobody's any more is found and removed, and what is somebody's is not."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest

from runner.engine import networks
from runner.engine.container import Container, ContainerSpec
from runner.engine.engine import Engine
from runner.engine.settings import EngineSettings
from tests.engine.conftest import ImageMaker, Said, run
from tests.engine.test_service import service_of


async def made_by_hand(image: str, owner: str) -> str:
    command = ["podman", "create", "--label", f"moonyard.owner={owner}", "--network", "none", image, "true"]
    return (await anyio.run_process(command)).stdout.decode().strip()


async def ids(owner: str, *kind: str) -> set[str]:
    """List the containers, or by other words of the engine's the networks, of an owner."""
    words = [*(kind or ["ps", "--all"]), "--no-trunc", "--quiet", "--filter", f"label=moonyard.owner={owner}"]
    return set((await anyio.run_process(["podman", *words])).stdout.decode().split())


@asynccontextmanager
async def sharing(engine: Engine, settings: EngineSettings, owner: str) -> AsyncGenerator[Engine]:
    """Another owner with the same engine, which it cannot start again by itself."""
    service = engine._connection.service
    assert service is not None
    async with Engine.open(msgspec.structs.replace(settings, socket=str(service.socket)), owner) as opened:
        yield opened


async def test_what_carries_the_owners_name_and_nobody_holds_is_removed(
    engine: Engine, spec: ContainerSpec, image_map: dict[str, str]
) -> None:
    owner, stranger = engine._owner, secrets.token_hex(8)
    held = await engine.create_container(spec, Said())
    network = await engine.create_network("a-job", 1)
    of_a_stranger = await made_by_hand(image_map[spec.image], stranger)
    try:
        forgotten = await made_by_hand(image_map[spec.image], owner)
        name = f"moonyard-test-{secrets.token_hex(6)}"
        await anyio.run_process(["podman", "network", "create", "--label", f"moonyard.owner={owner}", name])
        assert await ids(owner) == {held.id, forgotten}
        assert await engine.reap() == 2
        assert await ids(owner) == {held.id}
        assert await ids(stranger) == {of_a_stranger}
        listed = await anyio.run_process(["podman", "network", "ls", "--format", "{{.Name}}"])
        assert network in listed.stdout.decode().split()
        assert name not in listed.stdout.decode().split()
        engine.discard(held)
        engine.discard_network(network)
        await engine.finish()
        assert await engine.reap() == 0
        assert await ids(owner, "network", "ls") == set()
    finally:
        await anyio.run_process(["podman", "rm", "--force", of_a_stranger])


async def test_what_is_being_made_is_not_taken_for_forgotten(engine: Engine, spec: ContainerSpec) -> None:
    made = anyio.Event()
    networks: list[str] = []
    containers: list[Container] = []

    async def reap_meanwhile() -> None:
        while not made.is_set():
            assert await engine.reap() == 0

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reap_meanwhile)
        for _ in range(3):
            networks.append(await engine.create_network("a-job", 1))
            containers.append(await engine.create_container(spec, Said()))
        made.set()
    assert await ids(engine._owner) == {container.id for container in containers}
    for container in containers:
        engine.discard(container)
    for network in networks:
        engine.discard_network(network)


async def test_the_network_of_plain_containers_is_made_anew_when_somebody_pruned_it(
    engine: Engine, spec: ContainerSpec
) -> None:
    spec = msgspec.structs.replace(spec, network="bridge")
    first = await engine.create_container(spec, Said())
    [network] = first.addresses
    engine.discard(first)
    await engine._removals.finish()
    await anyio.run_process(["podman", "network", "rm", network])
    second = await engine.create_container(spec, Said())
    assert list(second.addresses) == [network]
    engine.discard(second)


async def test_a_volume_that_an_image_asks_for_is_gone_with_its_container(
    engine: Engine, spec: ContainerSpec, make_image: ImageMaker
) -> None:
    image = make_image({"bin/busybox": Path("/bin/busybox")}, "VOLUME /data", 'CMD ["/bin/busybox", "sleep", "1000"]')
    service, said = await engine.create_service(msgspec.structs.replace(spec, image=image, kind="service"), Said())
    await said.close()
    form = "{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}}{{end}}"
    listed = await anyio.run_process(["podman", "inspect", "--format", form, service.id])
    kind, volume, target = listed.stdout.decode().split()
    assert (kind, target) == ("volume", "/data")
    engine.discard(service)
    await engine.finish()
    assert (await anyio.run_process(["podman", "volume", "exists", volume], check=False)).returncode == 1


@pytest.mark.parametrize("when", ["before any is removed", "while some are"])
async def test_removals_that_an_engine_outage_broke_are_repaired(
    engine: Engine, engine_settings: EngineSettings, spec: ContainerSpec, when: str
) -> None:
    owner = secrets.token_hex(8)
    async with sharing(engine, engine_settings, owner) as other:
        networks = [await other.create_network("a-job", 1) for _ in range(2)]
        connected = msgspec.structs.replace(spec, network="bridge", networks=networks)
        containers = [await other.create_container(connected, Said()) for _ in range(5)]
        removed = other._removals._removed
        for container in containers:
            other.discard(container)
        for network in networks:
            other.discard_network(network)
        if when == "while some are":
            await removed.wait()
        os.kill(service_of(engine), signal.SIGKILL)
        await other.finish()
        await engine.check()  # which starts it again, at the same socket
        assert await ids(owner) | await ids(owner, "network", "ls") != set()
        await other.reap()
        assert await ids(owner) | await ids(owner, "network", "ls") == set()


async def test_a_monitor_of_a_container_that_the_engine_does_not_know_is_ended(
    engine: Engine, spec: ContainerSpec, tmp_path: Path
) -> None:
    """Podman that is killed while it starts a container may leave one, which waits for ever."""
    container = await engine.create_container(spec, Said())
    own, others = networks.new_name(engine._owner), networks.new_name("f" * 16)
    # By its name and its words it is one; what it does meanwhile matters to nobody.
    program = tmp_path / "conmon"
    program.symlink_to("/bin/sh")
    lone = await anyio.open_process([program, "-c", "read line", "-n", own], stdin=subprocess.PIPE)
    of_another = await anyio.open_process([program, "-c", "read line", "-n", others], stdin=subprocess.PIPE)
    async with lone, of_another:
        await engine.reap()
        with anyio.fail_after(20):
            assert await lone.wait() == -signal.SIGKILL
        assert of_another.returncode is None
        of_another.kill()
    assert (await run(container, "echo", "served")).stdout == b"served\n"
    await container.remove()
