"""``moonyard run --keep-on-failure``: what is left of a run that failed, for as long as its user wants it."""

from __future__ import annotations

import shlex
import signal

import anyio
import pytest

from tests.cli.command import environment, started
from tests.cli.conftest import Runner
from tests.cli.job_lines import nothing_is_left, shape

PIPELINE = """
return { name = "p",
  services = { beside = { image = "docker.io/library/alpine:latest", command = { "sleep", "1000" } } },
  stages = {
    { name = "before", container = "docker.io/library/alpine:latest", script = function()
      process.run({ command = "true" })
    end },
    { name = "s", script = function()
      process.run({ command = "sh", args = { "-c", "echo evidence > clue; echo inside > /clue; exit %s" } })
    end },
  },
}
"""
KEPT = "the job's containers and workspace are kept until "
SHELL = "a shell in the one of docker.io/library/alpine:latest: "


async def inside(line: str, *argv: str) -> str:
    """Run a command as the line from the log would, but for its terminal."""
    words = [word for word in shlex.split(line.removeprefix(SHELL)) if word != "-it"][:-1]
    done = await anyio.run_process(["env", *words, *argv], env=environment())
    return done.stdout.decode()


@pytest.mark.parametrize("ended_by", ["Ctrl-C", "time"])
async def test_what_failed_is_kept_with_a_way_in_until_its_user_has_seen_enough(run: Runner, ended_by: str) -> None:
    arguments = run.arguments(PIPELINE % "3")
    duration = "20m" if ended_by == "Ctrl-C" else "500ms"
    async with started(*arguments, "--keep-on-failure", duration, cwd=run.folder) as running:
        final = await running.until(type="job", state="failed")
        texts = [line["text"] for line in running.lines if line["type"] == "log"]
        assert [text for text in texts if text.startswith(KEPT)]
        [shell] = [text for text in texts if text.startswith(SHELL)]
        if ended_by == "Ctrl-C":
            assert await inside(shell, "cat", "clue", "/clue") == "evidence\ninside\n"
            running.process.send_signal(signal.SIGINT)
        assert await running.rest() == 1
    shape(running.lines)
    await nothing_is_left(final["job"], run.state_folder)


async def test_what_succeeds_is_not_kept(run: Runner) -> None:
    done = await run(PIPELINE % "0", "--keep-on-failure", "20m")
    assert done.code == 0, done.stdout
    assert not [text for text in done.texts(source="system") if text.startswith(KEPT)]


async def test_a_failure_without_a_container_says_that_there_is_nothing_to_keep(run: Runner) -> None:
    kept = await run(
        'return { name = "p", stages = { { name = "s", script = function() error("x") end } } }',
        "--keep-on-failure",
        "20m",
    )
    assert kept.code == 1
    assert "no command ran in one that is still there" in "".join(kept.texts(source="system"))
