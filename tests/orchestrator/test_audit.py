"""The audit: every change that somebody makes leaves a row, by whichever way, as psql shows it."""

from __future__ import annotations

import json
from typing import Any

import anyio
import msgspec
import pytest

from orchestrator.audit import seal
from orchestrator.schedules import fire_due
from schema.audit import AuditEntry, AuditPage
from schema.client import OrchestratorRefused
from schema.wire import (
    Job,
    JobsSubmit,
    JobSubmit,
    PipelinePush,
    RunnerRegister,
    RunnerRegistered,
    ScheduleCreate,
    Token,
    TokenCreate,
)
from tests.cli.command import moonyard
from tests.orchestrator.installation import DEADLINE_SECONDS, SOURCE, Installation
from tests.postgres import psql

Row = tuple[str, str, str]
BY_TEST = "token test"
NIGHTLY = ScheduleCreate(name="nightly", pipeline="hello", cron="30 2 * * *")


def shown(installation: Installation) -> list[Row]:
    """Give all rows, the first one first."""
    text = psql(installation.url, "SELECT actor, action, subject FROM moonyard.audit ORDER BY id", "-AtF", "|")
    return [(actor, action, subject) for actor, action, subject in (line.split("|") for line in text.splitlines())]


async def test_what_changes_nothing_leaves_no_row(installation: Installation):
    await installation.replica()
    admin = await installation.client()
    push = PipelinePush(filename="hello.lua", source=SOURCE)
    await admin.post("/v1/pipelines", object, push)
    await admin.post("/v1/jobs", Job, JobSubmit(pipeline="hello", idempotency_key="once"))
    before = shown(installation)
    await admin.post("/v1/pipelines", object, push)
    await admin.post("/v1/jobs", Job, JobSubmit(pipeline="hello", idempotency_key="once"))
    psql(installation.url, "SELECT control.pause('nothing')", "-v", "ON_ERROR_STOP=0")
    for path, body in (
        ("/v1/jobs", JobSubmit(pipeline="hello", inputs={"no": "input"})),
        ("/v1/jobs/99/cancel", None),
        ("/v1/runners/nobody/drain", None),
        ("/v1/schedules", ScheduleCreate(name="never", pipeline="hello", cron="0 0 31 2 *")),
    ):
        with pytest.raises(OrchestratorRefused):
            await admin.post(path, object, body)
    assert shown(installation) == before


async def test_a_batch_leaves_one_row_for_what_was_new_in_it(installation: Installation):
    await installation.replica()
    await installation.push()
    admin = await installation.client()
    keyed = [JobSubmit(pipeline="hello", idempotency_key=str(number)) for number in range(3)]
    await admin.post("/v1/jobs/batch", object, JobsSubmit(jobs=keyed[:2]))
    await admin.post("/v1/jobs/batch", object, JobsSubmit(jobs=keyed))
    numbers = psql(installation.url, "SELECT string_agg(number::text, ' ' ORDER BY number) FROM moonyard.jobs", "-At")
    first, second, third = numbers.split()
    rows = shown(installation)[-2:]
    assert rows == [(BY_TEST, "submit", f"2 jobs, {first} to {second}"), (BY_TEST, "submit", f"job {third}")]
    details = psql(installation.url, "SELECT detail FROM moonyard.audit WHERE action = 'submit'", "-At").splitlines()
    assert [json.loads(detail) for detail in details] == [{"pipeline": "hello"}] * 2


async def test_psql_and_the_api_stand_in_the_same_audit(installation: Installation):
    await installation.replica()
    await installation.push()
    job = await installation.submit()
    number = psql(installation.url, "SELECT control.submit('hello')", "-At").strip()
    psql(installation.url, f"SELECT control.cancel({job.number})")
    assert shown(installation)[-3:] == [
        (BY_TEST, "submit", f"job {job.number}"),
        ("postgres", "submit", f"job {number}"),
        ("postgres", "cancel", f"job {job.number}"),
    ]


async def test_a_token_made_on_the_database_is_noted_under_its_user(installation: Installation, tmp_path: Any):
    made = await moonyard("token", "create", "--name", "me", cwd=tmp_path, MOONYARD_DATABASE_URL=installation.url)
    assert made.code == 0, made.stderr
    assert shown(installation)[-1] == ("postgres", "create", "admin token me")


