"""What modules' functions cost beyond their work: a call that does none, files and archives beside Python's own.

A pipeline's Lua runs in its sandbox and is answered by the runner's own handlers; there is no engine, no orchestrator
and no container. Times are taken in Lua, from the first call to the last result.
"""

from __future__ import annotations

import logging
import random
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, cast

import anyio
import anyio.to_thread
import msgspec

import plugins
from bench.report import Report, report
from runner.host_calls import JobHostCalls
from runner.job_context import JobContext
from runner.losses import Losses
from sandbox.parent import WarmParent
from sandbox.process import JobFacts, LogPlace, Value
from schema.states import Level

log: Final = logging.getLogger(__name__)

WORDS: Final = 20_000
"""Of which the files' texts are made: as compressible as source code is."""
GZIP_LEVEL: Final = 6

SOURCE: Final = """
local function timed(name, body)
  local started = time.now()
  body()
  log.info(name, { seconds = time.now() - started })
end

return {
  name = "bench-modules",
  inputs = { calls = { type = "integer" }, files = { type = "integer" } },
  stages = {
    { name = "calls", script = function(job)
        timed("calls", function()
          for _ = 1, job.inputs.calls do time.sleep(0) end
        end)
      end },
    { name = "files", script = function(job)
        timed("files", function()
          for number = 1, job.inputs.files do
            fs.write("copy/" .. number, fs.read("tree/" .. number))
          end
        end)
      end },
    { name = "archive", script = function()
        timed("archive", function()
          archive.create("ours.tar.gz", { from = "tree" })
          archive.extract("ours.tar.gz", { to = "ours" })
        end)
      end },
  },
}
"""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured."""

    rounds: int
    calls: int
    files: int
    file_bytes: int


FULL: Final = Plan(rounds=7, calls=5_000, files=400, file_bytes=128 * 1024)
QUICK: Final = Plan(rounds=3, calls=500, files=40, file_bytes=128 * 1024)


class _Job:
    """As much of a job as these handlers look at."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.losses = Losses()


class _Calls:
    """Answers by the runner's handlers, and hears what Lua measured."""

    def __init__(self, workspace: Path) -> None:
        self._calls = JobHostCalls(cast("JobContext", _Job(workspace)))
        self.seconds = 0.0

    async def call(
        self, stage: str, name: str, arguments: list[Value], *, plugin: str | None = None, group: Sequence[str] = ()
    ) -> Value:
        return await self._calls.call(stage, name, arguments, plugin=plugin, group=group)

    async def log(self, stage: str, level: Level, text: str, place: LogPlace) -> None:
        del stage, level, text
        self.seconds = float(place.fields["seconds"])


def measure(*, quick: bool) -> Report:
    """Measure all of it."""
    plan = QUICK if quick else FULL
    calls: list[float] = []
    files: list[float] = []
    archives: list[float] = []
    with tempfile.TemporaryDirectory(prefix="moonyard-bench-") as folder:
        workspace = Path(folder)
        _fill(workspace / "tree", plan)
        anyio.run(_measure, plan, workspace, calls, files, archives)
    megabytes = plan.files * plan.file_bytes / 1e6
    return report(
        "modules",
        {
            "call_us": statistics.median(calls),
            "fs_ratio": statistics.median(files),
            "archive_ratio": statistics.median(archives),
        },
        quick=quick,
        how=(
            f"one Lua process; {plan.rounds} rounds, each: {plan.calls} calls of time.sleep(0) one after the other; "
            f"{plan.files} files of {plan.file_bytes // 1024} KiB ({megabytes:.0f} MB) read and written anew one after "
            "the other, by fs and by Python; the same files packed into a tar.gz and unpacked, by archive and by Python"
        ),
        notes={
            "call_us": "microseconds of a call that does no work, there and back, arguments checked",
            "fs_ratio": "Python's time over ours: what is missing to 1 is what the calls and the checks of paths cost",
            "archive_ratio": "Python's time over ours, with the same compression; ours also looks at all entries first",
        },
    )


async def _measure(plan: Plan, workspace: Path, calls: list[float], files: list[float], archives: list[float]) -> None:
    async with WarmParent.start() as parent, parent.fork() as sandbox:
        definition = await sandbox.load("bench.lua", SOURCE, plugins.shipped())
        facts = JobFacts(
            id="bench",
            number=None,
            attempt=1,
            pipeline=definition.name,
            inputs={"calls": plan.calls, "files": plan.files},
        )
        answers = _Calls(workspace)

        async def ours(stage: str) -> float:
            await sandbox.run_stage(stage, facts, answers)
            return answers.seconds

        await ours("calls")  # warms up
        for number in range(1, plan.rounds + 1):
            log.info("round %d of %d", number, plan.rounds)
            _clear(workspace)
            calls.append(await ours("calls") / plan.calls * 1e6)
            seconds = await ours("files")
            _clear(workspace)
            files.append(await _timed(_copy_files, workspace, plan) / seconds)
            _clear(workspace)
            seconds = await ours("archive")
            archives.append(await _timed(_pack_and_unpack, workspace, plan) / seconds)


async def _timed(work: Callable[[Path, Plan], None], workspace: Path, plan: Plan) -> float:
    def timed() -> float:
        started = time.perf_counter()
        work(workspace, plan)
        return time.perf_counter() - started

    return await anyio.to_thread.run_sync(timed)


def _fill(folder: Path, plan: Plan) -> None:
    folder.mkdir()
    source = random.Random(1)  # noqa: S311  # the same files in each run
    words = ["".join(source.choices("abcdefghijklmnopqrstuvwxyz_", k=source.randint(3, 12))) for _ in range(WORDS)]
    for number in range(1, plan.files + 1):
        text = " ".join(source.choices(words, k=plan.file_bytes // 4)).encode()
        (folder / str(number)).write_bytes(text[: plan.file_bytes])


def _clear(workspace: Path) -> None:
    for name in ("copy", "ours", "theirs"):
        shutil.rmtree(workspace / name, ignore_errors=True)
    for name in ("ours.tar.gz", "theirs.tar.gz"):
        (workspace / name).unlink(missing_ok=True)
    (workspace / "copy").mkdir()


def _copy_files(workspace: Path, plan: Plan) -> None:
    for number in range(1, plan.files + 1):
        (workspace / "copy" / str(number)).write_bytes((workspace / "tree" / str(number)).read_bytes())


def _pack_and_unpack(workspace: Path, plan: Plan) -> None:
    del plan
    packed = workspace / "theirs.tar.gz"
    with tarfile.open(packed, "w:gz", compresslevel=GZIP_LEVEL) as tar:
        tar.add(workspace / "tree", ".")
    with tarfile.open(packed, "r:gz") as tar:
        tar.extractall(workspace / "theirs", filter="data")
