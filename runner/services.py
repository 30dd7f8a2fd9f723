"""The services of a job or of one try of a stage: containers that run beside its own, on a network of theirs.

    make a network ──> start all of them ──> wait until each is ready ──> ... ──> end: kill, forget
                          │ what each says goes into the job's log, from its first byte to its last

A job's services are on one network with all of the job's containers. A stage with services of its own has a network of
its own too, so that two stages at the same time can each have their `db`; its containers are on both. On a network the
engine's name server knows the services by name. The job's containers have the names in their hosts file besides, which
holds whatever becomes of the name server.

When the engine is lost, a service goes on running; what it says until it is listened to again is not kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import aiohttp
import anyio
import anyio.abc
import msgspec
from aiodocker.exceptions import DockerError
from aiodocker.stream import Stream

from runner.engine.container import Container, ContainerSpec
from runner.engine.engine import Engine
from runner.engine.errors import ContainerGone, EngineError, reason
from runner.engine.exec import Command, OutputStream
from runner.engine.listening import listening
from runner.event_stream import EventStream
from runner.lines import LineSplitter
from schema.definition import Readiness, ServiceDefinition
from schema.errors import MoonyardError, single_error
from schema.states import Level

START_SECONDS: Final = 15 * 60.0
"""For making one service's container, its image's pull included."""
CONNECT_SECONDS: Final = 1.0
LAST_WORDS_SECONDS: Final = 5.0
"""For reading what an ended service said last."""
PAUSE_SECONDS: Final = 0.02
PAUSE_SECONDS_MAXIMUM: Final = 0.5
LAST_LINES: Final = 5
LAST_LINE_LENGTH_MAXIMUM: Final = 300
LOG_BYTES_MAXIMUM: Final = 16 * 1024 * 1024
"""Of one service; the job's own limit holds besides."""


class ServiceFailed(MoonyardError):
    """A service could not be started, or ended before it was ready."""

    code = "service_failed"


class ServiceNotReady(MoonyardError):
    """A service was not ready in time."""

    code = "service_not_ready"


