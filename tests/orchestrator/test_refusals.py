"""What is refused is in the audit: once a minute for each who, what and why, however often it is tried."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from orchestrator import refusals
from orchestrator.authentication import new_secret
from orchestrator.refusals import KEYS_MAXIMUM, Refusals, Refused
from schema.accounts import Account, AccountCreate, BindingCreate, InvitationAccepted, Login, Session
from schema.client import Client, OrchestratorRefused
from schema.secrets import SecretAsk
from schema.wire import Job, JobList, JobSubmit, RunnerList, Token, TokenCreate
from tests.orchestrator.installation import Installation

PASSWORD = "a horse, a battery and 7 staples"
Row = dict[str, Any]


async def refused(installation: Installation) -> list[Row]:
    """Write what is due, and give all refusals."""
    for replica in installation.replicas:
        await replica.parts.refusals.flush()
    rows = await installation.fetch(
        "SELECT actor, address, action, subject, detail FROM moonyard.audit WHERE result = 'refused' ORDER BY id"
    )
    return [dict(row) | {"detail": json.loads(row["detail"])} for row in rows]


async def try_to(client: Client, path: str, body: Any = None, kind: Any = object) -> str:
    """Try something, and give the code with which it is refused."""
    with pytest.raises(OrchestratorRefused) as raised:
        await (client.get(path, kind) if body is None else client.post(path, kind, body))
    return raised.value.code


async def viewer(installation: Installation, pipelines: str = "*") -> Client:
    """Have an account that may look."""
    admin = await installation.client()
    account = await admin.post("/v1/accounts", Account, AccountCreate(name="vera"))
    await admin.post("/v1/role-bindings", object, BindingCreate(role="viewer", account="vera", pipelines=pipelines))
    invited = await installation.client(account.invitation)
    session = await invited.post("/v1/invitation/accept", Session, InvitationAccepted(password=PASSWORD))
    return await installation.client(session.token)


async def test_what_a_permission_is_missing_for_is_noted_once_with_how_often_it_was(installation: Installation):
    await installation.replica()
    await installation.push()
    client = await viewer(installation)
    for _ in range(20):
        assert await try_to(client, "/v1/jobs", JobSubmit(pipeline="hello")) == "permission_missing"
    await installation.replicas[0].parts.refusals.flush(is_last=True)
    # The replica writes each second: where the twenty took longer, the rest of them has a row of its own.
    rows = await refused(installation)
    assert len(rows) <= 2
    row = rows[0]
    assert (row["actor"], row["address"], row["action"], row["subject"]) == (
        "account vera",
        "127.0.0.1",
        "POST /v1/jobs",
        "/v1/jobs",
    )
    assert row["detail"]["code"] == "permission_missing"
    assert sum(told["detail"].get("times", 1) for told in rows) == 20


async def test_what_looks_as_if_it_was_not_there_is_noted_as_refused_and_what_is_not_there_is_not(
    installation: Installation,
):
    await installation.replica()
    await installation.push()
    job = await installation.submit()
    client = await viewer(installation, "others-*")
    assert await try_to(client, f"/v1/jobs/{job.number}", None, Job) == "job_unknown"
    assert await try_to(await installation.client(), "/v1/jobs/99", None, Job) == "job_unknown"
    [row] = await refused(installation)
    assert (row["actor"], row["subject"], row["detail"]["code"]) == ("account vera", "/v1/jobs/1", "job_unknown")


async def test_tokens_that_are_not_valid_and_logins_that_failed_are_noted(installation: Installation):
    await installation.replica()
    await viewer(installation)
    admin = await installation.client()
    revoked = await admin.post("/v1/tokens", Token, TokenCreate(kind="admin", name="old"))
    await admin.delete(f"/v1/tokens/{revoked.id}", Token)
    stranger = await installation.stranger()
    assert await try_to(stranger, "/v1/jobs", None, JobList) == "token_missing"
    for secret in (new_secret("admin"), revoked.secret):
        assert await try_to(await installation.client(secret), "/v1/runners", None, RunnerList) == "token_invalid"
    await try_to(stranger, "/v1/login", Login(name="vera", password="wrong one, and long enough"))
    address = installation.replicas[0].address
    async with aiohttp.ClientSession(headers={"Origin": address}) as browser:
        form = {"name": "vera", "password": "wrong one, by a browser"}
        async with browser.post(f"{address}/login", data=form) as said:
            assert said.status == 401
    rows = await refused(installation)
    assert {row["actor"] for row in rows} == {refusals.NOBODY}
    assert {row["address"] for row in rows} == {"127.0.0.1"}
    assert {row["action"].split(":")[0] for row in rows} == {
        "GET /v1/jobs",
        "GET /v1/runners",
        "POST /v1/login",
        "POST /login",
    }
    assert rows[-1]["subject"] == "account vera"
    said = json.dumps([row["detail"] for row in rows])
    assert str(revoked.secret) not in said
    assert "wrong one" not in said


async def test_a_registration_that_came_too_late_and_a_token_of_another_kind_are_noted(installation: Installation):
    await installation.replica()
    runner = await installation.runner("builder")
    assert await try_to(runner.client, "/v1/jobs", JobSubmit(pipeline="hello")) == "token_kind_wrong"
    [row] = await refused(installation)
    assert (row["actor"], row["detail"]["code"]) == ("token builder", "token_kind_wrong")


async def test_a_flood_of_refusals_leaves_few_rows_and_loses_no_count(installation: Installation):
    gathering = Refusals(installation.database)
    for number in range(10 * KEYS_MAXIMUM):
        gathering.note(
            Refused(
                actor="nobody",
                address=f"10.0.{number // 256}.{number % 256}",
                action="GET /v1/jobs",
                subject="/v1/jobs",
                code="token_missing",
                message="no token \0",
            )
        )
    await gathering.flush()
    for _ in range(1000):
        gathering.note(
            Refused(
                actor="nobody", address="10.0.0.0", action="GET /v1/jobs", subject="x", code="token_missing", message=""
            )
        )
    await gathering.flush()
    rows = await refused(installation)
    assert len(rows) == KEYS_MAXIMUM + 1
    assert sum(row["detail"].get("times", 1) for row in rows) == 10 * KEYS_MAXIMUM
    assert rows[-1]["actor"] == "many"
    await gathering.flush(is_last=True)
    rows = await refused(installation)
    assert len(rows) == KEYS_MAXIMUM + 2
    assert rows[-1]["detail"]["times"] == 1000
    await gathering.flush(is_last=True)
    assert len(await refused(installation)) == KEYS_MAXIMUM + 2


async def test_what_a_replica_has_gathered_is_written_when_it_stops(installation: Installation):
    await installation.replica()
    stranger = await installation.stranger()
    await try_to(stranger, "/v1/jobs", None, JobList)
    parts = installation.replicas[0].parts
    await parts.refusals.flush(is_last=True)
    assert len(await refused(installation)) == 1


async def test_a_secret_that_is_refused_leaves_one_row_and_no_second(installation: Installation):
    await installation.replica()
    await installation.push()
    await installation.submit()
    runner = await installation.runner()
    [assignment] = await runner.claim()
    path = f"/v1/runner/jobs/{assignment.job}/{assignment.attempt}/secrets"
    asked = SecretAsk(name="TOKEN", stage="greet", use="environment")
    assert await try_to(runner.client, path, asked) == "secret_not_granted"
    [row] = await refused(installation)
    assert (row["actor"], row["action"], row["address"]) == ("runner runner", "refuse secret", "127.0.0.1")
