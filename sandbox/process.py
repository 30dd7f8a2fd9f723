"""The runner's side of one Lua process: load a pipeline into it, run stages, answer its host calls.

The process is hostile by assumption. Each of its frames has a size limit and is decoded into a struct; the first that
is out of place ends it.

Any number of scripts may be under way in it, and take turns: a script has the **turn** from a frame that begins with
it, or answers its call, until it makes its next call or ends. While the runner works on its call, others have theirs.
So a frame of Lua's always speaks of whoever has the turn, and a cancel knows which of two it meets:

    waits for an answer ── abandoned, when the turn is free ─────────────────────────────> the process lives on
    has the turn, computes ── comes to its next call or end within a moment ── abandoned ──> the process lives on
                           └─ does not ──> the process is killed, with all its scripts

A script that computes for long keeps the others waiting, for there is one processor in a Lua state; it starves none for
ever, for it meets the limit of processor time.
"""

from __future__ import annotations

import itertools
import logging
import math
import signal
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

import anyio
import anyio.abc
import anyio.to_thread
import msgspec

from plugins import Plugin
from sandbox import definitions, references, values
from sandbox.frames import (
    FRAME_BYTES_MAXIMUM,
    LENGTH_FORMAT,
    SCRIPT_FORMAT,
    Abandoned,
    Branches,
    Described,
    Done,
    Failed,
    FromLua,
    HostCall,
    Loaded,
    LogCall,
    Ready,
    Value,
    decoder,
    encoder,
)
from sandbox.wall import Limits
from schema.definition import MatrixValue, PipelineDefinition, PipelineInvalid, Problem
from schema.errors import ErrorInfo, MoonyardError, single_error
from schema.plugins import PluginInvalid, PluginReference
from schema.states import JobState, Level, StageState
from schema.wire import Trigger

__all__ = ["HostCalls", "JobFacts", "LogPlace", "Sandbox", "SandboxFailed", "SandboxLost", "Value"]

log: Final = logging.getLogger(__name__)

LOAD_SECONDS: Final = 20.0
"""By the clock, for a file whose top level catches the error of its processor time limit."""
ABANDON_SECONDS: Final = 1.0
SEND_SECONDS: Final = 10.0
EXIT_SECONDS: Final = 5.0
EXIT_UNKNOWN: Final = 256
COUNTED_AT_ONCE_BYTES: Final = 64 * 1024
"""A larger frame is counted beside the event loop, which would stand still for some tenths of a second."""
BRANCH_NUMBER_MAXIMUM: Final = 2**53
BRANCHES_MAXIMUM: Final = 256
"""How many functions of `parallel` may be under way in one Lua process."""
GROUPS_MAXIMUM: Final = 8
NAME_LENGTH_MAXIMUM: Final = 200
FIELDS_MAXIMUM: Final = 32
FIELD_LENGTH_MAXIMUM: Final = 1000
_FROM_OUTSIDE: Final = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Signals that come to a Lua process from somebody else: its own limits and walls end it by others."""
_PREFIX_BYTES: Final = struct.calcsize(LENGTH_FORMAT)


class SandboxFailed(MoonyardError):
    """The Lua process is not there, or not any more."""

    code = "sandbox_failed"


class SandboxLost(SandboxFailed):
    """The Lua process is not there, and what ran in it is not to blame."""

    code = "sandbox_lost"


class SandboxWeak(SandboxFailed):
    """A wall is missing that has to stand (the setting `sandbox_require`)."""

    code = "sandbox_wall_missing"


class SandboxStopped(SandboxFailed):
    """The Lua process was ended for one of its scripts that could not be stopped otherwise."""


class JobFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage's script gets as its argument."""

    id: str
    number: int | None
    attempt: int
    pipeline: str
    version: str | None = None
    """The SHA-256 of the pipeline's source."""
    trigger: Trigger | None = None
    inputs: dict[str, str | int | float | bool]
    stage: str = ""
    env: dict[str, str] = {}
    """The variables that its containers have."""
    outputs: dict[str, Value] = {}
    """What stages that have ended told, and this one."""
    matrix: dict[str, MatrixValue] | None = None
    """Which of its stage's combinations the script is run for."""
    stages: dict[str, StageState] | None = None
    """How the stages ended that did so far: for conditions, and for the stages that run afterwards."""
    state: JobState | None = None
    """How the job's stages ended: for those that run afterwards."""
    error: ErrorInfo | None = None


class LogPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where a line of a script's log belongs, and what it tells by name."""

    fields: dict[str, str | int | float | bool] = {}
    group: list[str] = []
    heading: bool = False
    """The line begins the innermost group, and is its name."""


class Draft:
    """A pipeline file that was loaded with placeholders for its plugins."""

    def __init__(self, filename: str, source: str, loaded: Loaded) -> None:
        self._filename = filename
        self._source = source
        self._loaded = loaded
        table: dict[Any, object] = loaded.pipeline if isinstance(loaded.pipeline, dict) else {}  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]  # looked at there
        self.references: list[PluginReference] = [
            reference for _, reference in references.read(table.get("plugins"), _pass_over)
        ]
        """The plugins that it names well; what is wrong is told when it is checked."""

    @property
    def wants_plugins(self) -> bool:
        return bool(self.references or self._loaded.required)

    @property
    def unnamed(self) -> set[str]:
        """What it requires and does not name: plugins, or nothing that there is."""
        return set(self._loaded.required) - {reference.name for reference in self.references}

    def check(self, plugins: Mapping[str, Plugin], problems: Mapping[str, MoonyardError]) -> PipelineDefinition:
        """Check the file without its plugins' code.

        :param plugins: those that it names, where they were found.
        :param problems: why others were not.
        :raises PipelineInvalid: with everything that is wrong in it.
        """
        loaded = self._loaded
        return definitions.check(self._filename, self._source, loaded.pipeline, loaded.required, plugins, problems)


class HostCalls(Protocol):
    """Answers what scripts ask for."""

    async def call(
        self, stage: str, name: str, arguments: list[Value], *, plugin: str | None = None, group: Sequence[str] = ()
    ) -> Value:
        """Answer one call.

        :param group: the groups of log lines that the caller is in, outermost first.
        :raises MoonyardError: what the script gets as its error.
        """
        ...

    async def log(self, stage: str, level: Level, text: str, place: LogPlace) -> None: ...


_NO_PLACE: Final = LogPlace()


