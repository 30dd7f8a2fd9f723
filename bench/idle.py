"""What runners cost while there is nothing to do: many wait at one replica for a job, and one of them gets it."""

from __future__ import annotations

import logging
import resource
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import msgspec
import psycopg
from anyio.abc import TaskGroup

from bench import postgres, replica, usage
from bench.http import Connection
from bench.postgres import Cluster
from bench.replica import Replica
from bench.report import Report, percentile, report
from orchestrator.authentication import hashed, new_secret
from schema import times
from schema.events import JobEvent, encode_line
from schema.ids import uuid7
from schema.wire import Assignment, Claim, Claimed, JobSubmit, PipelinePush

log: Final = logging.getLogger(__name__)

WAIT_SECONDS: Final = 60.0
"""How long a claim waits: the longest that the orchestrator allows, so that nobody asks anew while it is measured."""
CONNECTING_MAXIMUM: Final = 100
FILES_BESIDE: Final = 500
"""Open files that this process and the replica need for other things than runners."""
PARK_SECONDS_MAXIMUM: Final = 120.0
ANSWER_SECONDS_MAXIMUM: Final = 30.0
NAME: Final = "bench-idle"
SOURCE: Final = f'return {{ name = "{NAME}", stages = {{ {{ name = "only", script = function() end }} }} }}\n'


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured."""

    runners: int
    idle_seconds: float
    wakes: int


FULL: Final = Plan(runners=10_000, idle_seconds=20.0, wakes=50)
QUICK: Final = Plan(runners=500, idle_seconds=3.0, wakes=10)


class Results(msgspec.Struct, kw_only=True):
    """What was measured, as far as it has come."""

    cpu_percent: float = 0.0
    kib_per_runner: float = 0.0
    wakes: list[float] = []
    woken: int = 0
    asked_anew: int = 0
    """How many claims ended without a job while nothing was to happen."""


def measure(*, quick: bool) -> Report:
    """Measure all of it."""
    with postgres.cluster() as cluster:
        return measured(QUICK if quick else FULL, cluster, quick=quick)


def measured(plan: Plan, cluster: Cluster, *, quick: bool) -> Report:
    """Measure as a plan says."""
    notes: dict[str, str] = {}
    runners = min(plan.runners, _files_allowed() - FILES_BESIDE)
    if runners < plan.runners:
        notes["runners"] = f"{plan.runners} were wanted: a process here may open no more files"
    results = Results()
    url = cluster.create_migrated("idle")
    secrets = _register(url, runners)
    with tempfile.TemporaryDirectory(prefix="moonyard-bench-") as folder, replica.running(url, Path(folder)) as ours:
        anyio.run(_measure, plan, ours, url, secrets, results, backend_options={"use_uvloop": True})
    assert results.woken == plan.wakes, f"{plan.wakes} jobs were submitted, and {results.woken} runners were woken"
    return report(
        "idle",
        {
            "runners": runners,
            "cpu_percent": results.cpu_percent,
            "kib_per_runner": results.kib_per_runner,
            "wake_p50_ms": percentile(results.wakes, 50),
        },
        quick=quick,
        how=(
            f"one replica as a process, embedded Postgres as it comes; {runners} runners with tokens of their own, "
            f"each with a claim that waits up to {WAIT_SECONDS:.0f} s; {plan.idle_seconds:g} s of nothing; then "
            f"{plan.wakes} times: one job is submitted, one runner is answered, completes it, and waits again"
        ),
        notes={
            "cpu_percent": (
                f"of one core, the replica's process with its children, while all wait; {results.asked_anew} claims "
                "ended and were asked anew meanwhile. What a runner's heartbeats cost is not in it"
            ),
            "kib_per_runner": "growth of the replica's resident memory from the first runner to the last",
            "wake_p50_ms": f"from the submit's first byte to the runner's answer; {results.woken} runners were woken",
            **notes,
        },
        versions={"postgres": cluster.version()},
    )


async def _measure(plan: Plan, ours: Replica, url: str, secrets: Sequence[str], results: Results) -> None:
    fleet = Fleet(ours, url)
    async with Connection.open(ours.address, ours.token) as admin, anyio.create_task_group() as tasks:
        await admin.post("/v1/pipelines", msgspec.json.encode(PipelinePush(filename=f"{NAME}.lua", source=SOURCE)))
        await fleet.park(tasks, secrets[:1])  # what the first of all costs is not the price of one more
        resident = usage.resident_kib(ours.pid)
        log.info("letting %d runners wait", len(secrets))
        await fleet.park(tasks, secrets[1:])
        results.kib_per_runner = (usage.resident_kib(ours.pid) - resident) / max(len(secrets) - 1, 1)
        log.info("%g s of nothing", plan.idle_seconds)
        asked_before, used, started = fleet.asked_anew, usage.cpu_seconds(ours.pid), time.perf_counter()
        await anyio.sleep(plan.idle_seconds)
        seconds = time.perf_counter() - started
        results.cpu_percent = 100 * (usage.cpu_seconds(ours.pid) - used) / seconds
        results.asked_anew = fleet.asked_anew - asked_before
        log.info("%d jobs", plan.wakes)
        for _ in range(plan.wakes):
            results.wakes.append(await fleet.wake(admin))
        results.woken = fleet.woken
        tasks.cancel_scope.cancel()


class Fleet:
    """Runners that wait, each on a connection of its own, and complete at once what they get."""

    def __init__(self, ours: Replica, url: str) -> None:
        self._ours = ours
        self._url = url
        self._connecting = anyio.CapacityLimiter(CONNECTING_MAXIMUM)
        self._claim = msgspec.json.encode(Claim(slots=1, wait=WAIT_SECONDS, capacity=1, version="bench"))
        self._parked = 0
        self._completed = anyio.Event()
        self._answered_at = 0.0
        self.woken = 0
        self.asked_anew = 0

    async def park(self, tasks: TaskGroup, secrets: Sequence[str]) -> None:
        """Let runners wait, and return when the replica has them all."""
        self._parked += len(secrets)
        for secret in secrets:
            tasks.start_soon(self._wait_for_ever, secret)
        with anyio.fail_after(PARK_SECONDS_MAXIMUM):
            while await anyio.to_thread.run_sync(_seen, self._url) < self._parked:  # noqa: ASYNC110  # of another process
                await anyio.sleep(0.1)

    async def wake(self, admin: Connection) -> float:
        """Submit a job; give the milliseconds until a runner has it, when that has completed it."""
        self._completed = anyio.Event()
        started = time.perf_counter()
        await admin.post("/v1/jobs", msgspec.json.encode(JobSubmit(pipeline=NAME)))
        with anyio.fail_after(ANSWER_SECONDS_MAXIMUM):
            await self._completed.wait()
        return (self._answered_at - started) * 1000

    async def _wait_for_ever(self, secret: str) -> None:
        async with AsyncExitStack() as stack:
            async with self._connecting:
                connection = await stack.enter_async_context(Connection.open(self._ours.address, secret))
            while True:
                answer = await connection.post("/v1/runner/claim", self._claim)
                answered_at = time.perf_counter()
                assignments = msgspec.json.decode(answer, type=Claimed).assignments
                if not assignments:
                    self.asked_anew += 1
                    continue
                self.woken += 1
                self._answered_at = answered_at
                for assignment in assignments:
                    await _complete(connection, assignment)
                self._completed.set()


async def _complete(connection: Connection, assignment: Assignment) -> None:
    event = JobEvent(
        at=times.now(),
        job=assignment.job,
        attempt=assignment.attempt,
        seq=1,
        id=assignment.job,
        number=assignment.number,
        state="succeeded",
    )
    path = f"/v1/runner/jobs/{assignment.job}/{assignment.attempt}/events?first_seq=1"
    await connection.post(path, encode_line(event))


def _register(url: str, count: int) -> list[str]:
    """Store runners with their tokens, as registering does; give the tokens."""
    secrets = [new_secret("runner") for _ in range(count)]
    runners = [uuid7() for _ in range(count)]
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO moonyard.runners (id, name) VALUES (%s, %s)",
            [(runner, f"bench {number}") for number, runner in enumerate(runners, 1)],
        )
        cursor.executemany(
            "INSERT INTO moonyard.tokens (id, kind, name, hash, runner_id) VALUES (%s, 'runner', %s, %s, %s)",
            [
                (uuid7(), f"bench {number}", hashed(secret), runner)
                for number, (secret, runner) in enumerate(zip(secrets, runners, strict=True), 1)
            ],
        )
    return secrets


def _seen(url: str) -> int:
    """Count the runners that have asked for jobs."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM moonyard.runners WHERE seen_at IS NOT NULL").fetchone()
    assert row is not None, "a count is a row"
    return int(row[0])


def _files_allowed() -> int:
    """Let this process, and those that it starts, open as many files as the machine lets it; give how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
