"""What a test's own calls work on: the parts of a job, where those that would leave the sandbox are mocked."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Final

import anyio
import anyio.to_thread

from plugins import Plugin
from runner.cache_folder import CACHE_BYTES, CacheFolder
from runner.cache_stores import LocalCaches
from runner.caches import JobCaches
from runner.containers import JobContainers
from runner.engine.stopping import Stop
from runner.event_stream import EventStream
from runner.job_context import JobContext, SavedArtifact
from runner.losses import Losses
from runner.outputs import JobOutputs
from runner.owner import Owner
from runner.plugin_rights import PluginRights
from runner.secrets import JobSecrets
from runner.testing.engine import MockedEngine
from runner.testing.mocks import Mocks
from runner.testing.web import MockedWeb
from schema import times
from schema.definition import PipelineDefinition, StageDefinition
from schema.errors import MoonyardError
from schema.secrets import SecretDelivery, SecretUse
from schema.wire import Artifact, ArtifactsFind, ArtifactsFound, ReportedTest

PIPELINE: Final = "test"
ARTIFACT_BYTES_MAXIMUM: Final = 64 * 1024 * 1024
"""Of all that one test saves: it is kept in memory."""


class MockedSecrets:
    """Gives the values that a test gave."""

    def __init__(self, mocks: Mocks) -> None:
        self._mocks = mocks

    async def ask(self, name: str, stage: str, use: SecretUse) -> SecretDelivery:
        del stage, use
        return SecretDelivery(name=name, version=1, value=await self._mocks.secret(name), readable=True)


class MockedArtifacts:
    """Keeps artifacts for as long as a test looks at them."""

    def __init__(self, mocks: Mocks) -> None:
        self._mocks = mocks
        self.saved: dict[str, tuple[str, bytes]] = {}
        """By name: the content type, and the content."""
        self._found: dict[tuple[str, str], bytes] = {}
        """Those of other jobs that the test gave, by job and name."""

    async def save(
        self, file: IO[bytes], name: str, content_type: str, *, stage: str, retention: float | None
    ) -> SavedArtifact:
        del stage, retention
        file.seek(0)
        if name in self.saved:
            raise MoonyardError(
                f"the job has an artifact `{name}` already",
                code="artifact_exists",
                hint="Give this one another `name`.",
            )
        room = ARTIFACT_BYTES_MAXIMUM - sum(len(content) for _, content in self.saved.values())
        content = await anyio.to_thread.run_sync(file.read, room + 1)
        if len(content) > room:
            raise MoonyardError(
                f"artifact `{name}` cannot be kept in a test: all together may have {ARTIFACT_BYTES_MAXIMUM} bytes",
                code="artifact_not_kept",
            )
        self.saved[name] = content_type, content
        return SavedArtifact(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))

    async def find(self, wanted: ArtifactsFind) -> ArtifactsFound:
        if wanted.job is None and wanted.pipeline is None and wanted.name in {None, *self.saved}:
            names = list(self.saved) if wanted.name is None else [wanted.name]
            found = [_artifact("", name, *self.saved[name]) for name in sorted(names)]
            return ArtifactsFound(job="", number=0, pipeline=PIPELINE, artifacts=found)
        if wanted.name is None:
            raise self._mocks.refuse("artifact.list of another job")
        content = await self._mocks.artifact(wanted.name)
        job = wanted.job or "another"
        self._found[job, wanted.name] = content
        found = [_artifact(job, wanted.name, "application/octet-stream", content)]
        return ArtifactsFound(job=job, number=0, pipeline=wanted.pipeline or PIPELINE, artifacts=found)

    async def fetch(self, artifact: Artifact, file: IO[bytes]) -> None:
        kept = self._found.get((artifact.job, artifact.name))
        file.write(self.saved[artifact.name][1] if kept is None else kept)

    async def report(self, stage: str, report: str, tests: Sequence[ReportedTest]) -> None:
        """Keep nothing: the call's result has what there is to look at."""


def _artifact(job: str, name: str, content_type: str, content: bytes) -> Artifact:
    return Artifact(
        job=job,
        name=name,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        content_type=content_type,
        created_at=times.now(),
    )


def caches_of(owner: Owner) -> LocalCaches:
    """Give caches that no other run has anything in."""
    return LocalCaches(CacheFolder(owner.folder / "caches", CACHE_BYTES))


@asynccontextmanager
async def mocked_context(
    *,
    stages: Sequence[StageDefinition],
    stream: EventStream,
    engine: MockedEngine,
    web: MockedWeb,
    workspace: Path,
    owner: Owner,
    mocks: Mocks,
    plugins: Mapping[str, Plugin],
) -> AsyncGenerator[JobContext]:
    """Have the parts for the span of a block.

    :param stages: on whose behalf calls are made.
    """
    stop = Stop()
    async with anyio.create_task_group() as tasks:
        containers = JobContainers(engine=engine, stream=stream, workspace=workspace, tasks=tasks)
        containers.pipeline = PIPELINE
        context = JobContext(
            stages=list(stages),
            stream=stream,
            containers=containers,
            workspace=workspace,
            artifacts=MockedArtifacts(mocks),
            caches=JobCaches(
                PipelineDefinition(name=PIPELINE, stages=[]),
                {},
                store=caches_of(owner),
                workspace=workspace,
                scratch=owner.folder,
                stream=stream,
            ),
            losses=Losses(),
            web=web,
            stop=stop,
            outputs=JobOutputs(),
            scratch=owner.folder,
            secrets=JobSecrets(MockedSecrets(mocks), stream),
            rights=PluginRights(plugins),
        )
        context.stops |= {stage.name: Stop(stop) for stage in stages}
        try:
            yield context
        finally:
            with anyio.CancelScope(shield=True):
                await containers.remove_all()
            tasks.cancel_scope.cancel()
