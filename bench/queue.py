"""What the queue costs by itself: claim and complete through a replica's own code, beside other queues on Postgres.

A replica runs in this process, whole, with its loops and connections. 16 runners wait at its dispatcher, as the claim
route lets them wait, and complete each job at once with the one event that ends it, checked and stored as the events
route does it. So what is measured is dispatcher, leases, events and Postgres; HTTP and containers are in `pipeline`.

Jobs are worked off in lots: queued all at once, which is not timed, and claimed and completed, which is. The peers do
the same with theirs, on the same Postgres, in a database of their own; rounds of all take turns.
"""

from __future__ import annotations

import asyncio
import logging
import random
import statistics
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final
from uuid import UUID

import anyio
import anyio.to_thread
import msgspec
import psycopg

from bench import postgres
from bench.peers import pgqueuer, procrastinate
from bench.peers.installed import PeerMissing
from bench.peers.worker import Worker
from bench.postgres import Cluster
from bench.report import Report, percentile, report
from orchestrator import events, pipelines, serve
from orchestrator.parts import Parts
from orchestrator.settings import OrchestratorSettings
from schema import times
from schema.definition import InputDefinition, PipelineDefinition, StageDefinition
from schema.events import JobEvent, encode_line
from schema.ids import uuid7
from schema.wire import Assignment, JobSubmit

log: Final = logging.getLogger(__name__)

