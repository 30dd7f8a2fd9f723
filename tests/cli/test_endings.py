"""How jobs end early with ``moonyard run``: cancelled, out of time, killed; and what runs after their stages."""

from __future__ import annotations

import signal

import pytest

from tests.cli.command import Line, started
from tests.cli.conftest import Runner
from tests.cli.job_lines import nothing_is_left, shape

WAITS = """process.run({ command = "sh", args = { "-c",
  "trap 'echo asked; exit 0' TERM; echo go; while :; do sleep 0.05; done" } })"""
DEAF = """process.run({ command = "sh", args = { "-c",
  "trap 'echo asked' TERM; echo go; while :; do sleep 0.05; done" } })"""
AFTERWARDS = """
  on_cancel = { { name = "rollback", script = function(job) tell("rollback", job) end } },
  finally = {
    { name = "notify", script = function(job) tell("notify", job) error("nobody listens", 0) end },
    { name = "clean", script = function(job)
      tell("clean", job)
      process.run({ command = "cat", args = { "made" } })
    end },
  },"""


def pipeline(body: str, fields: str = AFTERWARDS, stage: str = "") -> str:
    """Write a pipeline of two stages whose Lua remembers something, and that tells how it ended."""
    return f"""
local made = "nothing"
local function tell(who, job) log.info(who, made, job.state, job.error and job.error.code or "-") end
return {{ name = "p", {fields}
  stages = {{
    {{ name = "build", {stage} script = function()
      process.run({{ command = "sh", args = {{ "-c", "echo a file > made" }} }})
      made = "something"
      {body}
    end }},
    {{ name = "never", script = function() log.info("went on") end }},
  }},
}}"""


async def interrupted(run: Runner, source: str, *texts: str) -> list[Line]:
    """Run a pipeline and send a SIGINT at each of the texts in its log."""
    async with started(*run.arguments(source), cwd=run.folder) as running:
        for text in texts:
            await running.until(type="log", text=text)
            running.process.send_signal(signal.SIGINT)
        assert await running.rest() == 1
    shape(running.lines)
    await nothing_is_left(running.lines[-1]["job"], run.state_folder)
    return running.lines


def stages(lines: list[Line]) -> list[tuple[str, str]]:
    return [(line["stage"], line["state"]) for line in lines if line["type"] == "stage" and line["state"] != "running"]


def texts(lines: list[Line], source: str) -> list[str]:
    return [line["text"] for line in lines if line["type"] == "log" and line["source"] == source]


async def test_a_cancelled_job_lets_its_command_end_and_then_cleans_up_with_all_its_variables(run: Runner) -> None:
    lines = await interrupted(run, pipeline(WAITS), "go")
    assert texts(lines, "stdout") == ["go", "asked", "a file"]
    assert texts(lines, "lua") == ["rollback something cancelled -", "notify something cancelled -",
                                   "clean something cancelled -"]  # fmt: skip
    assert stages(lines) == [
        ("build", "cancelled"),
        ("never", "skipped"),
        ("rollback", "succeeded"),
        ("notify", "failed"),
        ("clean", "succeeded"),
    ]
    [stopped] = [line for line in lines if line["type"] == "command" and line["error"]]
    assert (stopped["code"], stopped["error"]["code"]) == (None, "command_stopped")
    assert any("stage `notify` failed: nobody listens" in text for text in texts(lines, "system"))
    assert (lines[-1]["state"], lines[-1]["error"]) == ("cancelled", None)


async def test_a_command_that_does_not_listen_is_killed_after_the_pipelines_grace(run: Runner) -> None:
    lines = await interrupted(run, pipeline(DEAF, f'cancel_grace = "300ms", {AFTERWARDS}'), "go")
    assert texts(lines, "stdout") == ["go", "asked", "a file"]
    assert lines[-1]["state"] == "cancelled"


async def test_a_pipeline_may_give_its_commands_no_time_at_all(run: Runner) -> None:
    lines = await interrupted(run, pipeline(WAITS, f"cancel_grace = 0, {AFTERWARDS}"), "go")
    assert stages(lines)[-1] == ("clean", "succeeded")


async def test_a_second_signal_ends_a_job_whose_command_does_not_listen_at_once(run: Runner) -> None:
    lines = await interrupted(run, pipeline(DEAF), "go", "asked")
    assert stages(lines) == [("build", "cancelled"), ("never", "skipped")]
    assert lines[-1]["state"] == "cancelled"


