"""One command in a container, by the engine's own exec.

    create the exec ── start it ── read stdout and stderr to the end ── ask for the exit code
                          │ write stdin, end it
                          └ timeout or stop: ask all that it started to end, in the end kill it, read to the end

The engine joins both streams into one, message by message, and the reader takes the next message when the sink has
taken the last: a slow sink slows the command, and nothing piles up. The stream ends when the command's first process
has ended and what it wrote is read; what it left running does not hold the stream open.

Podman tells that a command could not be started in place of the command's output, on its stderr, with an exit code of
126 or 127 (seen with Podman 4.3, runc and crun); what the kernel itself refuses in the end, a script without its
interpreter, is told by runc 1.1 with code 1. So a first message on stderr that has such a form is held back until the
end; only with such a code, and nothing else said, is it taken for what it looks like.
"""

from __future__ import annotations

import math
import re
import secrets
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import anyio
import anyio.to_thread
import msgspec
from aiodocker.containers import DockerContainer
from aiodocker.exceptions import DockerError
from aiodocker.execs import Exec
from aiodocker.stream import Stream

from runner.engine import memory, processes
from runner.engine.connection import Connection, describe
from runner.engine.errors import (
    CommandNotExecutable,
    CommandNotFound,
    CommandStartFailed,
    CommandStopped,
    CommandTimeout,
    ContainerGone,
    ContainerTaken,
    EngineError,
    EngineLost,
    UserNotFound,
    WorkingFolderNotFound,
    first_line,
)
from runner.engine.stopping import TIMEOUT_GRACE_SECONDS, Stop
from schema.errors import single_error

KILL_SECONDS: Final = 20.0
"""For ending all that a command started."""
STDIN_CHUNK_BYTES: Final = 64 * 1024
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
SIGNAL_BASE: Final = 128
KILLED: Final = SIGNAL_BASE + signal.SIGKILL
ENDED_SECONDS: Final = 5.0
"""For the engine to learn that a container has ended."""
START_FAILURE_CODES: Final = (125, NOT_EXECUTABLE, NOT_FOUND)
HELD_BACK_BYTES_MAXIMUM: Final = 64 * 1024
ENDED_POLL_SECONDS: Final = 0.005
ENDED_POLL_SECONDS_MAXIMUM: Final = 0.5
_START_FAILURE: Final = re.compile(rb"Error: [\w.-]+: .*: OCI (?:runtime|permission) [^\n]*\n?", re.DOTALL)

_STOPPED: Final = b"cannot exec in a stopped container"
"""What runc says."""

_EXEC_FAILURE: Final = re.compile(
    rb"exec (?P<path>[^\n]+): (?P<why>no such file or directory|exec format error|permission denied)\n"
)
EXEC_FAILURE_CODE: Final = 1
_BROKEN_STDIN: Final = re.compile(rb"Error: (?:read|write) unixpacket @?->\S+/attach: [^\n]*\n?")
"""What Podman adds to the output when a command ends without reading all of its stdin, or could not be started."""
_QUOTED: Final = re.compile(r'"(?:\\.|[^"\\])*"|`[^`]*`')
EXECUTABLE_HINT: Final = "It has to be a file with the executable bit (chmod +x); a script has to name its interpreter."
STDERR: Final = 2
"""Its number in the engine's joined stream."""

OutputStream = Literal["stdout", "stderr"]


class OutputSink(Protocol):
    """Takes a command's output as it comes."""

    async def write(self, stream: OutputStream, data: bytes) -> None: ...


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What to run."""

    argv: list[str]
    env: dict[str, str] = {}
    secret_env: dict[str, str] = {}
    """Variables besides, whose values are kept from the disk where they can be."""
    cwd: str | None = None
    """Relative to where the container's commands start."""
    stdin: bytes = b""
    """The command sees its end; without any it reads from /dev/null."""
    user: str | None = None
    timeout: float | None = None


class CommandResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended."""

    code: int
    duration: float
    signal: str | None = None
    """Such as ``"SIGKILL"``, when the code is the one that means death by it (128 and its number).

    A shell whose last command died so ends with the same code, and so may any program: the engine tells only the code.
    """
    oom: bool = False
    """The command failed, and the kernel killed something in its container for want of memory meanwhile."""


class Surroundings:
    """What the commands of one container share."""

    def __init__(
        self,
        *,
        connection: Connection,
        container: DockerContainer,
        image: str,
        environment: dict[str, str],
        namespace: processes.Namespace | None,
        kill_counter: Path | None,
    ) -> None:
        self.connection = connection
        self.container = container
        self.image = image
        self.environment = environment
        self.namespace = namespace
        self.kill_counter = kill_counter
        self.is_ended = False
        """By this runner."""
        self.running: set[str] = set()
        """The marks of the commands that run now."""


class Execution:
    """One run of one command.

    :param stop: who may ask it to end.
    """

    def __init__(
        self, surroundings: Surroundings, command: Command, output: OutputSink, stop: Stop | None = None
    ) -> None:
        self._in = surroundings
        self._stop = stop
        self._connection = surroundings.connection
        self._command = command
        self._output = output
        self._mark = secrets.token_hex(8)
        self._held_back = b""
        """What may be the engine's word that the command could not be started."""
        self._has_output = False
        self._started = 0.0
        self._started_on_host = 0.0

    async def run(self) -> CommandResult:
        kills_before = memory.kills(self._in.kill_counter)
        self._in.running.add(self._mark)
        try:
            started = await self._create()
            self._started = anyio.current_time()
            # One clock tick of slack: the kernel tells a process's start in hundredths of a second.
            self._started_on_host = time.clock_gettime(time.CLOCK_BOOTTIME) - 0.02
            await self._attend(started)
            code = await self._exit_code_or_kill(started)
        finally:
            self._in.running.discard(self._mark)
        if self._held_back:
            if code in START_FAILURE_CODES and not self._has_output:
                if _STOPPED in self._held_back:  # the engine had not learned of it when it was asked
                    kills = memory.known_kills(self._in.kill_counter)
                    raise await self._stopped("it is not running any more", kills_before, kills)
                raise self._start_failure(self._held_back.decode("utf-8", errors="replace"), code)
            if code == EXEC_FAILURE_CODE and (told := self._exec_failure(self._held_back)) and not self._has_output:
                raise self._exec_refused(told["why"].decode())
            await self._release()
        kills = memory.known_kills(self._in.kill_counter)
        if code == KILLED and not await self._container_runs():
            raise await self._stopped("it stopped while the command ran", kills_before, kills)
        return CommandResult(
            code=code,
            duration=anyio.current_time() - self._started,
            signal=signal_name(code),
            oom=code != 0 and (kills or 0) > kills_before,
        )

    @property
    def _doing(self) -> str:
        return f"command `{self._command.argv[0]}` ran in container {self._in.container.id[:12]}"

    async def _create(self) -> Exec:
        command = self._command
        try:
            async with self._connection.reaching(f"starting `{command.argv[0]}`"):
                return await self._in.container.exec(
                    command.argv,
                    stdin=bool(command.stdin),
                    environment=command.env | command.secret_env | {processes.MARK: self._mark},
                    user=command.user or "",
                    workdir=command.cwd,
                )
        except DockerError as error:
            raise self._refusal(error) from error

    async def _attend(self, started: Exec) -> None:
        """Start the command and see it to its end, or kill it."""
        stream = started.start(detach=False)
        try:
            # The start is never given up half-way: whether the command runs would then be unknown.
            with anyio.CancelScope(shield=True):
                try:
                    async with self._connection.reaching(f"starting `{self._command.argv[0]}`"):
                        await stream._init()  # noqa: SLF001  # reading would do it, and without telling when
                except DockerError as error:
                    raise self._refusal(error) from error
            await anyio.lowlevel.checkpoint()
            async with self._connection.reaching(self._doing, math.inf):
                is_over = await self._interrupted(lambda: self._exchange(stream))
            if not is_over:
                await self._end_gently(lambda: self._read(stream, self._output))
                await self._kill(stream, self._output)
                raise self._ended_early()  # noqa: TRY301  # all that ends a command early passes by the same place
        except BaseException as error:
            if not isinstance(error, CommandTimeout | CommandStopped):
                with anyio.CancelScope(shield=True), suppress(EngineError):
                    await self._kill(stream, _Discarding())
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await _close(stream)

    async def _exchange(self, stream: Stream) -> None:
        if not self._command.stdin:
            await self._read(stream, self._output)
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._feed, stream)
            await self._read(stream, self._output)
            tasks.cancel_scope.cancel()

    async def _feed(self, stream: Stream) -> None:
        data = memoryview(self._command.stdin)
        # A command may end, or close its stdin, before it has read all.
        with suppress(ConnectionError, RuntimeError):
            for start in range(0, len(data), STDIN_CHUNK_BYTES):
                await stream.write_in(bytes(data[start : start + STDIN_CHUNK_BYTES]))
            # aiodocker ends stdin only together with stdout.
            response: Any = stream._resp  # noqa: SLF001
            response.connection.transport.write_eof()

    async def _read(self, stream: Stream, output: OutputSink) -> None:
        while (message := await stream.read_out()) is not None:
            if message.stream == STDERR and _BROKEN_STDIN.fullmatch(message.data):
                continue
            if message.stream == STDERR and self._may_be_start_failure(message.data):
                self._held_back += message.data
                continue
            if self._held_back:
                await self._release()
            self._has_output = True
            await output.write("stderr" if message.stream == STDERR else "stdout", message.data)

    def _may_be_start_failure(self, data: bytes) -> bool:
        if self._has_output or len(self._held_back) + len(data) > HELD_BACK_BYTES_MAXIMUM:
            return False
        return bool(_START_FAILURE.fullmatch(data) or self._exec_failure(data))

    def _exec_failure(self, data: bytes) -> re.Match[bytes] | None:
        told = _EXEC_FAILURE.fullmatch(data)
        name = self._command.argv[0].encode(errors="surrogateescape")
        is_its = told is not None and told["path"].rpartition(b"/")[2] == name.rpartition(b"/")[2]
        return told if is_its else None

    async def _release(self) -> None:
        data, self._held_back, self._has_output = self._held_back, b"", True
        await self._output.write("stderr", data)

    async def _exit_code_or_kill(self, started: Exec) -> int:
        try:
            return await self._exit_code(started)
        except BaseException:
            # The stream's end was not the command's: it closed its output, or the engine was lost.
            with anyio.CancelScope(shield=True):
                await self._kill_once()
            raise

    async def _exit_code(self, started: Exec) -> int:
        """Ask how it ended. The engine may learn of the end a moment after the stream's."""
        pause = 0.002
        while True:
            try:
                async with self._connection.reaching(self._doing):
                    facts = await started.inspect()
            except DockerError as error:
                raise self._refusal(error) from error
            if not facts["Running"]:
                return int(facts["ExitCode"])
            if not await self._container_runs():
                raise self._gone("it stopped while the command ran")
            await anyio.sleep(pause)
            pause = min(pause * 2, ENDED_POLL_SECONDS_MAXIMUM)

    async def _container_runs(self) -> bool:
        try:
            async with self._connection.reaching(self._doing):
                facts = await describe(self._in.container)
        except DockerError as error:
            raise self._refusal(error) from error
        return bool(facts["State"]["Running"])

    async def _interrupted(self, wait: Callable[[], Awaitable[None]]) -> bool:
        """Wait for the command's end; False where its timeout, or whoever stops it, came first."""
        timeout = math.inf if self._command.timeout is None else self._command.timeout
        with anyio.move_on_after(timeout) as scope:
            with nullcontext() if self._stop is None else self._stop.interrupting(scope):
                await wait()
        return not scope.cancelled_caught

    async def _end_gently(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Ask all that the command started to end, and give it time to: what is left then is to be killed.

        :param wait: waits for the end of its first process.
        """
        namespace, is_over = self._in.namespace, anyio.Event()
        if namespace is None:
            return  # its processes are on another machine
        grace = None if self._stop is None else self._stop.grace
        with anyio.move_on_after(TIMEOUT_GRACE_SECONDS if grace is None else grace), single_error():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._ask_until_gone, namespace, is_over)
                await wait()
                is_over.set()

    async def _ask_until_gone(self, namespace: processes.Namespace, is_over: anyio.Event) -> None:
        """Send SIGTERM to all, also to what is only about to start, until the command is over and nothing is left."""
        asked: dict[int, bytes] = {}
        pause = 0.005
        while True:
            was_over = is_over.is_set()
            left = await anyio.to_thread.run_sync(
                lambda: namespace.ask(self._mark, self._started_on_host, asked, alone=self._is_alone)
            )
            if was_over and not left:
                return
            pause = min(pause * 2, ENDED_POLL_SECONDS_MAXIMUM)
            if was_over:
                await anyio.sleep(pause)
                continue
            with anyio.move_on_after(pause):
                await is_over.wait()

    @property
    def _is_alone(self) -> bool:
        """Whether no other command runs in the container now."""
        return self._in.running <= {self._mark}

    async def _kill(self, stream: Stream, output: OutputSink) -> None:
        """Kill all that the command started, and hand on what it had said.

        The first process may only be about to start: the stream's end says that it started and is gone.
        """
        with anyio.CancelScope(shield=True), anyio.move_on_after(KILL_SECONDS) as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._kill_until_cancelled)
                with suppress(Exception):  # the command is being ended: nothing that its stream says matters more
                    await self._read(stream, output)
                tasks.cancel_scope.cancel()
            # What it left in the background holds no stream open.
            await self._kill_once()
        if scope.cancelled_caught:
            with anyio.CancelScope(shield=True):
                await self._kill_container()

    async def _kill_until_cancelled(self) -> None:
        while True:
            await self._kill_once()
            await anyio.sleep(0.02)

    async def _kill_once(self) -> None:
        namespace = self._in.namespace
        if namespace is None:
            await self._kill_container()
            return
        await anyio.to_thread.run_sync(
            lambda: namespace.kill(self._mark, self._started_on_host, alone=self._is_alone), abandon_on_cancel=False
        )

    async def _kill_container(self) -> None:
        """Kill the whole container: the last resort, and the only one where its processes are on another machine."""
        self._in.is_ended = True
        with suppress(DockerError, EngineLost):
            async with self._connection.reaching("killing a container", 10.0):
                await self._in.container.kill(signal="KILL")

    def _ended_early(self) -> CommandTimeout | CommandStopped:
        what = f"command `{' '.join(self._command.argv)[:200]}`"
        if self._stop is not None and self._stop.grace is not None:
            return CommandStopped(f"{what} was stopped (in container {self._in.image})")
        return CommandTimeout(
            f"{what} ran longer than its timeout of {self._command.timeout:g} s and was ended "
            f"(in container {self._in.image})",
            hint="Raise `timeout`, or find out what it waits for: its output so far is in the log.",
        )

    def _refusal(self, error: DockerError) -> EngineError:
        """Tell what the engine answered before the command ran."""
        text = error.message.lower()
        if "unable to find user" in text or "no matching entries in passwd" in text or "unable to find group" in text:
            return self._unknown_user(error.message)
        if error.status == HTTPStatus.NOT_FOUND:
            is_taken = "container" in text and not self._in.is_ended
            return self._taken("it was removed") if is_taken else self._gone("it was removed")
        if "container state improper" in text or "is not running" in text or error.status == HTTPStatus.CONFLICT:
            return self._gone("it is not running any more")
        return self._start_failure(error.message, NOT_FOUND)

    def _start_failure(self, message: str, code: int) -> EngineError:
        """Tell why the runtime could not start the command."""
        name = self._command.argv[0]
        reason = first_line(message)
        # The command's own words, which the runtime quotes, are not what it says about them.
        text = _QUOTED.sub("", message).lower()
        where = f"in container {self._in.image}"
        if "chdir to" in text:
            return WorkingFolderNotFound(
                f"command `{name}` could not be started {where}: "
                f"its folder `{self._command.cwd}` {_what_is_wrong(text)}",
                hint="`cwd` is relative to the workspace (/workspace); create the folder first.",
            )
        if "unable to find user" in text or "no matching entries in passwd" in text:
            return self._unknown_user(message)
        if "permission denied" in text or "exec format error" in text or code == NOT_EXECUTABLE:
            why = "is not a program for this machine" if "exec format error" in text else "cannot be executed"
            return CommandNotExecutable(
                f"command `{name}` {where} {why}: {_cause(reason)}",
                hint=EXECUTABLE_HINT,
            )
        if "not found" in text or "no such file" in text:
            return self._not_found(name, where)
        return CommandStartFailed(f"command `{name}` could not be started {where}: {reason}")

    def _exec_refused(self, why: str) -> EngineError:
        """Tell why the kernel did not start a file that the runtime had found."""
        what = f"command `{self._command.argv[0]}` in container {self._in.image} could not be started"
        if why == "no such file or directory":
            return CommandNotFound(
                f"{what}: its file is there, and its interpreter, or the dynamic loader that it needs, is missing",
                hint="Does the first line of a script name a program of the image, and end as lines do there? "
                "Was a program built for the image's C library?",
            )
        return CommandNotExecutable(f"{what}: {why}", hint=EXECUTABLE_HINT)

    def _not_found(self, name: str, where: str) -> CommandNotFound:
        path = (self._command.env.get("PATH") or self._in.environment.get("PATH")) or ""
        if "/" in name:
            return CommandNotFound(
                f"command `{name}` not found {where}: there is no such file, or the interpreter it names is missing",
                hint="A path is taken as seen from inside the container, where the workspace is /workspace.",
            )
        return CommandNotFound(
            f"command `{name}` not found {where} (looked in PATH: {path or 'empty'})",
            hint="Choose an image that has it, or install it in an earlier command of the same container.",
        )

    def _unknown_user(self, message: str) -> UserNotFound:
        user = self._command.user or "its default one"
        return UserNotFound(
            f"user `{user}` does not exist in container {self._in.image}: {first_line(message)}",
            hint="Name a user of the image, or give a number such as 1000 or 1000:1000.",
        )

    async def _stopped(self, why: str, kills_before: int, kills: int | None) -> ContainerGone:
        """Tell of a container that stopped while a command ran.

        :param kills: how many of its processes the kernel had killed for want of memory when its end was noticed.
        """
        if kills is not None and kills > kills_before:
            return self._gone("its memory was used up, and the kernel killed its first process")
        code: int | None = None
        is_for_memory = False
        with anyio.move_on_after(ENDED_SECONDS), suppress(DockerError, EngineError):
            while True:  # the engine learns of it a moment later
                async with self._connection.reaching(self._doing):
                    state = (await describe(self._in.container))["State"]
                if not state["Running"]:
                    code, is_for_memory = int(state["ExitCode"]), bool(state.get("OOMKilled"))
                    break
                await anyio.sleep(ENDED_POLL_SECONDS)
        # From inside, a first process can be asked to end, by some signals, but never be killed.
        if code == KILLED and not is_for_memory and not self._in.is_ended:
            return self._taken("it was killed while the command ran")
        return self._gone(why)

    def _taken(self, how: str) -> ContainerTaken:
        return ContainerTaken(
            f"container {self._in.container.id[:12]} of image `{self._in.image}` is gone: {how}, from outside of it",
            hint="Somebody, or the system, did that on the runner's machine; it is no fault of the command's.",
        )

    def _gone(self, why: str) -> ContainerGone:
        return ContainerGone(
            f"container {self._in.container.id[:12]} of image `{self._in.image}` is gone: {why}",
            hint="Its first process may have been killed for want of memory, or somebody removed it by hand.",
        )


class _Discarding:
    async def write(self, stream: OutputStream, data: bytes) -> None:
        del stream, data


def signal_name(code: int) -> str | None:
    """Name the signal that an exit code stands for, if it does for one."""
    try:
        return signal.Signals(code - SIGNAL_BASE).name if code > SIGNAL_BASE else None
    except ValueError:
        return None


def _what_is_wrong(text: str) -> str:
    if "not a directory" in text:
        return "is not a folder"
    if "permission denied" in text:
        return "may not be entered by its user"
    return "does not exist"


def _cause(reason: str) -> str:
    """Leave out the runtime's own layers: the last part but Podman's own says why."""
    parts = [part.strip() for part in reason.split(": ")]
    parts = [part for part in parts if not part.startswith("OCI ")]
    return parts[-1] if parts else reason


async def _close(stream: Stream) -> None:
    with suppress(ConnectionError, RuntimeError, AssertionError):
        await stream.close()
