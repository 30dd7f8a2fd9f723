"""Requests that cannot be meant: each is refused with a problem document, and changes nothing.

One replica serves all of these tests. What the database holds is counted before and after each request.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import anyio
import msgspec
import pytest
from psycopg import sql
from yarl import URL

from schema.wire import PROBLEM_MEDIA_TYPE, ProblemDocument, Token, TokenCreate
from tests.orchestrator.installation import DEADLINE_SECONDS, SOURCE, Installation
from tests.orchestrator.installation import installation as opened
from tests.postgres import Cluster

JSON = "application/json"
NOBODY = "00000000-0000-7000-8000-000000000000"
DIGITS = "9" * 5000
"""More than Python reads as a number by itself."""
TABLES = """
SELECT relname::text FROM pg_class
WHERE relnamespace = 'moonyard'::regnamespace AND relkind IN ('r', 'p') AND relname NOT LIKE 'audit%'
"""
"""Refusals are in the audit, a moment later."""


class Target:
    """A replica with a pipeline and a running job, and one who sends it what nobody should."""

    def __init__(self, installation: Installation, secrets: dict[str, str], job: str) -> None:
        self.installation = installation
        self.address = installation.replicas[0].address
        self.secrets = secrets
        self.job = job

    async def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        kind: str = "admin",
        content_type: str | None = JSON,
    ) -> tuple[int, str, bytes]:
        """Send a request as it is; give the answer's status, type and body."""
        headers = {"Authorization": f"Bearer {self.secrets[kind]}"}
        if content_type is not None:
            headers["Content-Type"] = content_type
        url = URL(self.address + path.replace("JOB", self.job), encoded=True)
        data = None if body is None else io.BytesIO(body.replace(b"JOB", self.job.encode()))
        skip = ["Content-Type"] if content_type is None else []
        async with (
            aiohttp.ClientSession(skip_auto_headers=skip) as session,
            session.request(method, url, data=data, headers=headers) as response,
        ):
            return response.status, response.content_type, await response.read()

    async def refused(self, method: str, path: str, body: bytes | None = None, **options: Any) -> ProblemDocument:
        """Send a request that has to be refused without a trace."""
        before = await self.rows()
        with anyio.fail_after(DEADLINE_SECONDS):
            status, content_type, answer = await self.send(method, path, body, **options)
        assert content_type == PROBLEM_MEDIA_TYPE, answer
        problem = msgspec.json.decode(answer, type=ProblemDocument)
        assert problem.status == status
        assert 400 <= status < 500, problem
        assert problem.title
        assert problem.code
        assert "Traceback" not in answer.decode()
        assert await self.rows() == before
        return problem

    async def rows(self) -> dict[str, int]:
        """Count the rows of every table."""
        tables = [row["relname"] for row in await self.installation.fetch(TABLES)]
        counted = sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT {} AS name, count(*) AS rows FROM {}").format(
                sql.Literal(table), sql.Identifier("moonyard", table)
            )
            for table in tables
        )
        return {row["name"]: row["rows"] for row in await self.installation.fetch(counted.as_string())}


@pytest.fixture(scope="module")
async def target(postgres_cluster: Cluster) -> AsyncGenerator[Target]:
    url = postgres_cluster.create_migrated()
    async with opened(url) as installation:
        await installation.replica(lease_seconds=3600.0)  # nobody beats for the runner
        await installation.push()
        runner = await installation.runner()
        job = await installation.submit()
        assert [assignment.job for assignment in await runner.claim()] == [job.id]
        admin = await installation.client()
        registration = await admin.post("/v1/tokens", Token, TokenCreate(kind="registration", name="many"))
        assert registration.secret is not None
        secrets = {
            "admin": installation.admin_secret,
            "runner": runner.registered.token,
            "registration": registration.secret,
        }
        yield Target(installation, secrets, job.id)
    postgres_cluster.drop(url)


