"""What a log costs: a command's output through a whole installation into Postgres, beside the engine's own stream.

    ours   command ── pipe ── runner ── HTTP ── orchestrator ── Postgres
    raw    command ── Podman's exec stream ── the runner's engine, which throws it away

The command is the same, in a container of the same image: it writes a block of lines again and again. Rounds of the
two take turns. A job's log is limited (``runner.event_stream.LOG_BYTES_MAXIMUM``, past which lines are dropped), so
what is written in all is written by several jobs, each below the limit. One more goes beyond it, to see that a command
whose lines are dropped is not held up.

For the tail, a command prints the machine's time every 50 ms, and a follower compares it with its own: the same clock.
"""

from __future__ import annotations

import logging
import secrets
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

import anyio
import msgspec

from bench import installation, usage
from bench.engine import IMAGE_NAME
from bench.installation import Installation
from bench.report import Report, percentile, report
from cli import settings
from runner.engine.container import Container, ContainerSpec
from runner.engine.engine import Engine
from runner.engine.exec import Command, OutputStream
from runner.engine.settings import EngineSettings
from runner.event_stream import LOG_BYTES_MAXIMUM
from schema.client import Client
from schema.definition import InputValue
from schema.events import JobEvent, LogEvent, decode_line
from schema.states import FINAL_JOB_STATES
from schema.wire import Job, JobSubmit, PipelinePush, PipelineVersion

log: Final = logging.getLogger(__name__)

NAME: Final = "bench-logs"
LINE: Final = "0123456789" * 9 + "012345678"
"""With its end, 100 bytes."""
BLOCK_BYTES: Final = 1_000_000
TICK_SECONDS: Final = 0.05
CAPACITY: Final = 1
JOB_SECONDS_MAXIMUM: Final = 600.0
POLL_SECONDS: Final = 0.02

MAKE_BLOCK: Final = f"yes {LINE} | head -c {BLOCK_BYTES} > block"
WRITE: Final = "n=$1; while [ $n -gt 0 ]; do cat block; n=$((n - 1)); done"
TICK: Final = f"n=$1; while [ $n -gt 0 ]; do echo $EPOCHREALTIME; sleep {TICK_SECONDS}; n=$((n - 1)); done"

SOURCE: Final = f"""
local function sh(script, count, stdout)
  process.run({{ command = "/bin/sh", args = {{ "-c", script, "sh", count }}, stdout = stdout, capture = false }})
end

return {{
  name = "{NAME}",
  inputs = {{
    blocks = {{ type = "integer", default = 0 }},
    ticks = {{ type = "integer", default = 0 }},
    more = {{ type = "integer", default = 0 }},
  }},
  stages = {{
    {{ name = "make", script = function() sh("{MAKE_BLOCK}", 0, "off") end }}, -- and the container with it
    {{ name = "write", script = function(job) sh("{WRITE}", job.inputs.blocks, "info") end }},
    {{ name = "more", script = function(job) sh("{WRITE}", job.inputs.more, "info") end }}, -- past the log's limit
    {{ name = "tick", script = function(job) sh("{TICK}", job.inputs.ticks, "info") end }},
  }},
}}
"""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured."""

    rounds: int
    blocks: int
    """A round: a job's log with a megabyte each, below its limit."""
    ticks: int
    more_blocks: int
    """Of the job that goes beyond its log's limit; 0: not measured, for it takes that long to get there."""


FULL: Final = Plan(rounds=8, blocks=125, ticks=400, more_blocks=1000)
QUICK: Final = Plan(rounds=1, blocks=50, ticks=60, more_blocks=0)
FILLING_BLOCKS: Final = LOG_BYTES_MAXIMUM // BLOCK_BYTES + 1


def measure(*, quick: bool) -> Report:
    """Measure all of it."""
    return measured(QUICK if quick else FULL, quick=quick)


