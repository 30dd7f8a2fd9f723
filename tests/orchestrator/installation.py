"""Replicas for tests, real ones with sockets, and those who speak to them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

import anyio
import msgspec

from orchestrator import pipelines, serve, tokens
from orchestrator.database import Database, Row
from orchestrator.parts import Parts
from orchestrator.settings import OrchestratorSettings
from schema import times
from schema.client import Client
from schema.definition import InputDefinition, PipelineDefinition, StageDefinition
from schema.errors import ErrorInfo
from schema.events import AnyEvent, CommandEvent, JobEvent, LogEvent, StageEvent, encode_line
from schema.states import JobState, StageState
from schema.tracing import Tracer
from schema.wire import (
    Assignment,
    Claim,
    Claimed,
    EventsAccepted,
    Job,
    JobSubmit,
    RunnerRegister,
    RunnerRegistered,
    Token,
    TokenCreate,
)
from tests.postgres import as_replica

DEADLINE_SECONDS = 30.0
SOURCE = 'return { name = "hello", stages = { { name = "greet", script = function() end } } }\n'
DEFINITION = PipelineDefinition(
    name="hello",
    inputs={
        "who": InputDefinition(type="string", default="world"),
        "times": InputDefinition(type="integer", default=1, choices=[1, 2, 3]),
    },
    stages=[StageDefinition(name="greet")],
)


class Replica(msgspec.Struct, frozen=True):
    address: str
    parts: Parts
    stop: anyio.Event


class Installation:
    """A database with replicas before it, an admin, and runners."""

    def __init__(self, url: str, database: Database, stack: AsyncExitStack, admin_secret: str) -> None:
        self.url = url
        self.database = database
        self.admin_secret = admin_secret
        self._stack = stack
        self.replicas: list[Replica] = []

    async def replica(self, *, tracer: Tracer | None = None, **settings: Any) -> Replica:
        """Start a replica."""
        chosen = OrchestratorSettings(database_url=as_replica(self.url), port=0, connections_maximum=4, **settings)
        replica = await self._stack.enter_async_context(_running(chosen, tracer))
        self.replicas.append(replica)
        return replica

    async def client(self, secret: str | None = None, address: str | None = None) -> Client:
        """Open a client of one replica, by default an admin's of the first."""
        address = address or self.replicas[0].address
        return await self._stack.enter_async_context(Client.open([address], secret or self.admin_secret))

    async def stranger(self) -> Client:
        """Open a client without a token."""
        return await self._stack.enter_async_context(Client.open([self.replicas[0].address], None))

    async def push(self, definition: PipelineDefinition = DEFINITION, source: str = SOURCE) -> None:
        """Store a pipeline that needs no check."""
        await pipelines.store(self.database, f"{definition.name}.lua", source, definition, actor="test")

    async def submit(self, **fields: Any) -> Job:
        message: dict[str, Any] = {"pipeline": "hello"} | fields
        return await (await self.client()).post("/v1/jobs", Job, JobSubmit(**message))

    async def runner(self, name: str = "runner", address: str | None = None) -> SpokenRunner:
        """Register a runner, as any is registered, and speak for it."""
        admin = await self.client(address=address)
        registration = await admin.post("/v1/tokens", Token, TokenCreate(kind="registration", name=name, uses=1))
        registrar = await self.client(registration.secret, address)
        registered = await registrar.post("/v1/runners/register", RunnerRegistered, RunnerRegister(name=name))
        return SpokenRunner(await self.client(registered.token, address), registered)

    async def let_leases_run_out(self) -> None:
        """Do what time would do, were all runners silent."""
        await self.fetch("UPDATE moonyard.attempts SET lease_expires_at = now() - interval '1 second'")

    async def fetch(self, statement: str, *values: Any) -> list[Row]:
        return await self.database.rows(statement, *values)


class SpokenRunner:
    """Speaks the protocol of a runner, line by line, without running anything."""

    def __init__(self, client: Client, registered: RunnerRegistered) -> None:
        self.client = client
        self.registered = registered

    async def claim(self, slots: int = 1, wait: float = 20.0) -> list[Assignment]:
        message = Claim(slots=slots, wait=wait, capacity=4, version="test")
        return (await self.client.post("/v1/runner/claim", Claimed, message)).assignments

    async def send(self, attempt: Attempt, *events: AnyEvent, first_seq: int | None = None) -> int:
        data = b"".join(map(encode_line, events))
        accepted = await self.client.post_lines(
            f"/v1/runner/jobs/{attempt.assignment.job}/{attempt.assignment.attempt}/events",
            EventsAccepted,
            data,
            query={"first_seq": events[0].seq if first_seq is None else first_seq},
        )
        return accepted.next_seq


class Attempt:
    """Makes the events of an attempt, numbered."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.job = UUID(assignment.job)
        self._seq = 0

    def _common(self) -> dict[str, Any]:
        self._seq += 1
        return {"at": times.now(), "job": self.assignment.job, "attempt": self.assignment.attempt, "seq": self._seq}

    def log(self, text: str) -> LogEvent:
        return LogEvent(**self._common(), stage="greet", level="info", source="stdout", text=text)

    def stage(
        self, state: StageState, *, stage: str = "greet", container: str | None = None, error: ErrorInfo | None = None
    ) -> StageEvent:
        return StageEvent(**self._common(), stage=stage, state=state, container=container, error=error)

    def command(self, *, code: int | None = 0, error: ErrorInfo | None = None) -> CommandEvent:
        return CommandEvent(
            **self._common(),
            stage="greet",
            argv=["echo", "hi"],
            container="alpine",
            digest="sha256:0123456789ab" + 52 * "0",
            code=code,
            duration=0.25,
            cpu_seconds=0.125,
            memory_peak_bytes=3 * 1024 * 1024,
            output_bytes=5,
            error=error,
        )

    def state(self, state: JobState, error: ErrorInfo | None = None) -> JobEvent:
        common = self._common()
        return JobEvent(**common, id=self.assignment.job, number=self.assignment.number, state=state, error=error)


@asynccontextmanager
async def installation(url: str) -> AsyncGenerator[Installation]:
    async with Database.open(url, connections_maximum=4) as database, AsyncExitStack() as stack:
        token = await tokens.create(database, TokenCreate(kind="admin", name="test"), "test")
        assert token.secret is not None
        yield Installation(url, database, stack, token.secret)


@asynccontextmanager
async def _running(settings: OrchestratorSettings, tracer: Tracer | None) -> AsyncGenerator[Replica]:
    stop, started = anyio.Event(), anyio.Event()
    address: list[str] = []
    parts: list[Parts] = []

    def on_start(listens_at: str) -> None:
        address.append(listens_at)
        started.set()

    async def go() -> None:
        await serve.run(settings, stop=stop, started=on_start, with_parts=parts.append, tracer=tracer)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(go)
        with anyio.fail_after(DEADLINE_SECONDS):
            await started.wait()
        try:
            yield Replica(address[0], parts[0], stop)
        finally:
            stop.set()
