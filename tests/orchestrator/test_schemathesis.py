"""The whole OpenAPI document, asked by everybody: what schemathesis makes up of it is answered as it says.

Each kind of token, each role, and nobody asks every route with what fits the document and with what does not. Nothing
may break (no 5xx), and every answer has a status, a type and a shape that the document has. What does not fit is
refused. And nobody but an administrator is told anything of a pipeline that they may do nothing with, also where they
ask for it by its name or its job's id. ``make fuzz`` asks longer.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator
from typing import Any, Final, cast

import anyio.to_thread
import hypothesis.errors
import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from schemathesis import checks
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.schemas import BaseSchema

from orchestrator.settings import EdgeSettings
from schema.client import Client
from schema.definition import InputDefinition
from schema.secrets import Secret, SecretSet
from schema.wire import PipelineVersion, Token, TokenCreate
from tests.orchestrator.installation import DEFINITION, SOURCE, Attempt, Installation
from tests.orchestrator.installation import installation as opened
from tests.orchestrator.people import session
from tests.orchestrator.test_secrets import KEYS
from tests.postgres import Cluster

TIMES: Final = int(os.environ.get("MOONYARD_FUZZ", "1"))
"""How many times as many examples as in a normal run."""
ANSWER_SECONDS: Final = 20.0
EXAMPLES: Final = {"admin": 4, "runner": 3}
EXAMPLES_OTHERS: Final = 1
"""Of each of the two kinds: what fits, and what does not."""
CALLERS: Final = ("nobody", "admin", "runner", "registration", "setup", "viewer", "developer", "operator", "maintainer")
NAMES: Final = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
CHECKS: Final[list[Any]] = [getattr(checks, name) for name in NAMES]
CHECKS_MADE_UP: Final = [*CHECKS, cast("Any", checks).negative_data_rejection]
"""Of what is sent as it was made up: with a real name in the path, it may fit after all."""
MADE_UP: Final = "made up"
HIDDEN: Final = "cellar"
"""The name of a pipeline that nobody has a role for."""
TREASURE: Final = "quetzal"
"""What stands in its file, its inputs, its log and its secret."""
KEPT: Final = {"/v1/logout", "/v1/password", "/v1/runner/token"}
"""What would take from a caller what it calls with."""


@schemathesis.serializer("application/x-ndjson")
def lines(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    """Write a body that the document knows as text."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


class Site(msgspec.Struct, frozen=True):
    """A replica with a bit of everything, and who asks it."""

    address: str
    schema: BaseSchema
    tokens: dict[str, str | None]
    known: dict[str, dict[str, Any]]
    """Names and ids of what is there, by the parameters of paths: `own` for who has a role, `hidden` for nobody."""


@pytest.fixture(scope="module")
async def site(postgres_cluster: Cluster) -> AsyncGenerator[Site]:
    url = postgres_cluster.create_migrated()
    async with opened(url) as installation:
        edge = EdgeSettings(anonymous_rate=0, request_rate=0)
        replica = await installation.replica(lease_seconds=3600.0, secret_keys=KEYS, edge=edge)
        await installation.push()
        runner = await installation.runner()
        job = await installation.submit()
        [assignment] = await runner.claim()
        attempt = Attempt(assignment)
        await runner.send(attempt, attempt.state("running"), attempt.log("hello"))
        hidden = await bury(installation)
        tokens: dict[str, str | None] = {
            "nobody": None,
            "admin": installation.admin_secret,
            "runner": runner.registered.token,
        }
        admin = await installation.client()
        made = [
            await admin.post("/v1/tokens", Token, TokenCreate(kind=kind, name=kind))
            for kind in ("registration", "setup")
        ]
        tokens |= {token.kind: token.secret for token in made}
        for role in ("viewer", "developer", "operator", "maintainer"):
            tokens[role] = (await session(installation, role, (role, "hello*"))).token
        document = f"{replica.address}/v1/openapi.json"
        schema = await anyio.to_thread.run_sync(lambda: schemathesis.openapi.from_url(document))
        own = {
            "job": job.id,
            "attempt": 1,
            "name": "hello",
            "pipeline": "hello",
            "runner": runner.registered.name,
            "account": "viewer",
            "token": made[0].id,
        }
        yield Site(replica.address, schema, tokens, {"own": own, "hidden": hidden})
    postgres_cluster.drop(url)


