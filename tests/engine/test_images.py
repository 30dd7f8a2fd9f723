"""Pulls from a real registry on this machine, and pulls that fail."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import msgspec
import pytest

from runner.engine.container import ContainerSpec
from runner.engine.engine import Engine
from runner.engine.errors import ImageNotFound, ImagePullFailed
from runner.engine.settings import EngineSettings
from tests.engine.conftest import ALPINE, Said, run

REGISTRY = """
version: 0.1
log: {{accesslog: {{disabled: false}}, level: info}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: 127.0.0.1:{port}}}
"""


class Registry:
    """A real image registry, with a log of what was asked of it."""

    def __init__(self, address: str, log: Path, source: str) -> None:
        self.address = address
        self._log = log
        self._source = source
        self.pulled: list[str] = []

    def publish(self, name: str) -> str:
        """Put an image there, and give its full name."""
        full = f"{self.address}/{name}"
        subprocess.run(
            ["podman", "push", "--quiet", "--tls-verify=false", self._source, f"docker://{full}"],
            check=True,
            capture_output=True,
        )
        self.pulled.append(full)
        return full

    def questions(self, name: str) -> int:
        """Count the questions for an image's tag that a pull asks."""
        repository, _, tag = name.removeprefix(f"{self.address}/").partition(":")
        return self._log.read_text().count(f'"GET /v2/{repository}/manifests/{tag} ')


@pytest.fixture
async def registry(
    tmp_path: Path, unused_port: int, image_map: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Registry]:
    config = tmp_path / "registry.yml"
    config.write_text(REGISTRY.format(root=tmp_path / "registry", port=unused_port))
    trusting = tmp_path / "registries.conf"
    address = f"127.0.0.1:{unused_port}"
    trusting.write_text(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n')
    # A private engine takes this over.
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(trusting))
    log = tmp_path / "registry.log"
    with log.open("wb") as output:
        server = await anyio.open_process(["docker-registry", "serve", str(config)], stdout=output, stderr=output)
    try:
        await listening(unused_port)
        published = Registry(address, log, image_map[ALPINE])
        yield published
        for name in published.pulled:
            await anyio.run_process(["podman", "rmi", name], check=False)
    finally:
        server.terminate()
        await server.wait()


async def listening(port: int) -> None:
    with anyio.fail_after(20):
        while True:
            try:
                async with await anyio.connect_tcp("127.0.0.1", port):
                    return
            except OSError:
                await anyio.sleep(0.01)


@pytest.fixture
async def fresh_engine(registry: Registry, engine_settings: EngineSettings) -> AsyncGenerator[Engine]:
    """An engine that knows the registry."""
    async with Engine.open(engine_settings, "pulling") as opened:
        yield opened
        await opened.remove_containers("pulling")


async def test_a_missing_image_is_pulled_and_that_is_told(
    registry: Registry, fresh_engine: Engine, spec: ContainerSpec
) -> None:
    image = registry.publish("team/app:1")
    said = Said()
    container = await fresh_engine.create_container(msgspec.structs.replace(spec, image=image), said)
    assert (await run(container, "echo", "runs")).stdout == b"runs\n"
    assert said.lines[0] == f"pulling image `{image}` from {registry.address}"
    assert said.lines[-1].startswith(f"pulled image `{image}` in ")
    again = Said()
    await fresh_engine.create_container(msgspec.structs.replace(spec, image=image), again)
    assert again.lines == []


async def test_an_image_that_many_ask_for_is_pulled_once(
    registry: Registry, fresh_engine: Engine, spec: ContainerSpec
) -> None:
    alone, together = registry.publish("alone:1"), registry.publish("together:1")
    await fresh_engine.create_container(msgspec.structs.replace(spec, image=alone), Said())
    said = [Said() for _ in range(5)]
    async with anyio.create_task_group() as tasks:
        for listener in said:
            tasks.start_soon(fresh_engine.create_container, msgspec.structs.replace(spec, image=together), listener)
    assert registry.questions(together) == registry.questions(alone) > 0
    assert all(listener.lines[-1].startswith("pulled image") for listener in said)


async def test_one_who_stops_waiting_does_not_stop_the_pull_for_others(
    registry: Registry, fresh_engine: Engine, spec: ContainerSpec
) -> None:
    image = registry.publish("shared:1")
    wanted = msgspec.structs.replace(spec, image=image)
    other = Said()
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as impatient:

            async def give_up(_text: str) -> None:
                tasks.start_soon(fresh_engine.create_container, wanted, other)
                impatient.cancel()

            await fresh_engine.create_container(wanted, give_up)
    assert other.lines[-1].startswith("pulled image")


async def test_an_image_that_its_registry_does_not_have_is_named(
    registry: Registry, fresh_engine: Engine, spec: ContainerSpec
) -> None:
    image = f"{registry.address}/no/such:1"
    with pytest.raises(ImageNotFound, match=f"image `{image}` does not exist in {registry.address}: ") as raised:
        await fresh_engine.create_container(msgspec.structs.replace(spec, image=image), Said())
    assert raised.value.hint == "Check the name and the tag."


async def test_a_registry_that_is_not_there_is_named_with_the_reason(
    engine: Engine, spec: ContainerSpec, unused_port: int
) -> None:
    image = f"127.0.0.1:{unused_port}/app:1"
    with pytest.raises(
        ImagePullFailed, match=f"image `{image}` could not be pulled from 127.0.0.1:{unused_port}: .*refused"
    ):
        await engine.create_container(msgspec.structs.replace(spec, image=image), Said())


async def test_a_mapped_image_that_is_missing_is_told_by_both_names(
    engine_settings: EngineSettings, spec: ContainerSpec
) -> None:
    settings = msgspec.structs.replace(engine_settings, image_map={"rust": "localhost/no/rust"})
    async with Engine.open(settings, "mapped") as engine:
        with pytest.raises(
            ImageNotFound, match=r"image `rust` \(mapped to `localhost/no/rust:latest`\) does not exist"
        ):
            await engine.create_container(msgspec.structs.replace(spec, image="rust"), Said())
