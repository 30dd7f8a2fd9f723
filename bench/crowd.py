"""Many jobs at once on one runner, each with a container of its own: whether all go well, and whether all of it goes.

The jobs are submitted in one request, and a runner with as many slots takes them all. Each runs a few commands in a
container that is made of an image it names. The engine is asked for what is left of them from the last one's end on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Final

import anyio
import anyio.to_thread
import msgspec

from bench import installation
from bench.engine import image, podman
from bench.installation import Installation
from bench.report import Report, report
from schema.client import Client
from schema.wire import Job, JobsSubmit, JobsSubmitted, JobSubmit, PipelinePush, PipelineVersion

log: Final = logging.getLogger(__name__)

JOBS: Final = 50
JOBS_QUICK: Final = 8
COMMANDS: Final = 5
ID_LENGTH: Final = 36
END_SECONDS_MAXIMUM: Final = 300.0
GONE_SECONDS: Final = 5.0
"""After which nothing of the jobs may be left with the engine."""
GONE_SECONDS_MAXIMUM: Final = 120.0
POLL_SECONDS: Final = 0.1
PIPELINE: Final = """
return { name = "bench-crowd", stages = { { name = "s", container = "@IMAGE@", script = function()
  for number = 1, @COMMANDS@ do process.run({ command = "/bin/true" }) end
end } } }
"""


class Crowd(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the jobs."""

    errors: int
    seconds: float
    """From the submit to the last one's end."""
    left: int
    """Containers, ``GONE_SECONDS`` after that."""
    gone_seconds: float
    """From there until none was left."""


def measure(*, quick: bool) -> Report:
    """Measure all of it."""
    jobs = JOBS_QUICK if quick else JOBS
    with installation.running(jobs) as ours:
        crowd = anyio.run(run, ours, jobs)
    return report(
        "crowd",
        {
            "jobs": jobs,
            "errors": crowd.errors,
            "jobs_s": crowd.seconds,
            "left_after_5_s": crowd.left,
            "gone_s": crowd.gone_seconds,
        },
        quick=quick,
        how=f"{jobs} jobs in one request, to a runner with {jobs} slots; each {COMMANDS} commands in its own container",
        notes={
            "left_after_5_s": "containers that the engine still lists 5 s after the last job's end",
            "gone_s": "from the last job's end until the engine lists none of their containers",
        },
    )


async def run(ours: Installation, count: int) -> Crowd:
    """Run so many jobs at once."""
    source = PIPELINE.replace("@IMAGE@", image()).replace("@COMMANDS@", str(COMMANDS))
    async with Client.open(ours.addresses, ours.token) as client:
        await client.post("/v1/pipelines", PipelineVersion, PipelinePush(filename="crowd.lua", source=source))
        started = time.perf_counter()
        order = JobsSubmit(jobs=[JobSubmit(pipeline="bench-crowd") for _ in range(count)])
        submitted = await client.post("/v1/jobs/batch", JobsSubmitted, order)
        ids = [job.id for job in submitted.jobs]
        ended: list[Job] = []
        with anyio.fail_after(END_SECONDS_MAXIMUM):
            for job in ids:
                async with client.stream(f"/v1/jobs/{job}/events", query={"follow": "true"}) as stream:
                    async for _line in stream.lines():
                        pass
                ended.append(await client.get(f"/v1/jobs/{job}", Job))
        seconds, over = time.perf_counter() - started, time.perf_counter()
    failed = [job for job in ended if job.state != "succeeded" or job.attempt != 1]
    for job in failed:
        log.warning("job %d %s in attempt %d: %s", job.number, job.state, job.attempt, job.error)
    left, gone = await _until_gone(ids, over)
    return Crowd(errors=len(failed), seconds=seconds, left=left, gone_seconds=gone)


async def _until_gone(jobs: Iterable[str], over: float) -> tuple[int, float]:
    """Give how many containers were left after the time that they have, and when the last was gone."""
    wanted, left = set(jobs), 0
    with anyio.fail_after(GONE_SECONDS_MAXIMUM):
        while True:
            asked = time.perf_counter() - over
            there = await anyio.to_thread.run_sync(_containers_of, wanted)
            if asked >= GONE_SECONDS and not left:
                left = there
            if not there:
                return left, time.perf_counter() - over
            await anyio.sleep(POLL_SECONDS)


def _containers_of(jobs: set[str]) -> int:
    # One that was made ahead has its job's id in its name alone, behind `moonyard-`.
    form = '{{index .Labels "moonyard.job"}} {{.Names}}'
    lines = podman("ps", "--all", "--filter", "label=moonyard.job", "--format", form).splitlines()
    words = [{word.removeprefix("moonyard-")[:ID_LENGTH] for word in line.split(" ")} for line in lines]
    return sum(not found.isdisjoint(jobs) for found in words)