RUNNERS: Final = 16
CAPACITY: Final = 8
"""Jobs a runner holds at once: together about as many as a batch of pgqueuer's."""
LOT_SECONDS_MAXIMUM: Final = 600.0
UNLIMITED: Final = 1_000_000_000
SUBMITTERS: Final = 16
NAME: Final = "bench-queue"
DEFINITION: Final = PipelineDefinition(
    name=NAME,
    inputs={"arrival": InputDefinition(type="integer", default=0)},
    stages=[StageDefinition(name="only")],
)
SOURCE: Final = f'return {{ name = "{NAME}", stages = {{ {{ name = "only", script = function() end }} }} }}\n'


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured."""

    rounds: int
    lot: int
    """Jobs a round of ours and of pgqueuer."""
    lot_procrastinate: int
    finished: int
    """Of the history."""
    queued: int
    """Beside the history."""
    pickup_seconds: float
    baseline_seconds: float
    transaction_seconds: float
    peers: bool = True


FULL: Final = Plan(
    rounds=6,
    lot=10_000,
    lot_procrastinate=1_000,
    finished=1_000_000,
    queued=100_000,
    pickup_seconds=20.0,
    baseline_seconds=20.0,
    transaction_seconds=60.0,
)
QUICK: Final = Plan(
    rounds=2,
    lot=1_000,
    lot_procrastinate=100,
    finished=100_000,
    queued=10_000,
    pickup_seconds=2.0,
    baseline_seconds=2.0,
    transaction_seconds=6.0,
)


class Results:
    """What was measured, as far as it has come."""

    def __init__(self) -> None:
        self.notes: dict[str, str] = {}
        self.versions: dict[str, str | None] = {"postgres": None, "pgqueuer": None, "procrastinate": None}
        self.ours: list[float] = []
        self.pgqueuer: list[float] = []
        self.procrastinate: list[float] = []
        self.ratios_pgqueuer: list[float] = []
        self.ratios_history: list[float] = []
        self.pickups: list[float] = []
        self.load_per_s = 0.0
        self.ratio_transaction = 0.0
        self.ratio_transaction_pgqueuer: float | None = None


def measure(*, quick: bool) -> Report:
    """Measure all of it."""
    with postgres.cluster() as cluster:
        return measured(QUICK if quick else FULL, cluster, quick=quick)


def measured(plan: Plan, cluster: Cluster, *, quick: bool) -> Report:
    """Measure as a plan says."""
    results = Results()
    results.versions["postgres"] = cluster.version()
    anyio.run(_measure, plan, cluster, results, backend_options={"use_uvloop": True})
    return report(
        "queue",
        {
            "per_s": statistics.median(results.ours),
            "pgqueuer_per_s": statistics.median(results.pgqueuer) if results.pgqueuer else None,
            "procrastinate_per_s": statistics.median(results.procrastinate) if results.procrastinate else None,
            "ratio_pgqueuer": statistics.median(results.ratios_pgqueuer) if results.ratios_pgqueuer else None,
            "pickup_p50_ms": percentile(results.pickups, 50),
            "pickup_p99_ms": percentile(results.pickups, 99),
            "ratio_with_history": statistics.median(results.ratios_history),
            "ratio_with_open_transaction": results.ratio_transaction,
            "pgqueuer_ratio_with_open_transaction": results.ratio_transaction_pgqueuer,
        },
        quick=quick,
        how=(
            f"one replica in this process, {RUNNERS} runners with {CAPACITY} slots each waiting at it, embedded "
            f"Postgres as it comes; {plan.rounds} rounds, each: a lot of {plan.lot} jobs of ours on an empty database "
            f"and one with history, in turn, {plan.lot} of pgqueuer's (batch 100), {plan.lot_procrastinate} of "
            f"procrastinate's (concurrency {RUNNERS}); then, each on a "
            f"database of its own, {plan.pickup_seconds:g} s of arrivals, with no vacuum at work and after a "
            f"checkpoint, and {plan.baseline_seconds:g} s of lots without and {plan.transaction_seconds:g} s with an "
            "open transaction"
        ),
        notes={
            "per_s": "claimed and completed, without HTTP and without submitting",
            "pgqueuer_per_s": "from the first job's start to the last one's: its start and end are not counted",
            "procrastinate_per_s": "counted in the same way",
            "ratio_pgqueuer": "ours over theirs: the median over the rounds",
            "pickup_p50_ms": (
                f"from the call that submits to the runner that has the job, arrivals at random, "
                f"{results.load_per_s:.0f}/s: half of what submit, claim and complete together reach in this process"
            ),
            "ratio_with_history": (
                f"{plan.finished} finished and {plan.queued} queued jobs, over the empty database: the median over the "
                "rounds"
            ),
            "ratio_with_open_transaction": (
                f"{plan.transaction_seconds:g} s of lots beside another session's REPEATABLE READ transaction, over "
                f"{plan.baseline_seconds:g} s before it"
            ),
            **results.notes,
        },
        versions=results.versions,
    )


async def _measure(plan: Plan, cluster: Cluster, results: Results) -> None:
    log.info("filling %d finished and %d queued jobs", plan.finished, plan.queued)
    empty, history = cluster.create_migrated("ours"), cluster.create_migrated("ours_with_history")
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(_fleet(empty))
        grown = await stack.enter_async_context(_fleet(history, finished=plan.finished, queued=plan.queued))
        theirs = _start_pgqueuer(plan, cluster, results, stack, "pgqueuer")
        others = _start_procrastinate(plan, cluster, results, stack)
        await ours.work_off(plan.lot // 10)  # fills caches, for all
        await grown.work_off(plan.lot // 10)
        for peer in (theirs, others):
            if peer is not None:
                await _work_off(peer, plan.lot_procrastinate // 10)
        rates: dict[Fleet, list[float]] = {ours: results.ours, grown: []}
        for number in range(1, plan.rounds + 1):
            log.info("round %d of %d", number, plan.rounds)
            # The one that comes first finds caches that others filled: they take turns in that too.
            for fleet in (ours, grown) if number % 2 else (grown, ours):
                rates[fleet].append(plan.lot / await fleet.work_off(plan.lot))
            results.ratios_history.append(rates[grown][-1] / rates[ours][-1])
            if theirs is not None:
                results.pgqueuer.append(plan.lot / await _work_off(theirs, plan.lot))
                results.ratios_pgqueuer.append(rates[ours][-1] / results.pgqueuer[-1])
            if others is not None:
                seconds = await _work_off(others, plan.lot_procrastinate)
                results.procrastinate.append(plan.lot_procrastinate / seconds)
    # A million rows just filled in would be vacuumed beside what is measured next.
    await anyio.to_thread.run_sync(cluster.drop, "ours_with_history")
    await _arrivals(plan, cluster, results)
    await _beside_transaction(plan, cluster, results)


async def _arrivals(plan: Plan, cluster: Cluster, results: Results) -> None:
    log.info("arrivals")
    async with _fleet(cluster.create_migrated("ours_arrivals")) as ours:
        await ours.work_off(plan.lot)
        results.load_per_s = await ours.cycles_per_second(plan.lot) / 2
        await anyio.to_thread.run_sync(cluster.settle)
        results.pickups = await ours.pickups(results.load_per_s, plan.pickup_seconds)


async def _beside_transaction(plan: Plan, cluster: Cluster, results: Results) -> None:
    lot = max(plan.lot // 4, 1)
    log.info("an open transaction beside ours")
    url = cluster.create_migrated("ours_beside_transaction")
    async with _fleet(url) as ours:
        await ours.work_off(lot)
        before = await ours.rate_over(plan.baseline_seconds, lot)
        with postgres.open_transaction(url):
            results.ratio_transaction = await ours.rate_over(plan.transaction_seconds, lot) / before
    async with AsyncExitStack() as stack:
        theirs = _start_pgqueuer(plan, cluster, results, stack, "pgqueuer_beside_transaction")
        if theirs is None:
            results.notes["pgqueuer_ratio_with_open_transaction"] = results.notes["pgqueuer_per_s"]
            return
        log.info("an open transaction beside pgqueuer")
        await _work_off(theirs, lot)
        before = await _rate_over(theirs, plan.baseline_seconds, lot)
        with postgres.open_transaction(cluster.url("pgqueuer_beside_transaction")):
            results.ratio_transaction_pgqueuer = await _rate_over(theirs, plan.transaction_seconds, lot) / before


# --- ours


class Fleet:
    """Runners that wait at a replica and complete what they get at once. ``run`` has to run.

    They claim as many jobs as are asked for, whatever else is queued: when it is not their turn, they do nothing.
    """

    def __init__(self, parts: Parts, runners: list[UUID]) -> None:
        self._parts = parts
        self._runners = runners
        self._completed = 0
        self._wanted = 0
        self._reached = anyio.Event()
        self._allowed = 0
        """How many more jobs may be claimed for."""
        self._more_allowed = anyio.Event()
        self._arrivals: dict[int, float] = {}
        self._pickups: list[float] = []

    async def run(self) -> None:
        # Of asyncio's own, as the tasks are in which a replica answers requests: one of anyio's for each job would cost
        # as much as all that is measured.
        async with asyncio.TaskGroup() as tasks:
            for runner in self._runners:
                tasks.create_task(self._claim_for_ever(runner, tasks))

    async def work_off(self, lot: int) -> float:
        """Queue jobs, and give the seconds until all are claimed and completed."""
        place = await self._parts.database.value(QUEUE, [uuid7() for _ in range(lot)])
        self._expect(lot)
        started = time.perf_counter()
        self._allow(lot)
        self._parts.notifications.queued(place)
        with anyio.fail_after(LOT_SECONDS_MAXIMUM):
            await self._reached.wait()
        return time.perf_counter() - started

    async def rate_over(self, seconds: float, lot: int) -> float:
        """Work off lots for some time; give jobs per second, the time of queueing them left out."""
        working, count = 0.0, 0
        ends_at = time.perf_counter() + seconds
        while not count or time.perf_counter() < ends_at:
            working += await self.work_off(lot)
            count += lot
        return count / working

    async def cycles_per_second(self, count: int) -> float:
        """Submit jobs as fast as it goes while they are worked off; give jobs per second."""
        self._expect(count)
        self._allow(UNLIMITED)
        left = iter(range(count))

        async def submit_in_turn() -> None:
            for _ in left:
                await self._submit(0)

        started = time.perf_counter()
        with anyio.fail_after(LOT_SECONDS_MAXIMUM):
            async with anyio.create_task_group() as tasks:
                for _ in range(SUBMITTERS):
                    tasks.start_soon(submit_in_turn)
            await self._reached.wait()
        return count / (time.perf_counter() - started)

    async def pickups(self, per_second: float, seconds: float) -> list[float]:
        """Submit jobs at random moments; give the milliseconds that each took to reach a runner."""
        gaps = random.Random(0)  # noqa: S311  # the same arrivals every time
        due: list[float] = []
        at = 0.0
        while (at := at + gaps.expovariate(per_second)) < seconds:
            due.append(at)
        self._expect(len(due))
        self._allow(UNLIMITED)
        started = anyio.current_time()
        with anyio.fail_after(LOT_SECONDS_MAXIMUM):
            async with anyio.create_task_group() as tasks:
                for number, moment in enumerate(due, 1):
                    await anyio.sleep_until(started + moment)
                    tasks.start_soon(self._submit, number)
            if due:
                await self._reached.wait()
        return self._pickups

    def _expect(self, count: int) -> None:
        self._wanted = self._completed + count
        self._reached = anyio.Event()

    def _allow(self, count: int) -> None:
        self._allowed += count
        if count:
            self._more_allowed.set()
            self._more_allowed = anyio.Event()

    async def _submit(self, arrival: int) -> None:
        if arrival:
            self._arrivals[arrival] = time.perf_counter()
        message = JobSubmit(pipeline=NAME, inputs={"arrival": arrival})
        await self._parts.submissions.submit(message)

    async def _claim_for_ever(self, runner: UUID, tasks: asyncio.TaskGroup) -> None:
        slots = anyio.Semaphore(CAPACITY)
        while True:
            await slots.acquire()
            slots.release()
            while not self._allowed:
                await self._more_allowed.wait()
            wanted = min(slots.value, self._allowed)
            self._allowed -= wanted
            waiting = self._parts.dispatcher.enter(runner, wanted)
            assignments: list[Assignment] = []
            try:
                await waiting.wait()
            finally:
                assignments = await self._parts.dispatcher.leave(waiting)
            self._allow(wanted - len(assignments))
            for assignment in assignments:
                slots.acquire_nowait()
                if arrived := self._arrivals.pop(int(assignment.inputs.get("arrival", 0)), None):
                    self._pickups.append((time.perf_counter() - arrived) * 1000)
                tasks.create_task(self._complete(runner, assignment, slots))

    async def _complete(self, runner: UUID, assignment: Assignment, slots: anyio.Semaphore) -> None:
        job, attempt = UUID(assignment.job), assignment.attempt
        event = JobEvent(
            at=times.now(),
            job=assignment.job,
            attempt=attempt,
            seq=1,
            id=assignment.job,
            number=assignment.number,
            state="succeeded",
        )
        batch = events.parse(encode_line(event), job=job, attempt=attempt, first_seq=1)
        await self._parts.record.store(runner, job, attempt, batch)
        slots.release()
        self._completed += 1
        if self._completed == self._wanted:
            self._reached.set()


# It gives the place of the first, as a submit does.
QUEUE: Final = f"""
WITH queued AS (
    INSERT INTO moonyard.jobs (id, pipeline_id, version_id, inputs, turn)
    SELECT job, id, version_id, '{{}}', last_value + place
    FROM moonyard.pipelines CROSS JOIN moonyard.turns
    CROSS JOIN unnest($1::uuid[]) WITH ORDINALITY AS asked (job, place)
    WHERE name = '{NAME}'
    RETURNING turn
)
SELECT min(turn) FROM queued
"""  # noqa: S608  # a name of our own

# What jobs leave behind, of the only pipeline: themselves, an attempt, and what was told of it.
HISTORY: Final = (
    """
    INSERT INTO moonyard.jobs
        (id, pipeline_id, version_id, inputs, state, attempt, created_at, started_at, finished_at)
    SELECT gen_random_uuid(), id, version_id, '{}', 'succeeded', 1, at, at, at
    FROM moonyard.pipelines
    CROSS JOIN (
        SELECT now() - interval '30 days' * (1 - number / %(count)s::float8) AS at
        FROM generate_series(1, %(count)s) AS number
    ) AS past
    """,
    """
    INSERT INTO moonyard.attempts (job_id, number, runner_id, state, lease_expires_at, next_seq, finished_at)
    SELECT job.id, 1, (SELECT id FROM moonyard.runners LIMIT 1), 'succeeded', finished_at, 2, finished_at
    FROM moonyard.jobs AS job ORDER BY number
    """,
    """
    INSERT INTO moonyard.event_batches (job_id, attempt, first_seq, next_seq, size_bytes, lines)
    SELECT id, 1, 1, 2, octet_length(line), line
    FROM (SELECT id, moonyard.job_line(id, number, 1, 1, 'succeeded') AS line FROM moonyard.jobs) AS told
    """,
)


@asynccontextmanager
async def _fleet(url: str, *, finished: int = 0, queued: int = 0) -> AsyncGenerator[Fleet]:
    """Have a replica with runners that wait, on a migrated database with nothing in it, for the span of a block."""
    stop, started = anyio.Event(), anyio.Event()
    found: list[Parts] = []
    settings = OrchestratorSettings(database_url=url, port=0)

    async def serve_until_stop() -> None:
        await serve.run(settings, stop=stop, started=lambda _address: started.set(), with_parts=found.append)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve_until_stop)
        with anyio.fail_after(60):
            await started.wait()
        [parts] = found
        await pipelines.store(parts.database, f"{NAME}.lua", SOURCE, DEFINITION, actor="bench")
        runners = [uuid7() for _ in range(RUNNERS)]
        for number, runner in enumerate(runners, 1):
            await parts.database.rows(
                "INSERT INTO moonyard.runners (id, name, capacity) VALUES ($1, $2, $3)",
                runner,
                f"bench {number}",
                CAPACITY,
            )
        if finished:
            await anyio.to_thread.run_sync(_fill, url, finished)
        async with anyio.create_task_group() as waiting:
            fleet = Fleet(parts, runners)
            if queued:
                await parts.database.rows(QUEUE, [uuid7() for _ in range(queued)])
            waiting.start_soon(fleet.run)
            yield fleet
            waiting.cancel_scope.cancel()
        stop.set()


def _fill(url: str, finished: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in HISTORY:
            connection.execute(statement.encode(), {"count": finished})
        connection.execute("VACUUM ANALYZE")


# --- the peers


def _start_pgqueuer(
    plan: Plan, cluster: Cluster, results: Results, stack: AsyncExitStack, database: str
) -> Worker | None:
    figures = ("pgqueuer_per_s", "ratio_pgqueuer", "pgqueuer_ratio_with_open_transaction")
    if not plan.peers:
        results.notes |= dict.fromkeys(figures, "not measured: the peers were left out")
        return None
    try:
        peer = stack.enter_context(pgqueuer.running(cluster.create(database)))
    except PeerMissing as missing:
        results.notes |= dict.fromkeys(figures, str(missing))
        return None
    results.versions["pgqueuer"] = peer.version
    return peer


def _start_procrastinate(plan: Plan, cluster: Cluster, results: Results, stack: AsyncExitStack) -> Worker | None:
    if not plan.peers:
        results.notes["procrastinate_per_s"] = "not measured: the peers were left out"
        return None
    try:
        peer = stack.enter_context(procrastinate.running(cluster.create("procrastinate"), RUNNERS))
    except PeerMissing as missing:
        results.notes["procrastinate_per_s"] = str(missing)
        return None
    results.versions["procrastinate"] = peer.version
    return peer


async def _work_off(peer: Worker, jobs: int) -> float:
    return await anyio.to_thread.run_sync(peer.work_off, max(jobs, 1))


async def _rate_over(peer: Worker, seconds: float, lot: int) -> float:
    working, count = 0.0, 0
    ends_at = time.perf_counter() + seconds
    while not count or time.perf_counter() < ends_at:
        working += await _work_off(peer, lot)
        count += lot
    return count / working
