"""One job of a pipeline, run for a test: as a real one, in the test's workspace, with all that leaves it mocked.

Nothing is waited for: pauses between retries, and what scripts sleep, pass at once. Services are there as soon as they
are asked for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import anyio
import anyio.to_thread
import msgspec

from plugins import sources
from runner.event_stream import EventStream
from runner.host_calls import JobHostCalls
from runner.job import Job, JobOrder
from runner.job_context import JobContext
from runner.owner import Owner
from runner.plugin_store import ResolvedPlugins
from runner.testing import told
from runner.testing.calls import TestHostCalls
from runner.testing.context import MockedArtifacts, MockedSecrets, caches_of
from runner.testing.engine import MockedEngine
from runner.testing.mocks import Mocks
from runner.testing.web import MockedWeb
from sandbox import loading
from sandbox.frames import Value
from sandbox.loading import LoadedPipeline
from sandbox.parent import WarmParent
from schema.definition import PipelineDefinition, StageDefinition, resolve_inputs
from schema.errors import MoonyardError
from schema.events import AnyEvent, CommandEvent, JobEvent, LogEvent, StageEvent, decode_line
from schema.ids import uuid7
from schema.wire import SOURCE_BYTES_MAXIMUM

LOG_BYTES_MAXIMUM: Final = 8 * 1024 * 1024
"""What a test sees of a job's log: all of it has to go into its Lua process."""

Stage = StageDefinition


class LoadArguments(msgspec.Struct, frozen=True, kw_only=True):
    file: str
    """The path from the test file's folder."""
    options: dict[str, Any] = {}


class RunOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    inputs: dict[str, str | int | float | bool] = {}
    """Its inputs, as `moonyard run --input` would give them."""
    stages: list[str] | None = None
    """Only these, by name: those that they need are taken as done."""


class RunArguments(msgspec.Struct, frozen=True, kw_only=True):
    file: str
    """The path from the test file's folder."""
    options: RunOptions = RunOptions()


class Listener(Protocol):
    """Takes the lines of the job's log."""

    def add(self, event: LogEvent) -> None: ...


class _Events:
    """Keeps a job's events."""

    gathering_seconds = 0.0

    def __init__(self, log: Listener) -> None:
        self.all: list[AnyEvent] = []
        self._log = log

    async def deliver(self, first_seq: int, lines: Sequence[bytes]) -> None:
        del first_seq
        for line in lines:
            event = decode_line(line)
            self.all.append(event)
            if isinstance(event, LogEvent):
                self._log.add(event)


class Rehearsal(Job):
    """A job in the workspace of a test."""

    def __init__(
        self, order: JobOrder, *, workspace: Path, mocks: Mocks, stages: Sequence[str] | None, **parts: Any
    ) -> None:
        super().__init__(order, **parts)
        self._folder = workspace
        self._mocks = mocks
        self._wanted = stages

    @asynccontextmanager
    async def _workspace(self) -> AsyncGenerator[Path]:
        yield self._folder

    def _part(self, definition: PipelineDefinition) -> PipelineDefinition:
        return msgspec.structs.replace(
            definition,
            services=_ready(definition.services),
            stages=self._those_of(definition.stages),
            on_cancel=self._those_of(definition.on_cancel),
            finally_=self._those_of(definition.finally_),
        )

    def _those_of(self, stages: Sequence[StageDefinition]) -> list[StageDefinition]:
        return [
            msgspec.structs.replace(stage, services=_ready(stage.services))
            for stage in stages
            if self._wanted is None or {stage.name, stage.of, stage.name_in_file} & set(self._wanted)
        ]

    def _host_calls(self, context: JobContext) -> JobHostCalls:
        return TestHostCalls(context, self._mocks)

    async def _pause(self, seconds: float) -> None:
        del seconds
        await anyio.lowlevel.checkpoint()


def _ready(services: Any) -> Any:
    # There is nothing that could listen.
    return {name: msgspec.structs.replace(service, ready=None) for name, service in services.items()}


