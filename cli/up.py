"""``moonyard up``: everything on this machine: an embedded Postgres, orchestrator replicas, and a runner.

Each part is a process of its own, as in a large installation, and is started again when it dies. To stop, the runner
drains first, for it needs the orchestrators to report to, then the orchestrators, and Postgres last.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import anyio
import anyio.abc
import click

from cli import embedded, service_log, settings
from cli.service_log import LogFormat
from runner.registration import FILE_NAME
from schema.client import Client, OrchestratorRefused, OrchestratorUnreachable
from schema.errors import MoonyardError, single_error
from schema.wire import Health, RunnerList, Token, TokenCreate

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 30.0
DRAIN_SECONDS: Final = 10.0
OUTPUT_BYTES: Final = 65536
RESTART_SECONDS: Final = 0.25
"""The first pause; each further death within a minute doubles it."""
RESTARTS_MAXIMUM: Final = 5
RESTARTS_WINDOW_SECONDS: Final = 60.0


@click.command(short_help="Start everything here: Postgres, orchestrators, a runner.")
@settings.setting("database_url")
@settings.setting("state_folder")
@settings.setting("port")
@settings.setting("replicas")
@settings.setting("capacity")
@settings.setting("secret_key_file")
@settings.setting("secret_key_command")
@settings.setting("log_format")
def up(
    *,
    database_url: str | None,
    state_folder: Path,
    port: int,
    replicas: int,
    capacity: int,
    secret_key_file: Path | None,
    secret_key_command: str | None,
    log_format: LogFormat,
) -> None:
    """Start everything on this machine, and stop it with Ctrl-C.

    An embedded Postgres keeps all state below the state folder (or --database-url names another), orchestrators listen
    on --port and the ports after it, and a runner is registered and started. The first admin token is made and shown
    once; this user's other `moonyard` commands find it by themselves.
    """
    if port == 0:
        raise click.UsageError("--port 0 means any free port, and the runner has to know which: name one")
    state_folder = state_folder.resolve()
    service_log.choose(log_format)
    with ExitStack() as stack:
        stack.enter_context(_only_one(state_folder))
        _check_ports(range(port, port + replicas))
        keys = _secret_keys(state_folder, secret_key_file, secret_key_command)
        is_embedded = database_url is None
        if database_url is None:
            _say("postgres", "starting the embedded one ...")
            database_url = stack.enter_context(embedded.postgres(state_folder / "postgres"))
        _migrate(database_url)
        replica_url = embedded.as_replica(database_url) if is_embedded else database_url
        installation = Installation(database_url, replica_url, state_folder, port, replicas, capacity, log_format, keys)

        async def go() -> None:
            with single_error():
                await installation.run()

        anyio.run(go)
        _say("postgres", "stopping")


@contextmanager
def _only_one(state_folder: Path) -> Generator[None]:
    state_folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(state_folder / "up.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MoonyardError(
                f"another `moonyard up` runs with state folder {state_folder}",
                code="already_up",
                hint="Use that one, or give this one a --state-folder and a --port of its own.",
            ) from error
        yield
    finally:
        os.close(descriptor)


def _check_ports(ports: range) -> None:
    """See that the orchestrators will get their ports: another installation's would answer in their place."""
    for port in ports:
        try:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "there is no such port"
            raise MoonyardError(
                f"`moonyard up` needs {len(ports)} ports from {ports[0]} on, one for each orchestrator, and "
                f"127.0.0.1:{port} cannot be had ({why})",
                code="address_unusable",
                hint="Is another `moonyard up` running? --port names the first of other ports.",
            ) from error


def _secret_keys(state_folder: Path, file: Path | None, command: str | None) -> dict[str, str]:
    """Give the variables by which orchestrators, and nothing else here, find the master keys of secrets.

    Where none are named, they are in a file beside the data, which is made when it is not there.
    """
    named = {"MOONYARD_SECRET_KEYS": os.environ.pop("MOONYARD_SECRET_KEYS", "").strip() or None}
    named |= {"MOONYARD_SECRET_KEY_FILE": None if file is None else str(file), "MOONYARD_SECRET_KEY_COMMAND": command}
    given = {variable: value for variable, value in named.items() if value is not None}
    if given:
        return given
    path = state_folder / "secret.keys"
    if not path.exists():
        from orchestrator import master_keys

        settings.write_private(path, master_keys.file_text(master_keys.generate()))
        _say("up", f"made a master key for secrets: keep a copy of {path}")
    return {"MOONYARD_SECRET_KEY_FILE": str(path)}


def _migrate(database_url: str) -> None:
    from schema import database

    database.upgrade(database_url)


