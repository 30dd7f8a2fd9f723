"""Those who use the installation: they submit jobs until each is acknowledged, and follow some of them to their end."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from contextlib import AsyncExitStack

import anyio
import anyio.abc
import msgspec

from schema.client import Client, OrchestratorRefused, OrchestratorUnreachable
from schema.events import JobEvent, decode_line
from schema.states import FINAL_JOB_STATES
from schema.wire import Job, JobSubmit
from tests.chaos.installation import Installation
from tests.chaos.pipelines import COUNTS, KINDS, WEIGHTS, Order

ANSWER_SECONDS = 5.0
PAUSE_SECONDS = 0.2
FOLLOWERS = 4
CANCEL_SECONDS_MAXIMUM = 3.0
CANCELLED = 0.05
"""How many jobs are cancelled."""
AGAIN = 0.2
"""How many submits are sent again after they were acknowledged."""


class Ledger:
    """What was ordered, acknowledged, and read."""

    def __init__(self) -> None:
        self.orders: dict[str, Order] = {}
        self.acknowledged: defaultdict[str, set[str]] = defaultdict(set)
        """The jobs that were named in the answers for a key: one for each, if all is well."""
        self.refusals: Counter[str] = Counter()
        """Why submits were not acknowledged at once."""
        self.cancelled: set[str] = set()
        """Jobs whose cancel was acknowledged."""
        self.followed: dict[str, list[bytes]] = {}
        """The lines that a follower got, by job."""


class Load:
    """Submits at a steady rate."""

    def __init__(self, installation: Installation, rate: float, chance: random.Random) -> None:
        self._installation = installation
        self._rate = rate
        self._chance = chance
        self._stopping = anyio.Event()
        self._followers = 0
        self.ledger = Ledger()

    def stop(self) -> None:
        """Order nothing more."""
        self._stopping.set()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Submit until ``stop``; return when every submit was acknowledged and every followed job has ended."""
        async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
            direct = [replica.address for replica in self._installation.replicas]
            clients = [
                await stack.enter_async_context(Client.open(addresses, self._installation.token))
                for addresses in ([self._installation.users.address], direct)
            ]
            task_status.started()
            number = 0
            while not self._stopping.is_set():
                number += 1
                [kind] = self._chance.choices(KINDS, WEIGHTS)
                order = Order(
                    key=f"order-{number}",
                    kind=kind,
                    count=self._chance.randint(*COUNTS[kind]),
                    cancelled=self._chance.random() < CANCELLED,
                )
                self.ledger.orders[order.key] = order
                tasks.start_soon(self._submit, clients[number % 2], order, tasks)
                with anyio.move_on_after(self._chance.expovariate(self._rate)):
                    await self._stopping.wait()

    async def _submit(self, client: Client, order: Order, tasks: anyio.abc.TaskGroup) -> None:
        ledger = self.ledger
        times = 2 if self._chance.random() < AGAIN else 1
        while times:
            try:
                message = JobSubmit(pipeline=order.kind, inputs=order.inputs, idempotency_key=order.key)
                job = await client.post("/v1/jobs", Job, message, seconds=ANSWER_SECONDS)
            except (OrchestratorUnreachable, OrchestratorRefused) as error:
                status = f"{error.status} " if isinstance(error, OrchestratorRefused) else ""
                ledger.refusals[f"{status}{error.code}"] += 1
                await anyio.sleep(PAUSE_SECONDS)
                continue
            times -= 1
            is_new = not ledger.acknowledged[order.key]
            if is_new and self._followers < FOLLOWERS:
                self._followers += 1
                tasks.start_soon(self._follow, client, job.id)
            if is_new and order.cancelled:
                tasks.start_soon(self._cancel, client, job.id)
            ledger.acknowledged[order.key].add(job.id)

    async def _cancel(self, client: Client, job: str) -> None:
        await anyio.sleep(self._chance.uniform(0, CANCEL_SECONDS_MAXIMUM))
        while True:
            try:
                await client.post(f"/v1/jobs/{job}/cancel", Job, seconds=ANSWER_SECONDS)
            except OrchestratorRefused as refused:
                if refused.code == "job_finished":
                    return
                self.ledger.refusals[f"{refused.status} {refused.code}"] += 1
            except OrchestratorUnreachable as error:
                self.ledger.refusals[error.code] += 1
            else:
                self.ledger.cancelled.add(job)
                return
            await anyio.sleep(PAUSE_SECONDS)

    async def _follow(self, client: Client, job: str) -> None:
        """Read a job's lines as they come, taking a broken stream up again after the last line read."""
        lines = self.ledger.followed[job] = []
        has_ended = False
        while not has_ended:
            query: dict[str, str | int] = {"follow": "true"}
            if lines:
                position = msgspec.json.decode(lines[-1], type=_Position)
                query["after"] = f"{position.attempt}.{position.seq}"
            try:
                async with client.stream(f"/v1/jobs/{job}/events", query=query) as stream:
                    async for line in stream.lines():
                        lines.append(line)  # noqa: PERF401  # what came before a break counts
            except (OrchestratorUnreachable, OrchestratorRefused):
                pass
            event = decode_line(lines[-1]) if lines else None
            has_ended = isinstance(event, JobEvent) and event.state in FINAL_JOB_STATES
            if not has_ended:
                await anyio.sleep(PAUSE_SECONDS)
        self._followers -= 1


class _Position(msgspec.Struct):
    attempt: int
    seq: int