async def bury(installation: Installation) -> dict[str, Any]:
    """Make a pipeline with a job that has run, which nobody has a role for."""
    inputs = {"who": InputDefinition(type="string", default=TREASURE)}
    definition = msgspec.structs.replace(DEFINITION, name=HIDDEN, inputs=inputs)
    await installation.push(definition, f"-- {TREASURE}\n{SOURCE}")
    job = await installation.submit(pipeline=HIDDEN, inputs={"who": TREASURE})
    other = await installation.runner("other")
    [assignment] = await other.claim()
    assert assignment.job == job.id
    attempt = Attempt(assignment)
    await other.send(attempt, attempt.state("running"), attempt.log(TREASURE), attempt.state("succeeded"))
    admin = await installation.client()
    secret = f"{HIDDEN}/KEY"
    await admin.post("/v1/secrets", Secret, SecretSet(secret=secret, value=TREASURE.encode()))
    return {"job": job.id, "attempt": 1, "name": HIDDEN, "pipeline": HIDDEN, "secret": secret, "runner": "other"}


# The replica is in this process, and draws its own numbers meanwhile.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.timeout(120 * (TIMES + 1))
@pytest.mark.parametrize("caller", CALLERS)
async def test_everything_is_answered_as_the_document_says(site: Site, caller: str):
    failures = await anyio.to_thread.run_sync(ask_everything, site, caller)
    assert not failures, "\n\n".join(failures)


async def test_what_is_hidden_is_there_for_an_administrator(site: Site):
    async with Client.open([site.address], site.tokens["admin"]) as admin:
        shown = await admin.get(f"/v1/pipelines/{HIDDEN}", PipelineVersion)
    assert TREASURE in (shown.source or "")


def ask_everything(site: Site, caller: str) -> list[str]:
    """Ask every route as one caller; give what was wrong with the answers."""
    token = site.tokens[caller]
    failures: list[str] = []
    with requests.Session() as connection:
        connection.trust_env = False
        if token is not None:
            connection.headers["Authorization"] = f"Bearer {token}"
        for found in cast("Any", site.schema).get_all_operations():  # it leaves its types' parameters open
            operation = found.ok()
            if operation.path in KEPT and caller not in {"nobody", "registration"}:
                continue
            for mode in GenerationMode:
                failures += ask(site, caller, connection, operation, mode)
    return failures


def ask(site: Site, caller: str, connection: requests.Session, operation: Any, mode: GenerationMode) -> list[str]:
    """Ask one route some times; give what was wrong."""
    failures: list[str] = []

    @hypothesis.seed(0)
    @hypothesis.settings(
        max_examples=TIMES * EXAMPLES.get(caller, EXAMPLES_OTHERS),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    @hypothesis.given(
        case=operation.as_strategy(generation_mode=mode), asked=st.sampled_from([MADE_UP, "own", "hidden"])
    )
    def examine(case: Any, asked: str) -> None:
        for name, value in site.known.get(asked, {}).items():
            if name in (case.path_parameters or {}):
                case.path_parameters[name] = value
        hurry(case)
        response = case.call(session=connection, timeout=ANSWER_SECONDS)
        if caller != "admin":
            failures.extend(told(caller, case, response))
        try:
            case.validate_response(response, checks=CHECKS_MADE_UP if asked == MADE_UP else CHECKS)
        except FailureGroup as group:
            failures.append(f"{caller}, {mode.value}: {group}\n{case.as_curl_command()}\n{response.text[:500]}")

    # Of a route without any values there is nothing that does not fit.
    with contextlib.suppress(hypothesis.errors.Unsatisfiable):
        examine()
    return failures


def told(caller: str, case: Any, response: Any) -> list[str]:
    """Say whether an answer tells of what is hidden: its name may stand there where it was asked for."""
    text: str = response.text
    sent = f"{response.request.url} {response.request.body}"
    if any(word in text.lower() and word not in sent for word in (TREASURE, HIDDEN)):
        return [f"{caller} is told of what is hidden:\n{case.as_curl_command()}\n{text[:500]}"]
    return []


def hurry(case: Any) -> None:
    """Ask for nothing to be waited for."""
    if case.query:
        case.query.pop("follow", None)
    match case.body:
        case {"wait": _}:
            case.body["wait"] = 0.0
        case _:
            pass
