"""A runner's parts without a server: jobs run here at the same time, as those of one registered runner do."""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

import anyio
import anyio.abc

from runner import owner as owners
from runner.artifact_stores import FolderArtifacts
from runner.cache_folder import CacheFolder
from runner.cache_stores import LocalCaches
from runner.engine.allowances import Allowance
from runner.engine.engine import Engine
from runner.engine.settings import EngineSettings
from runner.event_stream import EventStream
from runner.job import Job, JobOrder
from runner.kept_here import KeptHere
from runner.plugin_store import ResolvedPlugins
from runner.redaction.credentials import Credentials, RedactSettings
from runner.redaction.redactor import Redaction
from runner.secrets import GivenSecrets
from runner.web.exchange import Web, WebSettings
from sandbox import loading
from sandbox.parent import WarmParent
from sandbox.wall import Limits
from schema.definition import PipelineDefinition
from schema.errors import ErrorInfo, chain, single_error
from schema.events import AnyEvent, CommandEvent, JobEvent, LogEvent, decode_line
from schema.ids import uuid7
from tests.attack import taken_over

ROOT = Path(__file__).parents[2]
IMAGE_MAP = ROOT / ".moonyard" / "images.toml"
PYTHON = "docker.io/library/python:3.11"
ALPINE = "docker.io/library/alpine:latest"
JOB_SECONDS = 200.0
MEMORY_BYTES = 512 * 1024**2
ALLOWED_PIPELINE = "trusted"
"""May have privileged containers; no other may."""


class Attacked:
    """One job: what it was told to do, and what it told."""

    def __init__(self, order: JobOrder, job: Job, lines: list[bytes], artifacts: Path) -> None:
        self.order = order
        self.artifacts = artifacts
        self._job = job
        self._lines = lines
        self._said = anyio.Condition()
        self.ended = anyio.Event()

    def cancel(self) -> None:
        self._job.cancel()

    @property
    def raw(self) -> bytes:
        """All that left the runner for it."""
        return b"".join(self._lines)

    @property
    def events(self) -> list[AnyEvent]:
        return [decode_line(line) for line in self.raw.splitlines()]

    @property
    def texts(self) -> list[str]:
        """The lines of its log, those of floods one by one; what the system says is not among them."""
        logs = [event for event in self.events if isinstance(event, LogEvent) and event.source != "system"]
        return [line for event in logs for line in event.text.split("\n")]

    @property
    def commands(self) -> list[CommandEvent]:
        return [event for event in self.events if isinstance(event, CommandEvent)]

    @property
    def final(self) -> JobEvent:
        last = self.events[-1]
        assert isinstance(last, JobEvent), last
        return last

    @property
    def errors(self) -> list[ErrorInfo]:
        return [] if self.final.error is None else chain(self.final.error)

    @property
    def outcome(self) -> str:
        """How it ended, in a line."""
        return self.final.state + "".join(f": {error.code}: {error.message}" for error in self.errors[-1:])

    async def until_said(self, text: str) -> None:
        """Wait until its log has a text, or it ends."""
        with anyio.fail_after(JOB_SECONDS):
            async with self._said:
                while text.encode() not in self.raw and not self.ended.is_set():
                    await self._said.wait()

    async def deliver(self, first_seq: int, lines: Sequence[bytes]) -> None:
        del first_seq
        self._lines.extend(lines)
        async with self._said:
            self._said.notify_all()

    async def note_end(self) -> None:
        self.ended.set()
        async with self._said:
            self._said.notify_all()


class _Sink:
    """Takes what a job tells, once there is somebody to take it."""

    gathering_seconds = 0.0

    def __init__(self) -> None:
        self.job: Attacked

    async def deliver(self, first_seq: int, lines: Sequence[bytes]) -> None:
        await self.job.deliver(first_seq, lines)


class Runner:
    """Runs jobs at the same time."""

    def __init__(
        self,
        folder: Path,
        tasks: anyio.abc.TaskGroup,
        parent: WarmParent,
        checker: WarmParent,
        engine: Engine,
        owner: owners.Owner,
        web: Web,
    ) -> None:
        self.folder = folder
        self.engine = engine
        self.owner = owner
        self.parent = parent
        self._checker = checker
        """Loads what is submitted, as an orchestrator does: nobody has taken its processes over."""
        self._tasks = tasks
        self._web = web

    async def start(
        self,
        source: str,
        *,
        secrets: Mapping[str, bytes] = MappingProxyType({}),
        definition: PipelineDefinition | None = None,
        attempt: int = 1,
    ) -> Attacked:
        """Start a job, and go on.

        :param definition: what it was checked to be; by default what it says now.
        """
        loaded = await loading.load(self._checker, "attack.lua", source, loading.SHIPPED_ONLY)
        order = JobOrder(
            id=str(uuid7()),
            number=None,
            attempt=attempt,
            filename="attack.lua",
            source=source,
            definition=definition or loaded.definition,
            inputs={},
            plugins=loaded.resolved.lock,
        )
        sink, redaction = _Sink(), Redaction(Credentials(RedactSettings()))
        stream = EventStream(job=order.id, number=None, attempt=attempt, sink=sink, redaction=redaction)
        kept = self.folder / "kept" / order.id
        job = Job(
            order,
            engine=self.engine,
            parent=self.parent,
            owner=self.owner,
            stream=stream,
            artifacts=FolderArtifacts(kept, order.id),
            caches=LocalCaches(CacheFolder(self.folder, 1024**3)),
            web=self._web,
            plugins=ResolvedPlugins(loaded.resolved.plugins),
            keeper=KeptHere(self.engine),
            secrets=GivenSecrets(secrets),
        )
        sink.job = attacked = Attacked(order, job, [], kept)
        self._tasks.start_soon(_run, job, stream, attacked)
        return attacked

    async def run(self, source: str, **more: object) -> Attacked:
        """Run a job to its end."""
        attacked = await self.start(source, **more)  # pyright: ignore[reportArgumentType]  # the same as there
        with anyio.fail_after(JOB_SECONDS):
            await attacked.ended.wait()
        return attacked


async def _run(job: Job, stream: EventStream, attacked: Attacked) -> None:
    with single_error():
        async with anyio.create_task_group() as delivery:
            delivery.start_soon(stream.deliver_all)
            await job.run()
            stream.finish()
    await attacked.note_end()


@asynccontextmanager
async def runner() -> AsyncGenerator[Runner]:
    """Have a runner, whose Lua processes can be taken over (``taken_over``)."""
    images = tomllib.loads(IMAGE_MAP.read_text(encoding="utf-8"))["image_map"]
    with tempfile.TemporaryDirectory(prefix="moonyard-attack-") as name, single_error():
        folder = Path(name)
        settings = EngineSettings(
            state_folder=folder / "state",
            image_map=images,
            pids=256,
            memory_bytes=MEMORY_BYTES,
            allow=[Allowance(pipelines=[ALLOWED_PIPELINE], privileged=True)],
        )
        limits = Limits(lua_bytes=64 * 1024**2, cpu_seconds=2, load_cpu_seconds=1)
        async with (
            WarmParent.start(limits, program=taken_over.program()) as parent,
            WarmParent.start() as checker,
        ):
            with owners.take(settings.state_folder) as owner:
                async with (
                    Engine.open(settings, owner.name) as engine,
                    Web.open(WebSettings()) as web,
                    anyio.create_task_group() as tasks,
                ):
                    yield Runner(folder, tasks, parent, checker, engine, owner, web)
