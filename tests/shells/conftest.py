"""Two replicas, a runner that asks the second, and users who ask the first: the two ends have no replica in common."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from runner import agent
from runner.engine.settings import EngineSettings
from schema.client import Client
from schema.events import AnyEvent, JobEvent, LogEvent, decode_line
from schema.states import FINAL_JOB_STATES
from schema.wire import (
    Job,
    JobSubmit,
    PipelinePush,
    PipelineVersion,
    RunnerRegister,
    RunnerRegistered,
    Token,
    TokenCreate,
)
from tests.cli.command import SECONDS, Printed, argv, environment, moonyard
from tests.engine import conftest as of_engines
from tests.orchestrator.installation import Installation
from tests.orchestrator.installation import installation as opened
from tests.postgres import Cluster
from tests.shells.pty_command import OnTerminal, on_terminal

LEASE_SECONDS = 5.0


class Debugged:
    """An installation whose jobs are looked into."""

    def __init__(self, installation: Installation, engine: EngineSettings, folder: Path) -> None:
        self.installation = installation
        self.folder = folder
        self._engine = engine
        self._names = (f"runner-{number}" for number in itertools.count(1))
        self.admin: Client

    async def start(self) -> None:
        for _ in range(2):
            await self.installation.replica(lease_seconds=LEASE_SECONDS)
        self.admin = await self.installation.client()

    @asynccontextmanager
    async def runner(self, *tags: str, **settings: Any) -> AsyncGenerator[anyio.Event]:
        """Have a runner, until the block ends or the event is set."""
        name, stop = next(self._names), anyio.Event()
        registration = await self.admin.post("/v1/tokens", Token, TokenCreate(kind="registration", name=name, uses=1))
        registrar = await self.installation.client(registration.secret)
        message = RunnerRegister(name=name, tags=list(tags))
        registered = await registrar.post("/v1/runners/register", RunnerRegistered, message)
        chosen = agent.AgentSettings(
            engine=msgspec.structs.replace(self._engine, state_folder=self.folder / name),
            orchestrators=[self.installation.replicas[1].address],
            token=registered.token,
            version="test",
            drain_seconds=1.0,
            **settings,
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(agent.serve, chosen, stop)
            yield stop
            stop.set()

    async def submit(self, source: str, **fields: Any) -> Job:
        pushed = PipelinePush(filename="try.lua", source=source)
        version = await self.admin.post("/v1/pipelines", PipelineVersion, pushed)
        return await self.admin.post("/v1/jobs", Job, JobSubmit(pipeline=version.name, **fields))

    async def log_until(self, job: Job, text: str) -> None:
        """Wait until a job has said something."""
        with anyio.fail_after(SECONDS):
            async for event in self.events(job):
                if isinstance(event, LogEvent) and text in event.text:
                    return
        raise AssertionError(f"job {job.number} did not say {text!r}")

    async def ended(self, job: Job) -> JobEvent:
        with anyio.fail_after(SECONDS):
            async for event in self.events(job):
                if isinstance(event, JobEvent) and event.state in FINAL_JOB_STATES:
                    return event
        raise AssertionError(f"job {job.number} did not end")

    async def events(self, job: Job) -> AsyncGenerator[AnyEvent]:
        async with self.admin.stream(f"/v1/jobs/{job.id}/events", query={"follow": "true"}) as stream:
            async for line in stream.lines():
                yield decode_line(line)

    def terminal(self, job: Job, *words: str) -> AbstractContextManager[OnTerminal]:
        """Open a shell on a terminal."""
        return on_terminal(*self._shell(job, *words), cwd=self.folder, MOONYARD_TOKEN=self.installation.admin_secret)

    async def piped(self, job: Job, *words: str, stdin: bytes = b"") -> Printed:
        """Open a shell without a terminal, to its end."""
        code, stdout, stderr = await self.piped_bytes(job, *words, stdin=stdin)
        return Printed(code, stdout.decode(), stderr.decode())

    async def piped_bytes(self, job: Job, *words: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        with anyio.fail_after(SECONDS):
            done = await anyio.run_process(
                argv(*self._shell(job, *words)),
                input=stdin,
                cwd=self.folder,
                env=environment(MOONYARD_TOKEN=self.installation.admin_secret),
                check=False,
            )
        return done.returncode, done.stdout, done.stderr

    async def moonyard(self, *arguments: str) -> Printed:
        secret = self.installation.admin_secret
        return await moonyard(*arguments, *self._asking, cwd=self.folder, MOONYARD_TOKEN=secret)

    def workspaces(self, job: Job) -> list[Path]:
        return sorted(self.folder.glob(f"*/owners/*/workspaces/{job.id}-*"))

    def go(self, job: Job) -> None:
        """Let a job that waits for it go on."""
        [workspace] = self.workspaces(job)
        (workspace / "go").touch()

    async def networks(self, job: Job) -> list[str]:
        """List the engine's networks that are a job's."""
        command = ["podman", "network", "ls", "-q", "--filter", f"label=moonyard.job={job.id}"]
        return (await anyio.run_process(command, env=environment())).stdout.decode().split()

    async def until_nothing_is_kept(self, job: Job) -> None:
        with anyio.fail_after(SECONDS):
            while self.workspaces(job) or await self.kept(job):  # noqa: ASYNC110  # asked from outside
                await anyio.sleep(0.05)

    async def kept(self, job: Job) -> list[Any]:
        return await self.installation.fetch("SELECT * FROM inspect.kept WHERE job = $1", job.number)

    async def until_ended(self, job: Job, code: str) -> None:
        """Wait until a shell in a job has ended for this reason."""
        statement = "SELECT FROM moonyard.shells WHERE job_id = $1 AND error ->> 'code' = $2"
        with anyio.fail_after(SECONDS):
            while not await self.installation.fetch(statement, job.id, code):  # noqa: ASYNC110  # asked from outside
                await anyio.sleep(0.05)

    async def until(self, is_so: Callable[[], bool]) -> None:
        with anyio.fail_after(SECONDS):
            while not is_so():  # noqa: ASYNC110  # asked from outside, of other processes
                await anyio.sleep(0.05)

    @property
    def _asking(self) -> list[str]:
        return ["--orchestrator", self.installation.replicas[0].address]

    def _shell(self, job: Job, *words: str) -> list[str]:
        return ["shell", *self._asking, str(job.number), *words]


def is_running(*lines: str) -> bool:
    """Tell whether a process with one of these command lines is on this machine, in whatever container."""
    wanted = {line.encode().replace(b" ", b"\0") + b"\0" for line in lines}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes() in wanted:
                return True
    return False


make_image = of_engines.make_image
static_program = of_engines.static_program


@pytest.fixture(scope="module")
async def debugged(
    postgres_cluster: Cluster, engine_settings: EngineSettings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Debugged]:
    """One for all tests of a module, with a runner that takes what asks for no other."""
    url = postgres_cluster.create_migrated()
    async with opened(url) as installation:
        made = Debugged(installation, engine_settings, tmp_path_factory.mktemp("debugged"))
        await made.start()
        async with made.runner():
            yield made
    postgres_cluster.drop(url)
