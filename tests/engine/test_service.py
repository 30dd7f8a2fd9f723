"""Finding an engine, starting a private one, and losing it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import anyio
import msgspec
import pytest

from runner.engine.container import ContainerSpec
from runner.engine.engine import Engine
from runner.engine.errors import EngineLost, EngineUnavailable, NetworkUnavailable
from runner.engine.exec import Command
from runner.engine.settings import EngineSettings
from tests.engine.conftest import Calling, Said, run


def service_of(engine: Engine) -> int:
    service = engine._connection.service
    assert service is not None, "the tests' machine has no engine of its own"
    assert service.pid is not None
    return service.pid


async def test_a_named_engine_is_used(engine: Engine, engine_settings: EngineSettings, spec: ContainerSpec) -> None:
    service_of(engine)
    socket = str(engine._connection.service.socket)  # pyright: ignore[reportOptionalMemberAccess]
    for address in (socket, f"unix://{socket}"):
        async with Engine.open(msgspec.structs.replace(engine_settings, socket=address), "second") as second:
            assert second._connection.service is None
            container = await second.create_container(spec, Said())
            assert (await run(container, "echo", "x")).stdout == b"x\n"
            await container.remove()


async def test_a_named_engine_that_does_not_answer_is_an_error(engine_settings: EngineSettings, tmp_path: Path) -> None:
    settings = msgspec.structs.replace(engine_settings, socket=str(tmp_path / "none.sock"))
    with pytest.raises(
        EngineUnavailable, match=r"none\.sock, which the setting `engine_socket` names \(no such file"
    ) as raised:
        async with Engine.open(settings, "x"):
            pass
    assert raised.value.code == "engine_unavailable"


async def test_the_usual_variables_name_an_engine_too(
    engine_settings: EngineSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    with pytest.raises(EngineUnavailable, match=r"docker\.sock, which DOCKER_HOST names \(no such file"):
        async with Engine.open(engine_settings, "x"):
            pass
    monkeypatch.setenv("CONTAINER_HOST", "ssh://somewhere")
    with pytest.raises(EngineUnavailable, match=r"`ssh://somewhere` .CONTAINER_HOST. is of a kind"):
        async with Engine.open(engine_settings, "x"):
            pass


async def test_without_podman_what_to_install_is_said(
    engine_settings: EngineSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        EngineUnavailable, match=r"nothing listens at .*podman.sock, and there is no `podman` in PATH"
    ) as raised:
        async with Engine.open(engine_settings, "x"):
            pass
    assert "apt-get install podman" in str(raised.value.hint)


async def test_a_machine_that_cannot_connect_containers_says_so_and_runs_them_without_a_network(
    engine_settings: EngineSettings, spec: ContainerSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Enough for Podman, and no iptables.
    for program in ("podman", "setpriv"):
        found = shutil.which(program)
        assert found is not None
        (tmp_path / program).symlink_to(found)
    monkeypatch.setenv("PATH", str(tmp_path))
    async with Engine.open(engine_settings, "unconnected") as engine:
        with pytest.raises(NetworkUnavailable, match="cannot connect it to a network: netavark") as raised:
            await engine.create_container(msgspec.structs.replace(spec, network="bridge"), Said())
        assert 'network = "none"' in str(raised.value.hint)
        container = await engine.create_container(spec, Said())
        assert (await run(container, "true")).result.code == 0
        assert await engine.remove_containers("unconnected") == 1


async def test_losing_the_engine_fails_the_command_and_the_next_container_starts_another(
    engine: Engine, spec: ContainerSpec
) -> None:
    container = await engine.create_container(spec, Said())
    lost = service_of(engine)

    async def kill_the_engine(_data: bytes) -> None:
        os.kill(lost, signal.SIGKILL)

    with pytest.raises(
        EngineLost, match=r"the private container engine at unix://.* was lost while command `sh`"
    ) as raised:
        # As another user, which is for the engine's own exec to do.
        await container.run(Command(argv=["sh", "-c", "echo go; sleep 1006"], user="0"), Calling(kill_the_engine))
    assert raised.value.code == "engine_lost"
    another = await engine.create_container(spec, Said())
    assert service_of(engine) != lost
    assert (await run(another, "echo", "new")).stdout == b"new\n"
    # The container did not depend on it, and the lost command is not left running in it.
    ran = await run(container, "sh", "-c", "set -- /proc/[0-9]*; echo $#")
    assert ran.stdout == b"2\n"


async def test_a_command_by_a_server_does_not_notice_that_the_engine_is_lost(
    engine: Engine, spec: ContainerSpec
) -> None:
    container = await engine.create_container(spec, Said())
    lost = service_of(engine)

    async def kill_the_engine(_data: bytes) -> None:
        os.kill(lost, signal.SIGKILL)

    result = await container.run(Command(argv=["sh", "-c", "echo go; sleep 0.2; exit 5"]), Calling(kill_the_engine))
    assert result.code == 5
    await container.remove()
    assert service_of(engine) != lost


async def test_a_private_engine_ends_with_the_process_that_started_it(engine_settings: EngineSettings) -> None:
    script = """
import sys, anyio
from pathlib import Path
from runner.engine.engine import Engine
from runner.engine.settings import EngineSettings

async def main():
    async with Engine.open(EngineSettings(state_folder=Path(sys.argv[1])), "dying") as engine:
        print(engine._connection.service.pid, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""
    words = [sys.executable, "-c", script, str(engine_settings.state_folder)]
    async with await anyio.open_process(words, stderr=None) as starter:
        assert starter.stdout is not None
        service = int(await starter.stdout.receive())
        handle = os.pidfd_open(service)
        starter.kill()
        with anyio.fail_after(20):
            await anyio.wait_readable(handle)
        os.close(handle)


async def test_a_state_folder_with_a_long_path_is_no_obstacle(engine_settings: EngineSettings, tmp_path: Path) -> None:
    settings = msgspec.structs.replace(engine_settings, state_folder=tmp_path / ("long" * 30))
    async with Engine.open(settings, "long") as engine:
        assert await engine.remove_containers("nobody") == 0
