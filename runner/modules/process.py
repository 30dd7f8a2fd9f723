"""``process.run``: one command in the container that the caller is in."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from typing import Annotated, Final, Literal

import anyio
import msgspec

from runner.engine.exec import Command, CommandResult
from runner.engine.stopping import Stop
from runner.engine.usage import Usage
from runner.event_stream import EventStream
from runner.job_context import Call, JobContext
from runner.lines import LineSplitter
from runner.modules.arguments import (
    ArgumentInvalid,
    Duration,
    OneOf,
    check_variable,
    choice,
    data,
    environment,
    parse,
    text,
    word,
)
from runner.modules.secret import text_of
from runner.redaction.redactor import Redaction
from sandbox.frames import Value, lua_type
from sandbox.process import LogPlace
from schema import times
from schema.definition import StageDefinition
from schema.errors import ErrorInfo, MoonyardError
from schema.states import LOG_LEVELS, Level

CAPTURE_BYTES_DEFAULT: Final = 1024 * 1024
FLOOD_BYTES: Final = 32 * 1024
"""From so many bytes at once on, lines are told many in an event."""
CAPTURE_BYTES_MAXIMUM: Final = 16 * 1024 * 1024
COMMAND_TEXT_MAXIMUM: Final = 200
RUN: Final = "process.run"


class CommandFailed(MoonyardError):
    """A command ended with an exit code other than zero."""

    code = "command_failed"


class RunArguments(msgspec.Struct, frozen=True, kw_only=True):
    command: str
    """The program; no shell reads it."""
    args: list[str | int | float] = []
    """Its arguments, which arrive as they are."""
    env: dict[str, str | int | float] = {}
    """Added to the container's environment."""
    cwd: str | None = None
    """Where it starts, below the container's working folder (by default `/workspace`), or with its full path in the
    container."""
    stdin: str = ""
    """What it reads; without it, nothing."""
    user: str | int | None = None
    """Who runs it; by default the container's user."""
    timeout: Duration | None = None
    """After this it is ended with all that it started: SIGTERM, and after 5 s SIGKILL."""
    stdout: Annotated[str, OneOf(LOG_LEVELS)] = "info"
    """At which level its output goes to the log, line by line."""
    stderr: Annotated[str, OneOf(LOG_LEVELS)] = "warn"
    """The same for what it writes to stderr."""
    check: bool = True
    """Whether an exit code other than 0 raises `command_failed`."""
    capture: bool | int = True
    """Whether, or up to how many bytes of each stream, the result holds the output: 1 MiB for `true`, at most 16
    MiB."""
    secrets: list[str] | dict[str, str] = []
    """Granted secrets to put into its environment, out of Lua's sight: a list of names, or a table with the names of
    variables and of the secrets that they get."""