async def rehearse(
    folder: Path,
    arguments: RunArguments,
    *,
    parent: WarmParent,
    owner: Owner,
    workspace: Path,
    mocks: Mocks,
    log: Listener,
) -> Value:
    """Run a pipeline's job to its end, and give what a test sees of it.

    :param folder: what the pipeline's path is relative to.
    :raises MoonyardError: when the pipeline, its inputs or the names of its stages are wrong: then nothing ran.
    """
    filename, source = await _read(folder, arguments.file)
    loaded = await _load(folder, arguments.file, filename, source, parent)
    definition = loaded.definition
    options = arguments.options
    _check_stages(definition, options.stages)
    inputs = resolve_inputs(definition, dict(options.inputs))
    id_ = str(uuid7())
    events = _Events(log)
    stream = EventStream(job=id_, number=None, attempt=1, sink=events, log_bytes_maximum=LOG_BYTES_MAXIMUM)
    engine, web, artifacts = MockedEngine(owner.folder, mocks), MockedWeb(mocks), MockedArtifacts(mocks)
    job = Rehearsal(
        JobOrder(
            id=id_,
            number=None,
            attempt=1,
            filename=filename,
            source=source,
            inputs=inputs,
            plugins=loaded.resolved.lock,
        ),
        workspace=workspace,
        mocks=mocks,
        stages=options.stages,
        engine=engine,
        parent=parent,
        owner=owner,
        stream=stream,
        artifacts=artifacts,
        caches=caches_of(owner),
        web=web,
        secrets=MockedSecrets(mocks),
        plugins=ResolvedPlugins(loaded.resolved.plugins),
    )
    final: JobEvent | None = None
    async with anyio.create_task_group() as delivery:
        delivery.start_soon(stream.deliver_all)
        try:
            final = await job.run()
        finally:
            stream.finish()
    assert final is not None, "a job that is not cancelled from outside has a final event"
    return _result(final, events.all, engine, web, artifacts)


async def definition_of(folder: Path, file: str, parent: WarmParent) -> PipelineDefinition:
    """Load a pipeline's file, and check it.

    :raises MoonyardError: when it is wrong.
    """
    filename, source = await _read(folder, file)
    return (await _load(folder, file, filename, source, parent)).definition


async def _load(folder: Path, file: str, filename: str, source: str, parent: WarmParent) -> LoadedPipeline:
    known = sources.here(None, (folder / file).parent, _places(folder))
    return await loading.load(parent, filename, source, known)


async def _read(folder: Path, file: str) -> tuple[str, str]:
    path = folder / file

    def read() -> bytes:
        with path.open("rb") as opened:
            return opened.read(SOURCE_BYTES_MAXIMUM + 1)

    _check_place(folder, path, file)
    try:
        source = await anyio.to_thread.run_sync(read)
        if len(source) > SOURCE_BYTES_MAXIMUM:
            raise MoonyardError(f"pipeline file `{file}` is larger than any may be", code="pipeline_too_large")
        return path.name, source.decode()
    except FileNotFoundError as error:
        raise MoonyardError(
            f"pipeline file `{file}` does not exist",
            code="file_not_found",
            hint="Its path is that from the test file's folder.",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise MoonyardError(f"pipeline file `{file}` cannot be read: {error}", code="file_unreadable") from error


def _places(folder: Path) -> tuple[Path, ...]:
    return folder, folder.parent, Path.cwd()


def _check_place(folder: Path, path: Path, file: str) -> None:
    """See that a test, which may be somebody else's, reads nothing but Lua that stands around it or around its user."""
    actual = path.resolve()
    is_near = any(actual.is_relative_to(place.resolve()) for place in _places(folder))
    if not is_near or actual.suffix != ".lua":
        raise MoonyardError(
            f"`{file}` is no pipeline file that a test may run: it ends in `.lua`, and stands below the working "
            "folder, or the one above the test's",
            code="path_refused",
        )


def _check_stages(definition: PipelineDefinition, wanted: Sequence[str] | None) -> None:
    stages = [*definition.stages, *definition.on_cancel, *definition.finally_]
    known = {name for stage in stages for name in (stage.name, stage.of, stage.name_in_file) if name is not None}
    for name in wanted or ():
        if name not in known:
            raise MoonyardError(
                f"pipeline `{definition.name}` has no stage `{name}` (there are: {', '.join(sorted(known))})",
                code="stage_unknown",
            )


def _result(
    final: JobEvent, events: Sequence[AnyEvent], engine: MockedEngine, web: MockedWeb, artifacts: MockedArtifacts
) -> Value:
    stages: dict[str, Any] = {}
    codes: dict[tuple[str, ...], list[int | None]] = {}
    lines: list[Value] = []
    for event in events:
        match event:
            case StageEvent():
                stages[event.stage] = _told(event, *told.STAGE_FIELDS)
            case CommandEvent():
                codes.setdefault((event.stage, *event.argv), []).append(event.code)
            case LogEvent():
                lines.append(_told(event, *told.LINE_FIELDS))
            case JobEvent():
                pass
    commands: list[Value] = []
    for ran in engine.ran:
        ended = codes.get((ran.stage or "", *ran.command.argv))
        commands.append(ran.told | ({"code": ended.pop(0)} if ended else {}))
    return {
        "state": final.state,
        "error": None if final.error is None else msgspec.to_builtins(final.error),
        "stages": stages,
        "commands": commands,
        "requests": list[Value](web.sent),
        "log": lines,
        "artifacts": {
            name: {"content_type": content_type, "data": content}
            for name, (content_type, content) in artifacts.saved.items()
        },
    }


def _told(event: AnyEvent, *names: str) -> dict[str, Any]:
    """Give some fields of an event, without those that are not there."""
    values = msgspec.to_builtins(event)
    return {name: values[name] for name in names if values.get(name) is not None}