@pytest.mark.parametrize(
    "path",
    ["/v1/jobs", "/v1/pipelines", "/v1/tokens", "/v1/runner/claim", "/v1/runner/heartbeat", "/v1/runners/register"],
)
async def test_a_body_of_the_wrong_form_is_told_what_is_wrong_with_it(target: Target, path: str):
    kind = {"/v1/runner/": "runner", "/v1/runners": "registration"}.get(path[:11], "admin")
    for body, code, said in [
        (b"", "request_invalid", "a JSON object is expected as body"),
        (b"{", "body_invalid", "the body is no JSON"),
        (b"pipeline=hello", "body_invalid", "the body is no JSON"),
        (b"\xff\xfe{}", "body_invalid", "the body is no JSON"),
        (b'{"pipeline":"\xff"}', "body_invalid", "the body is no JSON: it holds a text that is not UTF-8"),
        (b"{} {}", "body_invalid", "the body is no JSON"),
        (b'{"a":NaN}', "body_invalid", "the body is no JSON"),
        (b"[" * 100_000, "body_invalid", "nested too deeply"),
        (b'{"a":' * 100_000, "body_invalid", "nested too deeply"),
        (b"null", "request_invalid", "expected `object`, got `null`"),
        (b"[]", "request_invalid", "expected `object`, got `array`"),
        (b'"text"', "request_invalid", "expected `object`, got `str`"),
        (b"{}", "request_invalid", "the body lacks the required field `"),
        (b'{"nonsense":1}', "request_invalid", "the body has an unknown field `nonsense`"),
    ]:
        problem = await target.refused("POST", path, body, kind=kind)
        assert (problem.status, problem.code) == (400, code), problem
        assert said in problem.detail
        assert problem.instance == path
    for content_type in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "nonsense",
    ):
        problem = await target.refused("POST", path, b'{"name":"x"}', kind=kind, content_type=content_type)
        assert (problem.status, problem.code) == (415, "media_type_unsupported"), problem
        assert content_type in problem.detail
        assert problem.hint == "Send it as `Content-Type: application/json`."
    problem = await target.refused("POST", path, b" " * 32_000_000, kind=kind)  # a push takes most, with its plugins
    assert (problem.status, problem.code) == (413, "body_too_large")


async def test_a_body_that_says_nothing_of_its_type_is_read_as_json(target: Target):
    problem = await target.refused("POST", "/v1/jobs", b'{"pipeline":"none"}', content_type=None)
    assert problem.code == "pipeline_unknown"


@pytest.mark.parametrize(
    ("fields", "status", "code", "said"),
    [
        ({"inputs": []}, 400, "request_invalid", "`inputs`: Expected `object`, got `array`"),
        ({"inputs": {"who": None}}, 400, "request_invalid", "got `null`"),
        ({"inputs": {"who": {"a": 1}}}, 400, "request_invalid", "got `object`"),
        ({"inputs": {"who": 3}}, 422, "inputs_invalid", "`who` must be of type string, got `3`"),
        ({"inputs": {"times": True}}, 422, "inputs_invalid", "`times` must be of type integer"),
        ({"inputs": {"times": 1.5}}, 422, "inputs_invalid", "`times` must be of type integer"),
        ({"inputs": {"times": "two"}}, 422, "inputs_invalid", "`times` must be of type integer, got `two`"),
        ({"inputs": {"times": 2**63}}, 422, "inputs_invalid", "`times` must be of type integer"),
        ({"inputs": {"times": 7}}, 422, "inputs_invalid", "`times` must be one of `1`, `2`, `3`"),
        (
            {"inputs": {"whom": "x"}},
            422,
            "inputs_invalid",
            "`whom` is not an input (inputs of `hello`: `who`, `times`)",
        ),
        ({"inputs": {"a\0b": "x"}}, 422, "inputs_invalid", "is not an input"),
        ({"inputs": {"who": "a\0b"}}, 422, "request_invalid", "NUL"),
        ({"idempotency_key": ""}, 422, "request_invalid", "1 to 200 characters"),
        ({"idempotency_key": "x" * 201}, 422, "request_invalid", "1 to 200 characters"),
        ({"version": "0" * 64}, 404, "version_unknown", "pipeline `hello` has no version"),
        ({"version": "a\0b"}, 404, "version_unknown", "pipeline `hello` has no version"),
        ({"version": 7}, 400, "request_invalid", "`version`"),
        ({"pipeline": "helo"}, 404, "pipeline_unknown", "there is no pipeline `helo`"),
        ({"pipeline": "a\0b"}, 404, "pipeline_unknown", "there is no pipeline"),
        ({"pipeline": "h" * 500_000}, 404, "pipeline_unknown", "there is no pipeline"),
        ({"pipeline": ["hello"]}, 400, "request_invalid", "`pipeline`: Expected `str`, got `array`"),
    ],
)
async def test_a_submit_that_fits_no_pipeline_is_refused(
    target: Target, fields: dict[str, Any], status: int, code: str, said: str
):
    problem = await target.refused("POST", "/v1/jobs", json.dumps({"pipeline": "hello"} | fields).encode())
    assert (problem.status, problem.code) == (status, code), problem
    assert said in problem.detail


