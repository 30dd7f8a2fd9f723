"""The installation that is broken: Postgres, three replicas behind HAProxy, three runners, and proxies between them."""

from __future__ import annotations

import os
import select
import shutil
import signal
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
import msgspec
from psycopg import conninfo, sql

from cli import settings
from orchestrator import tokens
from runner.registration import FILE_NAME
from schema.client import Client, OrchestratorRefused, OrchestratorUnreachable
from schema.wire import Health, PipelinePush, PipelineVersion, Token, TokenCreate
from tests.chaos import balancer, leftovers, processes
from tests.chaos.clock import Clock
from tests.chaos.disk import Disk
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
NOTE_SECONDS = 0.25
WITH_CLOCK = ("replica 1", "runner 3")
"""Parts whose clock can jump."""
LUA_PARENT = "from sandbox.warm_parent import main"


class Database(Cluster):
    """A Postgres that can be killed. Nothing of what it had committed is lost then."""

    def vacuum_often(self) -> None:
        """Let it look for dead rows all the time: what it counted of them is lost with each crash."""
        self.run(sql.SQL("ALTER SYSTEM SET autovacuum_naptime = '1s'").format())
        self.run(sql.SQL("SELECT pg_reload_conf()").format())

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
        lines = {child: " ".join(processes.words(child)) for child in processes.children(pid)}  # some end meanwhile
        return [child for child, line in lines.items() if "postgres: postgres test_" in line]


class Runner(msgspec.Struct, frozen=True):
    """A runner, and the ways it reaches orchestrators."""

    service: Service
    folder: Path
    id: str
    token: str
    proxies: list[Proxy]
    disk: Disk | None
    clock: Clock | None

    def lua_parent(self) -> int | None:
        return _first(self.service.pid, LUA_PARENT)

    def lua_processes(self) -> list[int]:
        parent = self.lua_parent()
        return [] if parent is None else processes.children(parent)

    def engine(self) -> int | None:
        """Find the private engine's process; there is none where the machine's own engine is used."""
        return _first(self.service.pid, "system", "service")

    def workspaces(self) -> list[Path]:
        return sorted((self.folder / "owners").glob("*/workspaces/*"))


class Replica(msgspec.Struct, frozen=True):
    service: Service
    address: str
    database: Proxy
    """Its way to Postgres."""
    clock: Clock | None

    def lua_parent(self) -> int | None:
        return _first(self.service.pid, LUA_PARENT)