class Installation:
    """The processes that ``up`` keeps running."""

    def __init__(
        self,
        database_url: str,
        replica_url: str,
        state_folder: Path,
        port: int,
        replicas: int,
        capacity: int,
        log_format: LogFormat,
        keys: dict[str, str],
    ) -> None:
        self._database_url = database_url
        self._replica_url = replica_url
        self._keys = keys
        self._state_folder = state_folder
        self._runner_folder = state_folder / "runner"
        self._addresses = [f"http://127.0.0.1:{port + offset}" for offset in range(replicas)]
        self._ports = [port + offset for offset in range(replicas)]
        self._capacity = capacity
        self._environment = {"MOONYARD_LOG_FORMAT": log_format}

    async def run(self) -> None:
        """Start all parts, say what is there, and wait for a signal; then stop all parts in order.

        :raises MoonyardError: when a part does not start, or keeps dying.
        """
        orchestrators, runner = self._orchestrators(), self._runner()
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with anyio.create_task_group() as tasks:
                # A signal ends this scope alone: the parts live on beside it, to be stopped in order.
                with anyio.CancelScope() as until_signal:
                    tasks.start_soon(_cancel_on_signal, signals, until_signal)
                    for part in orchestrators:
                        tasks.start_soon(part.keep_running)
                    for part, address in zip(orchestrators, self._addresses, strict=True):
                        await self._wait_until_healthy(part, address)
                    token, is_new = await self._admin_token()
                    async with Client.open(self._addresses, token) as client:
                        await self._register_runner(client)
                    tasks.start_soon(runner.keep_running)
                    self._welcome(token, is_new=is_new)
                    await anyio.sleep_forever()
                await runner.stop()
                async with anyio.create_task_group() as stopping:
                    for part in orchestrators:
                        stopping.start_soon(part.stop)
                tasks.cancel_scope.cancel()

    def _orchestrators(self) -> list[Part]:
        return [
            Part(
                f"orchestrator:{port}",
                [*_moonyard(), "orchestrator", "--host", "127.0.0.1", "--port", str(port)],
                # The URL may hold a password, and an argument can be read by everybody.
                self._environment | {"MOONYARD_DATABASE_URL": self._replica_url} | self._keys,
                stop_seconds=STOP_SECONDS,
            )
            for port in self._ports
        ]

    def _runner(self) -> Part:
        return Part(
            "runner",
            [
                *_moonyard(),
                "runner",
                "start",
                *("--state-folder", str(self._runner_folder)),
                *("--capacity", str(self._capacity)),
                *("--drain-seconds", str(DRAIN_SECONDS)),
            ],
            self._environment,
            stop_seconds=DRAIN_SECONDS + STOP_SECONDS,
        )

    async def _wait_until_healthy(self, part: Part, address: str) -> None:
        with anyio.move_on_after(START_SECONDS):
            async with Client.open([address], None) as client:
                while True:
                    try:
                        await client.get("/v1/health", Health)
                    except (OrchestratorUnreachable, OrchestratorRefused):
                        await anyio.sleep(0.05)
                    else:
                        return
        raise MoonyardError(
            f"{part.name} did not answer within {START_SECONDS:.0f} s",
            code="start_failed",
            hint="What it said stands above.",
        )

    async def _admin_token(self) -> tuple[str, bool]:
        """Give the admin token of this installation, and whether it was made just now."""
        saved = settings.Credentials.of(self._state_folder).token
        if saved is not None:
            async with Client.open(self._addresses, saved) as client:
                try:
                    await client.get("/v1/runners", RunnerList)
                except OrchestratorRefused as refusal:
                    if refusal.status != 401:
                        raise
                else:
                    return saved, False
        from orchestrator import tokens

        made = await tokens.create_on_database(self._database_url, TokenCreate(kind="admin", name="moonyard up"))
        assert made.secret is not None, "a token is shown when it is made"
        settings.Credentials(self._addresses, made.secret, self._database_url).save(self._state_folder)
        return made.secret, True

    async def _register_runner(self, client: Client) -> None:
        path = self._runner_folder / FILE_NAME
        if path.exists():
            known = {runner.id for runner in (await client.get("/v1/runners", RunnerList)).runners}
            if settings.read_toml(path).get("id") in known:
                return
        registration = await client.post(
            "/v1/tokens", Token, TokenCreate(kind="registration", name="moonyard up", uses=1, expires_in=300)
        )
        assert registration.secret is not None, "a token is shown when it is made"
        addresses = [flag for address in self._addresses for flag in ("--orchestrator", address)]
        await anyio.run_process(
            [*_moonyard(), "runner", "register", *addresses, "--state-folder", str(self._runner_folder)],
            env={**os.environ, "MOONYARD_REGISTRATION_TOKEN": registration.secret},
            stderr=None,
        )

    def _welcome(self, token: str, *, is_new: bool) -> None:
        click.echo()
        click.secho("Moonyard is up.", fg="green", bold=True)
        for address in self._addresses:
            click.echo(f"  orchestrator   {address}")
        click.echo(f"  psql           moonyard db psql   ({self._database_url})")
        if is_new:
            click.echo(f"  admin token    {token}")
            path = settings.Credentials.path(self._state_folder)
            click.echo(f"                 shown this once; `moonyard` finds it in {path}")
        click.echo("  next           moonyard pipeline push FILE && moonyard submit NAME --follow")
        click.echo("  stop           Ctrl-C")
        click.echo()
        sys.stdout.flush()


