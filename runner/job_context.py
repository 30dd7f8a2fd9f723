"""What the host side of a module has at hand: the call it answers, and the job that made it."""

from __future__ import annotations

from io import BufferedReader
from pathlib import Path
from typing import IO, Protocol

import msgspec

from runner.caches import JobCaches
from runner.containers import JobContainers
from runner.engine.stopping import Stop
from runner.event_stream import EventStream
from runner.losses import Losses
from runner.web.exchange import Web
from sandbox.process import Value
from schema.definition import StageDefinition


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A host call as it came from the sandbox: nothing in it is to be trusted."""

    stage: str
    arguments: list[Value]
    plugin: str | None
    """The plugin whose code made the call."""


class SavedArtifact(msgspec.Struct, frozen=True, kw_only=True):
    sha256: str
    size_bytes: int


class ArtifactStore(Protocol):
    """Where a job's artifacts are kept."""

    async def save(self, file: BufferedReader, name: str, content_type: str) -> SavedArtifact: ...


class WorkspaceStore(Protocol):
    """Where a failed attempt's packed workspace is kept for a later one."""

    async def keep(self, file: IO[bytes]) -> str:
        """Keep a packed workspace; give until when."""
        ...

    async def fetch(self, file: IO[bytes]) -> None:
        """Write the packed workspace that this attempt is to begin with into a file."""
        ...


class JobContext:
    """The parts of a running attempt that host calls work on."""

    def __init__(
        self,
        *,
        stages: list[StageDefinition],
        stream: EventStream,
        containers: JobContainers,
        workspace: Path,
        artifacts: ArtifactStore,
        caches: JobCaches,
        losses: Losses,
        stop: Stop,
        web: Web,
    ) -> None:
        self.stream = stream
        self.containers = containers
        self.workspace = workspace
        self.artifacts = artifacts
        self.caches = caches
        self.losses = losses
        self.web = web
        self.stop = stop
        """How the stages that run now, all together, are asked to end."""
        self.stops: dict[str, Stop] = {}
        """The same for each stage, by its name."""
        self._stages = {stage.name: stage for stage in stages}

    def stage(self, name: str) -> StageDefinition:
        return self._stages[name]
