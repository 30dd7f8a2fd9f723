"""The runner's side of one Lua process: load a pipeline into it, run stages, answer its host calls.

The process is hostile by assumption. Each of its frames has a size limit and is decoded into a struct; the first that
is out of place ends it. While a stage runs, the Lua side sends a call and waits for the one answer, so at any moment
either Lua runs or the runner works, and a cancel knows which: a script that waits is abandoned and its process lives
on; one that computes has a moment to come to its next call, or its end, and then can only be killed.
"""

from __future__ import annotations

import logging
import signal
import struct
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, Protocol

import anyio
import anyio.abc
import msgspec

from plugins import Plugin
from sandbox import definitions
from sandbox.frames import (
    FRAME_BYTES_MAXIMUM,
    LENGTH_FORMAT,
    Abandoned,
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
from schema.definition import PipelineDefinition, PipelineInvalid, Problem
from schema.errors import ErrorInfo, MoonyardError
from schema.states import JobState, Level

__all__ = ["HostCalls", "JobFacts", "Sandbox", "SandboxFailed", "SandboxLost", "Value"]

log: Final = logging.getLogger(__name__)

LOAD_SECONDS: Final = 20.0
"""By the clock, for a file whose top level catches the error of its processor time limit."""
ABANDON_SECONDS: Final = 1.0
SEND_SECONDS: Final = 10.0
EXIT_SECONDS: Final = 5.0
EXIT_UNKNOWN: Final = 256
_FROM_OUTSIDE: Final = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Signals that come to a Lua process from somebody else: its own limits and walls end it by others."""
_PREFIX_BYTES: Final = struct.calcsize(LENGTH_FORMAT)


class SandboxFailed(MoonyardError):
    """The Lua process is not there, or not any more."""

    code = "sandbox_failed"


class SandboxLost(SandboxFailed):
    """The Lua process is not there, and what ran in it is not to blame."""

    code = "sandbox_lost"


class JobFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage's script gets as its argument."""

    id: str
    number: int | None
    attempt: int
    pipeline: str
    inputs: dict[str, str | int | float | bool]
    state: JobState | None = None
    """How the job's stages ended: for those that run afterwards."""
    error: ErrorInfo | None = None


class HostCalls(Protocol):
    """Answers what scripts ask for."""

    async def call(self, stage: str, name: str, arguments: list[Value], *, plugin: str | None = None) -> Value:
        """Answer one call.

        :raises MoonyardError: what the script gets as its error.
        """
        ...

    async def log(self, stage: str, level: Level, text: str) -> None: ...


class LuaProcess:
    """The socket to a Lua process, and the word of its end."""

    def __init__(self, stream: anyio.abc.UNIXSocketStream, kill: Callable[[], None]) -> None:
        self._stream = stream
        self._kill = kill
        self._buffer = bytearray()
        self._length: int | None = None
        """Of the frame whose rest is still to come: a wait for it may be cancelled, and taken up again."""
        self._ended = anyio.Event()
        self._exit_code: int | None = None
        self._answering = anyio.CancelScope()
        """What is done on its behalf while it waits."""

    async def wait_until_ready(self) -> Ready:
        frame = await self.receive()
        if not isinstance(frame, Ready):
            raise await self.breach(frame)
        return frame

    async def send(self, message: Mapping[str, object]) -> None:
        data = encoder.encode(message)
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
        """End a process that does not keep to the protocol, and give the error to raise."""
        log.error("a Lua process broke the protocol and was ended: %s", str(what)[:500])
        await self.end()
        return SandboxFailed("the Lua process broke its protocol and was ended", code="sandbox_breach")

    def note_exit(self, code: int) -> None:
        self._exit_code = code
        self._ended.set()
        if code != EXIT_UNKNOWN:  # a process whose parent died may live on, and come to its end
            self._answering.cancel()

    async def answer(self, answering: Callable[[], Awaitable[Mapping[str, object]]]) -> None:
        """Send what ``answering`` gives; it is cancelled when the process ends, for nobody waits for it any more.

        :raises SandboxFailed: when the process ended.
        """
        answer: Mapping[str, object] | None = None
        with anyio.CancelScope() as self._answering:
            if self._exit_code in {None, EXIT_UNKNOWN}:
                answer = await answering()
        if answer is None:
            raise await self._death()
        await self.send(answer)

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
        match self._exit_code:
            case None | 256:
                return SandboxLost("the Lua process was lost: its parent process ended")
            case code if code == -signal.SIGABRT:
                return SandboxFailed(
                    "the pipeline's Lua needs more memory than it may use",
                    code="memory_limit",
                    hint="Keep large data in files of the workspace rather than in Lua variables.",
                )
            case code if code == -signal.SIGXCPU:
                return SandboxFailed(
                    "the pipeline's Lua used more processor time than it may",
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
    """A pipeline in its Lua process: ``load`` once, then ``run_stage`` as often as there are stages."""

    def __init__(self, process: LuaProcess) -> None:
        self._process = process
        self._ended: str | None = None

    @property
    def is_alive(self) -> bool:
        """Whether a stage can be run in it."""
        return self._ended is None

    @property
    def end(self) -> str | None:
        """Why no stage can be run in it any more."""
        return self._ended

    async def load(self, filename: str, source: str, plugins: Mapping[str, Plugin]) -> PipelineDefinition:
        """Load a pipeline file and check it whole.

        :raises PipelineInvalid: with everything that is wrong in it.
        :raises SandboxFailed: when the process could not be used.
        """
        await self._process.send(
            {
                "op": "load",
                "filename": filename,
                "source": source,
                "plugins": {name: plugin.source for name, plugin in plugins.items()},
            }
        )
        try:
            with anyio.fail_after(LOAD_SECONDS):
                reply = await self._process.receive()
                while isinstance(reply, LogCall):  # what a top level prints belongs to no job yet
                    reply = await self._process.receive()
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
            case Loaded(pipeline=pipeline, required=required):
                return definitions.check(filename, source, pipeline, required, plugins)
            case Failed(error=error):
                raise PipelineInvalid(filename, [_load_problem(filename, error)])
            case _:
                raise await self._process.breach(reply)

    async def run_stage(self, stage: str, facts: JobFacts, calls: HostCalls) -> None:
        """Run a stage's script to its end. Cancelling this ends the script.

        :raises MoonyardError: what the script raised, with the place in the pipeline's file and the call chain.
        :raises SandboxFailed: when the process ended, or was stopped before.
        """
        if self._ended is not None:
            raise SandboxFailed(self._ended)
        await self._process.send({"op": "run", "stage": stage, "job": msgspec.to_builtins(facts)})
        waits_for_answer = False
        try:
            while True:
                reply = await self._process.receive()
                match reply:
                    case LogCall(level=level, text=text):
                        await calls.log(stage, level, _log_text(text))
                    case HostCall():
                        waits_for_answer = True
                        await self._process.answer(partial(self._answer, stage, reply, calls))
                        waits_for_answer = False
                    case Done():
                        return
                    case Failed(error=error):
                        raise MoonyardError.from_info(error)
                    case _:
                        raise await self._process.breach(reply)
        except SandboxFailed as error:
            self._ended = error.message
            raise
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._abandon(stage, waits_for_answer=waits_for_answer)
            raise

    async def _answer(self, stage: str, call: HostCall, calls: HostCalls) -> dict[str, object]:
        try:
            return {"value": await calls.call(stage, call.name, call.arguments, plugin=call.plugin)}
        except MoonyardError as error:
            return {"error": error.info}

    async def _abandon(self, stage: str, *, waits_for_answer: bool) -> None:
        with anyio.move_on_after(ABANDON_SECONDS):
            try:
                if not waits_for_answer:
                    reply = await self._next_but_log()
                    if isinstance(reply, Done | Failed):
                        return
                await self._process.send({"op": "abandon"})
                reply = await self._next_but_log()
            except SandboxFailed as error:
                self._ended = error.message
                return
            if isinstance(reply, Abandoned):
                return
        self._ended = f"the Lua process was stopped in stage `{stage}`, and its variables are gone"
        await self._process.end()

    async def _next_but_log(self) -> FromLua:
        while isinstance(reply := await self._process.receive(), LogCall):
            pass
        return reply


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
