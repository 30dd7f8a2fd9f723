"""What an engine that is killed leaves of networks in the kernel is removed, and nothing else is."""

from __future__ import annotations

import os
import secrets
import signal
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec
import pytest

from runner.engine import bridge_devices
from runner.engine.container import ContainerSpec
from runner.engine.engine import Engine
from runner.engine.errors import EngineError
from runner.engine.settings import EngineSettings
from tests.engine.conftest import Said, run
from tests.engine.test_removals import ids, sharing
from tests.engine.test_service import service_of

SECONDS = 60.0


def ports(owner: str) -> list[Path]:
    """List the ports of an owner's bridges."""
    return [port for name in bridge_devices.of_owner(owner) for port in Path(f"/sys/class/net/{name}/brif").glob("*")]


async def namespaces(owner: str) -> set[anyio.Path]:
    """List the files of the namespaces that lead to an owner's bridges, as far as nothing runs in them."""
    found = await anyio.to_thread.run_sync(bridge_devices.leftovers, owner, bridge_devices.of_owner(owner))
    return {anyio.Path(one.namespace) for one in found if one.namespace is not None}


async def are_gone(files: set[anyio.Path]) -> bool:
    assert files, "there were some"
    return not any([await file.exists() for file in files])


async def kill_while_a_container_is_connected(engine: Engine, other: Engine, owner: str, spec: ContainerSpec) -> None:
    """Kill the engine at the moment when a container that it starts has got a device, and does not run yet."""
    before = len(ports(owner))

    async def kill() -> None:
        while len(ports(owner)) == before:
            await anyio.lowlevel.checkpoint()
        os.kill(service_of(engine), signal.SIGKILL)

    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kill)
            with pytest.raises(EngineError):
                await other.create_container(spec, Said())
    await engine.check()  # which starts it again, at the same socket


def test_bridges_of_an_owner_are_told_by_their_names() -> None:
    one, other = secrets.token_hex(8), secrets.token_hex(8)
    names = {bridge_devices.new_name(one) for _ in range(100)}
    assert len(names) == 100
    assert all(len(name) == 15 and name.startswith(bridge_devices.prefix(one)) for name in names)
    assert bridge_devices.prefix(one) != bridge_devices.prefix(other)


async def test_what_a_dead_owner_left_in_the_kernel_goes_with_its_containers(
    engine: Engine, engine_settings: EngineSettings, spec: ContainerSpec
) -> None:
    owner = secrets.token_hex(8)
    async with sharing(engine, engine_settings, owner) as other:
        network = await other.create_network("a-job", 1)
        connected = msgspec.structs.replace(spec, network="bridge", networks=[network])
        await kill_while_a_container_is_connected(engine, other, owner, connected)
        left = await namespaces(owner)
        await engine.remove_containers(owner)
        assert await ids(owner) | await ids(owner, "network", "ls") == set()
        assert bridge_devices.of_owner(owner) == []
        assert await are_gone(left)


async def test_a_living_owner_removes_what_is_left_at_its_bridge_and_the_others_go_on(
    engine: Engine, engine_settings: EngineSettings, spec: ContainerSpec
) -> None:
    owner = secrets.token_hex(8)
    bridged = msgspec.structs.replace(spec, network="bridge")
    async with sharing(engine, engine_settings, owner) as other:
        living = await other.create_container(bridged, Said())
        [port] = ports(owner)
        await kill_while_a_container_is_connected(engine, other, owner, bridged)
        left = await namespaces(owner)
        assert len(left) == 1
        await other.reap()
        assert await namespaces(owner) == left, "at a first look, it might be a container that is being started"
        await other.reap()
        assert ports(owner) == [port]
        assert await are_gone(left)
        assert b"eth0" in (await run(living, "cat", "/proc/net/dev")).stdout
        another = await other.create_container(bridged, Said())
        assert len(ports(owner)) == 2
        await other.reap()
        await other.reap()
        assert len(ports(owner)) == 2
        other.discard(living)
        other.discard(another)
    assert bridge_devices.of_owner(owner) == []


async def test_an_owner_that_ends_leaves_no_bridge(
    engine: Engine, engine_settings: EngineSettings, spec: ContainerSpec
) -> None:
    owner = secrets.token_hex(8)
    async with sharing(engine, engine_settings, owner) as other:
        await kill_while_a_container_is_connected(engine, other, owner, msgspec.structs.replace(spec, network="bridge"))
        left = await namespaces(owner)
        await other.reap()
    assert bridge_devices.of_owner(owner) == []
    assert await are_gone(left)


async def test_devices_of_others_stay(engine: Engine, engine_settings: EngineSettings, spec: ContainerSpec) -> None:
    owner, stranger = secrets.token_hex(8), secrets.token_hex(8)
    bridged = msgspec.structs.replace(spec, network="bridge")
    async with sharing(engine, engine_settings, owner) as other, sharing(engine, engine_settings, stranger) as theirs:
        await kill_while_a_container_is_connected(engine, theirs, stranger, bridged)
        left = ports(stranger)
        await engine.remove_containers(owner)
        await other.reap()
        await other.reap()
        assert ports(stranger) == left
        await theirs.reap()
    assert bridge_devices.of_owner(stranger) == []
