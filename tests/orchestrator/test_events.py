from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.events import GONE
from schema.client import OrchestratorRefused
from schema.errors import ErrorInfo
from schema.events import decode_line, encode_line
from schema.wire import EventsAccepted, Job
from tests.orchestrator.installation import Attempt, Installation, SpokenRunner


async def stored(installation: Installation) -> list[Any]:
    client = await installation.client()
    async with client.stream("/v1/jobs/1/events") as stream:
        return [decode_line(line) async for line in stream.lines()]


async def claimed(installation: Installation) -> tuple[SpokenRunner, Attempt]:
    await installation.replica()
    await installation.push()
    runner = await installation.runner()
    await installation.submit()
    [assignment] = await runner.claim()
    return runner, Attempt(assignment)


async def send_raw(runner: SpokenRunner, attempt: Attempt, data: bytes, first_seq: int = 1) -> EventsAccepted:
    path = f"/v1/runner/jobs/{attempt.assignment.job}/{attempt.assignment.attempt}/events"
    return await runner.client.post_lines(path, EventsAccepted, data, query={"first_seq": first_seq})


async def test_a_batch_sent_again_after_a_lost_answer_is_stored_once(installation: Installation):
    runner, attempt = await claimed(installation)
    first = [attempt.state("running"), attempt.log("one")]
    assert await runner.send(attempt, *first) == 3
    assert await runner.send(attempt, *first) == 3
    overlapping = [first[1], attempt.log("two"), attempt.command(), attempt.stage("running")]
    assert await runner.send(attempt, *overlapping) == 6
    assert await runner.send(attempt, *first, *overlapping[1:]) == 6
    assert [event.seq for event in await stored(installation)] == [1, 1, 2, 3, 4, 5]
    assert len(await installation.fetch("SELECT 1 FROM moonyard.commands")) == 1


async def test_the_last_batch_is_acknowledged_again_and_nothing_comes_after_it(installation: Installation):
    runner, attempt = await claimed(installation)
    final = [attempt.state("running"), attempt.state("failed", ErrorInfo(code="stage_failed", message="it failed"))]
    assert await runner.send(attempt, *final) == 3
    assert await runner.send(attempt, *final) == 3
    with pytest.raises(OrchestratorRefused) as refused:
        await runner.send(attempt, attempt.log("more"))
    assert refused.value.code == GONE
    job = await (await installation.client()).get("/v1/jobs/1", Job)
    assert job.state == "failed"
    assert job.error == ErrorInfo(code="stage_failed", message="it failed")


async def test_a_gap_is_refused_with_what_is_next(installation: Installation):
    runner, attempt = await claimed(installation)
    attempt.state("running")
    with pytest.raises(OrchestratorRefused) as refused:
        await runner.send(attempt, attempt.log("second"))
    assert (refused.value.status, refused.value.code) == (409, "events_gap")
    assert "1 is next" in refused.value.message


async def test_only_the_runner_that_holds_the_attempt_may_send(installation: Installation):
    _, attempt = await claimed(installation)
    other = await installation.runner("other")
    with pytest.raises(OrchestratorRefused) as refused:
        await other.send(attempt, attempt.state("running"))
    assert (refused.value.status, refused.value.code) == (409, GONE)


async def test_stages_and_commands_are_what_their_newest_events_say(installation: Installation):
    runner, attempt = await claimed(installation)
    await runner.send(attempt, attempt.state("running"), attempt.stage("running", container="alpine"))
    error = ErrorInfo(code="exit_code", message="exit code 1")
    await runner.send(attempt, attempt.command(code=1, error=error), attempt.stage("failed", error=error))
    await runner.send(
        attempt, attempt.stage("running"), attempt.stage("succeeded"), attempt.stage("skipped", stage="b")
    )
    job = await (await installation.client()).get("/v1/jobs/1", Job)
    assert job.stages is not None
    assert [(stage.name, stage.state, stage.container, stage.error) for stage in job.stages] == [
        ("greet", "succeeded", "alpine", None),
        ("b", "skipped", None, None),
    ]
    [command] = await installation.fetch("SELECT argv, code, duration_seconds, error FROM moonyard.commands")
    assert (command["argv"], command["code"], command["duration_seconds"]) == (["echo", "hi"], 1, 0.25)
    assert msgspec.json.decode(command["error"])["code"] == "exit_code"


