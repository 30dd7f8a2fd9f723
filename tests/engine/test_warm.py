"""Containers made ahead: handed out once, with the workspace of whoever asked, and never kept too long."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import anyio
import msgspec
import pytest

from runner.engine.container import ContainerSpec
from runner.engine.engine import Engine
from runner.engine.errors import WorkingFolderNotFound
from runner.engine.settings import EngineSettings
from tests.engine.conftest import ALPINE, Said, run

SECONDS = 60.0


@pytest.fixture
async def warm_engine(engine_settings: EngineSettings) -> AsyncGenerator[Engine]:
    """An engine of its own that keeps two containers ready."""
    settings = msgspec.structs.replace(engine_settings, warm_containers=2)
    (settings.state_folder / "owners" / "warm").mkdir(parents=True, exist_ok=True)
    async with Engine.open(settings, "warm") as engine:
        yield engine


async def until(is_so: Callable[[], bool]) -> None:
    with anyio.fail_after(SECONDS):
        while not is_so():
            await anyio.lowlevel.checkpoint()


def listed() -> list[str]:
    listing = ["podman", "ps", "--all", "--quiet", "--no-trunc", "--filter", "label=moonyard.owner=warm"]
    return subprocess.run(listing, capture_output=True, check=True, text=True).stdout.split()


async def test_a_container_made_ahead_has_the_workspace_and_variables_of_whoever_gets_it(
    warm_engine: Engine, spec: ContainerSpec, workspace: Path
) -> None:
    await until(lambda: warm_engine.warm_count > 0)
    [ready] = listed()
    (workspace / "given").write_text("from here\n")
    mine = msgspec.structs.replace(spec, network="bridge", env={"JOB": "mine"}, workdir="sub")
    (workspace / "sub").mkdir()
    container = await warm_engine.create_container(mine, Said())
    assert container.id == ready
    assert container.image == ALPINE
    ran = await run(container, "sh", "-c", 'cat ../given; pwd; echo "$JOB"; echo back > ../made; ls -A /.moonyard/..')
    assert ran.stdout.startswith(b"from here\n/workspace/sub\nmine\n")
    assert (workspace / "made").read_text() == "back\n"
    mounted = await run(container, "grep", " /workspace ", "/proc/self/mountinfo")
    assert b"nosuid,nodev" in mounted.stdout.splitlines()[-1]
    with pytest.raises(WorkingFolderNotFound, match="`/workspace/sub/none` does not exist"):
        await run(container, "pwd", cwd="none")
    warm_engine.discard(container)


async def test_each_is_handed_out_once_and_another_takes_its_place(warm_engine: Engine, spec: ContainerSpec) -> None:
    asked = msgspec.structs.replace(spec, network="bridge")
    seen: set[str] = set()
    for _ in range(3):
        await until(lambda: warm_engine.warm_count > 0)
        container = await warm_engine.create_container(asked, Said())
        assert container.id not in seen
        seen.add(container.id)
        assert (await run(container, "sh", "-c", "ls /tmp; echo mine > /tmp/left")).stdout == b""
        warm_engine.discard(container)


async def test_one_of_another_shape_is_made_as_ever_and_ahead_the_next_time(
    warm_engine: Engine, spec: ContainerSpec
) -> None:
    first = await warm_engine.create_container(spec, Said())  # without a network
    await until(lambda: warm_engine.warm_count == 2)
    ready = set(listed())
    second = await warm_engine.create_container(spec, Said())
    assert second.id in ready
    for container in (first, second):
        warm_engine.discard(container)


async def test_one_that_died_is_not_handed_out(warm_engine: Engine, spec: ContainerSpec) -> None:
    await until(lambda: warm_engine.warm_count > 0)
    [dead] = listed()
    await anyio.run_process(["podman", "kill", dead])
    container = await warm_engine.create_container(msgspec.structs.replace(spec, network="bridge"), Said())
    assert container.id != dead
    assert (await run(container, "echo", "alive")).stdout == b"alive\n"
    warm_engine.discard(container)


async def test_commands_that_no_server_can_take_see_the_workspace_too(warm_engine: Engine, spec: ContainerSpec) -> None:
    await until(lambda: warm_engine.warm_count > 0)
    container = await warm_engine.create_container(msgspec.structs.replace(spec, network="bridge"), Said())
    ran = await run(container, "sh", "-c", "pwd; id -u; touch mine", user="1234")
    assert ran.stdout == b"/workspace\n1234\n"
    assert (spec.workspace / "mine").stat().st_uid == 1234
    warm_engine.discard(container)


async def test_nothing_is_left_when_the_engine_is_closed(engine_settings: EngineSettings, spec: ContainerSpec) -> None:
    settings = msgspec.structs.replace(engine_settings, warm_containers=2)
    async with Engine.open(settings, "warm") as engine:
        await until(lambda: engine.warm_count > 0)
        container = await engine.create_container(msgspec.structs.replace(spec, network="bridge"), Said())
        assert container.id in listed()
        network = engine._bridge.name
        engine.discard(container)
    assert listed() == []
    exists = await anyio.run_process(["podman", "network", "exists", network], check=False)
    assert exists.returncode == 1


async def test_none_is_made_where_none_is_wanted(engine: Engine, spec: ContainerSpec) -> None:
    container = await engine.create_container(spec, Said())
    assert engine.warm_count == 0
    await container.remove()