async def test_a_second_signal_ends_what_runs_after_the_stages(run: Runner) -> None:
    fields = """finally = { { name = "slow", script = function() log.info("slow") time.sleep(1000) end },
      { name = "last", script = function() end } },"""
    lines = await interrupted(run, pipeline(WAITS, fields), "go", "slow")
    assert stages(lines) == [("build", "cancelled"), ("never", "skipped"), ("slow", "cancelled"), ("last", "skipped")]
    assert lines[-1]["state"] == "cancelled"


async def test_a_cancel_while_a_job_cleans_up_lets_it_finish_as_it_ended(run: Runner) -> None:
    fields = """finally = { { name = "slow", script = function()
      log.info("slow")
      process.run({ command = "sh", args = { "-c", "until test -e go; do sleep 0.05; done" } }) end } },"""
    source = pipeline("", fields)
    async with started(*run.arguments(source), cwd=run.folder) as running:
        await running.until(type="log", text="slow")
        running.process.send_signal(signal.SIGINT)
        [workspace] = [
            folder
            for folder in (run.state_folder / "owners").glob("*/workspaces/*")
            if folder.name.startswith(running.lines[-1]["job"])
        ]
        (workspace / "go").touch()
        assert await running.rest() == 0
    assert running.lines[-1]["state"] == "succeeded"


@pytest.mark.parametrize(
    ("body", "stage", "state", "code", "outcome"),
    [
        ("", "", "succeeded", "-", "failed"),
        ('error("broken", 0)', "", "failed", "stage_failed", "failed"),
        (WAITS, "timeout = 0.5,", "failed", "stage_failed", "failed"),
    ],
    ids=["succeeded", "failed", "timeout"],
)
async def test_finally_stages_run_however_the_stages_ended(
    run: Runner, body: str, stage: str, state: str, code: str, outcome: str
) -> None:
    printed = await run(pipeline(body, stage=stage))
    shape(printed.lines)
    assert printed.job["state"] == outcome
    told = [f"{who} something {state} {code}" for who in ("notify", "clean")]
    assert printed.texts(source="lua") == (["went on"] if state == "succeeded" else []) + told
    # What failed first is the job's error: a stage that runs afterwards changes only a job that had succeeded.
    assert f"stage `{'notify' if state == 'succeeded' else 'build'}`" in printed.job["error"]["message"]


async def test_a_job_out_of_time_asks_its_command_to_end_and_runs_what_comes_after(run: Runner) -> None:
    printed = await run(pipeline(WAITS, f'timeout = "1s", {AFTERWARDS}'))
    assert printed.texts(source="stdout") == ["go", "asked", "a file"]
    assert stages(printed.lines)[:2] == [("build", "cancelled"), ("never", "skipped")]
    assert printed.texts(source="lua")[0] == "notify something failed job_timeout"
    assert printed.job["error"]["code"] == "job_timeout"


async def test_what_runs_after_the_stages_has_a_time_limit_of_its_own(run: Runner) -> None:
    fields = """finally_timeout = "500ms",
      finally = { { name = "slow", script = function() time.sleep(1000) end }, { name = "last", script = print } },"""
    printed = await run(pipeline("", fields))
    assert stages(printed.lines)[-2:] == [("slow", "cancelled"), ("last", "skipped")]
    assert printed.job["state"] == "failed"
    assert printed.job["error"]["code"] == "finally_timeout"
    await nothing_is_left(printed.job["job"], run.state_folder)


async def test_a_finally_stage_is_tried_again_and_has_a_container_of_its_own(run: Runner) -> None:
    fields = """finally = { { name = "again", retries = 1, container = "docker.io/library/debian:bookworm",
      script = function()
        tries = (tries or 0) + 1
        process.run({ command = "test", args = { "-e", "/etc/debian_version" } })
        assert(tries == 2)
      end } },"""
    printed = await run(pipeline("", fields))
    assert printed.job["state"] == "succeeded", printed.job
    assert stages(printed.lines)[-2:] == [("again", "failed"), ("again", "succeeded")]


async def test_a_script_that_can_only_be_stopped_with_its_process_leaves_nothing_to_run_afterwards_in(
    run: Runner,
) -> None:
    lines = await interrupted(run, pipeline('log.info("busy") while true do pcall(error) end'), "busy")
    assert stages(lines)[-3:] == [("rollback", "skipped"), ("notify", "skipped"), ("clean", "skipped")]
    [told] = [text for text in texts(lines, "system") if "what was to run after the others did not" in text]
    assert "`rollback`, `notify`, `clean`" in told
    assert "its variables are gone" in told
    assert lines[-1]["state"] == "cancelled"
