"""One command in a container, by a command server; where there is none for it, by the engine's own exec."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from runner.engine import memory, processes, shell
from runner.engine.command_server import Folder, Outcome, Server, ServerDied
from runner.engine.errors import (
    CommandLost,
    CommandNotExecutable,
    CommandNotFound,
    CommandStartFailed,
    EngineError,
    WorkingFolderNotFound,
)
from runner.engine.exec import (
    ENDED_POLL_SECONDS,
    EXECUTABLE_HINT,
    KILL_SECONDS,
    NOT_EXECUTABLE,
    NOT_FOUND,
    Command,
    CommandResult,
    Execution,
    OutputSink,
    Surroundings,
    signal_name,
)
from runner.engine.stopping import Stop
from schema.errors import single_error

SERVERS_MAXIMUM: Final = 16
END_SECONDS: Final = 0.2
_INTERPRETER: Final = re.compile(r"#![ \t]*([^ \t]*)")
_FOLDER_TROUBLE: Final = {"missing": "does not exist", "no-folder": "is not a folder"}


class Servers:
    """The command servers of one container. Each runs one command at a time; more are started when all are busy."""

    def __init__(self, folder: Folder, first: Server, start: Callable[[list[str]], Awaitable[None]]) -> None:
        self._folder = folder
        self._start = start
        self._all = {first}
        self._closed = False
        self._idle = [first]

    @property
    def is_alive(self) -> bool:
        """Whether one that is idle lives."""
        return not self._closed and any(server.is_alive for server in self._idle)

    async def take(self, command: Command) -> Server | None:
        """Take a server for a command; None where the command is not one for a server, or there are too many.

        ``give`` it back, or ``drop`` it.
        """
        if command.user is not None or not all(map(shell.can_export, (*command.env, *command.secret_env))):
            return None
        while self._idle:
            server = self._idle.pop()
            if server.is_alive:
                return server
            self.drop(server)
        if self._closed or len(self._all) >= SERVERS_MAXIMUM:
            return None
        server = self._folder.prepare_server()
        self._all.add(server)
        ready = False
        try:
            await self._start(server.command)
            ready = await server.wait_until_ready()
        except EngineError:
            return None  # the engine's own exec meets the same trouble, and tells it
        finally:
            if not ready:
                self.drop(server)
        return server if ready else None

    def give(self, server: Server) -> None:
        self._idle.append(server)

    def drop(self, server: Server) -> None:
        self._all.discard(server)
        server.close()

    def close(self) -> None:
        """Give all up, with their folder: the container is gone."""
        self._closed = True
        for server in self._all:
            server.close()
        self._all.clear()
        self._idle.clear()
        self._folder.remove()


class ServedExecution(Execution):
    """One run of one command by a server."""

    def __init__(
        self, surroundings: Surroundings, command: Command, output: OutputSink, stop: Stop | None, servers: Servers
    ) -> None:
        super().__init__(surroundings, command, output, stop)
        self._servers = servers
        self._ends_early = False
        """By its timeout, or by whoever stops it."""
        self._kills: int | None = None
        """How many of the container's processes the kernel had killed for want of memory when the server died."""
        self._killed = False
        """The server said that the command was over after it had been killed."""

    async def run(self) -> CommandResult:
        """Run the command to its end.

        :raises CommandLost: when the server died, for instance by the hand of the command itself.
        """
        # From here on no other command is alone in the container: a server that is being started is not to be killed
        # with what another command left.
        self._in.running.add(self._mark)
        try:
            server = await self._servers.take(self._command)
            if server is None:
                await self._connection.ensure()
                return await super().run()
            return await self._run_by(server)
        finally:
            self._in.running.discard(self._mark)

    async def _run_by(self, server: Server) -> CommandResult:
        kills_before = memory.kills(self._in.kill_counter)
        self._started = anyio.current_time()
        self._started_on_host = time.clock_gettime(time.CLOCK_BOOTTIME) - 0.02
        ended = False
        try:
            outcome = await server.run(
                self._command.argv,
                env=self._command.env | {processes.MARK: self._mark},
                secret_env=self._command.secret_env,
                cwd=self._command.cwd or "/",
                stdin=self._command.stdin,
                output=self._output,
                guard=self._guard,
            )
            ended = True
        except ServerDied as error:
            raise await self._lost(kills_before, self._kills) from error
        finally:
            if ended or self._killed:
                self._servers.give(server)
            else:
                self._servers.drop(server)
        if self._ends_early:
            raise self._ended_early()
        if outcome.refusal is not None:
            raise self._not_started(outcome)
        return CommandResult(
            code=outcome.code,
            duration=anyio.current_time() - self._started,
            signal=signal_name(outcome.code),
            oom=outcome.code != 0 and memory.kills(self._in.kill_counter) > kills_before,
        )

    async def _guard(self, wait: Callable[[], Awaitable[None]]) -> None:
        try:
            if await self._interrupted(wait):
                return
            self._ends_early = True
            await self._end_gently(wait)
            await self._kill_served(wait)
        except ServerDied:
            # The count is gone with the container in a moment: whoever takes the output may hold us up for longer.
            self._kills = memory.known_kills(self._in.kill_counter)
            raise
        except anyio.get_cancelled_exc_class():
            await self._kill_served(wait)
            raise

    async def _kill_served(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Kill all that the command started, until the server says that it is over."""
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(KILL_SECONDS) as scope:
                with single_error():
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(self._kill_until_cancelled)
                        await wait()
                        tasks.cancel_scope.cancel()
                self._killed = True
                # What it left in the background does not hold up the server's word.
                await self._kill_once()
            if scope.cancelled_caught:
                await self._kill_container()
                raise ServerDied

    async def _lost(self, kills_before: int, kills: int | None) -> EngineError:
        with anyio.CancelScope(shield=True):
            await self._kill_once()
            if self._ends_early:
                return self._ended_early()
            if await self._has_ended() or not await self._container_runs():
                return await self._stopped("it stopped while the command ran", kills_before, kills)
        return CommandLost(
            f"command `{self._command.argv[0]}` in container {self._in.image} was lost: the shell that ran it was "
            "killed, so how it ended is not known",
            hint="Something in the container killed processes that were not its own (`kill -9 -1`, `pkill`).",
        )

    async def _has_ended(self) -> bool:
        """Tell whether the container's first process has ended, as far as this machine can tell.

        A process lets go of its pipes a moment before it has ended.
        """
        namespace = self._in.namespace
        with anyio.move_on_after(END_SECONDS):
            while namespace is not None and not namespace.is_over:  # noqa: ASYNC110  # nothing wakes for two waiters
                await anyio.sleep(ENDED_POLL_SECONDS)
        return namespace is not None and namespace.is_over

    def _not_started(self, outcome: Outcome) -> EngineError:
        name, where = self._command.argv[0], f"in container {self._in.image}"
        match outcome.refusal:
            case "not-found":
                return self._not_found(name, where)
            case "not-executable":
                return CommandNotExecutable(
                    f"command `{name}` {where} cannot be executed: permission denied",
                    hint=EXECUTABLE_HINT,
                )
            case str() as refusal if refusal.startswith("cwd "):
                trouble = _FOLDER_TROUBLE.get(refusal.removeprefix("cwd "), "may not be entered by its user")
                return WorkingFolderNotFound(
                    f"command `{name}` could not be started {where}: its folder `{self._command.cwd}` {trouble}",
                    hint="`cwd` is relative to the workspace (/workspace); create the folder first.",
                )
            case _ if outcome.code == NOT_EXECUTABLE:
                return CommandNotExecutable(
                    f"command `{name}` {where} is not a program for this machine",
                    hint=EXECUTABLE_HINT,
                )
            case _ if outcome.code == NOT_FOUND:
                return _not_runnable(name, where, (outcome.refusal or "").removeprefix("not-started").strip(" "))
            case _:
                return CommandStartFailed(
                    f"command `{name}` could not be started {where}: its shell gave up with code {outcome.code}"
                )


def _not_runnable(name: str, where: str, first_line: str) -> CommandNotFound:
    """Tell of a file that is there, and that the kernel cannot start for want of another one.

    :param first_line: the file's, where it names an interpreter.
    """
    if (named := _INTERPRETER.match(first_line)) is None:
        return CommandNotFound(
            f"command `{name}` {where} could not be started: its file is there, and the dynamic loader that it "
            "needs is not",
            hint="It was built for another C library than the image's: a program for glibc does not run on Alpine as "
            "it is. Choose an image that fits, or link it statically.",
        )
    interpreter = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in named[1])
    return CommandNotFound(
        f"command `{name}` {where} could not be started: it is a script, and its interpreter `{interpreter}` is "
        "missing",
        hint="The script's lines end as on Windows: convert it (`dos2unix`), or let Git do so (`eol=lf`)."
        if interpreter.endswith("\\r")
        else "Choose an image that has it, or install it in an earlier command of the same container.",
    )
