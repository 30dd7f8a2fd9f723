"""What a job costs from submit to done: one stage, one command, through all parts of an installation.

The client submits over HTTP and follows the job's events, as `moonyard submit --follow` does, and stops its clock at
the final event. Rounds of ours and of each peer take turns.
"""

from __future__ import annotations

import logging
import os
import statistics
import time
from contextlib import ExitStack
from typing import Final

import anyio

from bench import installation
from bench.installation import Installation
from bench.peers import buildbot, gitlab_ci_local
from bench.peers.installed import PeerMissing
from bench.report import Report, percentile, report
from schema.client import Client
from schema.events import JobEvent, decode_line
from schema.states import FINAL_JOB_STATES
from schema.wire import Job, JobSubmit, PipelinePush, PipelineVersion

log: Final = logging.getLogger(__name__)

SOURCE: Final = """
return {
  name = "bench-pipeline",
  stages = {
    {
      name = "only",
      script = function()
        process.run({ command = "/bin/true" })
      end,
    },
  },
}
"""
JOB_SECONDS_MAXIMUM: Final = 300.0


def measure(*, quick: bool) -> Report:
    """Measure all of it."""
    rounds, jobs, batch = (2, 5, 10) if quick else (5, 10, 40)
    capacity = 4 * len(os.sched_getaffinity(0))
    notes: dict[str, str] = {}
    latencies: list[float] = []
    of_gitlab: list[float] = []
    of_buildbot: list[float] = []
    rates: list[float] = []
    buildbot_rates: list[float] = []
    with ExitStack() as stack:
        log.info("starting an installation")
        ours = stack.enter_context(installation.running(capacity))
        gitlab = master = None
        if quick:
            reason = "not measured with --quick"
            notes |= dict.fromkeys(("gitlab_ci_local_p50_ms", "buildbot_p50_ms", "buildbot_jobs_per_s"), reason)
        else:
            try:
                gitlab = stack.enter_context(gitlab_ci_local.project())
            except PeerMissing as missing:
                notes["gitlab_ci_local_p50_ms"] = str(missing)
            try:
                master = stack.enter_context(buildbot.running())
            except PeerMissing as missing:
                notes |= dict.fromkeys(("buildbot_p50_ms", "buildbot_jobs_per_s"), str(missing))
        anyio.run(_push, ours)
        anyio.run(_one_by_one, ours, 2)  # the first jobs fill caches
        for number in range(1, rounds + 1):
            log.info("round %d of %d", number, rounds)
            latencies += anyio.run(_one_by_one, ours, jobs)
            if gitlab is not None:
                of_gitlab.append(gitlab.run())
            if master is not None:
                of_buildbot += [master.run_one() for _ in range(3)]
            rates.append(anyio.run(_together, ours, batch))
            if master is not None:
                buildbot_rates.append(master.run_many(batch // 2))
    notes |= {
        "submit_to_done_p50_ms": "from the POST to the final event, one job at a time",
        "jobs_per_s": f"{batch} jobs submitted at once, one runner of capacity {capacity}",
    }
    if gitlab is not None:
        notes["gitlab_ci_local_p50_ms"] = "its command's whole run, one job, one `true`, the same Podman and image"
    if master is not None:
        notes["buildbot_p50_ms"] = "one forced build of one `true`, in no container, one worker, polled every 5 ms"
    return report(
        "pipeline",
        {
            "submit_to_done_p50_ms": percentile(latencies, 50),
            "submit_to_done_p99_ms": percentile(latencies, 99),
            "jobs_per_s": statistics.median(rates),
            "replicas": installation.REPLICAS,
            "gitlab_ci_local_p50_ms": percentile(of_gitlab, 50) if of_gitlab else None,
            "buildbot_p50_ms": percentile(of_buildbot, 50) if of_buildbot else None,
            "buildbot_jobs_per_s": statistics.median(buildbot_rates) if buildbot_rates else None,
        },
        quick=quick,
        how=(
            f"{rounds} rounds on one installation of {installation.REPLICAS} replicas, embedded Postgres and one "
            f"runner, each: {jobs} jobs of one stage with one command in one container, one at a time, then {batch} at "
            "once; the peers' runs stand between them"
        ),
        notes=notes,
        versions={
            "gitlab-ci-local": gitlab.version if gitlab is not None else None,
            "buildbot": master.version if master is not None else None,
        },
    )


async def _push(ours: Installation) -> None:
    async with Client.open(ours.addresses, ours.token) as client:
        await client.post("/v1/pipelines", PipelineVersion, PipelinePush(filename="bench.lua", source=SOURCE))


async def _one_by_one(ours: Installation, jobs: int) -> list[float]:
    async with Client.open(ours.addresses, ours.token) as client:
        return [await _submit_to_done(client) for _ in range(jobs)]


async def _together(ours: Installation, jobs: int) -> float:
    """Submit jobs at once and wait for all; give jobs per second."""
    async with Client.open(ours.addresses, ours.token) as client:
        started = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(jobs):
                tasks.start_soon(_submit_to_done, client)
        return jobs / (time.perf_counter() - started)


async def _submit_to_done(client: Client) -> float:
    """Submit one job and follow it to its end; give the milliseconds.

    :raises RuntimeError: when the job did not succeed.
    """
    started = time.perf_counter()
    with anyio.fail_after(JOB_SECONDS_MAXIMUM):
        job = await client.post("/v1/jobs", Job, JobSubmit(pipeline="bench-pipeline"))
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
