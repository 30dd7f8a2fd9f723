"""Connections that ask for too much: too many, too slow, too large, or what two readers would read differently."""

from __future__ import annotations

import select
import socket
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import pytest

from orchestrator import addresses
from orchestrator.connections import HEAD_BYTES_MAXIMUM
from orchestrator.requests import HEADERS_MAXIMUM
from orchestrator.settings import EdgeSettings
from schema.wire import PROBLEM_MEDIA_TYPE, Job
from tests.orchestrator.installation import DEADLINE_SECONDS, Attempt, Installation
from tests.orchestrator.installation import installation as opened
from tests.orchestrator.raw_http import Answered, connected, exchanged
from tests.postgres import Cluster

HEALTH = b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


async def replica(installation: Installation, **edge: Any) -> str:
    return (await installation.replica(edge=EdgeSettings(**edge))).address


def check_problem(answered: Answered, status: int, code: str) -> None:
    assert (answered.status, answered.problem.code) == (status, code)
    assert answered.headers["content-type"] == [PROBLEM_MEDIA_TYPE]
    assert answered.headers["x-content-type-options"] == ["nosniff"]


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """What connections do is the loop's: these tests have the one that replicas run on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
async def address(postgres_cluster: Cluster) -> AsyncGenerator[str]:
    """A replica that all of these tests ask, with limits as they are by default."""
    url = postgres_cluster.create_migrated()
    async with opened(url) as installation:
        yield (await installation.replica()).address
    postgres_cluster.drop(url)


@pytest.mark.parametrize("begun", [b"", b"GET /v1/hea", HEALTH[:-2]], ids=["nothing", "a line", "all but the end"])
async def test_a_request_whose_head_does_not_come_is_given_up(installation: Installation, begun: bytes):
    address = await replica(installation, head_seconds=0.5)
    async with connected(address) as slow:
        slow.send(begun)
        check_problem(await slow.answer(), 408, "head_late")
        assert await slow.rest() == b""


async def test_the_head_of_a_later_request_is_given_up_too(installation: Installation):
    address = await replica(installation, head_seconds=0.5)
    async with connected(address) as slow:
        slow.send(HEALTH)
        assert (await slow.answer()).status == 200
        slow.send(b"G")
        check_problem(await slow.answer(), 408, "head_late")
        assert await slow.rest() == b""


async def test_a_request_whose_body_does_not_come_is_given_up_and_changes_nothing(installation: Installation):
    address = await replica(installation, body_seconds=0.5, body_bytes_minimum=100)
    await installation.push()
    head = (
        f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {installation.admin_secret}\r\n"
        "Content-Type: application/json\r\nContent-Length: 20\r\n\r\n"
    )
    async with connected(address) as slow:
        slow.send(head.encode() + b'{"pipeline"')
        check_problem(await slow.answer(), 408, "body_late")
        assert await slow.rest() == b""
    [row] = await installation.fetch("SELECT count(*) AS jobs FROM moonyard.jobs")
    assert row["jobs"] == 0


async def test_what_is_sent_after_a_refusal_is_not_read_for_ever(installation: Installation):
    address = await replica(installation, body_seconds=0.5, body_bytes_minimum=100)
    async with connected(address) as slow:
        slow.send(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
        check_problem(await slow.answer(), 401, "token_missing")
        assert await slow.rest() == b""


async def test_a_follower_that_reads_nothing_is_cut_off_and_is_sent_no_more_than_fits(installation: Installation):
    address = await replica(installation, write_seconds=1.0)
    await installation.push()
    runner = await installation.runner()
    job = await installation.submit()
    [assignment] = await runner.claim()
    attempt = Attempt(assignment)
    await runner.send(attempt, attempt.state("running"))
    size = 0
    for _ in range(24):
        logs = [attempt.log("x" * 60_000) for _ in range(10)]
        size += sum(len(log.text) for log in logs)
        await runner.send(attempt, *logs)
    received = await anyio.to_thread.run_sync(unread, address, installation.admin_secret, job)
    assert 0 < received < size / 2


def unread(address: str, secret: str, job: Job) -> int:
    """Follow a job without reading, until the replica ends the connection; give how much it had sent."""
    parts = urlsplit(address)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((parts.hostname, parts.port))
        path = f"/v1/jobs/{job.id}/events?follow=true"
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n\r\n".encode())
        ends = select.poll()
        ends.register(client, 0)  # errors and the end alone, and not that there is something to read
        assert ends.poll(DEADLINE_SECONDS * 1000), "the connection was not ended"
        received = 0
        try:
            while data := client.recv(1024 * 1024):
                received += len(data)
        except ConnectionResetError:
            pass
        return received or 1


async def test_one_address_has_so_many_connections_and_gets_another_when_one_ends(installation: Installation):
    address = await replica(installation, connections_per_address=2)
    async with connected(address) as first, connected(address) as second:
        for held in (first, second):
            held.send(HEALTH)
            assert (await held.answer()).status == 200
        async with connected(address) as third:
            refused = await third.answer()
            check_problem(refused, 503, "connections_exhausted")
            assert refused.headers["retry-after"] == ["5"]
            assert await third.rest() == b""
        first.send(LAST)
        assert (await first.answer()).status == 200
        assert await first.rest() == b""
        await until_taken(address)


async def test_a_trusted_proxy_has_as_many_connections_as_it_likes(installation: Installation):
    address = await replica(installation, connections_per_address=1, trusted_proxies=(addresses.network("127.0.0.1"),))
    async with connected(address) as first, connected(address) as second:
        for held in (first, second):
            held.send(HEALTH)
            assert (await held.answer()).status == 200


async def test_all_together_have_so_many_connections(installation: Installation):
    address = await replica(
        installation, connections=1, connections_per_address=0, trusted_proxies=(addresses.network("127.0.0.1"),)
    )
    async with connected(address) as first:
        first.send(HEALTH)
        assert (await first.answer()).status == 200
        async with connected(address) as second:
            check_problem(await second.answer(), 503, "connections_exhausted")
        first.send(LAST)
        assert (await first.answer()).status == 200
        assert await first.rest() == b""
    await until_taken(address)


async def until_taken(address: str) -> None:
    """Connect again and again until there is room: the replica sees a moment later that a client went away."""
    with anyio.fail_after(DEADLINE_SECONDS):
        while True:
            async with connected(address) as client:
                client.send(LAST)
                if (await client.answer()).status == 200:
                    return


@pytest.mark.parametrize("pieces", [1, 8], ids=["at once", "in pieces"])
async def test_a_head_that_is_too_large_is_refused(address: str, pieces: int):
    head = HEALTH[:-2] + b"X: " + b"x" * (HEAD_BYTES_MAXIMUM + 100) + b"\r\n\r\n"
    length = len(head) // pieces + 1
    async with connected(address) as client:
        for at in range(0, len(head), length):
            client.send(head[at : at + length])
            await client.writer.drain()
        check_problem(await client.answer(), 431, "head_too_large")
        assert await client.rest() == b""


async def test_a_head_without_an_end_is_refused(address: str):
    async with connected(address) as client:
        client.send(HEALTH[:-2] + b"X: " + b"x" * (8 * HEAD_BYTES_MAXIMUM))
        await client.writer.drain()
        client.send(b"x" * (8 * HEAD_BYTES_MAXIMUM))
        check_problem(await client.answer(), 431, "head_too_large")


async def test_a_head_of_too_many_lines_is_refused(address: str):
    lines = b"".join(b"X-%d: 1\r\n" % number for number in range(HEADERS_MAXIMUM))
    [answered] = await exchanged(address, HEALTH[:-2] + lines + b"\r\n")
    check_problem(answered, 431, "head_too_large")


SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", id="length and chunks"),
        pytest.param(b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", id="chunks and length"),
        pytest.param(b"Content-Length: 0\r\nContent-Length: 35\r\n", id="two lengths"),
        pytest.param(b"Content-Length: 0, 35\r\n", id="a list of lengths"),
        pytest.param(b"Content-Length: +0\r\n", id="a length with a sign"),
        pytest.param(b"Content-Length: 0x0\r\n", id="a length in another base"),
        pytest.param(b"Content-Length: -1\r\n", id="a negative length"),
        pytest.param(b"Content-Length: 99999999999999999999999\r\n", id="a length beyond all numbers"),
        pytest.param(b"Transfer-Encoding: chunked, identity\r\n", id="chunks not last"),
        pytest.param(b"Transfer-Encoding: xchunked\r\n", id="an unknown encoding"),
        pytest.param(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", id="chunks twice"),
        pytest.param(b"Transfer-Encoding : chunked\r\n", id="a space before the colon"),
        pytest.param(b"X: 1\r\n Transfer-Encoding: chunked\r\n", id="a folded line"),
        pytest.param(b"X: 1\nTransfer-Encoding: chunked\r\n", id="a line that ends with LF alone"),
        pytest.param(b"X: 1\rTransfer-Encoding: chunked\r\n", id="a line that ends with CR alone"),
        pytest.param(b"X: a\0b\r\n", id="a NUL"),
        pytest.param(b"X\0: 1\r\n", id="a NUL in a name"),
        pytest.param(b": 1\r\n", id="a line without a name"),
        pytest.param(b"Host: y\r\n", id="two hosts"),
        pytest.param(b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n", id="two tokens"),
    ],
)
async def test_what_could_be_read_in_two_ways_is_refused_and_nothing_after_it_is_read(address: str, lines: bytes):
    answers = await exchanged(address, b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n" + SMUGGLED)
    assert [(answer.status, answer.problem.code) for answer in answers] == [(400, "request_malformed")]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET /v1/health HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(b"GET /v1/health HTTP/3.7\r\nHost: x\r\n\r\n", id="a version that does not exist"),
        pytest.param(b"GET /v1/health\r\n\r\n", id="HTTP/0.9"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(b"GET /v1/\xff HTTP/1.1\r\nHost: x\r\n\r\n", id="a path beyond ASCII"),
        pytest.param(b"get /v1/health HTTP/1.1\r\nHost: x\r\n\r\n", id="a method in lower case"),
        pytest.param(b"SHOUT /v1/health HTTP/1.1\r\nHost: x\r\n\r\n", id="a method that does not exist"),
    ],
)
async def test_what_is_no_request_is_refused(address: str, sent: bytes):
    [answered] = await exchanged(address, sent)
    check_problem(answered, 400, "request_malformed")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"TRACE /v1/health", 405),
        (b"PATCH /v1/health", 405),
        (b"CONNECT x:80", 400),
        (b"GET http://x/v1/health", 200),
        (b"GET //v1/health", 400),
        (b"GET /v1/%2fhealth", 400),
        (b"GET /v1/../v1/health", 404),
        (b"GET /v1/%2e%2e/v1/health", 404),
        (b"GET /v1/jobs/%ff", 401),
        (b"GET /%00", 404),
        (b"GET /v1/health?%ff=%ff", 422),
    ],
)
async def test_odd_lines_are_answered_as_what_they_are(address: str, line: bytes, status: int):
    answers = await exchanged(address, LAST.replace(b"GET /v1/health", line))
    assert [answer.status for answer in answers] == [status]


@pytest.mark.parametrize("kind", [b"websocket", b"h2c"])
async def test_who_wants_another_protocol_is_answered_in_this_one_and_nothing_after_it_is_read(
    address: str, kind: bytes
):
    asked = HEALTH[:-2] + b"Connection: Upgrade\r\nUpgrade: " + kind + b"\r\n\r\n"
    [answered] = await exchanged(address, asked + SMUGGLED)
    assert answered.status == 200


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
async def test_a_header_changes_no_method(address: str, header: str):
    [answered] = await exchanged(address, LAST[:-2] + f"{header}: DELETE\r\n\r\n".encode())
    assert answered.status == 200


async def test_requests_that_come_at_once_are_answered_in_order(address: str):
    answers = await exchanged(address, HEALTH + b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n" + LAST)
    assert [answer.status for answer in answers] == [200, 404, 200]


async def test_what_is_no_request_after_one_that_is_ends_the_connection_with_its_answer(address: str):
    [answered] = await exchanged(address, HEALTH + b"nonsense\r\n\r\n" + SMUGGLED)
    assert answered.status == 200


async def test_a_replica_is_asked_by_its_names_alone_where_it_has_some(installation: Installation):
    address = await replica(installation, hosts=frozenset({"moonyard.example", "[::1]"}))
    for host, status in {
        b"moonyard.example": 200,
        b"Moonyard.Example:8400": 200,
        b"[::1]:8400": 200,
        b"[::1]": 200,
        b"other.example": 421,
        b"moonyard.example.other.example": 421,
        b"": 421,
    }.items():
        [answered] = await exchanged(address, LAST.replace(b"Host: x", b"Host: " + host))
        assert answered.status == status, host
        if status != 200:
            check_problem(answered, 421, "host_unknown")


async def test_every_answer_says_how_it_is_to_be_taken(address: str):
    asked = HEALTH + b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED + LAST
    for answered in [*await exchanged(address, asked), *await exchanged(address, b"nonsense\r\n\r\n")]:
        headers = answered.headers
        assert headers["x-content-type-options"] == ["nosniff"]
        assert headers["referrer-policy"] == ["same-origin"]
        assert headers["cross-origin-resource-policy"] == ["same-origin"]
        assert "server" not in headers
        assert "strict-transport-security" not in headers
        if answered.status != 400:
            assert headers["cache-control"] == ["no-store"]
            [policy] = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy


async def test_behind_a_proxy_with_tls_browsers_are_told_to_keep_to_it(installation: Installation):
    address = await replica(installation, trusted_proxies=(addresses.network("127.0.0.0/8"),))
    for proto, said in {b"https": ["max-age=31536000"], b"http": None}.items():
        [answered] = await exchanged(address, LAST[:-2] + b"X-Forwarded-Proto: " + proto + b"\r\n\r\n")
        assert answered.headers.get("strict-transport-security") == said


async def test_no_other_page_is_let_to_ask(address: str):
    asked = (
        b"OPTIONS /v1/jobs HTTP/1.1\r\nHost: x\r\nOrigin: https://other.example\r\n"
        b"Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n"
        b"Connection: close\r\n\r\n"
    )
    for request in (asked, LAST[:-2] + b"Origin: https://other.example\r\n\r\n"):
        [answered] = await exchanged(address, request)
        assert not [name for name in answered.headers if name.startswith("access-control-")]