@pytest.mark.parametrize(
    "number", [DIGITS, "-" + DIGITS, "1e999", DIGITS + ".5"], ids=["large", "low", "exponent", "long"]
)
async def test_numbers_that_nothing_can_hold_are_refused(target: Target, number: str):
    for path, body, kind in [
        ("/v1/jobs", '{"pipeline":"hello","inputs":{"times":%s}}', "admin"),
        ("/v1/tokens", '{"kind":"registration","name":"x","uses":%s}', "admin"),
        ("/v1/tokens", '{"kind":"admin","name":"x","expires_in":%s}', "admin"),
        ("/v1/runner/claim", '{"slots":%s,"wait":0,"capacity":1,"version":"x"}', "runner"),
        ("/v1/runner/claim", '{"slots":1,"wait":%s,"capacity":1,"version":"x"}', "runner"),
        ("/v1/runner/heartbeat", '{"holding":[{"job":"JOB","attempt":%s}]}', "runner"),
        ("/v1/runner/heartbeat", '{"holding":[],"wait":%s}', "runner"),
        ("/v1/runner/jobs/JOB/1/artifacts", '{"name":"x","sha256":"0","size_bytes":%s}', "runner"),
    ]:
        await target.refused("POST", path, (body % number).encode(), kind=kind)
    for path in ("/v1/jobs?limit=%s", "/v1/jobs?before=%s", "/v1/jobs/JOB/events?after=1.%s", "/v1/jobs/%s"):
        await target.refused("GET", path % number)
    for path in ("/v1/runner/jobs/JOB/%s/events?first_seq=1", "/v1/runner/jobs/JOB/1/events?first_seq=%s"):
        await target.refused("POST", path % number, b"{}\n", kind="runner")


