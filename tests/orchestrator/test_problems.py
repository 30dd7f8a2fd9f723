from __future__ import annotations

import io
from typing import Any

import aiohttp
import msgspec
import pytest

from schema.definition import InputDefinition
from schema.wire import ProblemDocument
from tests.orchestrator.installation import DEFINITION, Installation


async def ask(installation: Installation, method: str, path: str, **options: Any) -> ProblemDocument:
    headers = {"Authorization": f"Bearer {installation.admin_secret}", "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, installation.replicas[0].address + path, **options) as response,
    ):
        body = await response.read()
        assert response.content_type == "application/problem+json", body
        problem = msgspec.json.decode(body, type=ProblemDocument)
        assert problem.status == response.status
        assert problem.title
        assert "Traceback" not in body.decode()
        return problem


@pytest.mark.parametrize(
    ("body", "status", "code", "said"),
    [
        (b"{", 400, "body_invalid", "no JSON"),
        (b"\xff\xfe", 400, "body_invalid", "no JSON"),
        (b"", 400, "request_invalid", "expected as body"),
        (b"null", 400, "request_invalid", "object"),
        (b"[]", 400, "request_invalid", "object"),
        (b'{"pipeline":3}', 400, "request_invalid", "`pipeline`: Expected `str`"),
        (b'{"pipelin":"x"}', 400, "request_invalid", "unknown field `pipelin`"),
        (b'{"pipeline":"x","inputs":{"a":[1]}}', 400, "request_invalid", "inputs"),
        (b'{"pipeline":"x","idempotency_key":"a\\u0000b"}', 422, "request_invalid", "idempotency_key"),
        (b'{"pipeline":"no\\u0000ne"}', 404, "pipeline_unknown", "there is no pipeline"),
        (b'{"pipeline":"hello","version":"12"}', 404, "version_unknown", "no version `12`"),
        (b'{"pipeline":"hello","inputs":{"who":"a\\u0000b"}}', 422, "request_invalid", "`who`"),
        (
            b'{"pipeline":"hello","inputs":{"whom":"x","times":"often"}}',
            422,
            "inputs_invalid",
            "`whom` is not an input",
        ),
        (b'{"pipeline":"hello","inputs":{"times":4}}', 422, "inputs_invalid", "one of `1`, `2`, `3`"),
        (b" " * 2_000_000, 413, "body_too_large", "larger"),
    ],
)
async def test_a_bad_submit_is_refused_and_stores_nothing(
    installation: Installation, body: bytes, status: int, code: str, said: str
):
    await installation.replica()
    await installation.push()
    problem = await ask(installation, "POST", "/v1/jobs", data=io.BytesIO(body))
    assert (problem.status, problem.code) == (status, code), problem
    assert said in problem.detail
    assert await installation.fetch("SELECT 1 FROM moonyard.jobs") == []


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "route_unknown"),
        ("GET", "/v1/nowhere/at/all", 404, "route_unknown"),
        ("DELETE", "/v1/jobs", 405, "method_not_allowed"),
        ("GET", "/v1/jobs?limit=0", 400, "request_invalid"),
        ("GET", "/v1/jobs?limit=many", 400, "request_invalid"),
        ("GET", "/v1/jobs?state=asleep", 400, "request_invalid"),
        ("GET", "/v1/jobs/17", 404, "job_unknown"),
        ("POST", "/v1/jobs/17/cancel", 404, "job_unknown"),
        ("GET", "/v1/pipelines/none", 404, "pipeline_unknown"),
        ("GET", "/v1/pipelines/%00", 404, "pipeline_unknown"),
    ],
)
async def test_a_request_that_leads_nowhere_is_told_so(
    installation: Installation, method: str, path: str, status: int, code: str
):
    await installation.replica()
    problem = await ask(installation, method, path)
    assert (problem.status, problem.code) == (status, code), problem


async def test_an_unknown_pipeline_comes_with_the_names_that_are_near(installation: Installation):
    await installation.replica()
    await installation.push()
    problem = await ask(installation, "POST", "/v1/jobs", data=b'{"pipeline":"helo"}')
    assert problem.hint == "Did you mean `hello`?"


async def test_numbers_that_lua_and_json_cannot_hold_are_refused(installation: Installation):
    await installation.replica()
    inputs = {"ratio": InputDefinition(type="number"), "count": InputDefinition(type="integer")}
    await installation.push(msgspec.structs.replace(DEFINITION, inputs=inputs))
    for wrong in ({"ratio": "inf", "count": "1"}, {"ratio": "nan", "count": "1"}, {"ratio": "1", "count": "9" * 30}):
        body = msgspec.json.encode({"pipeline": "hello", "inputs": wrong})
        problem = await ask(installation, "POST", "/v1/jobs", data=body)
        assert (problem.status, problem.code) == (422, "inputs_invalid")


@pytest.mark.parametrize("given", ["abc-1", "A.b_c:d+e/f=", "x" * 128])
async def test_a_request_keeps_its_own_id_in_its_answer_and_in_its_error(installation: Installation, given: str):
    await installation.replica()
    async with aiohttp.ClientSession(headers={"X-Request-Id": given}) as session:
        async with session.get(installation.replicas[0].address + "/v1/jobs") as response:
            assert response.headers["X-Request-Id"] == given
            assert (await response.json())["request_id"] == given
        async with session.get(installation.replicas[0].address + "/v1/health") as response:
            assert response.headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", [None, "", "two words", "x" * 129, "<b>", "-r"])
async def test_a_request_without_an_id_that_a_log_can_hold_gets_one(installation: Installation, given: str | None):
    await installation.replica()
    headers = {} if given is None else {"X-Request-Id": given}
    async with aiohttp.ClientSession(headers=headers) as session:
        ids: set[str] = set()
        for _ in range(2):
            async with session.get(installation.replicas[0].address + "/v1/jobs") as response:
                assert response.status == 401
                ids.add(response.headers["X-Request-Id"])
                assert (await response.json())["request_id"] == response.headers["X-Request-Id"]
    assert len(ids) == 2
    assert all(len(made) == 16 and made.isalnum() for made in ids)
