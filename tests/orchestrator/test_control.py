"""The schema `control`, as an operator uses it: through the real psql."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import anyio
import pytest

from schema.definition import (
    Concurrency,
    InputDefinition,
    InputsInvalid,
    PipelineDefinition,
    StageDefinition,
    resolve_inputs,
)
from schema.errors import MoonyardError
from schema.events import JobEvent, decode_line
from schema.wire import Heartbeat, HeartbeatAnswer, Holding, Job
from tests.orchestrator.installation import Attempt, Installation
from tests.postgres import program, psql

STAGES = [StageDefinition(name="greet")]


def ask(installation: Installation, statement: str, **variables: str) -> str:
    return psql(installation.url, statement, "-At", **variables).strip()


def refusal(installation: Installation, statement: str, **options: Any) -> str:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        psql(installation.url, statement, **options)
    return raised.value.stderr


async def shown(installation: Installation, job: int | str) -> Job:
    return await (await installation.client()).get(f"/v1/jobs/{job}", Job)


async def audit(installation: Installation) -> list[tuple[str, str]]:
    """Give what was done in psql."""
    rows = await installation.fetch("SELECT action, subject FROM moonyard.audit WHERE actor = 'postgres' ORDER BY id")
    return [(row["action"], row["subject"]) for row in rows]


async def test_a_job_submitted_in_psql_is_like_any_other(installation: Installation):
    await installation.replica()
    await installation.push()
    number = ask(installation, """SELECT control.submit('hello', '{"who": "psql", "times": "2"}', priority => 5)""")
    job = await shown(installation, number)
    assert (job.state, job.inputs, job.priority) == ("queued", {"who": "psql", "times": 2}, 5)
    assert job.id[14] == "7"
    runner = await installation.runner()
    [assignment] = await runner.claim()
    assert (assignment.job, list(assignment.inputs)) == (job.id, ["who", "times"])
    attempt = Attempt(assignment)
    await runner.send(attempt, attempt.state("running"), attempt.state("succeeded"))
    admin = await installation.client()
    async with admin.stream(f"/v1/jobs/{number}/events", query={"follow": "true"}) as stream:
        events = [decode_line(line) async for line in stream.lines()]
    assert [event.state for event in events if isinstance(event, JobEvent)] == ["queued", "running", "succeeded"]
    assert await audit(installation) == [("submit", f"job {number}")]


async def test_a_submit_in_psql_wakes_a_runner_and_takes_all_that_the_api_takes(installation: Installation):
    await installation.replica()
    await installation.push()
    delayed = ask(installation, "SELECT control.submit('hello', delay => '1 hour', queue_timeout => '2 hours')")
    job = await shown(installation, delayed)
    assert job.waits_for is not None
    assert job.waits_for.startswith("not before ")
    key = "SELECT control.submit('hello', idempotency_key => 'k')"
    assert ask(installation, key) == ask(installation, key)
    assert "DETAIL:  idempotency_key_used" in refusal(
        installation, "SELECT control.submit('hello', priority => 3, idempotency_key => 'k')"
    )


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("SELECT control.submit('nothing')", "pipeline_unknown"),
        ("SELECT control.submit('hello', version => 'nothing')", "version_unknown"),
        ("""SELECT control.submit('hello', '{"times": 9}')""", "inputs_invalid"),
        ("SELECT control.submit('hello', '[]')", "inputs_invalid"),
        ("SELECT control.submit('hello', priority => 101)", "request_invalid"),
        ("SELECT control.submit('hello', delay => '1 h', not_before => 'tomorrow')", "request_invalid"),
        ("SELECT control.submit('hello', queue_timeout => '0')", "request_invalid"),
        ("SELECT control.submit('hello', idempotency_key => '')", "request_invalid"),
        ("SELECT control.retry(1)", "job_unfinished"),
        ("SELECT control.pause('nothing')", "pipeline_unknown"),
        ("SELECT control.resume('nothing')", "pipeline_unknown"),
        ("SELECT control.drain('nobody')", "runner_unknown"),
    ],
)
async def test_what_the_api_refuses_is_refused_in_psql_with_its_code(
    installation: Installation, statement: str, code: str
):
    await installation.replica()
    await installation.push()
    await installation.submit()
    assert f"DETAIL:  {code}" in refusal(installation, statement)
    assert await audit(installation) == []
    assert len(await installation.fetch("SELECT FROM moonyard.jobs")) == 1


async def test_a_job_is_cancelled_and_retried_in_psql(installation: Installation):
    await installation.replica()
    await installation.push()
    runner = await installation.runner()
    job = await installation.submit()
    assert ask(installation, f"SELECT control.cancel({job.number})") == "cancelled"
    assert (await shown(installation, job.id)).state == "cancelled"
    assert ask(installation, f"SELECT control.retry('{job.id}')") == "queued as attempt 1"
    [assignment] = await runner.claim()
    assert ask(installation, f"SELECT control.cancel('{job.number}')") == "its runner was told"
    holding = [Holding(job=assignment.job, attempt=assignment.attempt)]
    told = await runner.client.post("/v1/runner/heartbeat", HeartbeatAnswer, Heartbeat(holding=holding, wait=20))
    assert told.cancel == [job.id]
    attempt = Attempt(assignment)
    await runner.send(attempt, attempt.state("succeeded"))
    assert "DETAIL:  job_finished" in refusal(installation, f"SELECT control.cancel({job.number})")
    assert "there is no job `99`" in refusal(installation, "SELECT control.cancel(99)")
    assert [action for action, _ in await audit(installation)] == ["cancel", "retry", "cancel"]


async def test_a_cancel_is_forced_and_a_retry_begins_with_a_stage_in_psql(installation: Installation):
    await installation.replica()
    await installation.push()
    runner = await installation.runner()
    job = await installation.submit()
    [assignment] = await runner.claim()
    assert ask(installation, f"SELECT control.cancel({job.number}, force => true)") == "its runner was told"
    holding = [Holding(job=assignment.job, attempt=assignment.attempt)]
    told = await runner.client.post("/v1/runner/heartbeat", HeartbeatAnswer, Heartbeat(holding=holding))
    assert (told.cancel, told.kill) == ([job.id], [job.id])
    attempt = Attempt(assignment)
    await runner.send(attempt, attempt.state("running"), attempt.state("cancelled"))
    refused = refusal(installation, f"SELECT control.retry({job.number}, from_stage => 'greeting')")
    assert "DETAIL:  stage_unknown" in refused
    assert "HINT:  Its stages are: greet." in refused
    assert ask(installation, f"SELECT control.retry({job.number}, from_stage => 'greet')") == "queued as attempt 2"
    [assignment] = await runner.claim()
    holding = [Holding(job=assignment.job, attempt=assignment.attempt)]
    told = await runner.client.post("/v1/runner/heartbeat", HeartbeatAnswer, Heartbeat(holding=holding))
    assert (told.cancel, told.kill) == ([], [])


async def test_pipelines_and_runners_are_held_back_in_psql(installation: Installation):
    await installation.replica()
    await installation.push()
    runner = await installation.runner("builder")
    job = await installation.submit()
    ask(installation, "SELECT control.pause('hello')")
    assert await runner.claim(wait=0) == []
    assert (await shown(installation, job.id)).waits_for == "paused by postgres"
    assert ask(installation, "SELECT control.drain('builder')") == "1"
    ask(installation, "SELECT control.resume('hello')")
    assert await runner.claim(wait=0) == []
    assert ask(installation, "SELECT control.undrain('builder')") == "1"
    assert [assignment.number for assignment in await runner.claim()] == [job.number]
    assert await audit(installation) == [
        ("pause", "pipeline hello"),
        ("drain", "runner builder"),
        ("resume", "pipeline hello"),
        ("undrain", "runner builder"),
    ]


async def test_an_operator_may_act_and_look_and_see_no_secrets_and_a_reader_may_not_act(installation: Installation):
    await installation.replica()
    await installation.push()
    url, role = installation.url, "moonyard_operator"
    assert psql(url, "SELECT control.submit('hello')", "-At", role=role).strip() == "1"
    assert "hello" in psql(url, "TABLE inspect.queue", role=role)
    for hidden in ("TABLE moonyard.tokens", "SELECT moonyard.pause(NULL, 'me')"):
        assert "denied" in refusal(installation, hidden, role=role)
    assert "denied" in refusal(installation, "SELECT control.cancel(1)", role="moonyard_reader")


async def test_the_queue_says_why_each_job_waits(installation: Installation):
    await installation.replica()
    await installation.push()
    limited = PipelineDefinition(name="deploy", stages=STAGES, concurrency=Concurrency(group="live"))
    await installation.push(limited)
    await installation.push(PipelineDefinition(name="train", stages=STAGES, tags=["gpu"]))
    holder = await installation.submit(pipeline="deploy")
    for name in ("deploy", "train", "hello"):
        await installation.submit(pipeline=name)
    await installation.submit(delay=60.0)
    reasons = ask(installation, "SELECT why FROM inspect.queue ORDER BY job").splitlines()
    assert reasons[:4] == [
        "no runner is connected",
        f"concurrency group live is taken by job {holder.number}",
        "no runner is connected",
        "no runner is connected",
    ]
    assert reasons[4].startswith("not before ")
    runner = await installation.runner()
    assert len(await runner.claim(slots=9, wait=0)) == 2
    assert ask(installation, "SELECT why FROM inspect.queue WHERE pipeline = 'train'") == "no runner has tag gpu"


async def test_throughput_counts_what_came_and_what_ended(installation: Installation):
    await installation.replica()
    await installation.push()
    runner = await installation.runner()
    for state in ("succeeded", "succeeded", "failed"):
        await installation.submit()
        [assignment] = await runner.claim()
        attempt = Attempt(assignment)
        await runner.send(attempt, attempt.state(state))
    await installation.fetch(
        "UPDATE moonyard.jobs SET created_at = created_at - interval '2 hours', "
        "finished_at = finished_at - interval '2 hours', started_at = started_at - interval '2 hours' WHERE number = 1"
    )
    rows = ask(installation, "SELECT last, submitted, succeeded, failed FROM inspect.throughput").splitlines()
    assert rows == ["minute|2|1|1", "hour|2|1|1", "day|3|2|1"]


async def test_health_names_what_to_worry_about(installation: Installation):
    await installation.replica()
    await installation.push()
    rows = dict(
        line.split("|", 1) for line in ask(installation, "SELECT subject, state FROM inspect.health").splitlines()
    )
    assert rows["orchestrators"] == "ok"
    assert rows["runners"] == "worry"
    await installation.submit()
    await installation.fetch("UPDATE moonyard.jobs SET created_at = now() - interval '1 hour'")
    ask(installation, "SELECT control.pause()")
    worries = ask(installation, "SELECT subject, detail FROM inspect.health WHERE state = 'worry'")
    assert "queue|1 jobs wait for a runner, the oldest for 1 h 0 m" in worries
    assert "pauses|everything is paused by postgres" in worries


async def test_who_waits_for_whom_is_seen(installation: Installation):
    await installation.push()
    async with installation.database.transaction() as holding:
        await holding.execute("LOCK TABLE moonyard.pauses")
        command = [program("psql"), "--no-psqlrc", installation.url, "-c", "SELECT control.pause()"]
        async with await anyio.open_process(command, stderr=None) as process:
            seen = ""
            while not seen:
                seen = ask(installation, "SELECT waiting, holding FROM inspect.locks")
            process.kill()
    assert seen == "psql|moonyard orchestrator"


CASES: list[dict[str, Any]] = [
    {},
    {"n": 3},
    {"n": "3"},
    {"n": 3.0},
    {"n": 3.5},
    {"n": "x"},
    {"n": True},
    {"n": 2**63 - 1},
    {"n": 2**63},
    {"n": -(2**63)},
    {"x": 1},
    {"x": "1"},
    {"x": "1.5e3"},
    {"x": "nan"},
    {"x": "1e999"},
    {"x": False},
    {"b": True},
    {"b": "yes"},
    {"b": "0"},
    {"b": "maybe"},
    {"b": 1},
    {"s": "a"},
    {"s": "c"},
    {"s": 1},
    {"s": ""},
    {"unknown": 1},
    {"n": "x", "b": "maybe", "unknown": 1},
]
INPUTS = {
    "s": InputDefinition(type="string", default="a", choices=["a", "b"]),
    "n": InputDefinition(type="integer", default=1),
    "x": InputDefinition(type="number", default=0.5),
    "b": InputDefinition(type="boolean", default=False),
    "required": InputDefinition(type="string"),
}


async def test_inputs_mean_the_same_in_psql_and_in_the_api(installation: Installation):
    definition = PipelineDefinition(name="hello", inputs=INPUTS, stages=STAGES)
    await installation.push(definition)
    for given in CASES:
        for asked in (given, given | {"required": "r"}):
            assert await by_the_database(installation, asked) == by_the_api(definition, asked), asked


def by_the_api(definition: PipelineDefinition, asked: dict[str, Any]) -> str:
    try:
        return json.dumps(resolve_inputs(definition, dict(asked)), separators=(",", ":"))
    except InputsInvalid as error:
        return error.message.replace("`True`", "`true`").replace("`False`", "`false`")


async def by_the_database(installation: Installation, asked: dict[str, Any]) -> str:
    statement = "SELECT moonyard.resolve_inputs(definition, $1::json) FROM moonyard.pipeline_versions"
    try:
        [row] = await installation.fetch(statement, json.dumps(asked))
    except MoonyardError as error:
        return error.message
    return row[0].replace(" ", "")