class Part:
    """One process of the installation."""

    def __init__(self, name: str, argv: list[str], environment: dict[str, str], *, stop_seconds: float) -> None:
        self.name = name
        self._argv = argv
        self._environment = environment
        self._stop_seconds = stop_seconds
        self._running = anyio.CancelScope()
        self._ended: anyio.Event | None = None

    async def keep_running(self) -> None:
        """Run the process, and again whenever it dies, until ``stop`` or a cancel; then let it drain.

        :raises MoonyardError: when it dies more often than a passing trouble explains.
        """
        self._ended = anyio.Event()
        try:
            with self._running:
                await self._run_again_and_again()
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Let the process drain, and wait for its end. One that was never started has ended."""
        self._running.cancel()
        if self._ended is not None:
            await self._ended.wait()

    async def _run_again_and_again(self) -> None:
        deaths: list[float] = []
        has_lived = False
        while True:
            started = anyio.current_time()
            code = await self._run_once()
            now = anyio.current_time()
            has_lived = has_lived or code != 2 or now - started >= START_SECONDS
            deaths = [*(death for death in deaths if now - death < RESTARTS_WINDOW_SECONDS), now]
            # At first, code 2 means that it was set up wrongly. Later it may mean that the database is away as well.
            if len(deaths) > RESTARTS_MAXIMUM or not has_lived:
                often = "" if len(deaths) == 1 else f", {len(deaths)} times in a minute"
                raise MoonyardError(
                    f"{self.name} ended with code {code}{often}",
                    code="start_failed",
                    hint="What it said stands above.",
                )
            pause = RESTART_SECONDS * 2 ** (len(deaths) - 1)
            _say(self.name, f"ended with code {code}; it is started again in {pause:g} s")
            await anyio.sleep(pause)

    async def _run_once(self) -> int:
        # A pipe of our own, not the library's: what a killed runner leaves (an engine's helpers) holds its other end
        # open, and the library would wait for that end before it says that the process has ended.
        reader, writer = os.pipe()
        output = Output(self.name, reader)
        try:
            process = await anyio.open_process(
                # Whatever ends `up`, its parts get to know; and a Ctrl-C is for `up` alone, which stops them in order.
                [*_with_parent(), *self._argv],
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        finally:
            os.close(writer)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(output.show)
                try:
                    return await process.wait()
                except anyio.get_cancelled_exc_class():
                    await self._stop(process)
                    raise
                finally:
                    output.end()
        finally:
            os.close(reader)
        raise AssertionError("the task group swallows nothing")

    async def _stop(self, process: anyio.abc.Process) -> None:
        with anyio.CancelScope(shield=True):
            process.terminate()
            with anyio.move_on_after(self._stop_seconds):
                await process.wait()
                _say(self.name, "stopped")
                return
            process.kill()
            await process.wait()
            _say(self.name, f"did not stop within {self._stop_seconds:.0f} s and was killed")


class Output:
    """Shows what a part says, line by line, until the part has ended."""

    def __init__(self, part: str, reader: int) -> None:
        self._part = part
        self._reader = reader
        self._scope = anyio.CancelScope(shield=True)  # what it says while it stops is shown too
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""
        os.set_blocking(reader, False)

    async def show(self) -> None:
        with self._scope:
            while True:
                await anyio.wait_readable(self._reader)
                if not self._read():
                    return

    def end(self) -> None:
        """Show what is there already, and wait for no more."""
        self._scope.cancel()
        with contextlib.suppress(BlockingIOError):
            while self._read():
                pass

    def _read(self) -> bool:
        data = os.read(self._reader, OUTPUT_BYTES)
        *lines, self._rest = (self._rest + self._decoder.decode(data)).split("\n")
        for line in lines:
            _say(self._part, line)
        return bool(data)


def _say(part: str, text: str) -> None:
    if service_log.is_json():
        service_log.pass_on(part, text)
        return
    click.echo(f"{click.style(f'{part:>17} │', fg='bright_black')} {text}", err=True)


def _moonyard() -> list[str]:
    return [sys.executable, "-m", "cli.main"]


def _with_parent() -> list[str]:
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []


async def _cancel_on_signal(signals: AsyncIterator[signal.Signals], scope: anyio.CancelScope) -> None:
    async for number in signals:
        _say("up", f"{number.name}: stopping; running jobs have {DRAIN_SECONDS:.0f} s to end")
        scope.cancel()