def measured(plan: Plan, *, quick: bool) -> Report:
    """Measure as a plan says."""
    megabytes = plan.blocks * BLOCK_BYTES / 1e6
    with installation.running(CAPACITY) as ours:
        through, raw, past, ticks = anyio.run(_measure, plan, ours, backend_options={"use_uvloop": True})
        peaks = _peaks(ours.pid)
    return report(
        "logs",
        {
            "mb_per_s": statistics.median(through),
            "raw_exec_mb_per_s": statistics.median(raw),
            "ratio": statistics.median(mine / plain for mine, plain in zip(through, raw, strict=True)),
            "past_limit_ratio": past,
            "tail_p50_ms": percentile(ticks, 50),
            "tail_p99_ms": percentile(ticks, 99),
            "peak_rss_mb": max(peaks.values()),
        },
        quick=quick,
        how=(
            f"one installation of {installation.REPLICAS} replicas, embedded Postgres and one runner; {plan.rounds} "
            f"rounds, each: one job whose command writes {megabytes:g} MB in lines of {len(LINE) + 1} bytes, and the "
            f"same command by the engine's exec; then a job whose log gets full, and {plan.ticks} ticks followed"
        ),
        notes={
            "mb_per_s": (
                f"{plan.rounds * megabytes:g} MB in all, a job for each {megabytes:g} MB (a job's log is limited): "
                "from the start of the stage that writes until all is stored and the job has ended, with its container"
            ),
            "raw_exec_mb_per_s": "the same command's output, read by the runner's engine and thrown away",
            "ratio": "ours over raw: the median over the rounds",
            "past_limit_ratio": (
                f"a command of {plan.more_blocks * BLOCK_BYTES / 1e6:g} MB in a job whose log is full: its own MB/s "
                "over raw"
            ),
            "tail_p50_ms": "from the command's look at the clock to the line at a follower, one line each 50 ms",
            "peak_rss_mb": "the largest of: " + ", ".join(f"{name} {peak:.0f}" for name, peak in peaks.items()),
        },
    )


async def _measure(plan: Plan, ours: Installation) -> tuple[list[float], list[float], float | None, list[float]]:
    through: list[float] = []
    raw: list[float] = []
    with tempfile.TemporaryDirectory(prefix="moonyard-bench-") as folder:
        async with Client.open(ours.addresses, ours.token) as client, _container(Path(folder)) as container:
            await client.post("/v1/pipelines", PipelineVersion, PipelinePush(filename=f"{NAME}.lua", source=SOURCE))
            await _write(client, 1)  # fills caches, for both
            await _read_raw(container, 1)
            for number in range(1, plan.rounds + 1):
                log.info("round %d of %d", number, plan.rounds)
                through.append(await _write(client, plan.blocks))
                raw.append(await _read_raw(container, plan.blocks))
            past = None
            if plan.more_blocks:
                log.info("beyond the limit")
                past = await _write_past_limit(client, plan.more_blocks) / await _read_raw(container, plan.more_blocks)
            log.info("%d ticks", plan.ticks)
            ticks = await _follow(client, plan.ticks)
    return through, raw, past, ticks


async def _write(client: Client, blocks: int) -> float:
    """Run a job that writes; give the megabytes per second until they are stored.

    :raises RuntimeError: when the job did not succeed.
    """
    job = await run_job(client, NAME, {"blocks": blocks})
    [started_at] = [stage.started_at for stage in job.stages or [] if stage.name == "write"]
    seconds = (_moment(job.finished_at) - _moment(started_at)).total_seconds()
    return blocks * BLOCK_BYTES / 1e6 / seconds


async def _write_past_limit(client: Client, blocks: int) -> float:
    """Run a job that fills its log and writes on; give the megabytes per second of what it writes then.

    :raises RuntimeError: when the job did not succeed.
    """
    job = await run_job(client, NAME, {"blocks": FILLING_BLOCKS, "more": blocks})
    [stage] = [stage for stage in job.stages or [] if stage.name == "more"]
    return blocks * BLOCK_BYTES / 1e6 / (_moment(stage.finished_at) - _moment(stage.started_at)).total_seconds()


