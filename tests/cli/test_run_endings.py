"""``moonyard run --json`` that ends early: by timeouts of stages and jobs, by signals, by readers that go away."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Generator

import anyio
import anyio.to_thread
import pytest

from tests.cli.command import SECONDS, Line, Printed, argv, environment, moonyard
from tests.cli.conftest import Runner
from tests.cli.job_lines import ALPINE, SHELL, nothing_is_left, shape, succeeded


async def test_a_stage_that_ran_out_of_time_inside_blocks_is_tried_again_with_its_variables(run: Runner) -> None:
    printed = await run(
        SHELL
        + f"""
    local tries = 0
    return {{ name = "p", stages = {{
      {{ name = "s", timeout = 1, retries = 3, script = function()
        tries = tries + 1
        if tries == 3 then return end
        container.run("{ALPINE}", function()
          container.run("{ALPINE}", function() pcall(process.run, {{ command = "sleep", args = {{ "1000" }} }}) end)
        end)
      end }},
      {{ name = "t", script = function() log.info(tries) end }},
    }} }}"""
    )
    succeeded(printed)
    assert printed.texts(source="lua") == ["3"]
    states = [line["state"] for line in printed.lines if line["type"] == "stage" and line["stage"] == "s"]
    assert states == ["running", "failed", "running", "failed", "running", "succeeded"]
    assert {command["error"]["code"] for command in printed.commands()} <= {"command_stopped"}
    await nothing_is_left(printed.job["job"], run.state_folder)


async def test_a_script_that_only_the_end_of_its_process_could_stop_is_not_tried_again(run: Runner) -> None:
    printed = await run("""
    return { name = "p", stages = {
      { name = "s", timeout = "300ms", retries = 5, script = function() while true do pcall(error) end end },
      { name = "t", script = function() end },
    } }""")
    assert printed.code == 1
    shape(printed.lines)
    assert [error.code for error in printed.errors] == ["stage_failed", "stage_timeout"]
    stages = [(line["stage"], line["state"]) for line in printed.lines if line["type"] == "stage"]
    assert stages == [("s", "running"), ("s", "failed"), ("t", "skipped")]


async def test_a_jobs_timeout_ends_a_command_in_a_block_and_skips_the_rest(run: Runner) -> None:
    printed = await run(f"""
    return {{ name = "p", timeout = 1.5, stages = {{
      {{ name = "s", retries = 5, script = function()
        container.run("{ALPINE}", function() process.run({{ command = "sleep", args = {{ "1000" }} }}) end)
      end }},
      {{ name = "t", script = function() end }},
    }} }}""")
    assert printed.code == 1
    shape(printed.lines)
    assert [error.code for error in printed.errors] == ["job_timeout"]
    stages = [(line["stage"], line["state"]) for line in printed.lines if line["type"] == "stage"]
    assert stages == [("s", "running"), ("s", "cancelled"), ("t", "skipped")]
    await nothing_is_left(printed.job["job"], run.state_folder)


@pytest.fixture
def silent_registry() -> Generator[str]:
    """A registry's address at which connections are taken and nothing is ever said."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        yield f"127.0.0.1:{listening.getsockname()[1]}"


async def test_a_stages_timeout_ends_a_pull(run: Runner, silent_registry: str) -> None:
    printed = await run.script(
        'process.run({ command = "true" })', container=f'"{silent_registry}/x:y"', timeout='"500ms"'
    )
    assert printed.code == 1
    shape(printed.lines)
    assert [error.code for error in printed.errors] == ["stage_failed", "stage_timeout"]
    assert any(text.startswith("pulling image") for text in printed.texts(source="system"))


def until(line: Line) -> dict[str, str]:
    return {name: value for name, value in line.items() if isinstance(value, str)}


