"""The installation that is broken: Postgres, three replicas behind HAProxy, three runners, and proxies between them."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
import msgspec
from psycopg import conninfo

from cli import settings
from cli.runner import CREDENTIALS_FILE
from orchestrator import tokens
from schema.client import Client, OrchestratorRefused, OrchestratorUnreachable
from schema.wire import Health, PipelinePush, PipelineVersion, Token, TokenCreate
from tests.chaos import balancer, processes
from tests.chaos.pipelines import SOURCES
from tests.chaos.processes import Known, Service
from tests.chaos.proxy import Proxy, to_port, to_unix_socket
from tests.cli.command import argv, environment
from tests.postgres import Cluster

REPLICAS = 3
RUNNERS = 3
CAPACITY = 3
LEASE_SECONDS = 3.0
DRAIN_SECONDS = 5.0
START_SECONDS = 60.0
LUA_PARENT = "from sandbox.warm_parent import main"


class Database(Cluster):
    """A Postgres that can be killed. Nothing of what it had committed is lost then."""

    def kill(self) -> None:
        """End it at once, as SIGQUIT does, and return when it is gone."""
        pid = self._server.get_pid()
        assert pid is not None
        descriptor = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGQUIT)
            _wait_for_end(descriptor)
        finally:
            os.close(descriptor)

    def start_again(self) -> None:
        self._server.ensure_postgres_running()

    def backends(self) -> list[int]:
        """List the processes that serve clients."""
        pid = self._server.get_pid()
        assert pid is not None
        return [child for child in processes.children(pid) if "postgres: postgres test_" in processes.words(child)[0]]


class Runner(msgspec.Struct, frozen=True):
    """A runner, and the ways it reaches orchestrators."""

    service: Service
    folder: Path
    id: str
    token: str
    proxies: list[Proxy]

    def lua_parent(self) -> int | None:
        return _first(self.service.pid, LUA_PARENT)

    def lua_processes(self) -> list[int]:
        parent = self.lua_parent()
        return [] if parent is None else processes.children(parent)

    def engine(self) -> int | None:
        """Find the private engine's process; there is none where the machine's own engine is used."""
        return _first(self.service.pid, "system", "service")

    def owners(self) -> list[str]:
        """List the runner processes, dead and alive, that left a folder."""
        folder = self.folder / "owners"
        return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []

    def workspaces(self) -> list[Path]:
        return sorted((self.folder / "owners").glob("*/workspaces/*"))


class Replica(msgspec.Struct, frozen=True):
    service: Service
    address: str
    database: Proxy
    """Its way to Postgres."""

    def lua_parent(self) -> int | None:
        return _first(self.service.pid, LUA_PARENT)


class Installation:
    """All parts. What is asked for a check goes straight to Postgres, and to nobody's proxy."""

    def __init__(self, folder: Path, database: Database, url: str, token: str, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self.folder = folder
        self.database = database
        self.url = url
        self.token = token
        self.replicas: list[Replica] = []
        self.runners: list[Runner] = []
        [self._balancer_port, *self._ports] = balancer.free_ports(1 + REPLICAS)
        self.users = Proxy("users", partial(to_port, self._balancer_port))
        """The submitters' and followers' way to the balancer."""
        self.balancer: Service
        self.seen: set[Known] = set()
        """Every process that a runner had."""

    @property
    def proxies(self) -> list[Proxy]:
        runners = [proxy for runner in self.runners for proxy in runner.proxies]
        return [self.users, *runners, *(replica.database for replica in self.replicas)]

    @property
    def services(self) -> list[Service]:
        parts = [*(runner.service for runner in self.runners), *(replica.service for replica in self.replicas)]
        return [*parts, self.balancer]

    def note_processes(self) -> None:
        """Remember the processes of the runners, to ask later whether they are gone."""
        for runner in self.runners:
            if (pid := runner.service.pid) is not None:
                self.seen.update(filter(None, map(processes.known, processes.descendants(pid))))

    def strays(self) -> list[str]:
        """List processes of runners that are alive and no longer below a living runner."""
        pids = [runner.service.pid for runner in self.runners]
        below = {found for pid in pids if pid is not None for found in processes.descendants(pid)}
        left = [process.pid for process in self.seen if process.pid not in below and processes.lives(process)]
        # The engine's name server is one for all containers of the machine, whoever made them.
        lines = {pid: " ".join(processes.words(pid)) for pid in left}
        return [f"{pid} {line}" for pid, line in lines.items() if line and "aardvark-dns" not in line]

    async def start(self, tasks: anyio.abc.TaskGroup) -> None:
        """Start all parts and wait until each of them works."""
        await tasks.start(self.users.serve)
        for index, port in enumerate(self._ports, 1):
            await self._start_replica(tasks, index, port)
        self.balancer = Service(
            "balancer",
            balancer.write_config(self.folder, self._balancer_port, self._ports),
            environment(),
            self.folder / "balancer.log",
        )
        tasks.start_soon(self.balancer.keep_running)
        await self.until_all_healthy()
        async with Client.open([self.users.address], self.token) as client:
            for kind, source in SOURCES.items():
                await client.post("/v1/pipelines", PipelineVersion, PipelinePush(filename=f"{kind}.lua", source=source))
            for index in range(1, RUNNERS + 1):
                await self._start_runner(tasks, client, index)

    async def until_all_healthy(self) -> None:
        """Wait until each replica, and the balancer, answers that it can work."""
        with anyio.move_on_after(START_SECONDS):
            for address in [*(replica.address for replica in self.replicas), self.users.address]:
                await until_healthy(address)

    async def _start_replica(self, tasks: anyio.abc.TaskGroup, index: int, port: int) -> None:
        parts = conninfo.conninfo_to_dict(self.url)
        socket = f"{parts['host']}/.s.PGSQL.{parts.get('port') or 5432}"

        proxy = Proxy(f"database of replica {index}", partial(to_unix_socket, socket))
        await tasks.start(proxy.serve)
        url = f"postgresql://{parts['user']}@127.0.0.1:{proxy.port}/{parts['dbname']}"
        service = Service(
            f"replica {index}",
            argv("orchestrator", "--port", str(port), "--lease-seconds", str(self._lease_seconds)),
            environment(MOONYARD_DATABASE_URL=url, PYTHONUNBUFFERED="1"),
            self.folder / f"replica-{index}.log",
        )
        self.replicas.append(Replica(service, f"http://127.0.0.1:{port}", proxy))
        tasks.start_soon(service.keep_running)

    async def _start_runner(self, tasks: anyio.abc.TaskGroup, client: Client, index: int) -> None:
        """Register and start a runner: the first asks the balancer, the second the replicas, the third both."""
        ways = {1: [self._balancer_port], 2: self._ports, 3: [self._balancer_port, self._ports[0]]}[index]
        proxies = [Proxy(f"runner {index}, way {number}", partial(to_port, way)) for number, way in enumerate(ways, 1)]
        for proxy in proxies:
            await tasks.start(proxy.serve)
        folder = self.folder / f"runner-{index}"
        registration = await client.post(
            "/v1/tokens", Token, TokenCreate(kind="registration", name=f"runner {index}", uses=1)
        )
        assert registration.secret is not None
        addresses = [flag for proxy in proxies for flag in ("--orchestrator", proxy.address)]
        await anyio.run_process(
            argv("runner", "register", "--name", f"runner {index}", "--state-folder", str(folder), *addresses),
            env=environment(MOONYARD_REGISTRATION_TOKEN=registration.secret),
        )
        credentials = settings.read_toml(folder / CREDENTIALS_FILE)
        service = Service(
            f"runner {index}",
            argv(
                *("runner", "start", "--state-folder", str(folder)),
                *("--capacity", str(CAPACITY), "--drain-seconds", str(DRAIN_SECONDS)),
            ),
            environment(PYTHONUNBUFFERED="1"),
            self.folder / f"runner-{index}.log",
        )
        self.runners.append(Runner(service, folder, credentials["id"], credentials["token"], proxies))
        tasks.start_soon(service.keep_running)

    async def heal(self) -> None:
        """Let everything work again: what is stopped goes on, what is cut is joined."""
        for proxy in self.proxies:
            proxy.heal()
        for runner in self.runners:
            runner.service.send(signal.SIGCONT)
        await anyio.to_thread.run_sync(self.database.start_again)

    async def stop(self) -> list[str]:
        """Stop all parts in order; give those that had to be killed."""
        stubborn: list[str] = []

        async def stop(service: Service) -> None:
            if not await service.stop():
                stubborn.append(service.name)

        for group in ([runner.service for runner in self.runners], [replica.service for replica in self.replicas]):
            async with anyio.create_task_group() as tasks:
                for service in group:
                    tasks.start_soon(stop, service)
        await stop(self.balancer)
        return stubborn

    def containers(self, jobs: Collection[str]) -> list[str]:
        """List the containers of jobs that are there, in whatever state."""
        label = '{{index .Labels "moonyard.job"}}'
        form = label + " {{.ID}} {{.State}}"
        listed = subprocess.run(
            ["podman", "ps", "--all", "--format", form, "--filter", "label=moonyard.owner"],
            capture_output=True,
            check=True,
            text=True,
        ).stdout.splitlines()
        return [line for line in listed if line.partition(" ")[0] in jobs]


@asynccontextmanager
async def running(lease_seconds: float = LEASE_SECONDS) -> AsyncGenerator[Installation]:
    """Have an installation for the span of a block. Its logs stay where it says when the block fails."""
    folder = Path(tempfile.mkdtemp(prefix="moonyard-chaos-"))
    database = await anyio.to_thread.run_sync(lambda: Database(folder / "postgres"))
    try:
        url = await anyio.to_thread.run_sync(database.create_migrated)
        made = await tokens.create_on_database(url, TokenCreate(kind="admin", name="chaos"))
        assert made.secret is not None
        installation = Installation(folder, database, url, made.secret, lease_seconds)
        async with anyio.create_task_group() as tasks:
            try:
                with anyio.fail_after(START_SECONDS):
                    await installation.start(tasks)
                yield installation
                await installation.stop()
            finally:
                tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(database.stop)
    shutil.rmtree(folder)


def _wait_for_end(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(30_000), "Postgres does not end"


def _first(pid: int | None, *wanted: str) -> int | None:
    if pid is None:
        return None
    for found in processes.descendants(pid):
        line = processes.words(found)
        if all(any(word in part for part in line) for word in wanted):
            return found
    return None


async def until_healthy(address: str) -> None:
    async with Client.open([address], None) as client:
        while True:
            try:
                await client.get("/v1/health", Health)
            except (OrchestratorUnreachable, OrchestratorRefused):
                await anyio.sleep(0.05)
            else:
                return
