"""A container that is gone: by its own doing, by ours, or by somebody outside of it."""

from __future__ import annotations

from contextlib import suppress

import anyio
import msgspec
import pytest

from runner.engine.container import Container, ContainerSpec, start_failure
from runner.engine.engine import Engine
from runner.engine.errors import (
    CommandLost,
    CommandStartFailed,
    ContainerGone,
    ContainerStartFailed,
    ContainerTaken,
    MachineExhausted,
)
from runner.engine.exec import Command
from tests.engine.conftest import Calling, Said, run

SECONDS = 60.0


async def run_until_gone(container: Container, script: str) -> None:
    with anyio.fail_after(SECONDS):
        while True:
            with suppress(CommandLost, CommandStartFailed):
                await run(container, "sh", "-c", script)


async def test_one_that_somebody_removed_was_taken(container: Container) -> None:
    await anyio.run_process(["podman", "rm", "--force", "--time", "0", container.id])
    with pytest.raises(ContainerTaken, match="is gone: it was removed, from outside of it"):
        await run(container, "true")


async def test_one_that_somebody_killed_under_its_command_was_taken(engine: Engine, spec: ContainerSpec) -> None:
    container = await engine.create_container(spec, Said())

    async def kill(_data: bytes) -> None:
        await anyio.run_process(["podman", "kill", container.id])

    with pytest.raises(ContainerTaken, match="is gone: it was killed while the command ran, from outside of it"):
        await container.run(Command(argv=["sh", "-c", "echo go; sleep 1008"]), Calling(kill))
    engine.discard(container)


async def test_one_whose_command_ended_its_first_process_has_ended_by_itself(container: Container) -> None:
    # A shell ends by SIGINT, catatonit by SIGTERM; what else is sent to a first process from inside does nothing.
    with pytest.raises(ContainerGone) as raised:
        await run_until_gone(container, "kill -KILL 1; kill -TERM 1; kill -INT 1")
    assert not isinstance(raised.value, ContainerTaken)


async def test_one_whose_memory_is_used_up_has_ended_by_itself(engine: Engine, spec: ContainerSpec) -> None:
    container = await engine.create_container(msgspec.structs.replace(spec, memory=32 * 1024**2), Said())
    # What stands in /tmp is in its memory, and killing the command frees none of it: then its first process is killed.
    with pytest.raises(ContainerGone) as raised:
        await run_until_gone(container, "head -c 100000000 /dev/zero >> /tmp/big")
    assert not isinstance(raised.value, ContainerTaken)
    engine.discard(container)


async def test_one_that_this_runner_removed_was_not_taken(container: Container) -> None:
    await container.end()
    with pytest.raises(ContainerGone) as raised:
        await run(container, "true")
    assert not isinstance(raised.value, ContainerTaken)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("crun: creating `/x`: No space left on device: OCI runtime error", MachineExhausted),
        ("mkdir /var/lib/containers/x: disk quota exceeded", MachineExhausted),
        ("fork/exec /usr/bin/conmon: resource temporarily unavailable", MachineExhausted),
        ("unable to find user nobody: no matching entries in passwd file", ContainerStartFailed),
        ("runc create failed: container init was OOM-killed (memory limit too low?)", ContainerStartFailed),
    ],
)
def test_a_machine_that_can_make_no_container_is_told_from_a_container_that_cannot_be_made(
    said: str, kind: type[ContainerStartFailed], spec: ContainerSpec
) -> None:
    assert type(start_failure(spec, said)) is kind