@pytest.mark.parametrize(
    ("wanted", "body", "number"),
    [
        ({"type": "log", "source": "system"}, 'container.run("REGISTRY/x:y", print)', signal.SIGINT),
        ({"type": "stage", "state": "running"}, 'process.run({ command = "true" }) time.sleep(1000)', signal.SIGTERM),
        ({"type": "log", "text": "go"}, 'log.info("go") while true do pcall(error) end', signal.SIGHUP),
        ({"type": "log", "text": "go"},
         """while true do pcall(process.run, { command = "sh",
              args = { "-c", "trap '' INT TERM; echo go; sleep 99" } }) end""",
         signal.SIGINT),
        ({"type": "log", "source": "stdout"}, 'process.run({ command = "yes" })', signal.SIGTERM),
        ({"type": "log", "text": "go"},
         f"""container.run("{ALPINE}", function() container.run("{ALPINE}", function()
              process.run({{ command = "sh", args = {{ "-c", "echo go; sleep 1000" }} }}) end) end)""", signal.SIGINT),
        ({"type": "stage", "state": "succeeded"}, 'process.run({ command = "true" })', signal.SIGINT),
    ],
    ids=["pulling", "creating", "computing", "catching", "flooding", "nested", "removing"],
)  # fmt: skip
async def test_a_signal_to_the_whole_process_group_cancels_the_job_at_any_moment(
    run: Runner, silent_registry: str, wanted: dict[str, str], body: str, number: signal.Signals
) -> None:
    source = (
        'return { name = "p", cancel_grace = "500ms", stages = { { name = "s", script = function() BODY end } } }'
    ).replace("BODY", body.replace("REGISTRY", silent_registry))
    # As a terminal does it: everything that was started in the foreground gets the signal.
    command = shlex.join(argv(*run.arguments(source)))
    async with await anyio.open_process(
        ["sh", "-c", f"exec {command}"],
        cwd=run.folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        text = b""
        with anyio.fail_after(SECONDS):
            seen = False
            while not seen:
                text += await process.stdout.receive()
                lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")]
                seen = any(wanted.items() <= until(line).items() for line in lines)
            os.killpg(process.pid, number)
            async for chunk in process.stdout:
                text += chunk
            said = b"".join([chunk async for chunk in process.stderr])
            await process.wait()
    lines = [json.loads(line) for line in text.splitlines()]
    shape(lines)
    assert b"Traceback" not in said
    assert number.name.encode() in said
    # It may have come to its own end just before.
    assert (process.returncode, lines[-1]["state"]) in {(1, "cancelled"), (0, "succeeded")}
    assert lines[-1]["state"] == "cancelled" or wanted == {"type": "stage", "state": "succeeded"}
    await nothing_is_left(lines[-1]["job"], run.state_folder)


async def test_a_reader_that_goes_away_ends_the_run_and_leaves_nothing(run: Runner) -> None:
    source = """return { name = "p", stages = { { name = "s", script = function()
      process.run({ command = "yes", args = { ("y"):rep(2000) } }) end } } }"""
    theirs, ours = os.pipe()
    with subprocess.Popen(  # noqa: ASYNC220  # a pipe that is really closed
        argv(*run.arguments(source)), cwd=run.folder, env=environment(), stdout=ours, stderr=subprocess.PIPE
    ) as process:
        os.close(ours)
        with os.fdopen(theirs, "rb") as reader:
            lines: list[Line] = []
            while not lines or lines[-1].get("source") != "stdout":
                lines.append(json.loads(await anyio.to_thread.run_sync(reader.readline)))
        _, said = await anyio.to_thread.run_sync(lambda: process.communicate(timeout=SECONDS))
        assert (process.returncode, said) == (2, b"")
    await nothing_is_left(lines[0]["job"], run.state_folder)


async def test_two_runs_share_a_state_folder_and_neither_clears_up_the_other(run: Runner) -> None:
    source = """return { name = "p", inputs = { n = { type = "integer" } }, stages = {
      { name = "s", script = function(job)
      process.run({ command = "sh", args = { "-c", "echo " .. job.inputs.n .. " > file" } })
      for _ = 1, 10 do process.run({ command = "cat", args = { "file" } }) end
    end } } }"""
    arguments = run.arguments(source)
    results: dict[str, Printed] = {}

    async def one(number: str) -> None:
        results[number] = await moonyard(*arguments, "--input", f"n={number}", cwd=run.folder)

    async with anyio.create_task_group() as tasks:
        for number in ("1", "2", "3"):
            tasks.start_soon(one, number)
    for number, printed in results.items():
        assert succeeded(printed).texts(source="stdout") == [number] * 10
