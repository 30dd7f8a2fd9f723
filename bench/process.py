"""What a command costs: ``process.run`` and ``container.run`` as a pipeline sees them, beside podman's command line.

Ours is timed by the pipeline itself, in Lua: from the call to its result, the way through sandbox and runner
included. Podman's is timed around its process. Rounds of the two take turns, so that what else the machine does
meets both; a ratio is one round's, and the figure is the median over the rounds.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import anyio

from bench import installation
from bench.engine import IMAGE_NAME, image, podman
from bench.installation import Installation
from bench.report import Report, percentile, report
from cli import settings
from runner.engine.container import Container, ContainerSpec
from runner.engine.engine import Engine
from runner.engine.exec import Command, OutputStream
from runner.engine.settings import EngineSettings
from schema.client import Client
from schema.definition import InputValue
from schema.wire import Job, JobSubmit, PipelinePush, PipelineVersion

log: Final = logging.getLogger(__name__)

COMMAND: Final = "/bin/true"
"""By its path: a shell has a `true` of its own, which would cost no process."""
CONTAINERS: Final = 8
RUN_SECONDS_MAXIMUM: Final = 300.0
WARM_CAPACITY: Final = 4
PAUSE_SECONDS: Final = 1.0

PIPELINE: Final = """
local function timed(act)
  local started = time.now()
  act()
  return (time.now() - started) * 1000
end

local function command()
  process.run({ command = "/bin/true", stdout = "off", stderr = "off" })
end

local function block()
  container.run("@IMAGE@", command)
end

local function tell(what, milliseconds)
  log.info(string.format("@MARK@ %s %.4f", what, milliseconds))
end

return {
  name = "bench-process",
  inputs = {
    commands = { type = "integer", default = 0 },
    blocks = { type = "integer", default = 0 },
    pause = { type = "number", default = 0 },
  },
  stages = {
    {
      name = "measure",
      script = function(job)
        for number = 1, job.inputs.blocks do
          time.sleep(job.inputs.pause)
          tell(number == 1 and "first" or "later", timed(block))
        end
        if job.inputs.commands > 0 then
          timed(command) -- makes the job's container
        end
        local times, started = {}, time.now()
        for number = 1, job.inputs.commands do
          times[number] = timed(command)
        end
        if job.inputs.commands > 0 then
          tell("started", started * 1000)
          tell("ended", time.now() * 1000)
        end
        for _, milliseconds in ipairs(times) do
          tell("command", milliseconds)
        end
      end,
    },
  },
}
"""
_MARK: Final = "measured:"


def measure(*, quick: bool) -> Report:
    """Measure all of it."""
    rounds, commands, execs, blocks, podman_runs = (2, 100, 5, 3, 2) if quick else (5, 300, 15, 6, 5)
    with tempfile.TemporaryDirectory(prefix="moonyard-bench-") as folder:
        pipeline = Path(folder) / "process.lua"
        pipeline.write_text(PIPELINE.replace("@IMAGE@", image()).replace("@MARK@", _MARK), encoding="utf-8")
        runner = Runner(pipeline)
        runner.run()  # fills the machine's caches for both sides
        ours: list[float] = []
        theirs: list[float] = []
        ratios: list[float] = []
        later: list[float] = []
        cold: list[float] = []
        podman_run: list[float] = []
        first: list[float] = []
        for number in range(1, rounds + 1):
            log.info("round %d of %d", number, rounds)
            of_round = runner.run(commands=commands).get("command", [])
            exec_times = _podman_execs(execs)
            ours += of_round
            theirs += exec_times
            ratios.append(statistics.median(exec_times) / statistics.median(of_round))
            in_blocks = runner.run(blocks=blocks)
            later += in_blocks["later"]
            cold += in_blocks["first"]
            podman_run += [_milliseconds(lambda: podman("run", "--rm", image(), COMMAND)) for _ in range(podman_runs)]
            first.append(_milliseconds(lambda: runner.run(commands=1)))
        log.info("jobs side by side")
        per_second = _commands_per_second(runner, commands)
        log.info("%d containers at once", CONTAINERS)
        at_once = anyio.run(_engine_commands_per_second, commands, backend_options={"use_uvloop": True})
        log.info("containers that were made ahead")
        with installation.running(WARM_CAPACITY) as ours_installed:
            warm = anyio.run(_warm_blocks, ours_installed, runner.source, blocks * rounds)
    cpus = len(os.sched_getaffinity(0))
    return report(
        "process",
        {
            "process_run_p50_ms": percentile(ours, 50),
            "process_run_p99_ms": percentile(ours, 99),
            "podman_exec_p50_ms": percentile(theirs, 50),
            "exec_ratio": statistics.median(ratios),
            "container_run_warm_p50_ms": percentile(warm, 50),
            "container_run_warm_p99_ms": percentile(warm, 99),
            "container_run_next_p50_ms": percentile(later, 50),
            "container_run_cold_p50_ms": percentile(cold, 50),
            "podman_run_p50_ms": percentile(podman_run, 50),
            "first_run_ms": percentile(first, 50),
            "commands_per_s": per_second,
            "engine_commands_per_s": at_once,
        },
        quick=quick,
        how=(
            f"{rounds} rounds, each: {commands} times process.run of {COMMAND} one after the other in one job, "
            f"{execs} times `podman exec`, {blocks} container.run blocks of one command in a fresh `moonyard run`, "
            f"{podman_runs} times `podman run --rm`, one `moonyard run` of one command; then {cpus} jobs side by side; "
            f"then {CONTAINERS} containers of one engine, each {commands} commands one after the other; "
            f"then, on an installation, a job of {blocks * rounds} blocks with {PAUSE_SECONDS:g} s before each"
        ),
        notes={
            "exec_ratio": "podman exec over process.run: the median over the rounds of the ratio of their medians",
            "container_run_warm_p50_ms": "a block with one command, in a container that the runner had ready",
            "container_run_next_p50_ms": "in a `moonyard run`, which keeps none ready: a block right after another",
            "container_run_cold_p50_ms": "the first block of a job in a fresh `moonyard run`; the image is there",
            "first_run_ms": "`moonyard run` of one command, from its start to its exit",
            "commands_per_s": f"{cpus} jobs side by side, each one command after the other",
            "engine_commands_per_s": (
                f"{CONTAINERS} containers at once by the runner's engine alone: without Lua, events and Postgres"
            ),
        },
    )


async def _warm_blocks(ours: Installation, source: str, blocks: int) -> list[float]:
    """Have an installation's runner run blocks, with time between them to make the next container ready."""
    inputs: dict[str, InputValue] = {"blocks": blocks, "pause": PAUSE_SECONDS}
    async with Client.open(ours.addresses, ours.token) as client:
        await client.post("/v1/pipelines", PipelineVersion, PipelinePush(filename="process.lua", source=source))
        job = await client.post("/v1/jobs", Job, JobSubmit(pipeline="bench-process", inputs=inputs))
        lines: list[dict[str, Any]] = []
        with anyio.fail_after(RUN_SECONDS_MAXIMUM):
            async with client.stream(f"/v1/jobs/{job.id}/events", query={"follow": "true"}) as stream:
                async for line in stream.lines():
                    lines.append(json.loads(line))  # noqa: PERF401  # as they come
    if lines[-1].get("state") != "succeeded":
        sys.exit(f"the measuring job failed: {lines[-1]}")
    measured = _measured(lines)
    return measured["first"] + measured["later"]


