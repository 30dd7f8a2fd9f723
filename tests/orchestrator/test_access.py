from __future__ import annotations

import re
from typing import Any, cast

import aiohttp
import anyio
import msgspec
import pytest
from litestar.routes import HTTPRoute

from orchestrator import app
from orchestrator.authentication import new_secret
from schema.accounts import Account, AccountCreate
from schema.client import OrchestratorRefused
from schema.wire import (
    Job,
    JobList,
    ProblemDocument,
    RunnerList,
    RunnerRegister,
    RunnerRegistered,
    Token,
    TokenCreate,
    TokenList,
)
from tests.orchestrator.installation import DEADLINE_SECONDS, Installation

PUBLIC = {
    ("GET", "/v1/health"),
    ("GET", "/v1/openapi.json"),
    ("GET", "/v1"),
    ("GET", "/v1/x"),
    ("POST", "/v1/login"),
    ("POST", "/v1/login/device"),
    ("POST", "/v1/login/device/token"),
}
PAGES = {
    ("GET", "/"),
    ("GET", "/login"),
    ("GET", "/login/device"),
    ("GET", "/login/oidc"),
    ("GET", "/login/oidc/callback"),
    ("POST", "/login"),
    ("POST", "/login/device"),
    ("POST", "/logout"),
}
"""They are for browsers, and take no tokens: `test_pages.py` asks for them."""
SIGNED = {("POST", "/v1/hooks/x")}
"""They take no tokens: what comes there is signed."""


def routes(installation: Installation) -> list[tuple[str, str]]:
    """List all methods and paths that the application answers, with something in the place of parameters."""
    found: list[tuple[str, str]] = []
    for route in app.create().routes:
        assert isinstance(route, HTTPRoute), "there are no other routes, or this test has to know them"
        path = re.sub(r"\{(\w+):(\w+)\}", lambda match: "1" if match[2] == "int" else "x", route.path)
        found += [(method, path) for method in sorted(route.methods) if method != "OPTIONS"]
    return found


async def test_every_route_takes_only_the_kind_of_token_that_it_is_for(installation: Installation):
    await installation.replica()
    runner = await installation.runner()
    admin = await installation.client()
    registration = await admin.post("/v1/tokens", Token, TokenCreate(kind="registration", name="many"))
    setup = await admin.post("/v1/tokens", Token, TokenCreate(kind="setup", name="first"))
    invitation = await admin.post("/v1/accounts", Account, AccountCreate(name="ada"))
    secrets = {
        "setup": setup.secret,
        "invitation": invitation.invitation,
        "admin": installation.admin_secret,
        "registration": registration.secret,
        "runner": runner.registered.token,
        "none": None,
        "unknown": new_secret("admin"),
        "torn": installation.admin_secret[:-1],
    }
    checked = 0
    address = installation.replicas[0].address
    async with aiohttp.ClientSession() as session:
        for method, path in routes(installation):
            if (method, path) in PAGES:
                continue
            expected = kind_for(path)
            for kind, secret in secrets.items():
                headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
                async with session.request(method, address + path, headers=headers, data=b"no json") as response:
                    body = await response.read()
                    where = (method, path, kind, response.status, body[:200])
                    if (method, path) in SIGNED:
                        assert (response.status, b"hook_unverified" in body) == (401, True), where
                        continue
                    if (method, path) in PUBLIC or kind == expected:
                        assert response.status not in {401, 403}, where
                        continue
                    problem = msgspec.json.decode(body, type=ProblemDocument)
                    if kind in {"none", "unknown", "torn"}:
                        assert response.status == 401, where
                        assert "Bearer" in response.headers["WWW-Authenticate"]
                        assert problem.code == ("token_missing" if kind == "none" else "token_invalid")
                    else:
                        assert (response.status, problem.code) == (403, "token_kind_wrong"), where
                    checked += 1
    assert checked > 60


def kind_for(path: str) -> str:
    named = {
        "/v1/runners/register": "registration",
        "/v1/setup": "setup",
        "/v1/invitation/accept": "invitation",
    }
    if path in named:
        return named[path]
    return "runner" if path.startswith("/v1/runner/") else "admin"


async def test_the_description_names_every_route(installation: Installation):
    await installation.replica()
    async with (
        aiohttp.ClientSession() as session,
        session.get(installation.replicas[0].address + "/v1/openapi.json") as response,
    ):
        described = cast("dict[str, Any]", msgspec.json.decode(await response.read()))
    paths = {re.sub(r"\{\w+\}", "x", path) for path in described["paths"]}
    for _, path in routes(installation):
        if path not in {"/v1", "/v1/x", "/v1/openapi.json", *(page for _, page in PAGES)}:
            assert re.sub(r"/1/", "/x/", path) in paths


