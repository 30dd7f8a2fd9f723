"""Stages that run at the same time with ``moonyard run``: real containers, one Lua state, and every way to end."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cli.command import ROOT, Line, moonyard, started
from tests.cli.conftest import Runner
from tests.cli.job_lines import nothing_is_left, shape
from tests.cli.test_endings import stages, texts

DEBIAN = "docker.io/library/debian:bookworm"
LUA = """
local function sh(script) return process.run({ command = "sh", args = { "-c", script }, stdout = "info" }) end
local function wait(name) sh("until test -e " .. name .. "; do sleep 0.02; done") end
-- Says that it is there, and waits until the other is: two stages that come through this were there at once.
local function meet(own, other) sh("touch " .. own) wait(other) end
local WAITS = "trap 'echo asked; exit 0' TERM; echo waits; while :; do sleep 0.05; done"
local DEAF = "trap 'echo asked' TERM; echo waits; while :; do sleep 0.05; done"
"""


def pipeline(stages: str, fields: str = "") -> str:
    return f'{LUA} return {{ name = "p", {fields} stages = {{ {stages} }} }}'


def states(lines: list[Line]) -> dict[str, str]:
    """How each stage ended."""
    return dict(stages(lines))


def of_stage(lines: list[Line], stage: str, source: str) -> list[str]:
    return [
        line["text"] for line in lines if line["type"] == "log" and (line["stage"], line["source"]) == (stage, source)
    ]


async def test_stages_that_need_not_wait_run_at_once_in_shared_and_in_own_containers(run: Runner) -> None:
    printed = await run(
        pipeline(f"""
        {{ name = "first", script = function() sh("hostname > first") end }},
        {{ name = "a", needs = {{ "first" }}, script = function()
            seen = "of a" meet("a", "b") sh("test $(hostname) = $(cat first)") end }},
        {{ name = "b", needs = {{ "first" }}, script = function()
            meet("b", "c") log.info(seen) sh("test $(hostname) = $(cat first)") end }},
        {{ name = "c", needs = {{ "first" }}, container = "{DEBIAN}", script = function()
            meet("c", "a") sh("test -e /etc/debian_version; echo done") end }},
        {{ name = "last", script = function() log.info(seen) end }},""")
    )
    shape(printed.lines)
    assert printed.code == 0, printed.stdout[-2000:]
    order = [line["stage"] for line in printed.lines if line["type"] == "stage"]
    assert order[:5] == ["first", "first", "a", "b", "c"]
    assert order[-2:] == ["last", "last"]
    assert of_stage(printed.lines, "b", "lua") == of_stage(printed.lines, "last", "lua") == ["of a"]
    assert of_stage(printed.lines, "c", "stdout") == ["done"]
    await nothing_is_left(printed.job["job"], run.state_folder)


async def test_a_failure_lets_what_runs_beside_it_end_as_a_cancel_does_and_the_rest_is_skipped(run: Runner) -> None:
    printed = await run(
        pipeline(
            """
        { name = "breaks", needs = {}, script = function() meet("breaks", "waits") error("broken", 0) end },
        { name = "waits", needs = {}, script = function() meet("waits", "deaf") sh(WAITS) log.info("went on") end },
        { name = "deaf", needs = {}, script = function() meet("deaf", "breaks") sh(DEAF) end },
        { name = "sleeps", needs = {}, retries = 3, script = function() time.sleep(1000) end },
        { name = "watches", needs = {}, when = "always", script = function() wait("told") end },
        { name = "later", needs = { "watches" }, script = function() end },
        { name = "rescue", needs = { "breaks" }, when = "on_failure", script = function(job)
            log.info(job.stages.breaks) sh("touch told") end },
        { name = "all", script = function() end },""",
            """cancel_grace = "300ms",
            finally = { { name = "clean", script = function(job) log.info(job.error.message) end } },""",
        )
    )
    shape(printed.lines)
    assert states(printed.lines) == {
        "breaks": "failed",
        "waits": "cancelled",
        "deaf": "cancelled",
        "sleeps": "cancelled",
        "watches": "succeeded",
        "later": "skipped",
        "rescue": "succeeded",
        "all": "skipped",
        "clean": "succeeded",
    }
    assert printed.job["error"]["message"] == "stage `breaks` failed: broken"
    assert of_stage(printed.lines, "clean", "lua") == ["stage `breaks` failed: broken"]
    assert of_stage(printed.lines, "rescue", "lua") == ["failed"]
    assert "went on" not in texts(printed.lines, "lua")
    told = "stage `sleeps` is stopped, for stage `breaks` failed (`fail_fast`)"
    assert of_stage(printed.lines, "sleeps", "system") == [told]
    await nothing_is_left(printed.job["job"], run.state_folder)


async def test_without_fail_fast_the_others_go_on_and_every_failure_is_told(run: Runner) -> None:
    printed = await run(
        pipeline(
            """
        { name = "a", needs = {}, script = function() meet("a", "b") error("first", 0) end },
        { name = "b", needs = {}, script = function() meet("b", "a") wait("go") end },
        { name = "c", needs = { "a" }, when = "on_failure", script = function() sh("touch go") error("second", 0) end },
        { name = "d", needs = { "b" }, script = function() log.info("went on") end },
        { name = "e", needs = { "a" }, script = function() end },""",
            "fail_fast = false,",
        )
    )
    shape(printed.lines)
    assert states(printed.lines) == {
        "a": "failed", "b": "succeeded", "c": "failed", "d": "succeeded", "e": "skipped",
    }  # fmt: skip
    assert printed.job["state"] == "failed"
    assert printed.job["error"]["message"] == "stage `a` failed: first"
    assert of_stage(printed.lines, "c", "system") == ["stage `c` failed: second"]


async def test_a_stage_that_may_fail_fails_and_the_job_succeeds(run: Runner) -> None:
    printed = await run(
        pipeline("""
        { name = "may", allow_failure = true, retries = 1,
          script = function() tries = (tries or 0) + 1 error("no", 0) end },
        { name = "slow", timeout = 0.3, allow_failure = true, script = function() sh(WAITS) end },
        { name = "after", script = function(job) log.info(tries, job.stages.may) end },""")
    )
    shape(printed.lines)
    assert printed.code == 0, printed.stdout[-2000:]
    assert states(printed.lines) == {"may": "failed", "slow": "failed", "after": "succeeded"}
    assert of_stage(printed.lines, "after", "lua") == ["2 failed"]
    assert "`allow_failure`" in of_stage(printed.lines, "may", "system")[-1]


async def test_conditions_decide_and_do_nothing_else(run: Runner) -> None:
    source = pipeline("""
        { name = "a", when = function(job) log.info("asked", job.inputs.deploy) return job.inputs.deploy end,
          script = function() log.info("a ran") end },
        { name = "b", needs = { "a" }, when = function(job) return job.stages.a == "skipped" end,
          script = function() log.info("b ran") end },
        { name = "c", matrix = { v = { 1, 2 } }, when = function(job) return job.matrix.v == 2 end,
          script = function(job) log.info("c ran", job.matrix.v) end },
        { name = "d", when = function() process.run({ command = "true" }) end, script = function() end },
        { name = "e", script = function() end },""",
        'inputs = { deploy = { type = "boolean", default = false } },')  # fmt: skip
    printed = await run(source)
    shape(printed.lines)
    assert texts(printed.lines, "lua") == ["asked false", "b ran", "c ran 2"]
    assert states(printed.lines) == {
        "a": "skipped", "b": "succeeded", "c (v=1)": "skipped", "c (v=2)": "succeeded", "d": "failed", "e": "skipped",
    }  # fmt: skip
    failed, cause = printed.errors
    assert failed.message.startswith("the `when` of stage `d` failed: process.run was called in the `when`")
    assert (failed.where, cause.code) == ("try.lua:15", "call_in_condition")


async def test_a_cancel_lets_every_command_end_and_cleans_up_once(run: Runner) -> None:
    source = pipeline(
        """
        { name = "a", needs = {}, script = function() meet("a", "b") sh(WAITS) end },
        { name = "b", needs = {}, script = function() meet("b", "c") log.info("ready") sh(DEAF) end },
        { name = "c", needs = {}, script = function() meet("c", "a") time.sleep(1000) end },
        { name = "d", script = function() end },""",
        """cancel_grace = "500ms",
        on_cancel = { { name = "rollback", script = function() sh("ls") end } },
        finally = { { name = "clean", script = function(job) log.info(job.state, job.stages.d) end } },""",
    )
    async with started(*run.arguments(source), cwd=run.folder) as running:
        waiting: set[str] = set()
        while waiting != {"a", "b"}:
            waiting.add((await running.until(type="log", text="waits"))["stage"])
        running.process.send_signal(signal.SIGINT)
        assert await running.rest() == 1
    shape(running.lines)
    assert states(running.lines) == {
        "a": "cancelled",
        "b": "cancelled",
        "c": "cancelled",
        "d": "skipped",
        "rollback": "succeeded",
        "clean": "succeeded",
    }
    assert [of_stage(running.lines, name, "stdout") for name in "ab"] == [["waits", "asked"]] * 2
    assert of_stage(running.lines, "rollback", "stdout") == ["a", "b", "c"]
    assert running.lines[-1]["state"] == "cancelled"
    await nothing_is_left(running.lines[-1]["job"], run.state_folder)


async def test_a_timeout_ends_its_stage_alone_and_that_of_the_job_all_of_them(run: Runner) -> None:
    printed = await run(
        pipeline(
            """
        { name = "slow", needs = {}, timeout = 0.3, script = function() sh(WAITS) end },
        { name = "beside", needs = {}, script = function() wait("late") end },
        { name = "after", needs = { "slow" }, when = "on_failure", script = function() sh("touch late") end },
        { name = "endless", needs = { "beside" }, script = function() sh(WAITS) end },
        { name = "other", needs = { "beside" }, script = function() time.sleep(1000) end },""",
            'fail_fast = false, timeout = "3s",',
        )
    )
    shape(printed.lines)
    assert states(printed.lines) == {
        "slow": "failed",
        "beside": "succeeded",
        "after": "succeeded",
        "endless": "cancelled",
        "other": "cancelled",
    }
    # What failed first is the job's error.
    assert [error.code for error in printed.errors] == ["stage_failed", "stage_timeout"]
    await nothing_is_left(printed.job["job"], run.state_folder)


async def test_a_script_that_cannot_be_stopped_alone_takes_those_beside_it_with_it(run: Runner) -> None:
    printed = await run(
        pipeline(
            """
        { name = "busy", needs = {}, timeout = 1, allow_failure = true,
          script = function() meet("busy", "beside") while true do pcall(error) end end },
        { name = "beside", needs = {}, when = "always", script = function() meet("beside", "busy") sh(WAITS) end },
        { name = "never", when = "always", script = function() end },""",
            'finally = { { name = "clean", script = function() end } },',
        )
    )
    shape(printed.lines)
    assert states(printed.lines) == {"busy": "failed", "beside": "failed", "never": "skipped", "clean": "skipped"}
    assert printed.job["state"] == "failed"
    assert [error.code for error in printed.errors] == ["stage_failed", "stage_timeout"]
    assert "`busy`" in printed.errors[0].message
    await nothing_is_left(printed.job["job"], run.state_folder)


@pytest.mark.parametrize("parallel", [1, 2])
async def test_no_more_stages_run_at_once_than_the_pipeline_says(run: Runner, parallel: int) -> None:
    printed = await run(
        pipeline(
            """{ name = "m", needs = {}, matrix = { v = { 1, 2, 3, 4 } },
              script = function(job) sh("echo " .. job.matrix.v) end },""",
            f"parallel = {parallel},",
        )
    )
    shape(printed.lines)
    assert printed.code == 0
    at_once, most = 0, 0
    for line in printed.lines:
        if line["type"] == "stage":
            at_once += 1 if line["state"] == "running" else -1
            most = max(most, at_once)
    assert most == parallel
    assert sorted(printed.texts(source="stdout")) == ["1", "2", "3", "4"]


async def test_people_read_whose_line_it_is_while_stages_run_at_once(run: Runner) -> None:
    source = pipeline("""
        { name = "alone", script = function() sh("echo by itself") end },
        { name = "a", needs = { "alone" }, script = function() meet("a", "b") sh("echo one; touch c") end },
        { name = "b", needs = { "alone" }, script = function() meet("b", "a") wait("c") end },
        """)
    arguments = [argument for argument in run.arguments(source) if argument != "--json"]
    printed = await moonyard(*arguments, cwd=run.folder)
    assert printed.code == 0
    assert " info  by itself\n" in printed.stdout
    assert " info  [a] one\n" in printed.stdout
    assert "✓ [a] sh -c 'echo one; touch c'" in printed.stdout


async def test_the_matrix_example_builds_at_once_and_tells_how_it_went(state_folder: Path, tmp_path: Path) -> None:
    example = str(ROOT / "examples" / "matrix.lua")
    options = ["--json", "--state-folder", str(state_folder)]
    printed = await moonyard("run", example, *options, cwd=tmp_path)
    assert printed.code == 0, printed.stdout[-2000:]
    assert {text for text in printed.texts(source="stdout") if "level 2" in text} == {
        "alpine:latest at level 2: version 1.2.3",
        "debian:bookworm at level 2: version 1.2.3",
    }
    assert printed.texts(source="lua")[-3:] == [
        "alpine:latest succeeded",
        "debian:bookworm succeeded",
        "publish succeeded",
    ]
    broken = await moonyard("run", example, *options, "--input", "broken=debian", cwd=tmp_path)
    assert broken.code == 1
    assert broken.texts(source="lua")[-3:] == ["alpine:latest succeeded", "debian:bookworm failed", "publish skipped"]