class Runner:
    """Runs the measuring pipeline by `moonyard run` and reads what it measured."""

    def __init__(self, pipeline: Path) -> None:
        self._pipeline = pipeline
        self.source = pipeline.read_text(encoding="utf-8")

    def run(self, **inputs: int) -> dict[str, list[float]]:
        """Give what was measured, by what it is.

        :raises SystemExit: when the job failed, with its last line.
        """
        given = [argument for name, value in inputs.items() for argument in ("--input", f"{name}={value}")]
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", "run", str(self._pipeline), "--json", *given],
            stdout=subprocess.PIPE,
            timeout=RUN_SECONDS_MAXIMUM,
            check=False,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        if done.returncode != 0:
            sys.exit(f"the measuring job failed: {lines[-1] if lines else 'it said nothing'}")
        return _measured(lines)


def _measured(lines: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    measured: dict[str, list[float]] = {}
    for line in lines:
        if line["type"] == "log" and line["source"] == "lua" and line["text"].startswith(_MARK):
            _, what, milliseconds = line["text"].split()
            measured.setdefault(what, []).append(float(milliseconds))
    return measured


def _podman_execs(count: int) -> list[float]:
    container = podman("run", "--detach", "--rm", image(), "sleep", "600")
    try:
        podman("exec", container, COMMAND)
        return [_milliseconds(lambda: podman("exec", container, COMMAND)) for _ in range(count)]
    finally:
        podman("rm", "--force", "--time", "0", container)


def _commands_per_second(runner: Runner, commands: int) -> float:
    jobs = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(runner.run, commands=commands) for _ in range(jobs)]
        measured = [future.result() for future in running]
    started = min(of_job["started"][0] for of_job in measured)
    ended = max(of_job["ended"][0] for of_job in measured)
    return jobs * commands / ((ended - started) / 1000)


class _Nowhere:
    """Where output goes that nobody looks at, and what the engine says of its work."""

    async def write(self, stream: OutputStream, data: bytes) -> None:
        del stream, data

    async def __call__(self, text: str) -> None:
        del text


async def _engine_commands_per_second(commands: int) -> float:
    """Run commands in several containers at once, one after the other in each; give how many there were a second."""
    nowhere = _Nowhere()
    with tempfile.TemporaryDirectory(prefix="moonyard-bench-") as folder:
        chosen = EngineSettings(image_map=settings.image_map(), state_folder=Path(folder) / "state")
        async with Engine.open(chosen, f"bench-{secrets.token_hex(4)}") as engine:
            containers: list[Container] = []
            for number in range(CONTAINERS):
                workspace = Path(folder) / f"workspace-{number}"
                workspace.mkdir()
                spec = ContainerSpec(image=IMAGE_NAME, job=f"bench-{number}", attempt=1, workspace=workspace)
                containers.append(await engine.create_container(spec, nowhere))

            async def run(container: Container, count: int) -> None:
                for _ in range(count):
                    await container.run(Command(argv=[COMMAND]), nowhere)

            for container in containers:
                await run(container, 1)  # starts its server
            started = time.perf_counter()
            async with anyio.create_task_group() as tasks:
                for container in containers:
                    tasks.start_soon(run, container, commands)
            seconds = time.perf_counter() - started
            for container in containers:
                engine.discard(container)
    return CONTAINERS * commands / seconds


def _milliseconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return (time.perf_counter() - started) * 1000