class Services:
    """Those of a job, or of one try of a stage. ``start`` once, and ``end`` always."""

    def __init__(
        self,
        *,
        engine: Engine,
        stream: EventStream,
        stage: str | None,
        spec: Callable[[str], ContainerSpec],
        outer: Services | None,
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        """Prepare.

        :param spec: makes the specification of a container of an image.
        :param outer: those of the job, for those of a stage.
        """
        self._engine = engine
        self._stream = stream
        self._stage = stage
        self._spec = spec
        self._outer = outer
        self._tasks = tasks
        self._network: str | None = None
        self._services: list[Service] = []
        self._is_over = False

    @property
    def networks(self) -> list[str]:
        """The networks that containers have to be on to reach them, their own first."""
        own = [] if self._network is None else [self._network]
        return own + ([] if self._outer is None else self._outer.networks)

    @property
    def hosts(self) -> dict[str, str]:
        """Addresses by name, the job's included."""
        outer = {} if self._outer is None else self._outer.hosts
        return outer | {service.name: service.address for service in self._services}

    async def start(self, definitions: Mapping[str, ServiceDefinition]) -> None:
        """Start the services, and wait until all are ready.

        :raises ServiceFailed: when one cannot be started, or ends before it is ready.
        :raises ServiceNotReady: when one is not ready in time.
        """
        self._network = await self._engine.create_network(self._stream.job, self._stream.attempt)
        with single_error():
            async with anyio.create_task_group() as starting:
                for name, definition in definitions.items():
                    starting.start_soon(self._start, name, definition)
        with single_error():
            async with anyio.create_task_group() as waiting:
                for service in self._services:
                    waiting.start_soon(service.wait_until_ready)

    async def _start(self, name: str, definition: ServiceDefinition) -> None:
        assert self._network is not None, "they are started on it"
        spec = msgspec.structs.replace(
            self._spec(definition.image),
            kind="service",
            env=definition.env,
            command=definition.command,
            rights=definition.rights,
            networks=self.networks,
            aliases=[name],
            hosts={} if self._outer is None else self._outer.hosts,
        )
        try:
            with anyio.fail_after(START_SECONDS):
                container, said = await self._engine.create_service(spec, self._progress)
        except TimeoutError as error:
            raise ServiceFailed(
                f"service `{name}` was not started within {START_SECONDS:.0f} s (image `{definition.image}`)"
            ) from error
        except MoonyardError as error:
            raise ServiceFailed(f"service `{name}` could not be started: {error.message}", hint=error.hint) from error
        service = Service(name, definition, container, self._stream, self._stage, container.addresses[self._network])
        self._services.append(service)
        self._tasks.start_soon(service.follow, said)

    async def _progress(self, text: str) -> None:
        await self._stream.log(self._stage, "info", "system", text)

    async def end(self, *, leaves_network: bool = False) -> None:
        """End them all, and wait until nothing of them runs and their last words are in the log.

        :param leaves_network: for containers that stay on it; ``end`` is to be called once more when they are gone.
        """
        if not self._is_over:
            self._is_over = True
            await self._end_all()
        if self._network is not None and not leaves_network:
            self._engine.discard_network(self._network)
            self._network = None

    async def _end_all(self) -> None:
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                for service in self._services:
                    tasks.start_soon(service.end)
        for service in self._services:
            self._engine.discard(service.container)


class Service:
    """One that was started."""

    def __init__(
        self,
        name: str,
        definition: ServiceDefinition,
        container: Container,
        stream: EventStream,
        stage: str | None,
        address: str,
    ) -> None:
        self.name = name
        self.container = container
        self.address = address
        self._definition = definition
        self._stream = stream
        self._stage = stage
        self._started = anyio.current_time()
        self._splitters = {1: LineSplitter(), 2: LineSplitter()}
        self._redacted = {1: stream.redaction.stream(), 2: stream.redaction.stream()}
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._log_bytes = 0
        self._is_ready = False
        self._is_ended = False
        """By us."""
        self._code: int | None = None
        self._silent = anyio.Event()
        """It has ended, and its last words are in the log."""
        self._following = anyio.CancelScope()

    async def end(self) -> None:
        """Kill all that runs in it, and read what it said last."""
        self._is_ended = True
        if not await self.container.end():  # it is another machine's
            try:
                await self.container.remove()
            except EngineError as error:
                await self._tell("warn", f"service `{self.name}` could not be ended ({error.message})")
        with anyio.move_on_after(LAST_WORDS_SECONDS):
            await self._silent.wait()
        self._following.cancel()

    async def follow(self, said: Stream) -> None:
        """Put what it says into the log until it has ended."""
        try:
            with self._following:
                await self._read(said)
                while not self._is_ended and await self._runs_on():
                    # The engine went away, not the service.
                    await self._tell("warn", f"the log of service `{self.name}` has a gap: the engine was lost")
                    await self._read(self.container.attach())
                if self._is_ready and not self._is_ended:
                    await self._tell("warn", f"service `{self.name}` ended with exit code {self._code}")
        finally:
            with anyio.CancelScope(shield=True):
                for number, splitter in self._splitters.items():
                    await self._tell_lines(splitter.feed(self._redacted[number].finish()))
                    await self._tell_lines(splitter.finish())
            self._silent.set()

    async def _read(self, said: Stream) -> None:
        try:
            while (message := await said.read_out()) is not None:
                shown = self._redacted[message.stream].feed(message.data)
                await self._tell_lines(self._splitters[message.stream].feed(shown))
        except (aiohttp.ClientError, OSError, DockerError):
            return  # whether it has ended is to be asked
        finally:
            with anyio.CancelScope(shield=True):
                await said.close()

    async def _runs_on(self) -> bool:
        """Ask whether it runs, and how it ended if not. The engine may be away for a moment, or not know yet."""
        pause = PAUSE_SECONDS
        while True:
            await anyio.sleep(pause)
            pause = min(pause * 2, PAUSE_SECONDS_MAXIMUM)
            with suppress(EngineError):
                self._code = await self.container.exit_code()
                if self._code is not None or not self.container.has_ended:
                    return self._code is None

    async def wait_until_ready(self) -> None:
        """Wait until it can be used.

        :raises ServiceFailed: when it ends before, or cannot be asked.
        :raises ServiceNotReady: when that takes too long.
        """
        ready = self._definition.ready
        if ready is not None:
            await self._wait_until_ready(ready)
        self._is_ready = True
        if not self._silent.is_set():
            seconds = anyio.current_time() - self._started
            await self._tell("info", f"service `{self.name}` is ready ({self._definition.image}, {seconds:.1f} s)")

    async def _wait_until_ready(self, ready: Readiness) -> None:
        trouble: str | None = "it was not asked yet"
        pause = PAUSE_SECONDS
        with anyio.move_on_after(ready.timeout):
            # What answers at the address of one that has ended is another.
            while (trouble := await self._trouble(ready)) is not None or self.container.has_ended:
                if self.container.has_ended:
                    await self._silent.wait()
                if self._silent.is_set():
                    raise ServiceFailed(
                        f"service `{self.name}` (image `{self._definition.image}`) ended with exit code {self._code} "
                        f"before it was ready{self._last_words()}",
                        hint="All that it said stands above in the log, at level `debug`.",
                    )
                with anyio.move_on_after(pause):
                    await self._silent.wait()
                pause = min(pause * 2, PAUSE_SECONDS_MAXIMUM)
            return
        raise ServiceNotReady(
            f"service `{self.name}` (image `{self._definition.image}`) was not ready within {ready.timeout:g} s: "
            f"{trouble}{self._last_words()}",
            hint="All that it said stands above in the log, at level `debug`. `ready` takes a `timeout`.",
        )

    async def _trouble(self, ready: Readiness) -> str | None:
        """Say why it is not ready; None when it is."""
        if self.container.has_ended:
            return "it has ended"
        if ready.command is not None:
            return await self._trouble_by_command(ready.command)
        assert ready.port is not None, "a service is asked at a port or by a command"
        first = self.container.first_process
        if first is None:
            return await self._trouble_by_connecting(ready.port)
        match listening(first, ready.port):
            case "yes":
                return None
            case "for itself":
                return f"it listens at port {ready.port} of a loopback address, where only it itself can reach it"
            case "no":
                return f"nothing listens at port {ready.port}"

    async def _trouble_by_command(self, argv: list[str]) -> str | None:
        output = _LastOutput()
        try:
            result = await self.container.run(Command(argv=argv, cwd="/"), output)
        except ContainerGone:
            return "it has ended"
        except EngineError as error:
            raise ServiceFailed(
                f"service `{self.name}` cannot be asked whether it is ready: {error.message}", hint=error.hint
            ) from error
        if result.code == 0:
            return None
        return f"`{argv[0]}` exited with code {result.code}{output.shown}"

    async def _trouble_by_connecting(self, port: int) -> str | None:
        """Ask one whose processes are another machine's, or ended before they were looked at."""
        try:
            with anyio.fail_after(CONNECT_SECONDS):
                await (await anyio.connect_tcp(self.address, port)).aclose()
        except (OSError, TimeoutError) as error:
            return f"port {port} cannot be reached ({reason(error)})"
        # The address of one that has ended may be another's, or lead out of this machine: there, anything may answer.
        with suppress(EngineError):
            if await self.container.exit_code() is None:
                return None
        return f"something answers at port {port}, but whether it is the service is not known"

    def _last_words(self) -> str:
        if not self._last:
            return "; it said nothing"
        lines = " | ".join(line[:LAST_LINE_LENGTH_MAXIMUM] for line in self._last)
        return f"; the last it said: {lines}"

    async def _tell_lines(self, lines: list[str]) -> None:
        if not lines:
            return
        self._last.extend(line for line in lines[-LAST_LINES:] if line.strip())
        if self._log_bytes > LOG_BYTES_MAXIMUM:
            return
        await self._stream.log_lines(self._stage, "debug", "service", lines, self.name)
        self._log_bytes += sum(map(len, lines))
        if self._log_bytes > LOG_BYTES_MAXIMUM:
            await self._tell(
                "warn",
                f"service `{self.name}` said more than {LOG_BYTES_MAXIMUM // 1024**2} MiB: the rest is dropped",
            )

    async def _tell(self, level: Level, text: str) -> None:
        await self._stream.log(self._stage, level, "system", text)


class _LastOutput:
    """Keeps the end of what a command says."""

    def __init__(self) -> None:
        self._data = b""

    async def write(self, stream: OutputStream, data: bytes) -> None:
        del stream
        self._data = (self._data + data)[-LAST_LINE_LENGTH_MAXIMUM:]

    @property
    def shown(self) -> str:
        lines = self._data.decode(errors="replace").strip().splitlines()
        return f" ({lines[-1]})" if lines else ""