class LuaProcess:
    """The socket to a Lua process, and the word of its end."""

    def __init__(self, stream: anyio.abc.UNIXSocketStream, kill: Callable[[], None], limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._kill = kill
        self._buffer = bytearray()
        self._length: int | None = None
        """Of the frame whose rest is still to come: a wait for it may be cancelled, and taken up again."""
        self._ended = anyio.Event()
        self._exit_code: int | None = None
        self._broke_protocol = False
        self._answering: set[anyio.CancelScope] = set()
        """What is done on behalf of scripts that wait."""

    async def wait_until_ready(self) -> Ready:
        match await self.receive():
            case Ready() as ready:
                return ready
            case Failed(error=error):  # a defect of ours: no pipeline's code is in it yet
                raise SandboxFailed(error.message)
            case frame:
                raise await self.breach(frame)

    async def send(self, script: int, message: Mapping[str, object]) -> None:
        data = struct.pack(SCRIPT_FORMAT, script) + encoder.encode(message)
        try:
            # Half a frame would be the end of it. The process waits for this one: it is taken at once.
            with anyio.CancelScope(shield=True), anyio.fail_after(SEND_SECONDS):
                await self._stream.send(struct.pack(LENGTH_FORMAT, len(data)) + data)
        except TimeoutError as error:
            raise await self.breach(f"a frame of {len(data)} bytes was not taken in {SEND_SECONDS:.0f} s") from error
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise await self._death() from error

    async def receive(self) -> FromLua:
        """Wait for the next frame.

        :raises SandboxFailed: when the process ended, saying why, or broke the protocol.
        """
        if self._length is None:
            (self._length,) = struct.unpack(LENGTH_FORMAT, await self._read(_PREFIX_BYTES))
        if self._length > FRAME_BYTES_MAXIMUM:
            raise await self.breach(f"a frame of {self._length} bytes")
        data = await self._read(self._length)
        self._length = None
        if problem := await _excess(data):
            raise await self.breach(problem)
        try:
            return decoder.decode(data)
        except (msgspec.DecodeError, ValueError, TypeError, RecursionError) as error:
            raise await self.breach(error) from error

    async def _read(self, length: int) -> bytes:
        buffer = self._buffer
        while len(buffer) < length:
            try:
                buffer += await self._stream.receive(1 << 20)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                raise await self._death() from error
        data = bytes(buffer[:length])
        del buffer[:length]
        return data

    async def breach(self, what: object) -> SandboxFailed:
        """End a process that does not keep to the protocol, and give the error to raise.

        :param what: a frame out of its place, of which nothing but the kind is told: it may hold anything. Or an error
            in decoding one, of which the same is true. Or words of ours.
        """
        told = what if isinstance(what, str) else type(what).__name__
        log.error("a Lua process broke the protocol and was ended: %s", told)
        self._broke_protocol = True
        await self.end()
        return await self._death()

    def note_exit(self, code: int) -> None:
        self._exit_code = code
        self._ended.set()
        if code != EXIT_UNKNOWN:  # a process whose parent died may live on, and come to its end
            for scope in self._answering:
                scope.cancel()

    async def answer(self, answering: Callable[[], Awaitable[Mapping[str, object]]]) -> Mapping[str, object]:
        """Give what ``answering`` gives; it is cancelled when the process ends, for nobody waits for it any more.

        :raises SandboxFailed: when the process ended.
        """
        with anyio.CancelScope() as scope:
            self._answering.add(scope)
            try:
                if self._exit_code in {None, EXIT_UNKNOWN}:
                    return await answering()
            finally:
                self._answering.discard(scope)
        raise await self._death()

    async def end(self) -> None:
        """Kill the process, if it lives, and wait until it is gone."""
        if not self._ended.is_set():
            self._kill()
            with anyio.move_on_after(EXIT_SECONDS):
                await self._ended.wait()
        await self._stream.aclose()

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def _death(self) -> SandboxFailed:
        with anyio.move_on_after(EXIT_SECONDS):
            await self._ended.wait()
        if self._broke_protocol:  # so it was killed by nobody else
            return SandboxFailed("the Lua process broke its protocol and was ended", code="sandbox_breach")
        match self._exit_code:
            case None | 256:
                return SandboxLost("the Lua process was lost: its parent process ended")
            case code if code == -signal.SIGABRT:
                return SandboxFailed(
                    f"the pipeline's Lua used more than {self._limits.lua_bytes // 1024**2} MiB of memory",
                    code="memory_limit",
                    hint="Keep large data in files of the workspace rather than in Lua variables.",
                )
            case code if code == -signal.SIGXCPU:
                return SandboxFailed(
                    f"the pipeline's Lua used more than {self._limits.cpu_seconds} s of processor time",
                    code="cpu_limit",
                    hint="Heavy work belongs in a container: process.run.",
                )
            case code if code < 0 and -code in _FROM_OUTSIDE:
                return SandboxLost(
                    f"the Lua process was killed by {signal.Signals(-code).name}, which came from outside",
                    hint="Somebody killed it, or the machine ran out of memory: its kernel's log would say so.",
                )
            case code if code < 0:
                return SandboxFailed(f"the Lua process was killed by {signal.Signals(-code).name}")
            case code:
                return SandboxFailed(f"the Lua process ended with code {code}")


class Sandbox:
    """A pipeline in its Lua process: ``load`` once, then ``run_stage`` as often as there are stages, also at once."""

    def __init__(self, process: LuaProcess) -> None:
        self._process = process
        self._ended: SandboxFailed | None = None
        self._turn = anyio.Lock(fast_acquire=True)  # what follows waits anyway
        self._numbers = itertools.count(1)
        self._branches = 0
        """How many functions of `parallel` are under way."""
        self._left: deque[tuple[int, str]] = deque()
        """Scripts that are to be abandoned, by number and stage, by whoever has the turn next."""
        self.setup: list[str] = []
        """The plugins to be called before the first stage, in this order; known once the file is loaded."""
        self.teardown: list[str] = []
        """Those to be called at the job's end, in the order of their setup."""

    @property
    def is_alive(self) -> bool:
        """Whether a stage can be run in it."""
        return self._ended is None

    @property
    def end(self) -> str | None:
        """Why no stage can be run in it any more."""
        return None if self._ended is None else self._ended.message

    async def load(self, filename: str, source: str, plugins: Mapping[str, Plugin]) -> PipelineDefinition:
        """Load a pipeline file with its plugins and check it whole.

        :param plugins: by name; those that others of them need are among them.
        :raises PipelineInvalid: with everything that is wrong in it.
        :raises SandboxFailed: when the process could not be used.
        """
        loaded = await self._load(filename, self._load_frame(filename, source, plugins))
        self.setup, self.teardown = loaded.setup, loaded.teardown
        return definitions.check(filename, source, loaded.pipeline, loaded.required, plugins)

    async def draft(self, filename: str, source: str) -> Draft:
        """Load a pipeline file with placeholders for plugins, to see which it names.

        :raises PipelineInvalid: when it cannot be loaded.
        :raises SandboxFailed: when the process could not be used.
        """
        frame = self._load_frame(filename, source, {}) | {"draft": True}
        return Draft(filename, source, await self._load(filename, frame))

    async def describe(self, plugin: Plugin, plugins: Mapping[str, Plugin]) -> Described:
        """Load a plugin and give what it declares.

        :raises PluginInvalid: when it cannot be loaded.
        :raises SandboxFailed: when the process could not be used.
        """
        await self._process.send(0, {"op": "describe", "plugin": plugin.name, "plugins": _packages(plugins)})
        reply: FromLua | None = None
        with anyio.move_on_after(LOAD_SECONDS):
            reply = await self._next_but_log()
        match reply:
            case Described():
                return reply
            case Failed(error=error):
                problem = _load_problem("", error)
                raise PluginInvalid(problem.message, code=problem.code, hint=problem.hint, where=error.where)
            case None:
                await self._process.end()
                raise PluginInvalid(
                    f"plugin `{plugin.name}` did not load within {LOAD_SECONDS:.0f} s", code="cpu_limit"
                )
            case _:
                raise await self._process.breach(reply)

    def _load_frame(self, filename: str, source: str, plugins: Mapping[str, Plugin]) -> dict[str, object]:
        return {"op": "load", "filename": filename, "source": source, "plugins": _packages(plugins)}

    async def _load(self, filename: str, frame: Mapping[str, object]) -> Loaded:
        await self._process.send(0, frame)
        try:
            with anyio.fail_after(LOAD_SECONDS):
                reply = await self._next_but_log()  # what a top level prints belongs to no job yet
        except TimeoutError as error:
            await self._process.end()
            problem = Problem(
                message=f"the file's top level did not come to its end within {LOAD_SECONDS:.0f} s",
                where=filename,
                code="cpu_limit",
                hint="Work belongs in a stage's `script`; the top level only describes the pipeline.",
            )
            raise PipelineInvalid(filename, [problem]) from error
        except SandboxFailed as error:
            if error.code not in {"memory_limit", "cpu_limit"}:
                raise
            problem = Problem(message=error.message, where=filename, code=error.code, hint=error.hint)
            raise PipelineInvalid(filename, [problem]) from error
        match reply:
            case Loaded():
                return reply
            case Failed(error=error):
                raise PipelineInvalid(filename, [_load_problem(filename, error)])
            case _:
                raise await self._process.breach(reply)

    async def run_stage(self, stage: str, facts: JobFacts, calls: HostCalls, *, script: str | None = None) -> None:
        """Run a stage's script to its end. Cancelling this ends the script.

        :param script: the name in the file of the stage whose script it is, where that is another.
        :raises MoonyardError: what the script raised, with the place in the pipeline's file and the call chain.
        :raises SandboxFailed: when the process ended, or was stopped before.
        """
        await self._run("run", stage, script or stage, facts, calls)

    async def ask_condition(self, stage: str, facts: JobFacts, calls: HostCalls, *, script: str | None = None) -> bool:
        """Run the function that a stage has for its ``when``, as ``run_stage`` does the script; give what it gave."""
        return await self._run("ask", stage, script or stage, facts, calls)

    async def run_hook(self, stage: str, plugin: str, hook: str, calls: HostCalls) -> None:
        """Run a plugin's ``setup`` or ``teardown``, as ``run_stage`` does a script.

        :param stage: the name under which its calls are made.
        """
        await self._go({"op": "hook", "plugin": plugin, "hook": hook}, stage, calls)

    async def _run(self, op: str, stage: str, script: str, facts: JobFacts, calls: HostCalls) -> bool:
        return await self._go({"op": op, "stage": script, "job": msgspec.to_builtins(facts)}, stage, calls)

    async def _go(self, frame: Mapping[str, object], stage: str, calls: HostCalls) -> bool:
        """Begin a script with a frame, and see it to its end."""
        number = next(self._numbers)
        try:
            while True:
                reply = await self._take_turn(number, stage, frame, calls)
                match reply:
                    case HostCall():
                        frame = await self._process.answer(partial(self._answer, stage, reply, calls))
                    case Branches():
                        frame = await self._run_branches(stage, reply, calls)
                    case Done(holds=holds):
                        return holds
                    case Failed(error=error):
                        raise MoonyardError.from_info(error)
                    case _:
                        raise await self._process.breach(reply)
        except SandboxFailed as error:
            raise self._note_end(error) from error.__cause__
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._abandon(number, stage)
            raise

    async def _answer(self, stage: str, call: HostCall, calls: HostCalls) -> dict[str, object]:
        try:
            value = await calls.call(stage, call.name, call.arguments, plugin=call.plugin, group=_group(call.group))
        except MoonyardError as error:
            return {"op": "answer", "error": error.info}
        return {"op": "answer", "value": value}

    async def _run_branches(self, stage: str, asked: Branches, calls: HostCalls) -> dict[str, object]:
        """Run functions of a script at the same time, each as a script of its own, which waits for them.

        The first that fails ends the others. The answer is its place in the list, or nothing.
        """
        if not (0 < asked.limit <= asked.count <= BRANCHES_MAXIMUM and 0 < asked.first <= BRANCH_NUMBER_MAXIMUM):
            raise await self._process.breach(asked)
        if self._branches + asked.count > BRANCHES_MAXIMUM:
            message = f"parallel: more than {BRANCHES_MAXIMUM} functions would be under way in one job"
            return {"op": "answer", "error": ErrorInfo(code="argument_invalid", message=message)}
        failed: list[int] = []
        slots = anyio.Semaphore(asked.limit)

        async def run(place: int, tasks: anyio.abc.TaskGroup) -> None:
            async with slots:
                try:
                    await self._go({"op": "branch", "branch": asked.first + place}, stage, calls)
                except SandboxFailed:
                    raise
                except MoonyardError:
                    failed.append(place + 1)  # the error itself stays in Lua
                    tasks.cancel_scope.cancel()

        self._branches += asked.count
        try:
            with single_error():
                async with anyio.create_task_group() as tasks:
                    for place in range(asked.count):
                        tasks.start_soon(run, place, tasks)
        finally:
            self._branches -= asked.count
        return {"op": "answer", "value": failed[0] if failed else None}

    async def _take_turn(self, number: int, stage: str, frame: Mapping[str, object], calls: HostCalls) -> FromLua:
        """Hand a frame to a script, and wait until it makes a call or ends."""
        async with self._turn:
            await self._abandon_left()
            if self._ended is not None:
                raise self._note_end(self._ended)
            await self._process.send(number, frame)
            try:
                while isinstance(reply := await self._process.receive(), LogCall):
                    await calls.log(stage, reply.level, _log_text(reply.text), _place(reply))
            except anyio.get_cancelled_exc_class():
                with anyio.CancelScope(shield=True):
                    await self._end_turn(stage)
                raise
            return reply

    async def _end_turn(self, stage: str) -> None:
        """Wait a moment for a script that computes to give up its turn; else the process ends."""
        with anyio.move_on_after(ABANDON_SECONDS):
            try:
                await self._next_but_log()
            except SandboxFailed as error:
                self._note_end(error)
            return
        await self._stop_process(stage)

    async def _abandon(self, number: int, stage: str) -> None:
        """End a script that has no turn, now or, where another one computes, when that has given up its turn."""
        self._left.append((number, stage))
        with anyio.move_on_after(ABANDON_SECONDS) as wait:
            async with self._turn:
                wait.deadline = math.inf
                try:
                    await self._abandon_left()
                except SandboxFailed as error:
                    self._note_end(error)

    async def _abandon_left(self) -> None:
        while self._left and self._ended is None:
            number, stage = self._left[0]
            # Whoever does this may itself be cancelled: what is under way comes to its end first.
            with anyio.CancelScope(shield=True):
                with anyio.move_on_after(ABANDON_SECONDS):
                    await self._process.send(number, {"op": "abandon"})
                    reply = await self._next_but_log()
                    if not isinstance(reply, Abandoned):
                        raise await self._process.breach(reply)
                    self._left.popleft()
                    continue
                await self._stop_process(stage)  # what it does on its way out takes too long

    async def _stop_process(self, stage: str) -> None:
        self._note_end(SandboxStopped(f"the Lua process was stopped in stage `{stage}`, and its variables are gone"))
        await self._process.end()

    def _note_end(self, error: SandboxFailed) -> SandboxFailed:
        """Remember why the process ended, and give the error to raise: the first to meet an end knows its reason."""
        if self._ended is None:
            self._ended = error
        ended = self._ended
        return type(ended)(ended.message, code=ended.code, hint=ended.hint)

    async def _next_but_log(self) -> FromLua:
        while isinstance(reply := await self._process.receive(), LogCall):
            pass
        return reply


async def _excess(data: bytes) -> str | None:
    if len(data) <= COUNTED_AT_ONCE_BYTES:
        return values.excess(data)
    with anyio.CancelScope(shield=True):  # the frame is taken from the stream: it is not to be lost
        return await anyio.to_thread.run_sync(values.excess, data)


def _place(told: LogCall) -> LogPlace:
    if not told.fields and not told.group:
        return _NO_PLACE
    fields: dict[str, str | int | float | bool] = {}
    for name, value in sorted(told.fields.items())[:FIELDS_MAXIMUM]:  # a Lua table has no order
        kept = value if isinstance(value, bool | int | float) and math.isfinite(value) else _log_text(value)
        fields[_log_text(name)[:NAME_LENGTH_MAXIMUM]] = (
            kept if not isinstance(kept, str) else kept[:FIELD_LENGTH_MAXIMUM]
        )
    return LogPlace(fields=fields, group=_group(told.group), heading=told.heading and bool(told.group))


def _group(names: list[Any]) -> list[str]:
    return [_log_text(name)[:NAME_LENGTH_MAXIMUM] for name in names[:GROUPS_MAXIMUM]]


def _packages(plugins: Mapping[str, Plugin]) -> dict[str, object]:
    """Write plugins as the Lua side takes them: their code, and what it may use."""
    return {
        name: {
            "version": plugin.version,
            "files": plugin.code,
            "modules": plugin.manifest.modules,
            "plugins": [entry.partition("@")[0] for entry in plugin.manifest.plugins],
        }
        for name, plugin in plugins.items()
    }


def _pass_over(path: object, message: str, hint: str | None = None) -> None:
    """Tell nobody of a problem that is told elsewhere."""
    del path, message, hint


def _log_text(text: object) -> str:
    if isinstance(text, bytes):
        text = text.decode("utf-8", errors="backslashreplace")
    return str(text).replace("\x00", "\\x00")


def _load_problem(filename: str, error: ErrorInfo) -> Problem:
    # A failure of the compiler itself comes with a traceback of ours, which is nothing to a reader.
    where, message = error.where, error.message.partition("\nstack traceback:")[0]
    if where is None and message.startswith(f"{filename}:"):
        # The compiler's own words: `build.lua:3: unexpected symbol near 'x'`.
        line, _, rest = message[len(filename) + 1 :].partition(": ")
        if line.isdigit():
            where, message = f"{filename}:{line}", rest
    return Problem(message=message, where=where or filename, code=error.code, hint=error.hint)
