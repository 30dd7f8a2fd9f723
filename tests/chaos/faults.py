"""What goes wrong: each fault is a method that does it to a part chosen at random, and mends it after a while."""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.to_thread
import msgspec

from tests.chaos.installation import LEASE_SECONDS, Installation
from tests.chaos.proxy import Proxy, Trap

log = logging.getLogger(__name__)

LONGER_THAN_A_LEASE = LEASE_SECONDS * 1.7
TRAP_SECONDS = 6.0
LUA_WAIT_SECONDS = 4.0
PAUSE_SECONDS = (0.7, 2.0)


class Happened(msgspec.Struct, frozen=True, kw_only=True):
    """A fault that was inflicted."""

    kind: str
    target: str
    at: float
    """Seconds since the epoch: all parts share this machine's clock."""


class Killer:
    """Inflicts faults in an order that the seed decides: all kinds, shuffled, and again."""

    def __init__(self, installation: Installation, chance: random.Random, kinds: Sequence[str] | None = None) -> None:

        self._here = installation
        self._chance = chance
        self.happened: list[Happened] = []
        known: dict[str, Callable[[], Awaitable[str | None]]] = {
            "replica_killed": self._kill_replica,
            "replica_terminated": self._terminate_replica,
            "runner_killed": self._kill_runner,
            "runner_terminated": self._terminate_runner,
            "runner_stopped": self._stop_runner,
            "lua_killed": self._kill_lua,
            "warm_parent_killed": self._kill_warm_parent,
            "engine_killed": self._kill_engine,
            "balancer_killed": self._kill_balancer,
            "postgres_killed": self._kill_postgres,
            "postgres_backend_killed": self._kill_backend,
            "runner_cut": self._cut_runner,
            "runner_delayed": self._delay_runner,
            "runner_held": self._hold_runner,
            "database_cut": self._cut_database,
            "database_delayed": self._delay_database,
            "database_held": self._hold_database,
            "users_cut": self._cut_users,
            "claim_answer_lost": self._lose_claim,
            "events_answer_lost": self._lose_events,
            "heartbeat_answer_lost": self._lose_heartbeat,
            "submit_answer_lost": self._lose_submit,
            "commit_answer_lost": self._lose_commit,
        }
        self._faults = {kind: known[kind] for kind in kinds or known}

    @property
    def kinds(self) -> list[str]:
        return list(self._faults)

    async def run(self, pause_seconds: tuple[float, float] = PAUSE_SECONDS) -> None:
        """Inflict faults until cancelled. Those that take a while overlap with the next ones."""
        async with anyio.create_task_group() as tasks:
            while True:
                deck = self.kinds
                self._chance.shuffle(deck)
                for kind in deck:
                    await anyio.sleep(self._chance.uniform(*pause_seconds))
                    tasks.start_soon(self._inflict, kind)

    async def _inflict(self, kind: str) -> None:
        at = time.time()
        try:
            target = await self._faults[kind]()
        except OSError as error:  # what was to be killed had ended a moment before
            log.info("%s came to nothing: %s", kind, error)
            return
        if target is not None:
            self.happened.append(Happened(kind=kind, target=target, at=at))

    async def _kill_replica(self) -> str | None:
        service = self._chance.choice(self._here.replicas).service
        return service.name if service.send(signal.SIGKILL) else None

    async def _terminate_replica(self) -> str | None:
        service = self._chance.choice(self._here.replicas).service
        return service.name if service.send(signal.SIGTERM) else None

    async def _kill_runner(self) -> str | None:
        self._here.note_processes()
        service = self._chance.choice(self._here.runners).service
        return service.name if service.send(signal.SIGKILL) else None

    async def _terminate_runner(self) -> str | None:
        service = self._chance.choice(self._here.runners).service
        return service.name if service.send(signal.SIGTERM) else None

    async def _stop_runner(self) -> str | None:
        service = self._chance.choice(self._here.runners).service
        if not service.send(signal.SIGSTOP):
            return None
        try:
            await anyio.sleep(LONGER_THAN_A_LEASE)
        finally:
            service.send(signal.SIGCONT)
        return service.name

    async def _kill_lua(self) -> str | None:
        with anyio.move_on_after(LUA_WAIT_SECONDS):
            while True:
                found = [(runner, pid) for runner in self._here.runners for pid in runner.lua_processes()]
                if found:
                    runner, pid = self._chance.choice(found)
                    os.kill(pid, signal.SIGKILL)
                    return runner.service.name
                await anyio.sleep(0.02)
        return None

    async def _kill_warm_parent(self) -> str | None:
        part = self._chance.choice([*self._here.runners, *self._here.replicas])
        pid = part.lua_parent()
        if pid is None:
            return None
        os.kill(pid, signal.SIGKILL)
        return part.service.name

    async def _kill_engine(self) -> str | None:
        runner = self._chance.choice(self._here.runners)
        pid = runner.engine()
        if pid is None:
            return None
        self._here.note_processes()
        os.kill(pid, signal.SIGKILL)
        return runner.service.name

    async def _kill_balancer(self) -> str | None:
        return "balancer" if self._here.balancer.send(signal.SIGKILL) else None

    async def _kill_postgres(self) -> str:
        await anyio.to_thread.run_sync(self._here.database.kill)
        try:
            await anyio.sleep(self._chance.uniform(0.2, 1.5))
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._here.database.start_again)
        return "postgres"

    async def _kill_backend(self) -> str | None:
        backends = self._here.database.backends()
        if not backends:
            return None
        # Postgres ends all its connections then, and recovers as after a crash.
        os.kill(self._chance.choice(backends), signal.SIGKILL)
        return "postgres"

    async def _cut_runner(self) -> str:
        runner = self._chance.choice(self._here.runners)
        for proxy in runner.proxies:
            proxy.cut()
        return runner.service.name

    async def _delay_runner(self) -> str:
        runner = self._chance.choice(self._here.runners)
        await self._delay(runner.proxies, 0.4)
        return runner.service.name

    async def _hold_runner(self) -> str:
        runner = self._chance.choice(self._here.runners)
        await self._hold(runner.proxies, LONGER_THAN_A_LEASE)
        return runner.service.name

    async def _cut_database(self) -> str:
        proxy = self._chance.choice(self._here.replicas).database
        proxy.cut()
        return proxy.name

    async def _delay_database(self) -> str:
        proxy = self._chance.choice(self._here.replicas).database
        await self._delay([proxy], 0.1)
        return proxy.name

    async def _hold_database(self) -> str:
        proxy = self._chance.choice(self._here.replicas).database
        await self._hold([proxy], LONGER_THAN_A_LEASE)
        return proxy.name

    async def _cut_users(self) -> str:
        self._here.users.cut()
        return "users"

    async def _lose_claim(self) -> str | None:
        # An answer without a job is none to lose.
        return await self._lose(
            lambda: Trap(b"POST /v1/runner/claim", b'"assignments":', passes=b'"assignments":[]'), self._of_runners()
        )

    async def _lose_events(self) -> str | None:
        return await self._lose(lambda: Trap(b"POST /v1/runner/jobs/", b'"next_seq":'), self._of_runners())

    async def _lose_heartbeat(self) -> str | None:
        return await self._lose(lambda: Trap(b"POST /v1/runner/heartbeat", b'"gone":'), self._of_runners())

    async def _lose_submit(self) -> str | None:
        return await self._lose(lambda: Trap(b"POST /v1/jobs ", b'"number":'), [self._here.users])

    async def _lose_commit(self) -> str | None:
        # A prepared statement with its values, whichever: Postgres has done it, and nobody hears of it.
        return await self._lose(lambda: Trap(b"B"), [replica.database for replica in self._here.replicas])

    def _of_runners(self) -> list[Proxy]:
        return [proxy for runner in self._here.runners for proxy in runner.proxies]

    async def _lose(self, trap: Callable[[], Trap], proxies: list[Proxy]) -> str | None:
        """Lose the first answer of its kind that comes by any of the proxies."""
        traps = {proxy: trap() for proxy in proxies}
        sprung: list[Proxy] = []

        async def wait(proxy: Proxy, scope: anyio.CancelScope) -> None:
            await traps[proxy].sprung.wait()
            sprung.append(proxy)
            scope.cancel()

        try:
            for proxy in proxies:
                proxy.set_trap(traps[proxy])
            with anyio.move_on_after(TRAP_SECONDS):
                async with anyio.create_task_group() as tasks:
                    for proxy in proxies:
                        tasks.start_soon(wait, proxy, tasks.cancel_scope)
        finally:
            for proxy in proxies:
                proxy.take_away(traps[proxy])
        return sprung[0].name if sprung else None

    async def _delay(self, proxies: list[Proxy], seconds: float) -> None:
        try:
            for proxy in proxies:
                proxy.delay_seconds = self._chance.uniform(seconds / 4, seconds)
            await anyio.sleep(LEASE_SECONDS)
        finally:
            for proxy in proxies:
                proxy.delay_seconds = 0.0

    async def _hold(self, proxies: list[Proxy], seconds: float) -> None:
        try:
            for proxy in proxies:
                proxy.hold()
            await anyio.sleep(seconds)
        finally:
            for proxy in proxies:
                proxy.cut()
                proxy.release()
