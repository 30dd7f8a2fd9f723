"""What the host side of a module has at hand: the call it answers, and the job that made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

import msgspec

from runner.caches import JobCaches
from runner.containers import JobContainers
from runner.engine.stopping import Stop
from runner.event_stream import EventStream
from runner.losses import Losses
from runner.outputs import JobOutputs
from runner.plugin_rights import PluginRights
from runner.secrets import JobSecrets
from runner.web.exchange import Web
from sandbox.frames import Secret
from sandbox.process import Value
from schema.definition import StageDefinition
from schema.wire import Artifact, ArtifactsFind, ArtifactsFound, ReportedTest


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A host call as it came from the sandbox: nothing in it is to be trusted."""

    stage: str
    arguments: list[Value]
    plugin: str | None
    """The plugin whose code made the call."""
    group: list[str] = []
    """The groups of log lines that the caller is in, outermost first."""
    secrets: Mapping[tuple[str, ...], Secret] = {}
    """What stood where in its arguments there are values of secrets now, by the names that lead there."""


class SavedArtifact(msgspec.Struct, frozen=True, kw_only=True):
    sha256: str
    size_bytes: int


class ArtifactStore(Protocol):
    """Where a job's artifacts are kept."""

    async def save(
        self, file: IO[bytes], name: str, content_type: str, *, stage: str, retention: float | None
    ) -> SavedArtifact:
        """Keep a file under a name, for so many seconds, or as long as the job is kept.

        :raises MoonyardError: when the name is taken, or it cannot be kept.
        """
        ...

    async def find(self, wanted: ArtifactsFind) -> ArtifactsFound:
        """Find artifacts that the job may read.

        :raises MoonyardError: when there are none, or they are not for this job.
        """
        ...

    async def fetch(self, artifact: Artifact, file: IO[bytes]) -> None:
        """Write an artifact that was found into an empty file, where it is whole and as it was kept."""
        ...

    async def report(self, stage: str, report: str, tests: Sequence[ReportedTest]) -> None:
        """Tell the tests of a report; those that were told of it before are forgotten."""
        ...


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
        outputs: JobOutputs,
        rights: PluginRights,
        scratch: Path,
        secrets: JobSecrets,
    ) -> None:
        self.stream = stream
        self.containers = containers
        self.workspace = workspace
        self.artifacts = artifacts
        self.caches = caches
        self.losses = losses
        self.web = web
        self.outputs = outputs
        self.rights = rights
        self.scratch = scratch
        """A folder of the runner's own, for files that no container is to see."""
        self.secrets = secrets
        self.stop = stop
        """How the stages that run now, all together, are asked to end."""
        self.stops: dict[str, Stop] = {}
        """The same for each stage, by its name."""
        self._stages = {stage.name: stage for stage in stages}

    def stage(self, name: str) -> StageDefinition:
        return self._stages[name]

    def add_stage(self, stage: StageDefinition, stop: Stop) -> None:
        """Take what is none of the pipeline's stages for one, so that calls can be made in its name."""
        self._stages[stage.name] = stage
        self.stops[stage.name] = stop
