"""The audit: every change that somebody makes leaves a row, by whichever way, as psql shows it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from orchestrator import retention
from orchestrator.access import ADMIN, KEY, REGISTRATION
from orchestrator.routes import metrics, queue, runners, schedules, users
from orchestrator.schedules import fire_due
from schema.client import OrchestratorRefused
from schema.wire import (
    Job,
    JobsCancel,
    JobsSubmit,
    JobSubmit,
    Pause,
    PipelinePush,
    RunnerRegister,
    RunnerRegistered,
    ScheduleCreate,
    Token,
    TokenCreate,
)
from tests.cli.command import moonyard
from tests.orchestrator.installation import SOURCE, Installation
from tests.postgres import psql

Row = tuple[str, str, str]
BY_TEST = "token test"
BATCH = JobsSubmit(jobs=[JobSubmit(pipeline="hello") for _ in range(3)])
NIGHTLY = ScheduleCreate(name="nightly", pipeline="hello", cron="30 2 * * *")
# What each route that changes something is asked for, in an order in which all can be done; and what is left of it.
ASKED: list[tuple[str, str, msgspec.Struct | None, str, str]] = [
    ("POST /v1/pipelines", "", PipelinePush(filename="hello.lua", source=SOURCE), "push", "pipeline hello"),
    ("POST /v1/jobs", "", JobSubmit(pipeline="hello"), "submit", "job 1"),
    ("POST /v1/jobs/batch", "", BATCH, "submit", "3 jobs, 2 to 4"),
    ("POST /v1/jobs/{job}/cancel", "1", None, "cancel", "job 1"),
    ("POST /v1/jobs/{job}/retry", "1", None, "retry", "job 1"),
    (
        "POST /v1/jobs/cancel",
        "",
        JobsCancel(pipeline="hello", state="queued"),
        "cancel",
        "queued jobs of pipeline hello",
    ),
    ("POST /v1/jobs/cancel", "", JobsCancel(state="queued"), "cancel", "all queued jobs"),
    ("POST /v1/queue/pause", "", Pause(pipeline="hello"), "pause", "pipeline hello"),
    ("POST /v1/queue/resume", "", Pause(pipeline="hello"), "resume", "pipeline hello"),
    ("POST /v1/queue/pause", "", Pause(), "pause", "everything"),
    ("POST /v1/runners/{runner}/drain", "builder", None, "drain", "runner builder"),
    ("POST /v1/runners/{runner}/undrain", "builder", None, "undrain", "runner builder"),
    ("POST /v1/schedules", "", NIGHTLY, "create", "schedule nightly"),
    ("POST /v1/schedules/{name}/pause", "nightly", None, "pause", "schedule nightly"),
    ("POST /v1/schedules/{name}/resume", "nightly", None, "resume", "schedule nightly"),
    ("DELETE /v1/schedules/{name}", "nightly", None, "delete", "schedule nightly"),
    ("POST /v1/tokens", "", TokenCreate(kind="admin", name="other"), "create", "admin token other"),
    ("DELETE /v1/tokens/{token}", "OTHER", None, "revoke", "admin token other"),
]
REGISTER = "POST /v1/runners/register"


def shown(installation: Installation) -> list[Row]:
    """Give all rows as psql shows them, the first one first."""
    text = psql(installation.url, "SELECT actor, action, subject FROM inspect.audit", "-AtF", "|")
    return [(actor, action, subject) for actor, action, subject in (line.split("|") for line in text.splitlines())][
        ::-1
    ]


def changing_routes() -> set[str]:
    """Name the routes by which people change something."""
    found: set[str] = set()
    for handler in (*metrics.HANDLERS, *queue.HANDLERS, *runners.HANDLERS, *schedules.HANDLERS, *users.HANDLERS):
        if handler.opt.get(KEY) in {ADMIN[KEY], REGISTRATION[KEY]}:
            paths = [path.replace(":str", "") for path in handler.paths]
            found |= {f"{method} {path}" for method in handler.http_methods - {"GET", "HEAD"} for path in paths}
    return found


async def ask(installation: Installation, route: str, name: str, body: msgspec.Struct | None) -> Any:
    client = await installation.client()
    method, path = route.split(" ")
    path = path.partition("{")[0] + name + path.partition("}")[2] if "{" in path else path
    return await (client.delete(path, object) if method == "DELETE" else client.post(path, object, body))


async def test_every_change_by_the_api_leaves_one_row(installation: Installation):
    assert changing_routes() == {route for route, *_ in ASKED} | {REGISTER}
    await installation.replica()
    await installation.runner("builder")
    assert shown(installation)[-2:] == [
        (BY_TEST, "create", "registration token builder"),
        ("token builder", "register", "runner builder"),
    ]
    answer: Any = None
    for route, name, body, action, subject in ASKED:
        before = shown(installation)
        answer = await ask(installation, route, answer["id"] if name == "OTHER" else name, body)
        assert shown(installation) == [*before, (BY_TEST, action, subject)], route


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


async def test_the_audit_ages_out_with_the_jobs_it_speaks_of(installation: Installation):
    await installation.fetch(
        "INSERT INTO moonyard.audit (at, actor, action, subject) "
        "SELECT now() - make_interval(days => 3000 - number), 'x', 'submit', number::text "
        "FROM generate_series(1, 2995) AS number"
    )
    await installation.fetch("DELETE FROM moonyard.audit WHERE actor <> 'x'")
    assert await retention.remove_old_audit(installation.database, 10) == 2990
    assert [subject for _, _, subject in shown(installation)] == ["2991", "2992", "2993", "2994", "2995"]
    assert await retention.remove_old_audit(installation.database, 10) == 0
