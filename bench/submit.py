"""What it costs to submit jobs over HTTP, one a request and many a request: one replica, and nobody who runs them."""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

import anyio
import msgspec

from bench import postgres, replica
from bench.http import Connection
from bench.replica import Replica
from bench.report import Report, report
from schema.wire import JobsSubmit, JobsSubmitted, JobSubmit, PipelinePush

log: Final = logging.getLogger(__name__)

CONNECTIONS: Final = 16
NAME: Final = "bench-submit"
SOURCE: Final = f"""
return {{
  name = "{NAME}",
  inputs = {{ number = {{ type = "integer", default = 0 }} }},
  stages = {{ {{ name = "only", script = function() end }} }},
}}
"""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured."""

    rounds: int
    singles: int
    """Jobs a round, one a request."""
    batches: int
    """Requests a round."""
    batch: int
    """Jobs a request."""


FULL: Final = Plan(rounds=5, singles=5_000, batches=3, batch=10_000)
QUICK: Final = Plan(rounds=2, singles=500, batches=1, batch=2_000)


def measure(*, quick: bool) -> Report:
    """Measure all of it."""
    plan = QUICK if quick else FULL
    singles: list[float] = []
    batches: list[float] = []
    with tempfile.TemporaryDirectory(prefix="moonyard-bench-") as folder, postgres.cluster() as cluster:
        with replica.running(cluster.create_migrated("submit"), Path(folder)) as ours:
            anyio.run(_push, ours)
            anyio.run(_one_by_one, ours, max(plan.singles // 10, 1))  # fills caches
            for number in range(1, plan.rounds + 1):
                log.info("round %d of %d", number, plan.rounds)
                singles.append(anyio.run(_one_by_one, ours, plan.singles))
                batches.append(anyio.run(_in_batches, ours, plan.batches, plan.batch))
        version = cluster.version()
    return report(
        "submit",
        {
            "single_per_s": statistics.median(singles),
            "batch_per_s": statistics.median(batches),
        },
        quick=quick,
        how=(
            f"one replica as a process, embedded Postgres as it comes, no runner; {plan.rounds} rounds, each: "
            f"{plan.singles} jobs, one a request, over {CONNECTIONS} connections that are kept open; then "
            f"{plan.batches} requests of {plan.batch} jobs, one after the other"
        ),
        notes={
            "single_per_s": "jobs acknowledged; the client is a process of its own and takes a part of the machine",
            "batch_per_s": f"jobs acknowledged, {plan.batch} a request, all with an input of their own",
        },
        versions={"postgres": version},
    )


async def _push(ours: Replica) -> None:
    async with Connection.open(ours.address, ours.token) as connection:
        message = PipelinePush(filename=f"{NAME}.lua", source=SOURCE)
        await connection.post("/v1/pipelines", msgspec.json.encode(message))


async def _one_by_one(ours: Replica, count: int) -> float:
    """Submit jobs, one a request; give jobs per second."""
    left = iter(range(count))

    async def submit_in_turn() -> None:
        async with Connection.open(ours.address, ours.token) as connection:
            for number in left:
                message = JobSubmit(pipeline=NAME, inputs={"number": number})
                await connection.post("/v1/jobs", msgspec.json.encode(message))

    started = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(CONNECTIONS):
            tasks.start_soon(submit_in_turn)
    return count / (time.perf_counter() - started)


async def _in_batches(ours: Replica, batches: int, size: int) -> float:
    """Submit jobs, many a request; give jobs per second."""
    jobs = [JobSubmit(pipeline=NAME, inputs={"number": number}) for number in range(size)]
    body = msgspec.json.encode(JobsSubmit(jobs=jobs))
    async with Connection.open(ours.address, ours.token) as connection:
        started = time.perf_counter()
        answers = [await connection.post("/v1/jobs/batch", body) for _ in range(batches)]
        seconds = time.perf_counter() - started
    acknowledged = sum(len(msgspec.json.decode(answer, type=JobsSubmitted).jobs) for answer in answers)
    assert acknowledged == batches * size, f"{acknowledged} of {batches * size} jobs were acknowledged"
    return acknowledged / seconds
