"""Containers of two jobs on one runner at the same time: what one of them listens with, the other does not find."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest

from runner.engine import bridge_ports
from runner.engine.container import Container, ContainerSpec
from runner.engine.engine import Engine
from runner.engine.errors import NotIsolated
from runner.engine.exec import Command
from runner.engine.settings import EngineSettings
from tests.engine.conftest import Calling, Said, run

PYTHON = "docker.io/library/python:3.11"
PORT = 7777
SECONDS = 60.0
ADDRESSES = """
import json, socket
found = [address[4][0] for address in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
for line in open("/proc/net/if_inet6"):
    number, _, _, _, flags, device = line.split()
    text = ":".join(number[at:at + 4] for at in range(0, 32, 4))
    if device != "lo" and not int(flags, 16) & 0x40:  # until it is known to be nobody else's, it is not answered at
        found.append(text + "%" + device)
print(json.dumps(sorted(set(found))))
"""
LISTEN = f"""
import selectors, socket
listeners = selectors.DefaultSelector()
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    listener = socket.socket(socket.AF_INET6, kind)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", {PORT}))
    if kind == socket.SOCK_STREAM:
        listener.listen(50)
    listeners.register(listener, selectors.EVENT_READ)
print("listening", flush=True)
while True:
    for key, _ in listeners.select():
        if key.fileobj.type == socket.SOCK_STREAM:
            accepted, sender = key.fileobj.accept()
            accepted.sendall(b"found by TCP")
            accepted.close()
        else:
            word, sender = key.fileobj.recvfrom(100)
            key.fileobj.sendto(b"found by UDP", sender)
"""
TRY = f"""
import concurrent.futures, json, socket, sys
def ask(kind, address):
    there = socket.getaddrinfo(address, {PORT}, type=kind)[0]
    with socket.socket(there[0], kind) as asking:
        asking.settimeout(1)
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        try:
            if kind == socket.SOCK_STREAM:
                asking.connect(there[4])
            else:
                asking.sendto(b"is anybody there?", there[4])
            return asking.recvfrom(100)[0].decode() or None
        except OSError:
            return None
questions = [(kind, address) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM) for address in sys.argv[1:]]
questions += [(socket.SOCK_DGRAM, everybody) for everybody in ("255.255.255.255", "ff02::1%eth0")]
with concurrent.futures.ThreadPoolExecutor(20) as asking:
    print(json.dumps([word for word in asking.map(ask, *zip(*questions)) if word]))
"""

Maker = Callable[[str], Awaitable[Container]]


@asynccontextmanager
async def listening(container: Container) -> AsyncGenerator[list[str]]:
    """Listen on all addresses of a container, and give them, once whoever is in it is answered at each."""
    addresses: list[str] = []
    with anyio.fail_after(SECONDS):
        while len(addresses) < 2:  # that of IPv6 is the kernel's own, and comes a moment after the network
            addresses = json.loads((await run(container, "python3", "-c", ADDRESSES)).stdout)
    is_listening = anyio.Event()

    async def begun(data: bytes) -> None:
        assert data == b"listening\n"
        is_listening.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_until_cancelled, container, begun)
        with anyio.fail_after(SECONDS):
            await is_listening.wait()
        assert len(await tried(container, addresses)) >= 4
        yield addresses
        tasks.cancel_scope.cancel()


async def run_until_cancelled(container: Container, then: Callable[[bytes], Awaitable[None]]) -> None:
    await container.run(Command(argv=["python3", "-c", LISTEN]), Calling(then))


async def tried(container: Container, addresses: list[str]) -> list[str]:
    ran = await run(container, "python3", "-c", TRY, *addresses)
    assert ran.result.code == 0, ran
    return json.loads(ran.stdout)


@pytest.fixture
def make(engine: Engine, spec: ContainerSpec) -> Maker:
    """Make a container of a job, with a network of its own where the job's name says so."""

    async def making(job: str) -> Container:
        networks = [await engine.create_network(job, 1)] if job.endswith("with services") else []
        asked = msgspec.structs.replace(spec, image=PYTHON, job=job, network="bridge", networks=networks)
        container = await engine.create_container(asked, Said())
        for network in networks:
            engine.discard_network(network)
        return container

    return making


@pytest.mark.parametrize(
    ("listens", "tries"),
    [
        ("one", "other"),
        ("one with services", "other with services"),
        ("one with services", "other"),
        ("one", "other with services"),
    ],
)
async def test_a_job_does_not_find_what_another_listens_with(listens: str, tries: str, make: Maker) -> None:
    first, second = await make(listens), await make(tries)
    async with listening(first) as addresses:
        assert await tried(second, addresses) == []
    for container in (first, second):
        await container.remove()


async def test_the_end_of_a_third_jobs_network_opens_no_way_between_those_of_two_others(make: Maker) -> None:
    first, second, third = [await make(f"{name} with services") for name in ("one", "other", "third")]
    await third.remove()
    async with listening(first) as addresses:
        assert await tried(second, addresses) == []
    for container in (first, second):
        await container.remove()


async def test_containers_made_ahead_do_not_find_each_other(
    engine_settings: EngineSettings, spec: ContainerSpec
) -> None:
    settings = msgspec.structs.replace(engine_settings, warm_containers=2, default_image=PYTHON)
    asked = msgspec.structs.replace(spec, image=PYTHON, network="bridge")
    async with Engine.open(settings, "neighbours") as engine:
        containers: list[Container] = []
        for _ in range(2):
            with anyio.fail_after(SECONDS):
                while not engine.warm_count:
                    await anyio.lowlevel.checkpoint()
            containers.append(await engine.create_container(asked, Said()))
        async with listening(containers[0]) as addresses:
            assert await tried(containers[1], addresses) == []
        for container in containers:
            engine.discard(container)


async def test_containers_of_one_network_find_each_other(engine: Engine, spec: ContainerSpec) -> None:
    # So that what the other tests do not find would be found, if it could be reached.
    network = await engine.create_network("a-job", 1)
    asked = msgspec.structs.replace(spec, image=PYTHON, network="bridge", networks=[network])
    first, second = [await engine.create_container(asked, Said()) for _ in range(2)]
    async with listening(first) as addresses:
        assert sorted(set(await tried(second, addresses))) == ["found by TCP", "found by UDP"]
    for container in (first, second):
        engine.discard(container)
    engine.discard_network(network)


async def test_no_container_is_given_out_whose_network_lets_others_in(
    engine: Engine, spec: ContainerSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bridge_ports, "_DEVICES", tmp_path)  # as where the engine's network devices are elsewhere
    asked = msgspec.structs.replace(spec, network="bridge")
    assert engine.isolates
    with pytest.raises(NotIsolated):
        await engine.create_container(asked, Said())
    assert not engine.isolates
    listing = ["podman", "ps", "--all", "--quiet", "--filter", f"label=moonyard.owner={engine._owner}"]
    assert (await anyio.run_process(listing)).stdout == b""
