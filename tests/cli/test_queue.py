"""The commands of those who run the queue, against a real orchestrator."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from schema.definition import Concurrency, PipelineDefinition, StageDefinition
from tests.cli.command import Printed, moonyard
from tests.cli.conftest import Runner
from tests.orchestrator.installation import Attempt, Installation
from tests.orchestrator.installation import installation as opened


class Shell:
    """Runs commands as an admin of an installation."""

    def __init__(self, installation: Installation, folder: Path) -> None:
        self.installation = installation
        self.folder = folder

    async def __call__(self, *arguments: str, code: int = 0, **environment: str) -> Printed:
        printed = await moonyard(
            *arguments,
            cwd=self.folder,
            MOONYARD_TOKEN=self.installation.admin_secret,
            MOONYARD_ORCHESTRATOR=self.installation.replicas[0].address,
            MOONYARD_STATE_FOLDER=str(self.folder / "state"),
            **environment,
        )
        assert printed.code == code, printed.stderr
        return printed

    async def said(self, *arguments: str) -> str:
        return (await self(*arguments)).stdout.strip()

    async def one(self, *arguments: str) -> dict[str, Any]:
        return json.loads((await self(*arguments, "--json")).stdout)


@pytest.fixture
async def shell(database_url: str, tmp_path: Path) -> AsyncGenerator[Shell]:
    async with opened(database_url) as installation:
        await installation.replica()
        await installation.push()
        yield Shell(installation, tmp_path)


async def test_a_job_says_its_priority_and_why_it_waits(shell: Shell):
    queued = await shell.one(
        "submit", "hello", "--priority", "7", "--delay", "1h", "--queue-timeout", "90", "--input", "who=you"
    )
    assert (queued["priority"], queued["state"]) == (7, "queued")
    shown = await shell.said("job", str(queued["number"]))
    assert "priority     7" in shown
    assert "waits for    not before " in shown
    assert (await shell.one("job", str(queued["number"])))["waits_for"].startswith("not before ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit"], "Missing argument 'PIPELINE'"),
        (["submit", "hello", "--delay", "soon"], "text such as"),
        (["submit", "hello", "--priority", "101"], "101 is not in the range"),
        (["submit", "hello", "--batch", "-", "--follow"], "with --batch"),
        (["cancel"], "Missing argument 'JOB'"),
        (["cancel", "1", "--queued"], "not both"),
        (["cancel", "1", "--pipeline", "hello"], "--pipeline goes with --queued"),
        (["pause"], "give a PIPELINE or --all"),
        (["resume", "hello", "--all"], "give a PIPELINE or --all"),
        (["submit", "hello", "--not-before", "tomorrow"], "has to be a time with its zone"),
        (["pause", "nothing"], "there is no pipeline `nothing`"),
        (["retry", "99"], "there is no job `99`"),
        (["runner", "drain", "nobody"], "there is no runner `nobody`"),
        (["schedule", "pause", "nothing"], "there is no schedule `nothing`"),
        (["schedule", "create", "a", "hello", "61 * * * *"], "bad minute"),
    ],
    ids=" ".join,
)
async def test_what_makes_no_sense_is_refused_with_a_reason(shell: Shell, arguments: list[str], said: str):
    printed = await shell(*arguments, code=2)
    assert printed.stdout == ""
    assert said in printed.stderr
    assert "Traceback" not in printed.stderr


async def test_a_file_of_jobs_is_submitted_whole(shell: Shell):
    lines: list[dict[str, Any]] = [{"inputs": {"who": f"person {number}"}, "priority": number} for number in range(3)]
    lines.append({"pipeline": "hello", "idempotency_key": "k"})
    file = shell.folder / "jobs.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n", encoding="utf-8")
    assert await shell.said("submit", "hello", "--batch", "jobs.jsonl") == "4 jobs queued (1 to 4)"
    file.write_text(json.dumps(lines[-1]), encoding="utf-8")
    [again] = (await shell("submit", "--batch", "jobs.jsonl", "--json")).lines
    assert (again["number"], again["fresh"]) == (4, False)
    assert await shell.said("submit", "--batch", "jobs.jsonl") == "0 jobs queued; 1 were there already"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"pipeline": "hello"}\nnonsense\n', "line 2 of jobs.jsonl is no job: "),
        (
            '{"pipeline": "hello", "colour": 1}\n',
            "line 1 of jobs.jsonl is no job: object contains unknown field `colour`",
        ),
        ("{}\n", "line 1 of jobs.jsonl is no job: object missing required field `pipeline`"),
        ("[1]\n", "line 1 of jobs.jsonl is no job: "),
        ("", "jobs.jsonl holds no jobs"),
        ('{"pipeline": "hello"}\n{"pipeline": "nothing"}\n', "job 2 of the batch: there is no pipeline `nothing`"),
    ],
)
async def test_a_file_with_a_line_that_is_no_job_submits_nothing(shell: Shell, text: str, said: str):
    (shell.folder / "jobs.jsonl").write_text(text, encoding="utf-8")
    printed = await shell("submit", "--batch", "jobs.jsonl", code=2)
    assert said in printed.stderr
    assert (await shell("jobs", "--json")).stdout == ""


async def test_jobs_are_cancelled_by_pipeline_and_run_again(shell: Shell):
    for _ in range(3):
        await shell("submit", "hello")
    assert await shell.said("cancel", "--queued", "--pipeline", "hello") == "3 jobs cancelled"
    assert await shell.said("cancel", "--queued") == "0 jobs cancelled"
    assert await shell.said("retry", "2") == "job 2 queued as attempt 1"
    assert (await shell.one("job", "2"))["state"] == "queued"
    assert "job 2 is queued" in (await shell("retry", "2", code=2)).stderr


async def test_the_log_of_a_job_that_was_run_again_ends_with_its_last_end(shell: Shell):
    runner = await shell.installation.runner()
    await shell("submit", "hello")
    for state in ("failed", "succeeded"):
        [assignment] = await runner.claim()
        attempt = Attempt(assignment)
        await runner.send(attempt, attempt.state("running"), attempt.log(f"it {state}"), attempt.state(state))
        if state == "failed":
            await shell("logs", "--follow", "1", code=1)
            await shell("retry", "1")
    printed = await shell("logs", "--follow", "1", "--json")
    assert printed.texts() == ["it failed", "it succeeded"]
    assert printed.job["state"] == "succeeded"


async def test_a_pause_holds_jobs_back_until_it_ends(shell: Shell):
    assert await shell.said("pause", "hello") == "pipeline hello is paused"
    queued = await shell.one("submit", "hello")
    assert "paused by token test" in await shell.said("job", str(queued["number"]))
    assert await shell.said("resume", "hello") == "pipeline hello goes on"
    assert await shell.one("pause", "--all") == {"pipeline": None, "paused": True}
    assert await shell.said("resume", "--all") == "everything goes on"


async def test_a_runner_is_registered_with_tags_and_drained(shell: Shell):
    token = await shell.one("token", "create", "--kind", "registration", "--name", "builder")
    await shell(
        *("runner", "register", "--name", "builder", "--tag", "gpu", "--tag", "arm64"),
        MOONYARD_REGISTRATION_TOKEN=token["secret"],
    )
    assert await shell.said("runner", "drain", "builder") == "runner builder takes no more jobs"
    [listed] = (await shell("runner", "list", "--json")).lines
    assert (listed["tags"], listed["drained_by"]) == (["arm64", "gpu"], "token test")
    assert "drained by token test" in await shell.said("runner", "list")
    assert await shell.said("runner", "undrain", "builder") == "runner builder takes jobs again"


async def test_a_schedule_is_created_listed_paused_and_deleted(shell: Shell):
    made = await shell.one(
        *("schedule", "create", "nightly", "hello", "30 2 * * *", "--time-zone", "Europe/Berlin"),
        *("--input", "who=night", "--catch-up", "skip", "--priority", "3"),
    )
    assert (made["name"], made["catch_up"], made["inputs"]) == ("nightly", "skip", {"who": "night"})
    assert "already" in (await shell("schedule", "create", "nightly", "hello", "1 1 * * *", code=2)).stderr
    assert "Europe/Berlin" in await shell.said("schedule", "list")
    assert await shell.said("schedule", "pause", "nightly") == "schedule nightly is paused"
    assert "paused by token test" in await shell.said("schedule", "list")
    assert (await shell.said("schedule", "resume", "nightly")).startswith(
        "schedule nightly goes on; its next job comes"
    )
    assert await shell.said("schedule", "delete", "nightly") == "schedule nightly is deleted"
    assert "no schedules yet" in (await shell("schedule", "list")).stderr


async def test_a_group_that_is_taken_is_named(shell: Shell):
    limited = PipelineDefinition(
        name="deploy", stages=[StageDefinition(name="greet")], concurrency=Concurrency(group="live")
    )
    await shell.installation.push(limited)
    first = await shell.one("submit", "deploy")
    second = await shell.one("submit", "deploy")
    shown = await shell.said("job", str(second["number"]))
    assert f"waits for    concurrency group live is taken by job {first['number']}" in shown


async def test_a_stage_is_tried_again_after_a_delay(run: Runner):
    printed = await run.script(
        'tries = (tries or 0) + 1; if tries < 3 then error("try " .. tries) end',
        retries='{ times = 2, delay = "40ms", backoff = "exponential" }',
    )
    assert printed.job["state"] == "succeeded", printed.stdout
    said = [text.rpartition("; ")[2] for text in printed.texts(source="system", level="warn")]
    assert said == ["trying again in 0.04 s (2 left)", "trying again in 0.08 s (1 left)"]
