"""What a job costs from submit to done, through all parts of an installation: one without a command, and one with one.

One at a time, the client submits over HTTP and follows the job's events, as `moonyard submit --follow` does, and stops
its clock at the final event. Rounds of ours and of each peer take turns. Then many jobs without a command are submitted
at once, each by a request of its own, and the clock stops when none is left: with one replica, two and four.
"""

from __future__ import annotations

import logging
import os
import statistics
import time
from contextlib import ExitStack
from typing import Final

import anyio
import msgspec

from bench import installation
from bench.installation import Installation
from bench.peers import buildbot, gitlab_ci_local
from bench.peers.installed import PeerMissing
from bench.report import Report, percentile, report
from schema.client import Client
from schema.events import JobEvent, decode_line
from schema.states import FINAL_JOB_STATES
from schema.wire import Job, JobList, JobSubmit, PipelinePush, PipelineVersion

log: Final = logging.getLogger(__name__)

NOOP: Final = "bench-noop"
COMMAND: Final = "bench-command"
SOURCES: Final = {
    NOOP: f"""
return {{ name = "{NOOP}", stages = {{ {{ name = "only", script = function() end }} }} }}
""",
    COMMAND: f"""
return {{
  name = "{COMMAND}",
  stages = {{
    {{
      name = "only",
      script = function()
        process.run({{ command = "/bin/true" }})
      end,
    }},
  }},
}}
""",
}
JOB_SECONDS_MAXIMUM: Final = 300.0
SUBMITTERS: Final = 16
LOOK_SECONDS: Final = 0.02


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured."""

    rounds: int
    noop: int
    """Jobs without a command a round, one at a time."""
    command: int
    """Jobs with a command a round, one at a time; four times as many together."""
    sustained: int
    """Jobs without a command, for each number of replicas."""
    replicas: tuple[int, ...]
    peers: bool


FULL: Final = Plan(rounds=5, noop=50, command=10, sustained=4000, replicas=(1, 2, 4), peers=True)
QUICK: Final = Plan(rounds=2, noop=10, command=5, sustained=200, replicas=(2,), peers=False)


class Results:
    """What was measured, as far as it has come."""

    def __init__(self) -> None:
        self.notes: dict[str, str] = {}
        self.versions: dict[str, str | None] = {"gitlab-ci-local": None, "buildbot": None}
        self.noop: list[float] = []
        self.command: list[float] = []
        self.together: list[float] = []
        self.gitlab: list[float] = []
        self.buildbot: list[float] = []
        self.buildbot_rates: list[float] = []
        self.sustained: dict[int, float] = {}


def measure(*, quick: bool) -> Report:
    """Measure all of it."""
    plan = QUICK if quick else FULL
    capacity = 4 * len(os.sched_getaffinity(0))
    results = Results()
    _one_at_a_time(plan, capacity, results)
    for replicas in plan.replicas:
        log.info("%d jobs through %d replicas", plan.sustained, replicas)
        with installation.running(capacity, replicas) as ours:
            anyio.run(_push, ours)
            anyio.run(_sustained, ours, plan.sustained // 10)  # fills caches
            results.sustained[replicas] = anyio.run(_sustained, ours, plan.sustained)
    return report(
        "pipeline",
        {
            "noop_p50_ms": percentile(results.noop, 50),
            "noop_p99_ms": percentile(results.noop, 99),
            "command_p50_ms": percentile(results.command, 50),
            "command_p99_ms": percentile(results.command, 99),
            "command_jobs_per_s": statistics.median(results.together),
            **{f"noop_jobs_per_s_{replicas}_replicas": rate for replicas, rate in results.sustained.items()},
            "gitlab_ci_local_p50_ms": percentile(results.gitlab, 50) if results.gitlab else None,
            "buildbot_p50_ms": percentile(results.buildbot, 50) if results.buildbot else None,
            "buildbot_jobs_per_s": statistics.median(results.buildbot_rates) if results.buildbot_rates else None,
        },
        quick=quick,
        how=(
            f"installations of replicas, embedded Postgres and one runner of capacity {capacity}; {plan.rounds} rounds "
            f"with {installation.REPLICAS} replicas, each: {plan.noop} jobs without a command and {plan.command} with "
            f"one command in one container, one at a time, then {4 * plan.command} of these at once; the peers' runs "
            f"stand between them; then {plan.sustained} jobs without a command, over {SUBMITTERS} connections, for "
            "each number of replicas"
        ),
        notes={
            "noop_p50_ms": "from the POST to the final event, one job at a time",
            "command_p50_ms": "in the same way; its container is made for it and gone when it ends",
            **results.notes,
        },
        versions=results.versions,
    )


def _one_at_a_time(plan: Plan, capacity: int, results: Results) -> None:
    with ExitStack() as stack:
        log.info("starting an installation")
        ours = stack.enter_context(installation.running(capacity))
        gitlab, master = _peers(plan, results, stack)
        anyio.run(_push, ours)
        anyio.run(_one_by_one, ours, COMMAND, 2)  # the first jobs fill caches
        for number in range(1, plan.rounds + 1):
            log.info("round %d of %d", number, plan.rounds)
            results.noop += anyio.run(_one_by_one, ours, NOOP, plan.noop)
            results.command += anyio.run(_one_by_one, ours, COMMAND, plan.command)
            if gitlab is not None:
                results.gitlab.append(gitlab.run())
            if master is not None:
                results.buildbot += [master.run_one() for _ in range(3)]
            results.together.append(anyio.run(_together, ours, 4 * plan.command))
            if master is not None:
                results.buildbot_rates.append(master.run_many(2 * plan.command))


def _peers(
    plan: Plan, results: Results, stack: ExitStack
) -> tuple[gitlab_ci_local.Project | None, buildbot.Master | None]:
    of_gitlab, of_buildbot = ("gitlab_ci_local_p50_ms",), ("buildbot_p50_ms", "buildbot_jobs_per_s")
    if not plan.peers:
        results.notes |= dict.fromkeys(of_gitlab + of_buildbot, "not measured with --quick")
        return None, None
    gitlab = master = None
    try:
        gitlab = stack.enter_context(gitlab_ci_local.project())
    except PeerMissing as missing:
        results.notes |= dict.fromkeys(of_gitlab, str(missing))
    else:
        results.versions["gitlab-ci-local"] = gitlab.version
        results.notes[of_gitlab[0]] = "its command's whole run, one job, one `true`, the same Podman and image"
    try:
        master = stack.enter_context(buildbot.running())
    except PeerMissing as missing:
        results.notes |= dict.fromkeys(of_buildbot, str(missing))
    else:
        results.versions["buildbot"] = master.version
        results.notes[of_buildbot[0]] = "one forced build of one `true`, in no container, one worker, polled every 5 ms"
    return gitlab, master


async def _push(ours: Installation) -> None:
    async with Client.open(ours.addresses, ours.token) as client:
        for name, source in SOURCES.items():
            await client.post("/v1/pipelines", PipelineVersion, PipelinePush(filename=f"{name}.lua", source=source))


async def _one_by_one(ours: Installation, pipeline: str, jobs: int) -> list[float]:
    async with Client.open(ours.addresses, ours.token) as client:
        return [await _submit_to_done(client, pipeline) for _ in range(jobs)]


async def _together(ours: Installation, jobs: int) -> float:
    """Submit jobs with a command at once and follow all of them; give jobs per second."""
    async with Client.open(ours.addresses, ours.token) as client:
        started = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(jobs):
                tasks.start_soon(_submit_to_done, client, COMMAND)
        return jobs / (time.perf_counter() - started)


async def _sustained(ours: Installation, jobs: int) -> float:
    """Submit jobs without a command, each by a request of its own, until none is left; give jobs per second."""
    left = iter(range(jobs))

    async def submit_in_turn(client: Client) -> None:
        for _ in left:
            await client.post("/v1/jobs", Job, JobSubmit(pipeline=NOOP))

    async with Client.open(ours.addresses, ours.token) as client:
        started = time.perf_counter()
        with anyio.fail_after(JOB_SECONDS_MAXIMUM):
            async with anyio.create_task_group() as tasks:
                for _ in range(SUBMITTERS):
                    tasks.start_soon(submit_in_turn, client)
            while await _is_any(client, "queued") or await _is_any(client, "running"):  # noqa: ASYNC110  # in another process
                await anyio.sleep(LOOK_SECONDS)
        seconds = time.perf_counter() - started
        failed = await client.get("/v1/jobs", JobList, query={"state": "failed", "limit": 1})
    if failed.jobs:
        raise RuntimeError(f"job {failed.jobs[0].number} of the benchmark did not succeed: {failed.jobs[0]}")
    return jobs / seconds


async def _is_any(client: Client, state: str) -> bool:
    return bool((await client.get("/v1/jobs", JobList, query={"state": state, "limit": 1})).jobs)


async def _submit_to_done(client: Client, pipeline: str) -> float:
    """Submit one job and follow it to its end; give the milliseconds.

    :raises RuntimeError: when the job did not succeed.
    """
    started = time.perf_counter()
    with anyio.fail_after(JOB_SECONDS_MAXIMUM):
        job = await client.post("/v1/jobs", Job, JobSubmit(pipeline=pipeline))
        final: JobEvent | None = None
        while final is None:  # a replica may end its streams; another one goes on
            async with client.stream(f"/v1/jobs/{job.id}/events", query={"follow": "true"}) as stream:
                async for line in stream.lines():
                    event = decode_line(line)
                    if isinstance(event, JobEvent) and event.state in FINAL_JOB_STATES:
                        final = event
                        break
    milliseconds = (time.perf_counter() - started) * 1000
    if final.state != "succeeded":
        raise RuntimeError(f"job {job.number} of the benchmark did not succeed: {final}")
    return milliseconds