async def run_job(client: Client, pipeline: str, inputs: Mapping[str, InputValue]) -> Job:
    """Run a job to its end.

    :raises RuntimeError: when it did not succeed.
    """
    job = await client.post("/v1/jobs", Job, JobSubmit(pipeline=pipeline, inputs=dict(inputs)))
    with anyio.fail_after(JOB_SECONDS_MAXIMUM):
        # Looked at now and then: following it would be work for the same machine.
        while job.state not in FINAL_JOB_STATES:
            await anyio.sleep(POLL_SECONDS)
            job = await client.get(f"/v1/jobs/{job.id}", Job)
    if job.state != "succeeded":
        raise RuntimeError(f"job {job.number} of the benchmark did not succeed: {job.error}")
    return job


async def _follow(client: Client, ticks: int) -> list[float]:
    """Run a job that tells the time, and follow it; give the milliseconds by which each line was late.

    :raises RuntimeError: when the job did not succeed.
    """
    job = await client.post("/v1/jobs", Job, JobSubmit(pipeline=NAME, inputs={"ticks": ticks}))
    late: list[float] = []
    with anyio.fail_after(JOB_SECONDS_MAXIMUM):
        async with client.stream(f"/v1/jobs/{job.id}/events", query={"follow": "true"}) as stream:
            async for line in stream.lines():
                now = time.time()
                match decode_line(line):
                    case LogEvent(source="stdout", text=text):
                        late.append((now - float(text)) * 1000)
                    case JobEvent(state="failed" | "cancelled" | "lost" as state, error=error):
                        raise RuntimeError(f"job {job.number} of the benchmark is {state}: {error}")
                    case _:
                        pass
    assert len(late) == ticks, f"{ticks} lines were written, and {len(late)} came"
    return late


# --- the engine's own stream


@asynccontextmanager
async def _container(folder: Path) -> AsyncGenerator[Container]:
    """Have a container as jobs have, with the block in it, for the span of a block."""
    owner = f"bench-{secrets.token_hex(4)}"
    workspace = folder / "workspace"
    workspace.mkdir()
    workspace.chmod(0o777)
    chosen = EngineSettings(image_map=settings.image_map(), state_folder=folder / "state")
    async with Engine.open(chosen, owner) as engine:
        spec = ContainerSpec(image=IMAGE_NAME, job="bench", attempt=1, workspace=workspace)
        container = await engine.create_container(spec, _say)
        try:
            await container.run(Command(argv=["/bin/sh", "-c", MAKE_BLOCK]), _Counted())
            yield container
        finally:
            with anyio.CancelScope(shield=True):
                await container.remove()


async def _read_raw(container: Container, blocks: int) -> float:
    """Run the command that writes, and throw away what it says; give megabytes per second."""
    output = _Counted()
    # With a user named, it is the engine's own exec that runs it, and no command server.
    command = Command(argv=["/bin/sh", "-c", WRITE, "sh", str(blocks)], user="0")
    started = time.perf_counter()
    result = await container.run(command, output)
    seconds = time.perf_counter() - started
    assert (result.code, output.count) == (0, blocks * BLOCK_BYTES), f"{result}, {output.count} bytes"
    return output.count / 1e6 / seconds


class _Counted:
    """Throws output away."""

    def __init__(self) -> None:
        self.count = 0

    async def write(self, stream: OutputStream, data: bytes) -> None:  # noqa: ARG002  # both alike
        self.count += len(data)


async def _say(text: str) -> None:
    log.info("%s", text)


# --- what it takes of the machine


def _peaks(up: int) -> dict[str, float]:
    """Give the most memory that runner and orchestrators held, in megabytes."""
    peaks: dict[str, float] = {}
    for pid in usage.descendants(up):
        words = usage.command_line(pid)
        if "cli.main" not in words:
            continue
        part = words[words.index("cli.main") + 1]
        name = part if part not in peaks else f"{part} {len(peaks) + 1}"
        peaks[name] = usage.peak_kib(pid) * 1024 / 1e6
    return peaks


def _moment(text: str | None) -> datetime:
    assert text is not None, "what has ended has a start and an end"
    return datetime.fromisoformat(text)
