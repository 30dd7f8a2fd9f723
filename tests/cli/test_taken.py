"""A job whose container somebody takes away on the runner's machine: it is lost, and has not failed."""

from __future__ import annotations

import anyio

from tests.cli.command import started
from tests.cli.conftest import Runner
from tests.cli.job_lines import nothing_is_left


async def test_a_job_whose_container_is_removed_by_hand_is_lost_whatever_its_script_makes_of_it(run: Runner) -> None:
    source = """
return { name = "p", stages = { { name = "s", script = function()
  pcall(process.run, { command = "sh", args = { "-c", "echo runs; sleep 1000" } })
  process.run({ command = "true" })
end } } }"""
    async with started(*run.arguments(source), cwd=run.folder) as printing:
        job = (await printing.until(text="runs"))["job"]
        found = await anyio.run_process(["podman", "ps", "--quiet", "--filter", f"label=moonyard.job={job}"])
        await anyio.run_process(["podman", "rm", "--force", "--time", "0", found.stdout.decode().strip()])
        assert await printing.rest() == 1
    final = printing.lines[-1]
    assert (final["state"], final["error"]["code"]) == ("lost", "attempt_lost")
    assert "from outside of it" in final["error"]["message"]
    await nothing_is_left(job, run.state_folder)
