"""Containers of failed jobs that are kept to be looked into."""

from __future__ import annotations

from pathlib import Path

import anyio

from cli.main import EXIT_ERROR
from runner.kept import KeepSettings
from tests.cli.command import SECONDS
from tests.engine.conftest import ImageMaker
from tests.shells.conftest import Debugged

FAILING = """
return { name = "failing", stages = { { name = "build", script = function()
  process.run({ command = "sh", args = { "-c", "echo evidence > clue; echo inside > /clue" } })
  process.run({ command = "false" })
end } } }
"""
BLOCK = """
return { name = "block", stages = { { name = "build", retries = 1, script = function()
  for number = 1, 3 do
    container.run("docker.io/library/alpine:latest", function()
      process.run({ command = "sh", args = { "-c", "echo " .. number .. " > /number" } })
      if number == 2 then process.run({ command = "false" }) end
    end)
  end
end } } }
"""


IMAGES = """
return { name = "images", fail_fast = false, stages = {
  { name = "bash", needs = {}, container = "docker.io/library/debian:bookworm", script = function()
    process.run({ command = "false" })
  end },
  { name = "none", needs = {}, container = "IMAGE", script = function()
    process.run({ command = "/only", args = { "--nonsense" } })
  end },
} }
"""
WITH_SERVICE = """
return { name = "with-service",
  services = { other = { image = "docker.io/library/alpine:latest", command = { "sleep", "1000" } } },
  stages = { { name = "build", container = "docker.io/library/alpine:latest", script = function()
    process.run({ command = "sh", args = { "-c", "echo mine > /mine; exit 1" } })
  end } } }
"""


def tagged(source: str, tag: str) -> str:
    return source.replace('name = "failing"', f'name = "failing-{tag}", tags = {{ "{tag}" }}')


async def test_a_failed_jobs_container_is_kept_looked_into_and_released(debugged: Debugged) -> None:
    job = await debugged.submit(FAILING, keep_on_failure=600.0)
    await debugged.log_until(job, f"`moonyard shell {job.number}` opens a terminal there")
    assert (await debugged.ended(job)).state == "failed"
    looked = await debugged.piped(job, "--", "cat", "clue", "/clue")
    assert (looked.code, looked.stdout) == (0, "evidence\ninside\n"), looked
    with debugged.terminal(job) as shell:
        await shell.sees("# ")
        shell.type("cat clue; exit 5\r")
        await shell.sees("\nevidence")
        assert await shell.ends() == 5
    [kept] = await debugged.kept(job)
    assert (kept["attempt"], kept["containers"], kept["released"]) == (1, "docker.io/library/alpine:latest", False)
    with debugged.terminal(job) as shell:
        await shell.sees("# ")
        released = await debugged.moonyard("release", str(job.number))
        assert released.stdout == f"what is kept of job {job.number} is removed\n"
        assert await shell.ends() == 2
        assert b"was removed: its part of the job has ended" in shell.screen
    await debugged.until_nothing_is_kept(job)
    refused = await debugged.piped(job, "--", "true")
    assert refused.code == 2
    assert "no containers of it are kept, or not any more" in refused.stderr


async def test_what_is_kept_is_removed_when_its_time_is_over(debugged: Debugged) -> None:
    job = await debugged.submit(FAILING, keep_on_failure=0.5)
    await debugged.log_until(job, "are kept until")
    await debugged.until_nothing_is_kept(job)


async def test_the_block_in_which_the_last_try_failed_is_what_is_kept(debugged: Debugged) -> None:
    job = await debugged.submit(BLOCK, keep_on_failure=600.0)
    assert (await debugged.ended(job)).state == "failed"
    looked = await debugged.piped(job, "--", "cat", "/number")
    assert (looked.code, looked.stdout) == (0, "2\n"), looked
    await debugged.moonyard("release", str(job.number))
    await debugged.until_nothing_is_kept(job)


async def test_a_container_that_had_services_is_kept_without_them_and_leaves_no_network(debugged: Debugged) -> None:
    job = await debugged.submit(WITH_SERVICE, keep_on_failure=600.0)
    assert (await debugged.ended(job)).state == "failed"
    looked = await debugged.piped(job, "--stage", "build", "--", "cat", "/mine")
    assert (looked.code, looked.stdout) == (0, "mine\n"), looked
    assert await debugged.networks(job)
    await debugged.moonyard("release", str(job.number))
    await debugged.until_nothing_is_kept(job)
    with anyio.fail_after(SECONDS):
        while await debugged.networks(job):  # noqa: ASYNC110  # asked of the engine
            await anyio.sleep(0.05)


async def test_bash_is_taken_where_there_is_one_and_an_image_without_any_shell_is_told(
    debugged: Debugged, make_image: ImageMaker, static_program: Path
) -> None:
    image = make_image({"only": static_program})
    job = await debugged.submit(IMAGES.replace("IMAGE", image), keep_on_failure=600.0)
    assert (await debugged.ended(job)).state == "failed"
    bash = await debugged.piped(job, "--stage", "bash", stdin=b"echo ${BASH_VERSION:+bash}\n")
    assert (bash.code, bash.stdout) == (0, "bash\n"), bash
    none = await debugged.piped(job, "--stage", "none")
    assert none.code == EXIT_ERROR
    assert f"image `{image}` has neither bash nor sh" in none.stderr
    program = await debugged.piped(job, "--stage", "none", "--", "/only", "-V")
    assert program.code == 0
    await debugged.moonyard("release", str(job.number))
    await debugged.until_nothing_is_kept(job)


async def test_only_what_failed_is_kept(debugged: Debugged) -> None:
    job = await debugged.submit(FAILING.replace('command = "false"', 'command = "true"'), keep_on_failure=600.0)
    assert (await debugged.ended(job)).state == "succeeded"
    await debugged.until_nothing_is_kept(job)


async def test_a_runner_keeps_no_longer_and_no_more_than_its_owner_allows_and_nothing_when_it_stops(
    debugged: Debugged,
) -> None:
    source = tagged(FAILING, "little")
    async with debugged.runner("little", keep=KeepSettings(seconds_maximum=300.0, count=1)) as stop:
        job = await debugged.submit(source, keep_on_failure=600.0)
        assert (await debugged.ended(job)).state == "failed"
        [kept] = await debugged.kept(job)
        assert (kept["until"] - kept["kept"]).total_seconds() in {299, 300, 301}  # rounded to seconds
        other = await debugged.submit(source, keep_on_failure=600.0)
        await debugged.log_until(other, "this runner keeps those of 1 attempts already")
        assert (await debugged.ended(other)).state == "failed"
        await debugged.until_nothing_is_kept(other)
        assert debugged.workspaces(job)
        stop.set()
    await debugged.until_nothing_is_kept(job)


async def test_a_runner_whose_owner_forbids_it_keeps_nothing(debugged: Debugged) -> None:
    async with debugged.runner("none", keep=KeepSettings(seconds_maximum=0.0)):
        job = await debugged.submit(tagged(FAILING, "none"), keep_on_failure=600.0)
        await debugged.log_until(job, "this runner's owner does not allow it")
        assert (await debugged.ended(job)).state == "failed"
        await debugged.until_nothing_is_kept(job)
