"""Containers whose users are others than the machine's: root in one is nobody out here, and files have one owner."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import msgspec
import pytest

from runner import owner as owners
from runner.engine.container import Container, ContainerSpec
from runner.engine.engine import Engine
from runner.engine.limits import USERS_FIRST
from runner.engine.settings import EngineSettings
from tests.engine.conftest import ImageMaker, Said, run

GIT = "docker.io/alpine/git:latest"
SECONDS = 60.0


@pytest.fixture(params=[0, 1], ids=["made when asked for", "made ahead"])
async def mapping(request: pytest.FixtureRequest, engine_settings: EngineSettings) -> AsyncGenerator[Engine]:
    """An engine whose containers have users of their own."""
    settings = msgspec.structs.replace(engine_settings, user_namespaces=True, warm_containers=request.param)
    async with Engine.open(settings, "mapping") as engine:
        if engine.keeps_warm:
            with anyio.fail_after(SECONDS):
                await engine.until_warm()
        yield engine


async def said(container: Container, script: str, **options: object) -> str:
    ran = await run(container, "sh", "-c", script, **options)
    assert ran.result.code == 0, ran
    return ran.stdout.decode()


async def test_root_of_a_container_is_an_ordinary_user_of_the_machine(mapping: Engine, spec: ContainerSpec) -> None:
    container = await mapping.create_container(msgspec.structs.replace(spec, network="bridge"), Said())
    assert (await said(container, "id -u; cat /proc/self/uid_map /proc/self/gid_map")).split() == (
        ["0", *["0", str(USERS_FIRST), "65536"] * 2]
    )
    first = container.first_process
    assert first is not None
    status = await anyio.Path(f"/proc/{first}/status").read_text()
    assert f"\nUid:\t{USERS_FIRST}\t" in status
    assert (await run(container, "sh", "-c", "ls /proc/1/root; wget -q -O - localhost:1")).result.code != 0
    mapping.discard(container)


async def test_a_workspaces_files_have_the_same_owner_for_the_runner_and_for_every_container(
    mapping: Engine, engine: Engine, spec: ContainerSpec, tmp_path: Path
) -> None:
    with owners.take(tmp_path) as owner:
        async with owners.workspace(owner, "job", 1) as workspace:
            (workspace / "given").write_text("by the runner")
            mine = msgspec.structs.replace(spec, workspace=workspace, network="bridge")
            first = await mapping.create_container(mine, Said())
            assert await said(first, "stat -c %u:%g . given") == "0:0\n0:0\n"
            await said(
                first, "echo root > by-root; chown 12:34 given; chmod 600 by-root; mkdir -p closed/x; chmod 0 closed"
            )
            # Another user of the image, a further container, and one that has the machine's own users.
            second = await mapping.create_container(msgspec.structs.replace(mine, user="1234:5"), Said())
            await said(second, "echo user > by-user; echo more >> given")
            third = await engine.create_container(mine, Said())
            assert await said(third, "stat -c %u:%g by-root by-user given") == "0:0\n1234:5\n12:34\n"
            assert [(workspace / name).stat().st_uid for name in ("by-root", "by-user", "given")] == [0, 1234, 12]
            assert (workspace / "given").read_text() == "by the runnermore\n"
            for container in (first, second):
                mapping.discard(container)
        assert list(owner.workspaces.iterdir()) == []


async def test_commands_work_as_ever_by_the_server_and_by_the_engine(
    mapping: Engine, spec: ContainerSpec, make_image: ImageMaker, static_program: Path
) -> None:
    container = await mapping.create_container(msgspec.structs.replace(spec, image=GIT, env={"A": "b"}), Said())
    script = "git init -q . && git -c user.name=x -c user.email=y commit -q --allow-empty -m z && git log --format=%s"
    assert await said(container, script) == "z\n"
    assert await said(container, 'id -u; echo "$A"', user="nobody") == "65534\nb\n"
    assert (await run(container, "cat", stdin=b"x" * 100_000)).stdout == b"x" * 100_000
    image = make_image({"only": static_program})
    bare = await mapping.create_container(msgspec.structs.replace(spec, image=image), Said())
    assert (await run(bare, "/only", "-V")).result.code == 0
    for made in (container, bare):
        await made.remove()