@pytest.mark.parametrize(
    "text", ["", "ü€𝄞", 'quote " backslash \\ newline \\n', "\x1b[31mred", "\\u0000 as text", "x" * 200_000]
)
async def test_texts_are_kept_as_they_are(installation: Installation, text: str):
    runner, attempt = await claimed(installation)
    await runner.send(attempt, attempt.state("running"), attempt.log(text))
    assert (await stored(installation))[-1].text == text
    [row] = await installation.fetch("SELECT text FROM inspect.log('1')")
    assert row["text"] == text


async def test_what_is_no_batch_of_events_is_refused_whole(installation: Installation):
    runner, attempt = await claimed(installation)
    good = attempt.state("running")
    line = encode_line(good)

    def changed(**fields: Any) -> bytes:
        return (
            line
            + msgspec.json.encode(msgspec.json.decode(encode_line(Attempt(attempt.assignment).log("x"))) | fields)
            + b"\n"
        )

    for data in (
        b"",
        b"no json\n",
        b"{}\n",
        line[:-1],
        line + b"\n",
        b"\xff\xfe\n",
        line.replace(b'"error":null', b'"error":null,"extra":"\\u0000"'),
        line.replace(b",", b",\n"),
        changed(seq=3),
        changed(seq=1),
        changed(seq=2, job="00000000-0000-0000-0000-000000000000"),
        changed(seq=2, attempt=2),
        changed(seq=2, at="yesterday"),
        changed(seq=2, at="2026-13-45T00:00:00.000Z"),
        changed(seq=2, level="loud"),
        changed(seq=2, text="a\0b"),
        line.replace(b'"state":"running"', b'"state":"queued"'),
        line.replace(b'"number":1', b'"number":2'),
        line.replace(b'"state":"running"', b'"state":"succeeded"') + changed(seq=2)[len(line) :],
    ):
        with pytest.raises(OrchestratorRefused) as refused:
            await send_raw(runner, attempt, data)
        assert (refused.value.status, refused.value.code) == (422, "events_invalid"), data
    assert len(await stored(installation)) == 1
    assert await runner.send(attempt, good) == 2


async def test_a_batch_that_is_too_large_is_refused(installation: Installation):
    runner, attempt = await claimed(installation)
    with pytest.raises(OrchestratorRefused) as refused:
        await send_raw(runner, attempt, encode_line(attempt.log("x" * 5_000_000)))
    assert (refused.value.status, refused.value.code) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/runner/jobs/nonsense/1/events", 404),
        # As that of another runner: whoever does not hold it does not learn whether it is there.
        ("/v1/runner/jobs/00000000-0000-0000-0000-000000000000/1/events", 409),
        ("/v1/runner/jobs/00000000-0000-0000-0000-000000000000/99999999999/events", 404),
        ("/v1/runner/jobs/00000000-0000-0000-0000-000000000000/x/events", 404),
    ],
)
async def test_events_of_a_job_that_does_not_exist_are_refused(installation: Installation, path: str, status: int):
    runner, attempt = await claimed(installation)
    event = msgspec.structs.replace(
        attempt.state("running"), job="00000000-0000-0000-0000-000000000000", id="00000000-0000-0000-0000-000000000000"
    )
    with pytest.raises(OrchestratorRefused) as refused:
        await runner.client.post_lines(path, EventsAccepted, encode_line(event), query={"first_seq": 1})
    assert refused.value.status == status


async def test_a_row_that_an_operator_holds_keeps_nobody_waiting_but_its_own_runner(installation: Installation):
    runner, held = await claimed(installation)
    await installation.submit()
    [assignment] = await runner.claim()
    other = Attempt(assignment)
    end = held.state("succeeded")
    async with installation.database.transaction() as connection:
        await connection.execute("SELECT FROM moonyard.jobs WHERE id = $1 FOR UPDATE", held.assignment.job)
        with pytest.raises(OrchestratorRefused) as refused:
            await runner.send(held, end)
        assert (refused.value.status, refused.value.code) == (503, "database_unavailable")
        assert await runner.send(other, other.state("succeeded")) == 2
    assert await runner.send(held, end) == 2