async def test_a_registration_token_serves_as_often_as_it_says(installation: Installation):
    await installation.replica()
    admin = await installation.client()
    token = await admin.post("/v1/tokens", Token, TokenCreate(kind="registration", name="two", uses=2))
    registrar = await installation.client(token.secret)
    outcomes: list[str] = []

    async def register(name: str) -> None:
        try:
            registered = await registrar.post("/v1/runners/register", RunnerRegistered, RunnerRegister(name=name))
            outcomes.append(registered.name)
        except OrchestratorRefused as refused:
            outcomes.append(refused.code)

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(register, f"runner {number}")
    assert outcomes.count("token_invalid") == 3
    assert len((await admin.get("/v1/runners", RunnerList)).runners) == 2
    listed = {row.name: row for row in (await admin.get("/v1/tokens", TokenList)).tokens}
    assert listed["two"].uses_left == 0


async def test_a_revoked_token_is_refused_at_once_here_and_soon_elsewhere(installation: Installation):
    here, elsewhere = await installation.replica(), await installation.replica()
    admin = await installation.client(address=here.address)
    token = await admin.post("/v1/tokens", Token, TokenCreate(kind="admin", name="short-lived"))
    near, far = (
        await installation.client(token.secret, here.address),
        await installation.client(token.secret, elsewhere.address),
    )
    for client in (near, far):
        await client.get("/v1/jobs", JobList)
    revoked = await admin.delete(f"/v1/tokens/{token.id}", Token)
    assert revoked.revoked_at is not None
    with pytest.raises(OrchestratorRefused) as refused:
        await near.get("/v1/jobs", JobList)
    assert refused.value.status == 401

    async def ask_until_refused() -> None:
        while True:
            await far.get("/v1/jobs", JobList)

    with anyio.fail_after(DEADLINE_SECONDS), pytest.raises(OrchestratorRefused):
        await ask_until_refused()


async def test_an_expired_token_is_refused(installation: Installation):
    await installation.replica()
    admin = await installation.client()
    token = await admin.post("/v1/tokens", Token, TokenCreate(kind="admin", name="past", expires_in=60.0))
    await installation.fetch("UPDATE moonyard.tokens SET expires_at = now() - interval '1 second' WHERE name = 'past'")
    with pytest.raises(OrchestratorRefused) as refused:
        await (await installation.client(token.secret)).get("/v1/jobs", JobList)
    assert refused.value.status == 401


async def test_only_hashes_of_tokens_are_stored(installation: Installation):
    await installation.replica()
    runner = await installation.runner()
    rows = await installation.fetch(
        "SELECT to_jsonb(token) || to_jsonb(encode(hash, 'hex')) AS all FROM moonyard.tokens AS token"
    )
    text = " ".join(row["all"] for row in rows)
    for secret in (installation.admin_secret, runner.registered.token):
        assert secret not in text
        assert secret.split("_")[-1][:16] not in text


async def test_the_use_of_tokens_is_noted(installation: Installation):
    replica = await installation.replica()
    admin = await installation.client()
    await admin.get("/v1/jobs", JobList)
    await replica.parts.authentication.note_uses()
    [token] = (await admin.get("/v1/tokens", TokenList)).tokens
    assert token.last_used_at is not None


@pytest.mark.parametrize(
    "message",
    [
        {"kind": "admin", "name": ""},
        {"kind": "admin", "name": "two\nlines"},
        {"kind": "admin", "name": "x", "uses": 1},
        {"kind": "registration", "name": "x", "uses": 0},
        {"kind": "admin", "name": "x", "expires_in": -1},
        {"kind": "admin", "name": "x", "expires_in": 1e300},
        {"kind": "runner", "name": "x"},
    ],
)
async def test_a_token_that_makes_no_sense_is_refused(installation: Installation, message: dict[str, Any]):
    await installation.replica()
    headers = {"Authorization": f"Bearer {installation.admin_secret}"}
    address = installation.replicas[0].address
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(address + "/v1/tokens", json=message) as response,
    ):
        assert response.status in {400, 422}
        assert response.content_type == "application/problem+json"
    assert len(await installation.fetch("SELECT 1 FROM moonyard.tokens")) == 1


async def test_ids_that_do_not_exist_are_not_found(installation: Installation):
    await installation.replica()
    admin = await installation.client()
    for token in ("nonsense", "00000000-0000-0000-0000-000000000000"):
        with pytest.raises(OrchestratorRefused) as refused:
            await admin.delete(f"/v1/tokens/{token}", Token)
        assert (refused.value.status, refused.value.code) == (404, "token_unknown")
    with pytest.raises(OrchestratorRefused) as refused:
        await admin.get("/v1/jobs/12", Job)
    assert refused.value.code == "job_unknown"
