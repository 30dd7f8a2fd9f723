"""What was forgotten is removed at the start, every so often, and at the end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from runner import owner as owners
from runner.engine.container import ContainerSpec
from runner.engine.engine import Engine
from runner.engine.settings import EngineSettings
from runner.reaper import reaping
from tests.engine.conftest import ALPINE, Said
from tests.engine.test_removals import ids, made_by_hand, sharing
from tests.engine.test_service import service_of
from tests.runner.test_owner import first_line, taker


async def removed(container: str) -> None:
    """Wait until a container is gone."""
    with anyio.fail_after(60):
        await anyio.run_process(["podman", "wait", "--condition", "removing", container], check=False)
        while (await anyio.run_process(["podman", "container", "exists", container], check=False)).returncode == 0:
            await anyio.lowlevel.checkpoint()


async def test_a_forgotten_container_is_gone_after_the_next_round_and_that_of_a_living_owner_is_not(
    engine: Engine, image_map: dict[str, str], tmp_path: Path
) -> None:
    with owners.take(tmp_path) as owner, taker(tmp_path) as living, taker(tmp_path) as dying:
        living_name, dying_name = await first_line(living), await first_line(dying)
        engine._removals._owner = owner.name
        kept = await made_by_hand(image_map[ALPINE], living_name)
        async with reaping(tmp_path, owner, engine, seconds=0.05):
            forgotten = await made_by_hand(image_map[ALPINE], owner.name)
            (owner.workspaces / "forgotten-1").mkdir()
            of_the_dead = await made_by_hand(image_map[ALPINE], dying_name)
            label = f"moonyard.owner={dying_name}"
            await anyio.run_process(["podman", "network", "create", "--label", label, f"moonyard-{dying_name}"])
            async with owners.workspace(owner, "live", 1) as folder:
                dying.send_signal(signal.SIGKILL)
                await anyio.to_thread.run_sync(dying.wait)
                await removed(forgotten)
                await removed(of_the_dead)
                assert [entry.name for entry in owner.workspaces.iterdir()] == [folder.name]
        assert await ids(living_name) == {kept}
        assert await ids(dying_name, "network", "ls") == set()
        await engine.remove_containers(living_name)
        living.communicate(timeout=30)


async def test_what_cannot_be_removed_to_the_last_is_removed_by_the_next_start(
    engine: Engine, engine_settings: EngineSettings, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(engine_settings, state_folder=tmp_path)
    with owners.take(tmp_path) as ended:
        async with sharing(engine, settings, ended.name) as other:
            async with reaping(tmp_path, ended, other):
                async with owners.workspace(ended, "a-job", 1) as workspace:
                    spec = ContainerSpec(image=ALPINE, job="a-job", attempt=1, workspace=workspace, network="none")
                    left = await other.create_container(spec, Said())
                other.discard(left)
                os.kill(service_of(engine), signal.SIGKILL)
            assert ended.leaves_something
    await engine.check()
    assert await ids(ended.name) == {left.id}
    with owners.take(tmp_path) as next_one:
        async with sharing(engine, settings, next_one.name) as other, reaping(tmp_path, next_one, other):
            assert await ids(ended.name) == set()
    assert list((tmp_path / "owners").iterdir()) == []