class Installation:
    """All parts. What is asked for a check goes straight to Postgres, and to nobody's proxy."""

    def __init__(
        self,
        folder: Path,
        database: Database,
        url: str,
        token: str,
        *,
        lease_seconds: float,
        keep_seconds: float | None,
    ) -> None:
        self._lease_seconds = lease_seconds
        self._keep_seconds = keep_seconds
        self.folder = folder
        self.database = database
        self.url = url
        self.token = token
        self.replicas: list[Replica] = []
        self.runners: list[Runner] = []
        self._disks: list[Disk] = []
        [self._balancer_port, *self._ports] = balancer.free_ports(1 + REPLICAS)
        self.users = Proxy("users", partial(to_port, self._balancer_port))
        """The submitters' and followers' way to the balancer."""
        self.balancer: Service
        self.seen: set[Known] = set()
        """Every process that a runner had."""
        self.owners: set[str] = set()
        """Every name that a runner had on the machine: each of its processes has its own."""
        self.secrets = {"the admin's token": token}
        """By what they are called: no log and no row may have one."""

    @property
    def proxies(self) -> list[Proxy]:
        runners = [proxy for runner in self.runners for proxy in runner.proxies]
        return [self.users, *runners, *(replica.database for replica in self.replicas)]

    @property
    def services(self) -> list[Service]:
        parts = [*(runner.service for runner in self.runners), *(replica.service for replica in self.replicas)]
        return [*parts, self.balancer]

    async def note_processes(self) -> None:
        """Remember what the runners had all the while, to ask later whether it is gone; until cancelled."""
        while True:
            self.note_processes_now()
            await anyio.sleep(NOTE_SECONDS)

    def note_processes_now(self) -> None:
        for runner in self.runners:
            self.owners.update(name.removeprefix(".") for name in leftovers.owners(runner.folder))
            if (pid := runner.service.pid) is not None:
                self.seen.update(filter(None, map(processes.known, processes.descendants(pid))))

    def strays(self) -> list[str]:
        """List processes of runners that are alive and no longer below a living runner."""
        pids = [runner.service.pid for runner in self.runners]
        return leftovers.strays(self.seen, [pid for pid in pids if pid is not None])

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
        name = f"replica {index}"
        clock = self._clock(name)
        keeping = [] if self._keep_seconds is None else ["--keep-days", str(self._keep_seconds / 86400)]
        service = Service(
            name,
            argv("orchestrator", "--port", str(port), "--lease-seconds", str(self._lease_seconds), *keeping),
            _environment(clock, MOONYARD_DATABASE_URL=url, PYTHONUNBUFFERED="1"),
            self.folder / f"replica-{index}.log",
        )
        self.replicas.append(Replica(service, f"http://127.0.0.1:{port}", proxy, clock))
        tasks.start_soon(service.keep_running)

    async def _start_runner(self, tasks: anyio.abc.TaskGroup, client: Client, index: int) -> None:
        """Register and start a runner: the first asks the balancer, the second the replicas, the third both."""
        ways = {1: [self._balancer_port], 2: self._ports, 3: [self._balancer_port, self._ports[0]]}[index]
        proxies = [Proxy(f"runner {index}, way {number}", partial(to_port, way)) for number, way in enumerate(ways, 1)]
        for proxy in proxies:
            await tasks.start(proxy.serve)
        name = f"runner {index}"
        clock = self._clock(name)
        folder = self.folder / f"runner-{index}"
        disk = await anyio.to_thread.run_sync(Disk.mount, folder)
        if disk is not None:
            self._disks.append(disk)
        registration = await client.post("/v1/tokens", Token, TokenCreate(kind="registration", name=name, uses=1))
        assert registration.secret is not None
        addresses = [flag for proxy in proxies for flag in ("--orchestrator", proxy.address)]
        await anyio.run_process(
            argv("runner", "register", "--name", name, "--state-folder", str(folder), *addresses),
            env=environment(MOONYARD_REGISTRATION_TOKEN=registration.secret),
        )
        credentials = settings.read_toml(folder / FILE_NAME)
        self.secrets |= {f"registration token {index}": registration.secret, f"{name}'s token": credentials["token"]}
        service = Service(
            name,
            argv(
                *("runner", "start", "--state-folder", str(folder)),
                *("--capacity", str(CAPACITY), "--drain-seconds", str(DRAIN_SECONDS)),
            ),
            _environment(clock, PYTHONUNBUFFERED="1"),
            self.folder / f"runner-{index}.log",
        )
        self.runners.append(Runner(service, folder, credentials["id"], credentials["token"], proxies, disk, clock))
        tasks.start_soon(service.keep_running)

    async def heal(self) -> None:
        """Let everything work again: what is stopped goes on, what is cut is joined, what is full has room."""
        for proxy in self.proxies:
            proxy.heal()
        for part in [*self.runners, *self.replicas]:
            part.service.send(signal.SIGCONT)
            if part.clock is not None:
                part.clock.jump(0)
        for disk in self._disks:
            disk.free()
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

    def unmount(self) -> None:
        """Give up the runners' disks, when nobody needs them any more."""
        for disk in self._disks:
            disk.unmount()

    def _clock(self, name: str) -> Clock | None:
        return Clock.make(self.folder / f"{name.replace(' ', '-')}.clock") if name in WITH_CLOCK else None


@asynccontextmanager
async def running(
    lease_seconds: float = LEASE_SECONDS, keep_seconds: float | None = None
) -> AsyncGenerator[Installation]:
    """Have an installation for the span of a block. Its logs stay where it says when the block fails.

    :param keep_seconds: how long jobs are kept after their end, if not for ever.
    """
    folder = Path(tempfile.mkdtemp(prefix="moonyard-chaos-"))
    installation: Installation | None = None
    database = await anyio.to_thread.run_sync(lambda: Database(folder / "postgres"))
    try:
        await anyio.to_thread.run_sync(database.vacuum_often)
        url = await anyio.to_thread.run_sync(database.create_migrated)
        made = await tokens.create_on_database(url, TokenCreate(kind="admin", name="chaos"))
        assert made.secret is not None
        installation = Installation(
            folder, database, url, made.secret, lease_seconds=lease_seconds, keep_seconds=keep_seconds
        )
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
            if installation is not None:
                await anyio.to_thread.run_sync(installation.unmount)
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


def _environment(clock: Clock | None, **more: str) -> dict[str, str]:
    plain = environment(**more)
    return plain if clock is None else plain | clock.environment(plain["PYTHONPATH"])


async def until_healthy(address: str) -> None:
    async with Client.open([address], None) as client:
        while True:
            try:
                await client.get("/v1/health", Health)
            except (OrchestratorUnreachable, OrchestratorRefused):
                await anyio.sleep(0.05)
            else:
                return