@pytest.mark.parametrize(
    "reference",
    ["0", "99", "9" * 18, "9" * 40, "-1", "1.5", "x", NOBODY, "%00", "1%00", "%0a", "%ff", "x" * 3000, "%2e%2e"],
)
async def test_what_does_not_exist_is_told_by_its_name(target: Target, reference: str):
    for method, path, code in [
        ("GET", "/v1/jobs/{}", "job_unknown"),
        ("POST", "/v1/jobs/{}/cancel", "job_unknown"),
        ("GET", "/v1/jobs/{}/events", "job_unknown"),
        ("GET", "/v1/jobs/{}/events?follow=true", "job_unknown"),
        ("GET", "/v1/jobs/{}/artifacts", "job_unknown"),
        ("GET", "/v1/jobs/{}/artifacts/x", "job_unknown"),
        ("GET", "/v1/jobs/JOB/artifacts/{}", "artifact_unknown"),
        ("GET", "/v1/pipelines/{}", "pipeline_unknown"),
        ("DELETE", "/v1/tokens/{}", "token_unknown"),
    ]:
        problem = await target.refused(method, path.format(reference))
        assert (problem.status, problem.code) == (404, code), problem
        if reference in {"99", "x", NOBODY}:
            assert f"`{reference}`" in problem.detail or reference in problem.detail


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/jobs?limit=0", "`limit`"),
        ("/v1/jobs?limit=1001", "`limit`"),
        ("/v1/jobs?limit=many", "`limit`: Expected `int`"),
        ("/v1/jobs?limit=1&limit=2", "query parameter `limit` is given 2 times"),
        ("/v1/jobs?before=0", "`before`"),
        ("/v1/jobs?state=asleep", "`state`: Invalid enum value 'asleep'"),
        (
            "/v1/jobs?stat=failed",
            "`stat` is not a query parameter of /v1/jobs (there are: before, limit, pipeline, state)",
        ),
        ("/v1/tokens?all=true", "(this route has none)"),
        ("/v1/jobs/JOB/events?follow=perhaps", "`follow`"),
        ("/v1/jobs/JOB/events?after=17", "expected ATTEMPT.SEQ of the last event read, such as 1.17"),
        ("/v1/jobs/JOB/events?after=-1.1", "expected ATTEMPT.SEQ"),
        ("/v1/jobs/JOB/events?after=%00", "expected ATTEMPT.SEQ"),
    ],
)
async def test_a_wrong_query_is_told_what_there_is(target: Target, path: str, said: str):
    problem = await target.refused("GET", path)
    assert problem.status in {400, 422}
    assert problem.code == "request_invalid"
    assert said in problem.detail


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/x", 404, "route_unknown"),
        ("GET", "/v1/nowhere", 404, "route_unknown"),
        ("GET", "/v1/openapi.json/nowhere", 404, "route_unknown"),
        ("GET", "/v2/jobs", 404, "route_unknown"),
        ("POST", "/v1/jobs/1/2/3", 404, "route_unknown"),
        ("GET", "/v1/jobs/..%2f..", 404, "route_unknown"),
        ("PUT", "/v1/jobs", 405, "method_not_allowed"),
        ("DELETE", "/v1/jobs/1", 405, "method_not_allowed"),
        ("POST", "/v1/health", 405, "method_not_allowed"),
        ("GET", "/v1/runner/claim", 405, "method_not_allowed"),
        ("GET", "/v1/tokens/x", 405, "method_not_allowed"),
    ],
)
async def test_a_route_that_does_not_exist_is_told_with_those_that_do(
    target: Target, method: str, path: str, status: int, code: str
):
    problem = await target.refused(method, path)
    assert (problem.status, problem.code) == (status, code), problem
    if status == 404:
        assert problem.hint == "GET /v1/openapi.json lists all routes."
    else:
        assert f"does not take {method}, only " in problem.detail


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"kind": "runner"}, 400, "`kind`"),
        ({"name": ""}, 422, "a name has 1 to 200 printable characters"),
        ({"name": "a\0b"}, 422, "a name has 1 to 200 printable characters"),
        ({"name": "two\nlines"}, 422, "a name has 1 to 200 printable characters"),
        ({"name": "x" * 201}, 422, "a name has 1 to 200 printable characters"),
        ({"uses": 1}, 422, "only registration tokens have uses"),
        ({"kind": "registration", "uses": 0}, 422, "`uses` is 0"),
        ({"expires_in": 0}, 422, "`expires_in` is 0"),
        ({"expires_in": -5}, 422, "`expires_in` is -5"),
        ({"expires_in": "soon"}, 400, "`expires_in`"),
        ({"expires_in": 1e12}, 422, "at most ten years"),
    ],
)
async def test_a_token_that_makes_no_sense_is_not_made(target: Target, fields: dict[str, Any], status: int, said: str):
    problem = await target.refused("POST", "/v1/tokens", json.dumps({"kind": "admin", "name": "x"} | fields).encode())
    assert (problem.status, problem.code) == (status, "request_invalid"), problem
    assert said in problem.detail