class CapturedOutput:
    """Sends a command's output to the log, line by line, and keeps the beginning of it for the result."""

    def __init__(
        self, stream: EventStream, stage: str, levels: dict[str, str], capture_bytes: int, place: LogPlace
    ) -> None:
        self._stream = stream
        self._stage = stage
        self._place = place
        self._levels = levels
        self._capture_bytes = capture_bytes
        self._splitters = {"stdout": LineSplitter(), "stderr": LineSplitter()}
        self._redacted = {"stdout": stream.redaction.stream(), "stderr": stream.redaction.stream()}
        self._captured = {"stdout": bytearray(), "stderr": bytearray()}
        self._written = {"stdout": 0, "stderr": 0}

    async def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        kept = self._captured[stream]
        self._written[stream] += len(data)
        if (room := self._capture_bytes - len(kept)) > 0:
            kept += data[:room]
        if self._levels[stream] != "off":
            await self._log(stream, self._redacted[stream].feed(data))
        else:
            await anyio.lowlevel.checkpoint()

    async def _log(self, stream: Literal["stdout", "stderr"], shown: bytes) -> None:
        block = self._splitters[stream].feed_block(shown) if len(shown) >= FLOOD_BYTES else None
        if block is not None:
            await self._stream.log_block(self._stage, self._level(stream), stream, block, self._place)
        else:
            await self._tell(stream, self._splitters[stream].feed(shown))

    def is_cut(self, stream: Literal["stdout", "stderr"]) -> bool:
        """Tell whether more was written than is kept."""
        return self._capture_bytes < self._written[stream]

    async def finish(self) -> None:
        for stream in ("stdout", "stderr"):
            if self._levels[stream] != "off":
                await self._log(stream, self._redacted[stream].finish())
                await self._tell(stream, self._splitters[stream].finish())
            if 0 < self._capture_bytes < self._written[stream]:
                await self._stream.log(
                    self._stage,
                    "warn",
                    "system",
                    f"{RUN}: {stream} was {self._written[stream]} bytes; the result holds the first "
                    f"{self._capture_bytes} (give `capture = BYTES` for more, up to {CAPTURE_BYTES_MAXIMUM})",
                )

    @property
    def size_bytes(self) -> int:
        """How much the command has written."""
        return sum(self._written.values())

    def captured(self, stream: Literal["stdout", "stderr"]) -> bytes:
        return bytes(self._captured[stream])

    async def _tell(self, stream: Literal["stdout", "stderr"], lines: list[str]) -> None:
        if lines:
            await self._stream.log_lines(self._stage, self._level(stream), stream, lines, place=self._place)

    def _level(self, stream: Literal["stdout", "stderr"]) -> Level:
        level: Level = self._levels[stream]  # pyright: ignore[reportAssignmentType]  # checked by `choice`
        return level


async def run(job: JobContext, call: Call) -> Value:
    """Run a command and give its result table.

    :raises CommandFailed: on a non-zero exit code, unless ``check = false``.
    :raises EngineError: when it could not be started, ran out of time, or the engine was lost.
    """
    handle, arguments = _handle(call), parse(RUN, RunArguments, call.arguments[1])
    levels = {
        "stdout": choice(RUN, "stdout", arguments.stdout, LOG_LEVELS),
        "stderr": choice(RUN, "stderr", arguments.stderr, LOG_LEVELS),
    }
    command = await _with_secrets(job, call, arguments, _command(arguments))
    stage, stop = job.stage(call.stage), job.stops[call.stage]
    output = CapturedOutput(
        job.stream, stage.name, levels, _capture_bytes(arguments.capture), LogPlace(group=call.group)
    )
    image = job.containers.image_of(stage, handle)
    try:
        with ExitStack() as held:
            result = await _run(job, stage, handle, command, output, stop, held, call.group)
    finally:
        await stop.settle()
    if result.code != 0 and arguments.check:
        raise _failure(job.stream.redaction, command, result, image, output)
    return {
        "code": result.code,
        "ok": result.code == 0,
        "signal": result.signal,
        "stdout": output.captured("stdout"),
        "stderr": output.captured("stderr"),
        "duration": result.duration,
    }


async def _run(
    job: JobContext,
    stage: StageDefinition,
    handle: str | None,
    command: Command,
    output: CapturedOutput,
    stop: Stop,
    held: ExitStack,
    group: list[str],
) -> CommandResult:
    """Run a command and tell its end; whoever asks it to stop waits for that."""
    image = job.containers.image_of(stage, handle)
    digest: str | None = None
    used: Usage | None = None
    started = anyio.current_time()
    try:
        await stop.settle()
        container = await job.containers.for_command(stage, handle)
        digest = container.digest
        held.enter_context(stop.command())
        started = anyio.current_time()
        with container.measuring() as used:
            result = await container.run(command, output, stop)
    except BaseException as error:
        with anyio.CancelScope(shield=True):
            await output.finish()
            await job.stream.command(
                stage.name,
                command.argv,
                image,
                digest=digest,
                code=None,
                duration=round(anyio.current_time() - started, 6),
                used=used,
                output_bytes=output.size_bytes,
                error=_told(job.stream.redaction, error, command),
                group=group,
            )
        raise
    await output.finish()
    await job.stream.command(
        stage.name,
        command.argv,
        image,
        digest=digest,
        code=result.code,
        duration=round(result.duration, 6),
        used=used,
        output_bytes=output.size_bytes,
        group=group,
    )
    return result


