"""The last line of defence: what a delivered value looks like in plain is not stored, by whichever replica."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import leaks
from orchestrator.events import Batch
from orchestrator.leaks import Delivered
from schema.errors import ErrorInfo
from schema.events import AnyEvent, CommandEvent, JobEvent, LogEvent, StageEvent, encode_line
from schema.states import JobState
from tests.orchestrator.installation import Installation
from tests.orchestrator.test_secrets import KEYS, LEASE_SECONDS, VALUE, Held, begin, grant, store
from tests.postgres import psql

PLACE = "[secret TOKEN]"
PLAIN = VALUE.decode()


async def stored(installation: Installation) -> str:
    """Give all lines of all attempts."""
    rows = await installation.fetch(
        "SELECT lines FROM moonyard.event_batches WHERE attempt > 0 ORDER BY attempt, next_seq"
    )
    return "".join(row["lines"] for row in rows)


async def told(installation: Installation) -> list[tuple[str, str, Any]]:
    rows = await installation.fetch(
        "SELECT actor, subject, detail FROM moonyard.audit WHERE action = 'send secret in plain' ORDER BY id"
    )
    return [(row["actor"], row["subject"], json.loads(row["detail"])) for row in rows]


async def holding(installation: Installation, value: bytes = VALUE) -> Held:
    held = await begin(installation)
    await store(installation, value=value)
    await grant(installation)
    assert (await held.get()).value == value
    return held


async def test_a_value_in_plain_is_taken_out_and_the_job_goes_on(installation: Installation):
    held = await holding(installation)
    attempt, send = held.attempt, held.runner.send
    await send(attempt, attempt.state("running"), attempt.stage("running"), attempt.log("nothing here"))
    assert await send(attempt, attempt.log("fine"), attempt.log(f"-p{PLAIN}"), attempt.log(f"{PLAIN} {PLAIN}")) == 7
    error = ErrorInfo(code="command_failed", message=f"curl {PLAIN}", cause=ErrorInfo(code="x", message=PLAIN))
    command = msgspec.structs.replace(attempt.command(code=1, error=error), argv=["curl", f"-u{PLAIN}"])
    await send(attempt, command, attempt.stage("failed", error=error), attempt.state("failed", error))
    lines = await stored(installation)
    assert PLAIN not in lines
    assert f"-p{PLACE}" in lines
    assert f"{PLACE} {PLACE}" in lines
    assert "nothing here" in lines
    for table in ("commands", "stages", "jobs"):
        [row] = await installation.fetch(f"SELECT row_to_json({table})::text AS row FROM moonyard.{table}")  # noqa: S608
        assert PLAIN not in row["row"], table
        assert PLACE in row["row"], table
    [job] = await installation.fetch("SELECT state FROM moonyard.jobs")
    assert job["state"] == "failed"
    assert await told(installation) == [
        ("runner runner", "secret TOKEN", {"job": 1, "attempt": 1, "events": [5, 6]}),
    ]
    health = psql(installation.url, "SELECT state, detail FROM inspect.health WHERE subject = 'secrets'", "-At")
    assert health.strip() == "worry|1 were sent in plain by a runner in the last day: inspect.audit"


async def test_whichever_replica_gets_the_events_looks_through_them(installation: Installation):
    await installation.replica(lease_seconds=LEASE_SECONDS, secret_keys=KEYS)
    other = await installation.replica(lease_seconds=LEASE_SECONDS, secret_keys=KEYS)
    held = await begin(installation)
    attempt = held.attempt
    await held.runner.send(attempt, attempt.state("running"), attempt.log(f"{PLAIN} is nobody's yet"))
    await store(installation)
    await grant(installation)
    await held.get()
    by_other = type(held.runner)(
        await installation.client(held.runner.registered.token, other.address), held.runner.registered
    )
    await by_other.send(attempt, attempt.log(PLAIN))
    # A second secret, delivered by one replica, is known to the other for the next batch.
    await store(installation, "SECOND", b"another value")
    await grant(installation, "SECOND")
    await by_other.send(attempt, attempt.log("between"))
    await held.get("SECOND")
    await by_other.send(attempt, attempt.log("this is another value"), attempt.log(PLAIN))
    await held.runner.send(attempt, attempt.log("and another value"))
    texts = [json.loads(line).get("text") for line in (await stored(installation)).splitlines()]
    assert texts == [
        None,
        f"{PLAIN} is nobody's yet",
        PLACE,
        "between",
        "this is [secret SECOND]",
        PLACE,
        "and [secret SECOND]",
    ]


@pytest.mark.parametrize("state", ["failed", "lost"])
async def test_an_attempt_that_is_tried_again_leaves_no_value_in_its_error(installation: Installation, state: JobState):
    held = await holding(installation)
    await installation.fetch("""UPDATE moonyard.jobs SET retry = '{"times": 1, "delay": 0, "backoff": "constant"}'""")
    error = ErrorInfo(code="stage_failed", message=f"it said {PLAIN}")
    attempt = held.attempt
    await held.runner.send(attempt, attempt.state("running"), attempt.state(state, error))
    [job] = await installation.fetch("SELECT state, row_to_json(jobs)::text AS row FROM moonyard.jobs")
    assert job["state"] == "queued"
    assert PLAIN not in job["row"]
    lines = await stored(installation)
    assert PLAIN not in lines
    assert PLACE in lines


async def test_a_value_that_is_a_word_of_the_lines_themselves_changes_none_of_them(installation: Installation):
    held = await holding(installation, b"running")
    await store(installation, "STAGE", b"greet\n\nstdout")
    await grant(installation, "STAGE")
    await held.get("STAGE")
    attempt = held.attempt
    await held.runner.send(attempt, attempt.state("running"), attempt.stage("running"), attempt.log("running on"))
    state, stage, log = (json.loads(line) for line in (await stored(installation)).splitlines())
    assert (state["state"], stage["state"], stage["stage"]) == ("running", "running", "greet")
    assert log["text"] == f"{PLACE} on"


async def test_values_with_quotes_lines_and_other_alphabets_are_found(installation: Installation):
    for number, value in enumerate(
        ('say "hush"\\now', "schlüssel für 鍵", "first long line\nsecond long line", "tab\tbed!")
    ):
        await installation.replica(lease_seconds=LEASE_SECONDS, secret_keys=KEYS)
        held = await begin(installation)
        await store(installation, value=value.encode())
        if number == 0:
            await grant(installation)
        await held.get()
        attempt = held.attempt
        for text in (value, *value.splitlines()):
            event = attempt.log(f"<{text}>")
            for data in (encode_line(event), json.dumps(msgspec.to_builtins(event)).encode() + b"\n"):
                await held.runner.client.post_lines(
                    held.path.replace("/secrets", "/events"), object, data, query={"first_seq": event.seq}
                )
        lines = [json.loads(line)["text"] for line in (await stored(installation)).splitlines()]
        assert f"<{PLACE}>" in lines
        assert not any(part in line for part in value.splitlines() for line in lines)
        await installation.fetch("DELETE FROM moonyard.event_batches")


async def test_what_cannot_be_read_any_more_stops_no_events(
    installation: Installation, caplog: pytest.LogCaptureFixture
):
    held = await holding(installation)
    await installation.fetch("DELETE FROM moonyard.secrets")
    attempt = held.attempt
    await held.runner.send(attempt, attempt.state("running"), attempt.log("goes on"), attempt.state("succeeded"))
    [job] = await installation.fetch("SELECT state FROM moonyard.jobs")
    assert job["state"] == "succeeded"
    assert "not looked through for secrets that were removed" in caplog.text


async def test_an_attempt_that_was_delivered_nothing_asks_nothing(installation: Installation):
    held = await begin(installation)
    attempt = held.attempt
    await held.runner.send(attempt, attempt.state("running"), attempt.log("hello"), attempt.state("succeeded"))
    [row] = await installation.fetch("SELECT secret_versions, secret_requests FROM moonyard.attempts")
    assert (row["secret_versions"], row["secret_requests"]) == (None, None)


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
SECRETS = st.text(
    st.characters(exclude_characters="\0\n\r", exclude_categories=["Cs", "Z", "C"]), min_size=8, max_size=20
)


@given(before=TEXTS, secret=SECRETS, after=TEXTS, data=st.data())
async def test_wherever_a_value_stands_in_an_event_it_is_found(
    before: str, secret: str, after: str, data: st.DataObject
):
    text = before + secret + after
    error = ErrorInfo(code="x", message="y", hint=text, cause=ErrorInfo(code="z", message=text, trace=[text]))
    common: dict[str, Any] = {"at": "2026-01-01T00:00:00.000Z", "job": "j", "attempt": 1, "seq": 1}
    event: AnyEvent = data.draw(
        st.sampled_from(
            [
                LogEvent(**common, stage="s", level="info", source="stdout", text=text),
                LogEvent(**common, stage="s", level="info", source="lua", text="x", fields={text: text}, group=[text]),
                StageEvent(**common, stage="s", state="succeeded", outputs={text: [{"deep": [text, 1, None]}]}),
                CommandEvent(**common, stage="s", argv=["x", text], container="c", code=1, duration=0.0, error=error),
                StageEvent(**common, stage="s", state="failed", container=text, error=error),
                JobEvent(**common, id="j", number=1, state="failed", error=error),
            ]
        )
    )
    delivered = Delivered(count=1, texts={secret: PLACE}, marks=leaks._marks(secret), told={PLACE})
    looking = leaks.Leaks.__new__(leaks.Leaks)  # it asks nobody: all was told
    batch = Batch(1, encode_line(event), [event])
    found = await looking.without(batch, delivered, job=None, attempt=1, runner=None)  # pyright: ignore[reportArgumentType]
    decoded = msgspec.json.decode(found.data)
    assert decoded == msgspec.to_builtins(found.events[0])
    assert secret not in json.dumps(decoded, ensure_ascii=False).replace(PLACE, "") or secret in PLACE


async def test_a_job_with_secrets_is_as_complete_as_any(installation: Installation):
    held = await holding(installation)
    attempt = held.attempt
    await held.runner.send(attempt, attempt.state("running"))
    for _ in range(20):
        await held.runner.send(
            attempt, *(attempt.log(f"line with {PLAIN}" if one % 3 else "line") for one in range(50))
        )
    lines = [json.loads(line) for line in (await stored(installation)).splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, 1002))
    assert sum(PLACE in line.get("text", "") for line in lines) == 20 * 33
    assert len(await told(installation)) == 1
