"""What all tests share: one async backend, a Postgres, and a container engine."""

from __future__ import annotations

import secrets
import socket
import tomllib
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from runner.engine.engine import Engine
from runner.engine.settings import EngineSettings
from tests import postgres
from tests.postgres import Cluster

IMAGE_MAP = Path(__file__).parent.parent / ".moonyard" / "images.toml"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres_cluster() -> Generator[Cluster]:
    """A real Postgres, started when the first test needs it."""
    with postgres.cluster() as running:
        yield running


@pytest.fixture
def database_url(postgres_cluster: Cluster) -> Generator[str]:
    """A database of the test's own, with the newest schema and nothing in it."""
    url = postgres_cluster.create_migrated()
    yield url
    postgres_cluster.drop(url)


@pytest.fixture
def unused_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def image_map() -> dict[str, str]:
    """The images that stand in for those of registries."""
    if not IMAGE_MAP.exists():
        pytest.fail(f"{IMAGE_MAP} is missing: run `make images` first", pytrace=False)
    return tomllib.loads(IMAGE_MAP.read_text(encoding="utf-8"))["image_map"]


@pytest.fixture(scope="session")
def engine_settings(image_map: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> EngineSettings:
    """Settings of an engine whose probe is made once for all tests."""
    return EngineSettings(state_folder=tmp_path_factory.mktemp("engine-state"), image_map=image_map, pids=256)


@pytest.fixture
async def engine(engine_settings: EngineSettings) -> AsyncGenerator[Engine]:
    """A real engine; what a test leaves of containers is removed."""
    owner = secrets.token_hex(8)
    async with Engine.open(engine_settings, owner) as opened:
        yield opened
        await opened.remove_containers(owner)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder to mount as a job's workspace."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    folder.chmod(0o777)
    return folder
