"""What goes wrong: each fault is a method that does it to a part chosen at random, and mends it after a while."""

from __future__ import annotations

import logging
import math
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import anyio
import anyio.to_thread
import msgspec

from tests.chaos.installation import LEASE_SECONDS, Installation
from tests.chaos.processes import Service
from tests.chaos.proxy import Proxy, Trap

log = logging.getLogger(__name__)

LONGER_THAN_A_LEASE = LEASE_SECONDS * 1.7
TRAP_SECONDS = 6.0
LUA_WAIT_SECONDS = 4.0
FULL_SECONDS = (1.0, 4.0)
JUMP_SECONDS = 3600
PAUSE_SECONDS = (0.7, 2.0)


class Happened(msgspec.Struct, kw_only=True):
    """A fault that was inflicted."""

    kind: str
    target: str
    at: float
    """Seconds since the epoch: all parts share this machine's clock, but for those whose clock is made to jump."""
    until: float = math.inf
    """When it was mended."""


Fault = Callable[[Callable[[str], None]], Awaitable[None]]
"""Does it, and calls what it is given with the name of what it struck; without a call there was nothing to strike."""


class Killer:
    """Inflicts faults in an order that the seed decides: all kinds, shuffled, and again."""

    def __init__(self, installation: Installation, chance: random.Random, kinds: Sequence[str] | None = None) -> None:
        self._here = installation
        self._chance = chance
        self.happened: list[Happened] = []
        """Also those under way."""
        known: dict[str, Fault] = {
            "replica_killed": self._kill_replica,
            "replica_terminated": self._terminate_replica,
            "runner_killed": self._kill_runner,
            "runner_terminated": self._terminate_runner,
            "runner_stopped": self._stop_runner,
            "replica_stopped": self._stop_replica,
            "lua_killed": self._kill_lua,
            "warm_parent_killed": self._kill_warm_parent,
            "engine_killed": self._kill_engine,
            "balancer_killed": self._kill_balancer,
            "disk_filled": self._fill_disk,
            "clock_jumped": self._jump_clock,
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
        struck: list[Happened] = []

        def hit(target: str) -> None:
            struck.append(Happened(kind=kind, target=target, at=time.time()))
            self.happened.append(struck[-1])

        try:
            await self._faults[kind](hit)
        except OSError as error:  # what was to be killed had ended a moment before
            log.info("%s came to nothing: %s", kind, error)
        finally:
            for happened in struck:
                happened.until = time.time()

    async def _kill_replica(self, hit: Callable[[str], None]) -> None:
        self._send(self._chance.choice(self._here.replicas).service, signal.SIGKILL, hit)

    async def _terminate_replica(self, hit: Callable[[str], None]) -> None:
        self._send(self._chance.choice(self._here.replicas).service, signal.SIGTERM, hit)

    async def _kill_runner(self, hit: Callable[[str], None]) -> None:
        self._here.note_processes_now()
        self._send(self._chance.choice(self._here.runners).service, signal.SIGKILL, hit)

    async def _terminate_runner(self, hit: Callable[[str], None]) -> None:
        self._send(self._chance.choice(self._here.runners).service, signal.SIGTERM, hit)

    async def _kill_balancer(self, hit: Callable[[str], None]) -> None:
        self._send(self._here.balancer, signal.SIGKILL, hit)

    async def _stop_runner(self, hit: Callable[[str], None]) -> None:
        await self._stop(self._chance.choice(self._here.runners).service, hit)

    async def _stop_replica(self, hit: Callable[[str], None]) -> None:
        await self._stop(self._chance.choice(self._here.replicas).service, hit)

    def _send(self, service: Service, number: signal.Signals, hit: Callable[[str], None]) -> None:
        if service.send(number):
            hit(service.name)

    async def _stop(self, service: Service, hit: Callable[[str], None]) -> None:
        """Let a part sleep for longer than a lease, and go on as if nothing had been."""
        if not service.send(signal.SIGSTOP):
            return
        hit(service.name)
        try:
            await anyio.sleep(LONGER_THAN_A_LEASE)
        finally:
            service.send(signal.SIGCONT)

    async def _kill_lua(self, hit: Callable[[str], None]) -> None:
        with anyio.move_on_after(LUA_WAIT_SECONDS):
            while True:
                found = [(runner, pid) for runner in self._here.runners for pid in runner.lua_processes()]
                if found:
                    runner, pid = self._chance.choice(found)
                    os.kill(pid, signal.SIGKILL)
                    hit(runner.service.name)
                    return
                await anyio.sleep(0.02)

    async def _kill_warm_parent(self, hit: Callable[[str], None]) -> None:
        part = self._chance.choice([*self._here.runners, *self._here.replicas])
        pid = part.lua_parent()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            hit(part.service.name)

    async def _kill_engine(self, hit: Callable[[str], None]) -> None:
        runner = self._chance.choice(self._here.runners)
        pid = runner.engine()
        if pid is not None:
            self._here.note_processes_now()
            os.kill(pid, signal.SIGKILL)
            hit(runner.service.name)

    async def _fill_disk(self, hit: Callable[[str], None]) -> None:
        """Leave a runner no byte for its workspaces and all else that it keeps, for a while."""
        runner = self._chance.choice(self._here.runners)
        if runner.disk is None:
            return
        hit(runner.service.name)
        await runner.disk.keep_full(self._chance.uniform(*FULL_SECONDS))

    async def _jump_clock(self, hit: Callable[[str], None]) -> None:
        """Set a part's clock an hour forth or back, and right again."""
        parts = [part for part in [*self._here.runners, *self._here.replicas] if part.clock is not None]
        if not parts:
            return
        part = self._chance.choice(parts)
        assert part.clock is not None
        hit(part.service.name)
        try:
            part.clock.jump(self._chance.choice([-JUMP_SECONDS, JUMP_SECONDS]))
            await anyio.sleep(LONGER_THAN_A_LEASE)
        finally:
            part.clock.jump(0)

    async def _kill_postgres(self, hit: Callable[[str], None]) -> None:
        hit("postgres")
        await anyio.to_thread.run_sync(self._here.database.kill)
        try:
            await anyio.sleep(self._chance.uniform(0.2, 1.5))
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._here.database.start_again)

    async def _kill_backend(self, hit: Callable[[str], None]) -> None:
        backends = self._here.database.backends()
        if backends:
            # Postgres ends all its connections then, and recovers as after a crash.
            os.kill(self._chance.choice(backends), signal.SIGKILL)
            hit("postgres")

    async def _cut_runner(self, hit: Callable[[str], None]) -> None:
        runner = self._chance.choice(self._here.runners)
        hit(runner.service.name)
        for proxy in runner.proxies:
            proxy.cut()

    async def _delay_runner(self, hit: Callable[[str], None]) -> None:
        runner = self._chance.choice(self._here.runners)
        hit(runner.service.name)
        await self._delay(runner.proxies, 0.4)

    async def _hold_runner(self, hit: Callable[[str], None]) -> None:
        runner = self._chance.choice(self._here.runners)
        hit(runner.service.name)
        await self._hold(runner.proxies, LONGER_THAN_A_LEASE)

    async def _cut_database(self, hit: Callable[[str], None]) -> None:
        proxy = self._chance.choice(self._here.replicas).database
        hit(proxy.name)
        proxy.cut()

    async def _delay_database(self, hit: Callable[[str], None]) -> None:
        proxy = self._chance.choice(self._here.replicas).database
        hit(proxy.name)
        await self._delay([proxy], 0.1)

    async def _hold_database(self, hit: Callable[[str], None]) -> None:
        proxy = self._chance.choice(self._here.replicas).database
        hit(proxy.name)
        await self._hold([proxy], LONGER_THAN_A_LEASE)

    async def _cut_users(self, hit: Callable[[str], None]) -> None:
        hit("users")
        self._here.users.cut()

    async def _lose_claim(self, hit: Callable[[str], None]) -> None:
        # An answer without a job is none to lose.
        trap = partial(Trap, b"POST /v1/runner/claim", b'"assignments":', passes=b'"assignments":[]')
        await self._lose(trap, self._of_runners(), hit)

    async def _lose_events(self, hit: Callable[[str], None]) -> None:
        await self._lose(partial(Trap, b"POST /v1/runner/jobs/", b'"next_seq":'), self._of_runners(), hit)

    async def _lose_heartbeat(self, hit: Callable[[str], None]) -> None:
        await self._lose(partial(Trap, b"POST /v1/runner/heartbeat", b'"gone":'), self._of_runners(), hit)

    async def _lose_submit(self, hit: Callable[[str], None]) -> None:
        await self._lose(partial(Trap, b"POST /v1/jobs ", b'"number":'), [self._here.users], hit)

    async def _lose_commit(self, hit: Callable[[str], None]) -> None:
        # A prepared statement with its values, whichever: Postgres has done it, and nobody hears of it.
        await self._lose(partial(Trap, b"B"), [replica.database for replica in self._here.replicas], hit)

    def _of_runners(self) -> list[Proxy]:
        return [proxy for runner in self._here.runners for proxy in runner.proxies]

    async def _lose(self, trap: Callable[[], Trap], proxies: list[Proxy], hit: Callable[[str], None]) -> None:
        """Lose the first answer of its kind that comes by any of the proxies."""
        traps = {proxy: trap() for proxy in proxies}

        async def wait(proxy: Proxy, scope: anyio.CancelScope) -> None:
            await traps[proxy].sprung.wait()
            hit(proxy.name)
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
