"""What a container can do and reach when nobody says anything, looked at from inside."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Generator
from pathlib import Path

import anyio
import msgspec
import pytest

from runner import owner as owners
from runner.engine import limits
from runner.engine.container import CAPABILITIES, Container, ContainerSpec
from runner.engine.engine import Engine
from runner.engine.settings import EngineSettings
from tests.engine.conftest import Said, run

DEVICES = {"console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr"} | {
    "stdin",
    "stdout",
    "tty",
    "urandom",
    "zero",
}
GREETING = b"only for this machine\n"


async def said(container: Container, script: str, **options: object) -> str:
    ran = await run(container, "sh", "-c", script, **options)
    assert ran.result.code == 0, ran
    return ran.stdout.decode()


async def test_a_container_has_few_rights_and_no_way_to_more(container: Container) -> None:
    status = dict(
        line.split(":", 1) for line in (await said(container, "cat /proc/self/status")).splitlines() if ":" in line
    )
    assert int(status["CapBnd"], 16).bit_count() == len(CAPABILITIES)
    for kind in ("CapInh", "CapAmb"):
        assert int(status[kind], 16) & ~int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2", "system calls are filtered"


@pytest.mark.parametrize(
    "attack",
    ["unshare -n true", "mount -t tmpfs none /workspace", "mknod /tmp/disk b 8 0", "date -s 2020-01-01"],
)
async def test_what_only_an_attack_needs_is_refused(attack: str, engine: Engine, spec: ContainerSpec) -> None:
    container = await engine.create_container(spec, Said())
    ran = await run(container, *attack.split())
    assert b"not permitted" in ran.stderr or b"denied" in ran.stderr


async def test_a_container_has_limits_of_memory_and_processes(engine: Engine, spec: ContainerSpec) -> None:
    container = await engine.create_container(spec, Said())
    total, limit = limits.machine_memory(), container.memory_limit
    assert total is not None
    assert limit is not None
    assert total // 2 <= limit < total
    assert engine.settings.pids == 256
    bomb = "i=0; while [ $i -lt 400 ]; do sleep 60 & i=$((i+1)); done"
    ran = await run(container, "sh", "-c", bomb)
    assert ran.result.code != 0
    small = await engine.create_container(msgspec.structs.replace(spec, memory=64 * 1024**2), Said())
    assert small.memory_limit == 64 * 1024**2


async def test_a_container_sees_no_devices_and_no_mounts_of_the_host_but_its_workspace(
    engine: Engine, spec: ContainerSpec
) -> None:
    container = await engine.create_container(spec, Said())
    assert set((await said(container, "ls /dev")).split()) <= DEVICES
    mounted = [line.split() for line in (await said(container, "cat /proc/self/mountinfo")).splitlines()]
    # Root, mount point and kind: a folder of the host's is one that is not the root of its own file system.
    kinds = {line[4]: line[line.index("-") + 1] for line in mounted}
    virtual = {"overlay", "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "devtmpfs"}
    of_the_host = {point for point, kind in kinds.items() if kind not in virtual}
    own = {"/workspace", "/.moonyard", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/run/.containerenv"}
    assert of_the_host <= own
    for path in ("/run/podman", "/var/run/docker.sock", "/var/lib/moonyard", str(engine.settings.state_folder)):
        assert (await run(container, "ls", path)).result.code != 0, path


async def test_a_command_cannot_write_where_its_container_is_served_from(engine: Engine, spec: ContainerSpec) -> None:
    container = await engine.create_container(spec, Said())
    ran = await run(container, "sh", "-c", "touch /.moonyard/x || echo refused; echo x > /proc/sys/kernel/hostname")
    assert b"refused" in ran.stdout
    assert ran.result.code != 0


async def test_tmp_is_in_memory_and_bounded(engine_settings: EngineSettings, spec: ContainerSpec) -> None:
    settings = msgspec.structs.replace(engine_settings, tmp_bytes=8 * 1024**2)
    async with Engine.open(settings, "isolated") as engine:
        container = await engine.create_container(spec, Said())
        mount = await said(container, "grep ' /tmp ' /proc/self/mountinfo")
        assert " - tmpfs " in mount
        assert {"nosuid", "nodev"} <= set(mount.split()[5].split(","))
        full = await run(container, "sh", "-c", "head -c 20000000 /dev/zero > /tmp/big")
        assert full.result.code != 0
        script = "rm /tmp/big; printf '#!/bin/sh\\necho runs\\n' > /tmp/p; chmod +x /tmp/p; /tmp/p; stat -c %a /tmp"
        assert await said(container, script) == "runs\n1777\n"
        await container.remove()


async def test_a_read_only_container_can_write_to_its_workspace_and_to_memory_alone(
    engine: Engine, spec: ContainerSpec
) -> None:
    container = await engine.create_container(msgspec.structs.replace(spec, read_only=True), Said())
    await said(container, "touch /workspace/a /tmp/b /var/tmp/c /run/d")
    for path in ("/x", "/etc/x", "/usr/x"):
        assert (await run(container, "touch", path)).result.code != 0, path


@pytest.fixture
def host_service() -> Generator[int]:
    """A service that listens for this machine alone; gives its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            with accepted:
                accepted.sendall(GREETING)

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


async def test_services_that_the_host_has_for_itself_are_not_reached(
    engine: Engine, spec: ContainerSpec, host_service: int
) -> None:
    async with await anyio.connect_tcp("127.0.0.1", host_service) as stream:
        assert await stream.receive() == GREETING
    container = await engine.create_container(msgspec.structs.replace(spec, network="bridge"), Said())
    gateway = (await said(container, "ip route | grep default | cut -d' ' -f3")).strip()
    assert re.fullmatch(r"\d+\.\d+\.\d+\.\d+", gateway)
    for address in ("127.0.0.1", gateway, "host.containers.internal"):
        tried = await run(container, "nc", "-w", "2", address, str(host_service))
        assert tried.stdout == b"", address


async def test_what_any_user_makes_in_a_workspace_others_can_change_and_the_runner_can_remove(
    engine: Engine, spec: ContainerSpec, tmp_path: Path
) -> None:
    with owners.take(tmp_path) as owner:
        async with owners.workspace(owner, "job", 1) as workspace:
            for user, other in (("0", "1234"), ("1234", "5678:5678"), ("5678", "0")):
                mine = msgspec.structs.replace(spec, workspace=workspace, user=user)
                theirs = msgspec.structs.replace(spec, workspace=workspace, user=other)
                first = await engine.create_container(mine, Said())
                await said(first, f"umask 022; mkdir -p made-by-{user}/sub; echo one > made-by-{user}/sub/file")
                await first.remove()
                second = await engine.create_container(theirs, Said())
                await said(second, f"cd made-by-{user}/sub; echo two >> file; echo new > new; rm new; cat file")
                await second.remove()
            closed = await engine.create_container(
                msgspec.structs.replace(spec, workspace=workspace, user="77"), Said()
            )
            await said(closed, "mkdir closed; touch closed/file; chmod 000 closed")
            await closed.remove()
            made = {path.name for path in workspace.iterdir()}
            assert made == {"made-by-0", "made-by-1234", "made-by-5678", "closed"}
        assert list(owner.workspaces.iterdir()) == []
