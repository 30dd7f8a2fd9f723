"""A program in Lua's place that speaks with the runner: it has its job's rights, and harms nobody else.

All attempts are jobs of one runner, at the same time as a bystander's, which has to come to its end with all that it
said. A job that attacks ends with an error that says why, and never with a defect of the runner's.
"""

from __future__ import annotations

import resource

import anyio

from schema.states import FINAL_JOB_STATES
from tests.attack import frame_acts, taken_over
from tests.attack.attempts import Attempt, judged, stopped, through
from tests.attack.jobs import JOB_SECONDS, Attacked, Runner

AT_ONCE = 6
GROWTH_BYTES_MAXIMUM = 700 * 1024**2
FINAL_EVENT_BYTES_MAXIMUM = 1024**2
BYSTANDER_LINES = 200
BYSTANDER = """
return { name = "bystander", stages = { { name = "s", script = function()
  fs.write("mine", "the bystander's")
  log.info("begun")
  while not fs.exists("go") do sleep(0.05) end
  for line = 1, LINES do log.info("line " .. line) end
  log.info(fs.read("mine"))
end } } }
""".replace("LINES", str(BYSTANDER_LINES))
CODES = {
    **dict.fromkeys(frame_acts.BREACHES, frozenset({"sandbox_breach"})),
    **dict.fromkeys(frame_acts.ENDS, frozenset({"sandbox_failed"})),
    "never come to an end": {"stage_timeout"},
    "never load": {"cpu_limit", "pipeline_invalid"},
    "take no answer": {"sandbox_breach"},
    "forge events in a log": {"x"},
    "tell an error of 17 MiB": {"x" * 100},
    "tell an error that claims a loss": {"engine_lost"},
}
"""How a job of each is to end; what is not here may succeed, for it got nothing."""


async def attempts(runner: Runner) -> list[Attempt]:
    """Try all."""
    made: list[Attempt] = []
    before = _peak_bytes()
    bystander = await runner.start(BYSTANDER)
    await bystander.until_said("begun")
    slots = anyio.Semaphore(AT_ONCE)

    async def make(act: str) -> None:
        async with slots:
            made.append(await _made(runner, act))

    async with anyio.create_task_group() as tasks:
        for act in sorted(frame_acts.ACTS, key=lambda act: act not in frame_acts.SILENT):
            tasks.start_soon(make, act)
    [workspace] = runner.owner.workspaces.glob(f"{bystander.order.id}-*")
    (workspace / "go").touch()
    with anyio.fail_after(JOB_SECONDS):
        await bystander.ended.wait()
    said = ["begun", *(f"line {number + 1}" for number in range(BYSTANDER_LINES)), "the bystander's"]
    unharmed = bystander.final.state == "succeeded" and bystander.texts == said
    made.append(judged("harm a job beside it", None if unharmed else bystander.outcome, "it came to its end, whole"))
    growth = _peak_bytes() - before
    got = f"{growth // 1024**2} MiB" if growth > GROWTH_BYTES_MAXIMUM else None
    made.append(judged("have the runner take memory", got, f"at most {growth // 1024**2} MiB more"))
    return made


async def _made(runner: Runner, act: str) -> Attempt:
    source = taken_over.pipeline(act, "s t" if act == "answer twice" else "s")
    if act == "never come to an end":
        source = source.replace('{ name = "s",', '{ name = "s", timeout = "1s",')
    job = await runner.run(source)
    return _judged(act, job)


def _judged(act: str, job: Attacked) -> Attempt:
    got = [text for text in job.texts if text.startswith(("GOT", "DEFECT"))]
    if got:
        return through(act, "; ".join(got))
    codes = [error.code for error in job.errors]
    if "internal_error" in codes:
        return through(act, f"a defect of the runner's: {job.outcome}")
    wanted = CODES.get(act)
    if wanted is not None and not wanted & set(codes):
        return through(act, f"it ended otherwise than it should: {job.outcome}")
    if job.final.state not in FINAL_JOB_STATES or job.final.state == "lost":
        return through(act, f"it is {job.final.state}")
    if len(job.raw.splitlines()[-1]) > FINAL_EVENT_BYTES_MAXIMUM:
        return through(act, f"its last event has {len(job.raw.splitlines()[-1])} bytes")
    return stopped(act, job.outcome)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