async def test_a_schedule_that_fires_is_nobodys_doing(installation: Installation):
    replica = await installation.replica()
    await installation.push()
    await (await installation.client()).post("/v1/schedules", object, NIGHTLY)
    before = shown(installation)
    await installation.fetch("UPDATE moonyard.schedules SET next_at = now() - interval '1 minute'")
    parts = replica.parts
    await fire_due(parts.database, parts.submissions, parts.notifications)
    assert await installation.fetch("SELECT 1 FROM moonyard.jobs")
    assert shown(installation) == before


async def test_a_registration_token_stands_for_whoever_registers(installation: Installation):
    await installation.replica()
    admin = await installation.client()
    token = await admin.post("/v1/tokens", Token, TokenCreate(kind="registration", name="rack 7", uses=1))
    assert token.secret is not None
    registrar = await installation.client(token.secret)
    await registrar.post("/v1/runners/register", RunnerRegistered, RunnerRegister(name="seven"))
    assert shown(installation)[-1] == ("token rack 7", "register", "runner seven")
    with pytest.raises(OrchestratorRefused):
        await registrar.post("/v1/runners/register", RunnerRegistered, RunnerRegister(name="eight"))
    assert shown(installation)[-1] == ("token rack 7", "register", "runner seven")


async def test_the_view_shows_who_did_what_from_where_and_how_it_ended(installation: Installation):
    await installation.replica()
    await installation.push()
    await installation.submit()
    psql(installation.url, "SELECT control.pause('hello')")
    shown = psql(installation.url, "SELECT actor, address, action, subject, result FROM inspect.audit LIMIT 2", "-At")
    assert shown.splitlines() == [
        "postgres|local (psql)|pause|pipeline hello|done",
        "token test|127.0.0.1|submit|job 1|done",
    ]


async def test_rows_are_listed_by_who_what_and_when(installation: Installation):
    await installation.replica()
    await installation.push()
    for _ in range(3):
        await installation.submit()
    admin = await installation.client()
    await admin.post("/v1/jobs/1/cancel", Job)

    async def listed(**query: str | int) -> list[tuple[str, str]]:
        page = await admin.get("/v1/audit", AuditPage, query=query)
        return [(entry.action, entry.subject) for entry in page.entries]

    assert await listed(limit=2) == [("cancel", "job 1"), ("submit", "job 3")]
    assert await listed(action="submit") == [("submit", f"job {number}") for number in (3, 2, 1)]
    assert await listed(action="sub*", actor="token t*", limit=1) == [("submit", "job 3")]
    assert await listed(actor="nobody") == []
    assert await listed(result="refused") == []
    [_, third, *_] = (await admin.get("/v1/audit", AuditPage)).entries
    assert await listed(before=third.id, limit=1) == [("submit", "job 2")]
    assert await listed(after=third.id) == [("cancel", "job 1")]
    assert await listed(since=third.at, until=third.at) == []
    assert await listed(until="2000-01-01T00:00:00Z") == []
    assert len(await listed(since="2000-01-01T00:00:00+01:00")) == 6
    for wrong in (
        {"since": "yesterday"},
        {"until": "2026-01-01"},
        {"before": 1, "after": 1},
        {"limit": 0},
        {"result": "x"},
    ):
        with pytest.raises(OrchestratorRefused) as raised:
            await listed(**wrong)
        assert raised.value.status in {400, 422}


async def test_the_stream_gives_each_row_once_in_the_order_of_the_chain_and_goes_on(installation: Installation):
    replica = await installation.replica()
    await installation.push()
    await installation.submit()
    admin = await installation.client()
    seen: list[AuditEntry] = []
    with anyio.fail_after(DEADLINE_SECONDS):
        async with admin.stream("/v1/audit/stream", query={"follow": "true", "action": "submit"}) as stream:
            async for line in stream.lines():
                seen.append(msgspec.json.decode(line, type=AuditEntry))
                if len(seen) == 4:
                    break
                await installation.submit()
    assert [entry.subject for entry in seen] == ["job 1", "job 2", "job 3", "job 4"]
    assert [entry.block for entry in seen] == sorted(entry.block or 0 for entry in seen)
    await seal(replica.parts.database)
    after = seen[1].block or 0
    async with admin.stream("/v1/audit/stream", query={"after": after}) as stream:
        left = [msgspec.json.decode(line, type=AuditEntry) async for line in stream.lines()]
    assert [entry.subject for entry in left if (entry.block or 0) > after] == [entry.subject for entry in left]
    assert {entry.subject for entry in left} >= {"job 4"}