def _handle(call: Call) -> str | None:
    handle = call.arguments[0]
    if handle is not None and not isinstance(handle, str):
        raise ArgumentInvalid(f"{RUN}: a container is named by text, got {lua_type(handle)}")
    return handle


def _command(arguments: RunArguments) -> Command:
    argv = [text(RUN, "command", arguments.command)]
    if not argv[0]:
        raise ArgumentInvalid(f"{RUN}: `command` is empty; name the program to run")
    argv += [word(RUN, f"args[{index}]", argument) for index, argument in enumerate(arguments.args, 1)]
    timeout = None
    if arguments.timeout is not None:
        try:
            timeout = times.duration_seconds(arguments.timeout)
        except ValueError as error:
            raise ArgumentInvalid(f"{RUN}: `timeout` is no duration: {error}") from error
    return Command(
        argv=argv,
        env=environment(RUN, arguments.env),
        cwd=None if arguments.cwd is None else text(RUN, "cwd", arguments.cwd),
        stdin=data(arguments.stdin),
        user=None if arguments.user is None else word(RUN, "user", arguments.user),
        timeout=timeout,
    )


def _capture_bytes(capture: bool | int) -> int:
    if capture is True:
        return CAPTURE_BYTES_DEFAULT
    if capture is False:
        return 0
    if not 0 <= capture <= CAPTURE_BYTES_MAXIMUM:
        raise ArgumentInvalid(f"{RUN}: `capture` is true, false, or up to {CAPTURE_BYTES_MAXIMUM} bytes, got {capture}")
    return capture


async def _with_secrets(job: JobContext, call: Call, arguments: RunArguments, command: Command) -> Command:
    """Put secrets into a command's environment, and set those apart that came from Lua as secrets."""
    hidden = {path[1] for path in call.secrets if path[0] == "env"}
    plain = {name: value for name, value in command.env.items() if name not in hidden}
    secret = {name: value for name, value in command.env.items() if name in hidden}
    wanted = arguments.secrets
    for variable, name in wanted.items() if isinstance(wanted, dict) else [(name, name) for name in wanted]:
        if variable in command.env:
            raise ArgumentInvalid(f"{RUN}: variable `{variable}` is in `env` and in `secrets`; give it once")
        check_variable(RUN, "secrets", variable)
        value = (await job.secrets.get(name, call.stage)).value
        secret[variable] = text_of(RUN, f"secrets.{variable}", [name], value)
    return msgspec.structs.replace(command, env=plain, secret_env=secret)


def command_text(redaction: Redaction, argv: list[str]) -> str:
    """Write a command as a shell would take it, on one line and cut to a readable length."""
    # Cut in two, a secret would not be found any more.
    argv = redaction.words(argv)
    line = shlex.join(argv).replace("\n", "\\n")
    return line if len(line) <= COMMAND_TEXT_MAXIMUM else line[: COMMAND_TEXT_MAXIMUM - 1] + "…"


def _failure(
    redaction: Redaction, command: Command, result: CommandResult, image: str, output: CapturedOutput
) -> CommandFailed:
    if result.oom:
        how = "was killed: it ran out of memory"
    elif result.signal is not None:
        how = f"was killed by {result.signal}"
    else:
        how = f"exited with code {result.code}"
    # Of what was cut, the last line is not whole: a secret in it would not be found.
    captured = output.captured("stderr")
    if output.is_cut("stderr"):
        captured = captured[: captured.rfind(b"\n") + 1]
    stderr = redaction.data(captured).decode("utf-8", errors="replace").strip().splitlines()
    return CommandFailed(
        f"command `{command_text(redaction, command.argv)}` {how} (in container {image})"
        + (f": {stderr[-1][:COMMAND_TEXT_MAXIMUM]}" if stderr else ""),
        hint="Its output stands above in the log. With `check = false` a script can look at `code` itself.",
    )


def _told(redaction: Redaction, error: BaseException, command: Command) -> ErrorInfo:
    if isinstance(error, MoonyardError):
        return error.info
    return MoonyardError(f"command `{command_text(redaction, command.argv)}` was stopped", code="command_stopped").info


CALLS: Final = {RUN: run}