@pytest.mark.parametrize("name", ["", " ", "a\0b", "two\nlines", "\x1b[31m", "x" * 201])
async def test_a_runner_whose_name_cannot_be_shown_is_not_registered(target: Target, name: str):
    problem = await target.refused(
        "POST", "/v1/runners/register", json.dumps({"name": name}).encode(), kind="registration"
    )
    assert (problem.status, problem.code) == (422, "request_invalid")
    assert "cannot be the name of a runner" in problem.detail


LINE = {
    "type": "log", "at": "2026-01-01T00:00:00.000Z", "job": "JOB", "attempt": 1, "seq": 1,
    "stage": None, "level": "info", "source": "lua", "text": "x",
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "query", "status"),
    [
        ({}, "", 400),
        ({}, "?first_seq=0", 400),
        ({}, "?first_seq=x", 400),
        ({}, "?first_seq=2", 422),
        ({"seq": 5}, "?first_seq=5", 409),
        ({"attempt": 2}, "?first_seq=1", 422),
        ({"job": NOBODY}, "?first_seq=1", 422),
        ({"type": "nonsense"}, "?first_seq=1", 422),
        ({"level": "loud"}, "?first_seq=1", 422),
        ({"text": "a\0b"}, "?first_seq=1", 422),
        ({"at": "yesterday"}, "?first_seq=1", 422),
        ({"seq": 2**70}, "?first_seq=1", 422),
    ],
)
async def test_events_that_are_none_of_the_attempts_are_not_stored(
    target: Target, fields: dict[str, Any], query: str, status: int
):
    line = json.dumps(LINE | fields).encode() + b"\n"
    problem = await target.refused(
        "POST", f"/v1/runner/jobs/JOB/1/events{query}", line, kind="runner", content_type="application/x-ndjson"
    )
    assert problem.status == status, problem


@pytest.mark.parametrize("body", [b"", b"\n", b"{}\n", b"no json\n", b"\xff\n", b"{}", b"[" * 100_000 + b"\n"])
async def test_a_batch_of_no_events_is_refused(target: Target, body: bytes):
    problem = await target.refused("POST", "/v1/runner/jobs/JOB/1/events?first_seq=1", body, kind="runner")
    assert problem.status in {400, 422}


@pytest.mark.parametrize(
    ("path", "status"),
    [("x/1", 404), (f"{NOBODY}/1", 404), ("JOB/0", 404), ("JOB/-1", 404), ("JOB/x", 404), ("JOB/2", 404)],
)
async def test_events_and_artifacts_of_no_attempt_are_refused(target: Target, path: str, status: int):
    line = json.dumps(LINE).encode() + b"\n"
    problem = await target.refused("POST", f"/v1/runner/jobs/{path}/events?first_seq=1", line, kind="runner")
    assert problem.status in {status, 422}, problem
    named = json.dumps({"name": "x", "sha256": "0" * 64, "size_bytes": 1}).encode()
    problem = await target.refused("POST", f"/v1/runner/jobs/{path}/artifacts", named, kind="runner")
    assert problem.status in {status, 409}, problem


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"name": "../x"}, 422),
        ({"name": "/etc/passwd"}, 422),
        ({"name": "a\0b"}, 422),
        ({"name": "two\nlines"}, 422),
        ({"name": ""}, 422),
        ({"sha256": "a\0b"}, 422),
        ({"sha256": "0" * 64}, 404),
        ({"size_bytes": -1}, 404),
        ({"content_type": "text/html\r\nX-Injected: yes"}, 422),
    ],
)
async def test_an_artifact_that_cannot_be_one_is_not_kept(target: Target, fields: dict[str, Any], status: int):
    body = json.dumps({"name": "x", "sha256": "1" * 64, "size_bytes": 1} | fields).encode()
    problem = await target.refused("POST", "/v1/runner/jobs/JOB/1/artifacts", body, kind="runner")
    assert problem.status == status, problem


@pytest.mark.parametrize("sha256", ["0" * 64, "A" * 64, "x", "%00", "0" * 63])
async def test_a_content_that_is_not_what_it_is_called_is_not_stored(target: Target, sha256: str):
    problem = await target.refused(
        "PUT", f"/v1/runner/blobs/{sha256}", b"content", kind="runner", content_type="application/octet-stream"
    )
    assert (problem.status, problem.code) == ((422, "blob_damaged") if sha256 == "0" * 64 else (404, "blob_unknown"))


