"""What tests of the engine share: a container, a sink, and images made for one test."""

from __future__ import annotations

import io
import secrets
import subprocess
import tarfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from pathlib import Path
from typing import Literal, Protocol

import msgspec
import pytest

from runner.engine import helper
from runner.engine.container import Container, ContainerSpec
from runner.engine.engine import Engine
from runner.engine.exec import Command, CommandResult

REMOVAL_SECONDS = 30.0
ALPINE = "docker.io/library/alpine:latest"


class Output:
    """Keeps what a command says."""

    def __init__(self) -> None:
        self.stdout = b""
        self.stderr = b""

    async def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        if stream == "stdout":
            self.stdout += data
        else:
            self.stderr += data


class Calling:
    """Calls a function with what a command says."""

    def __init__(self, then: Callable[[bytes], Awaitable[object]]) -> None:
        self._then = then

    async def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        del stream
        await self._then(data)


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    result: CommandResult
    stdout: bytes
    stderr: bytes


class Said:
    """Keeps lines of progress."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def __call__(self, text: str) -> None:
        self.lines.append(text)


async def run(container: Container, *argv: str, **options: object) -> Ran:
    """Run a command and keep its output."""
    output = Output()
    command = msgspec.structs.replace(Command(argv=list(argv)), **options)
    result = await container.run(command, output)
    return Ran(result=result, stdout=output.stdout, stderr=output.stderr)


@pytest.fixture
def spec(workspace: Path) -> ContainerSpec:
    """The default container of some job."""
    return ContainerSpec(image=ALPINE, job="a-job", attempt=1, workspace=workspace, network="none")


@pytest.fixture(params=["server", "exec"])
async def container(
    request: pytest.FixtureRequest, engine: Engine, spec: ContainerSpec, image_map: dict[str, str]
) -> AsyncGenerator[Container]:
    """A container whose commands go by its command server, or by the engine's own exec: they are to be the same."""
    if request.param == "exec":
        engine._without_server.add(image_map[ALPINE])
    made = await engine.create_container(spec, Said())
    yield made
    await made.remove()


class ImageMaker(Protocol):
    def __call__(self, files: dict[str, Path], *changes: str, architecture: str | None = None) -> str: ...


@pytest.fixture
def make_image() -> Generator[ImageMaker]:
    """Make images of a few files, for one test."""
    made: list[str] = []

    def make(files: dict[str, Path], *changes: str, architecture: str | None = None) -> str:
        name = f"localhost/moonyard-test/{secrets.token_hex(6)}:latest"
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for target, source in files.items():
                entry = tarfile.TarInfo(target)
                data = source.read_bytes()
                entry.size, entry.mode = len(data), 0o755
                tar.addfile(entry, io.BytesIO(data))
        options = [word for change in changes for word in ("--change", change)]
        options += [] if architecture is None else ["--arch", architecture]
        subprocess.run(
            ["podman", "import", "--quiet", *options, "-", name],
            input=packed.getvalue(),
            capture_output=True,
            check=True,
        )
        made.append(name)
        return name

    yield make
    for name in made:
        _remove(name)


def _remove(image: str) -> None:
    """Remove an image, once the engine has removed the containers of it that are on their way out."""
    deadline = time.monotonic() + REMOVAL_SECONDS
    while (done := subprocess.run(["podman", "rmi", image], capture_output=True, text=True, check=False)).returncode:
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.1)


@pytest.fixture(scope="session")
def static_program() -> Path:
    """A program that runs in an empty image."""
    found = helper.find()
    assert found is not None, "`make test` installs catatonit"
    return found