@pytest.mark.parametrize(
    ("source", "status", "code"),
    [
        ("-- " + "x" * 10_000_000, 413, "body_too_large"),
        ("-- " + "x" * 1_100_000, 413, "body_too_large"),
        ("\x7fELF\x02\x01", 422, "lua_syntax"),
        ("return { name = = }", 422, "lua_syntax"),
        ("\0", 422, "pipeline_invalid"),
        ("", 422, "pipeline_invalid"),
        ("return {}", 422, "pipeline_invalid"),
    ],
    ids=["10 MB", "1.1 MB", "binary", "syntax", "NUL", "empty", "no stages"],
)
async def test_a_file_that_is_no_pipeline_is_not_pushed(target: Target, source: str, status: int, code: str):
    body = json.dumps({"filename": "bad.lua", "source": source}).encode()
    problem = await target.refused("POST", "/v1/pipelines", body)
    assert (problem.status, problem.code) == (status, code), problem
    if code == "lua_syntax":
        assert problem.problems is not None
        assert problem.problems[0].where.startswith("bad.lua:")


async def test_other_requests_are_answered_while_endless_files_are_checked(target: Target):
    endless = json.dumps({"filename": "endless.lua", "source": "while true do end"}).encode()
    before = await target.rows()
    ended: list[ProblemDocument] = []

    async def push() -> None:
        status, _, answer = await target.send("POST", "/v1/pipelines", endless)
        problem = msgspec.json.decode(answer, type=ProblemDocument)
        assert problem.status == status
        ended.append(problem)

    answered = 0
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(push)
            while not ended:
                status, _, _ = await target.send("GET", "/v1/jobs")
                assert status == 200
                answered += 1
    assert answered
    assert [(problem.status, problem.code) for problem in ended] == [(422, "cpu_limit")] * 3
    assert "endless.lua" in ended[0].detail
    assert "top level" in ended[0].detail
    assert await target.rows() == before
    status, _, answer = await target.send(
        "POST", "/v1/pipelines", json.dumps({"filename": "a.lua", "source": SOURCE}).encode()
    )
    assert status == 200, answer


@pytest.mark.parametrize(
    "request_text",
    [
        b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/jobs HTTP/1.0\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=["no headers", "HTTP/1.0", "no length", "no token"],
)
async def test_a_request_without_headers_is_asked_for_a_token(target: Target, request_text: bytes):
    head, body = await exchange(target, request_text)
    assert head.startswith(b"HTTP/1.1 401 ")
    assert b"www-authenticate: bearer" in head.lower()
    problem = msgspec.json.decode(body, type=ProblemDocument)
    assert (problem.status, problem.code) == (401, "token_missing")
    assert problem.hint is not None
    assert problem.hint.startswith("Send it as `Authorization: Bearer TOKEN`; ")


@pytest.mark.parametrize("request_text", [b"\0\0\0\0\r\n\r\n", b"NONSENSE\r\n\r\n", b"GET /v1/\xff HTTP/1.1\r\n\r\n"])
async def test_what_is_no_http_is_answered_and_harms_nobody(target: Target, request_text: bytes):
    head, _ = await exchange(target, request_text)
    assert head.startswith(b"HTTP/1.1 400 ")
    status, _, _ = await target.send("GET", "/v1/jobs")
    assert status == 200


async def exchange(target: Target, request_text: bytes) -> tuple[bytes, bytes]:
    """Send bytes over a connection of their own; give the answer's head and body."""
    host, port = target.address.removeprefix("http://").split(":")
    before = await target.rows()
    with anyio.fail_after(DEADLINE_SECONDS):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request_text)
        head = await reader.readuntil(b"\r\n\r\n")
        found = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = await reader.readexactly(int(found[0].split(b":")[1])) if found else await reader.read()
        writer.close()
        await writer.wait_closed()
    assert await target.rows() == before
    return head, body
