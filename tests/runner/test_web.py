"""HTTP for jobs: where they may connect to, how often, and what comes of a request, with real servers on loopback."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from aiohttp.web_request import Request as Received
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from runner.jail import JailError
from runner.web import rates
from runner.web.answers import Answer
from runner.web.destinations import Destinations, rule
from runner.web.errors import (
    AnswerTooLarge,
    DestinationRefused,
    RequestFailed,
    RequestTimeout,
    TooManyRedirects,
)
from runner.web.exchange import Web, WebSettings
from runner.web.request import Request

Handler = Callable[[Received], Awaitable[web.StreamResponse]]


class Told:
    def __init__(self) -> None:
        self.lines: list[str] = []

    async def __call__(self, text: str) -> None:
        self.lines.append(text)


@asynccontextmanager
async def server(handler: Handler) -> AsyncGenerator[URL]:
    """Have a server for the span of a block; whatever is asked for goes to the handler."""
    application = web.Application(client_max_size=1 << 26)
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port: int = runner.addresses[0][1]
        yield URL(f"http://127.0.0.1:{port}/")
    finally:
        await runner.cleanup()


@pytest.fixture
async def http() -> AsyncGenerator[Web]:
    async with Web.open(WebSettings(allowed=["127.0.0.1"])) as opened:
        yield opened


def request(url: URL, **fields: Any) -> Request:
    chosen: dict[str, Any] = {
        "call": "http.get",
        "method": "GET",
        "url": url,
        "headers": [],
        "body": None,
        "seconds": 20.0,
        "retries": 0,
        "follow": 10,
        "verify": True,
        "bytes_maximum": 1 << 20,
        "to": None,
        "bucket": None,
    }
    return Request(**chosen | fields)


async def fetch(http: Web, workspace: Path, url: URL, **fields: Any) -> Answer:
    return await http.fetch(request(url, **fields), workspace, Told())


REFUSED = [
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "::1", "::", "::ffff:127.0.0.1", "::ffff:7f00:1"),  # noqa: S104
    *("169.254.169.254", "169.254.1.1", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254", "fd00:ec2::254"),
    *(
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "::127.0.0.1",
        "100.100.100.200",
        "224.0.0.1",
        "ff02::1",
    ),
    *("255.255.255.255", "fec0::1", "168.63.129.16"),
]


@pytest.mark.parametrize("address", REFUSED)
def test_addresses_of_the_machine_and_of_the_clouds_credentials_are_refused(address: str) -> None:
    with pytest.raises(DestinationRefused):
        Destinations().check("a.name", 80, address)


@pytest.mark.parametrize("address", ["10.1.2.3", "192.168.0.1", "203.0.113.7", "2001:db8::1", "fd12::1"])
def test_other_addresses_are_not(address: str) -> None:
    Destinations().check("a.name", 80, address)


@given(st.ip_addresses(network="127.0.0.0/8"), st.integers(1, 65535))
def test_no_way_to_write_a_loopback_address_leads_there(address: Any, port: int) -> None:
    number = int(address)
    for written in (str(address), f"::ffff:{address}", f"64:ff9b::{number >> 16:x}:{number & 0xFFFF:x}"):
        with pytest.raises(DestinationRefused):
            Destinations().check(written, port, written)


def test_what_the_owner_allows_goes_before_what_is_denied() -> None:
    rules = Destinations(allowed=["127.0.0.1:8080", "*.inside.example"], denied=["10.0.0.0/8", "*.example"])
    rules.check("localhost", 8080, "127.0.0.1")
    rules.check("a.INSIDE.example.", 443, "10.1.2.3")
    for host, port, address in (
        ("localhost", 8081, "127.0.0.1"),
        ("intranet", 80, "10.9.9.9"),
        ("b.example", 80, "203.0.113.7"),
    ):
        with pytest.raises(DestinationRefused):
            rules.check(host, port, address)
    with pytest.raises(DestinationRefused, match=r"denies `\*`"):
        Destinations(denied=["*"]).check("anywhere", 80, "203.0.113.7")


@pytest.mark.parametrize("text", ["", "a b", "10.0.0.0/33", "1.2.3", "x:0", "x:99999", "[::1", "a/b"])
def test_a_rule_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="`"):
        rule(text)


async def test_a_name_that_leads_to_the_machine_itself_is_refused(workspace: Path) -> None:
    async with Web.open(WebSettings()) as strict:
        for host in ("localhost", "127.0.0.1", "[::1]"):
            with pytest.raises(DestinationRefused):
                await fetch(strict, workspace, URL(f"http://{host}:9/"))
        # What the system would take for an address is refused before it is asked.
        for host in ("2130706433", "0x7f.1", "127.1", "017700000001"):
            with pytest.raises(RequestFailed):
                await fetch(strict, workspace, URL(f"http://{host}:9/"))


async def test_a_redirect_to_the_machine_itself_is_refused(workspace: Path) -> None:
    reached: list[str] = []

    async def inside(received: Received) -> web.StreamResponse:
        reached.append(received.path)
        return web.Response()

    async with server(inside) as hidden:

        async def redirect(received: Received) -> web.StreamResponse:
            host = "localhost" if received.path == "/name" else "127.0.0.1"
            raise web.HTTPFound(hidden.with_host(host))

        async with server(redirect) as url, Web.open(WebSettings(allowed=[f"127.0.0.1:{url.port}"])) as strict:
            for path in ("name", "address"):
                with pytest.raises(DestinationRefused, match=rf"port {hidden.port}: it is the runner's own machine"):
                    await fetch(strict, workspace, url / path)
    assert reached == []


async def test_an_answer_has_status_headers_and_body(http: Web, workspace: Path) -> None:
    async def answer(received: Received) -> web.StreamResponse:
        body = await received.read()
        response = web.Response(body=received.method.encode() + b" " + body, status=201)
        response.headers.add("X-Two", "a")
        response.headers.add("X-Two", "b")
        return response

    async def body(_: AsyncExitStack) -> bytes:
        return b"given"

    async with server(answer) as url:
        got = await fetch(http, workspace, url, method="PUT", body=body)
    assert (got.status, got.reason, got.body) == (201, "Created", b"PUT given")
    assert got.headers["x-two"] == "a, b"
    assert got.size == len(got.body)


async def test_an_answer_goes_into_a_file_whole_or_not_at_all(http: Web, workspace: Path) -> None:
    async def answer(received: Received) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "300000"})
        await response.prepare(received)
        await response.write(b"x" * 100_000)
        if received.path == "/broken":
            assert received.transport is not None
            received.transport.abort()
            return response
        await response.write(b"x" * 200_000)
        return response

    async with server(answer) as url:
        got = await fetch(http, workspace, url, to="out.bin")
        assert (got.size, got.body) == (300_000, b"")
        assert (workspace / "out.bin").read_bytes() == b"x" * 300_000
        (workspace / "out.bin").write_bytes(b"old")
        with pytest.raises(RequestFailed, match=r"broke off in the middle of its answer"):
            await fetch(http, workspace, url / "broken", to="out.bin")
        with pytest.raises(AnswerTooLarge):
            await fetch(http, workspace, url, to="out.bin", bytes_maximum=1000)
        assert (workspace / "out.bin").read_bytes() == b"old"
        (workspace / "away").symlink_to("..")
        with pytest.raises(JailError):
            await fetch(http, workspace, url, to="away/out.bin")
        with pytest.raises(JailError):
            await fetch(http, workspace, url, to="../out.bin")
    assert not any(name.endswith(".part") for name in os.listdir(workspace))  # noqa: PTH208  # three names


async def test_an_answer_that_is_too_large_is_not_taken_whatever_it_says_of_its_size(
    http: Web, workspace: Path
) -> None:
    async def answer(received: Received) -> web.StreamResponse:
        response = web.StreamResponse()
        if received.path == "/packed":
            response.enable_compression(web.ContentCoding.gzip)
        await response.prepare(received)
        for _ in range(64):
            await response.write(b"\0" * (1 << 20))
        return response

    async with server(answer) as url:
        for path in ("plain", "packed"):
            with pytest.raises(AnswerTooLarge, match=r"1048576 are taken"):
                await fetch(http, workspace, url / path)


async def test_what_may_help_later_is_tried_again(http: Web, workspace: Path) -> None:
    asked: list[str] = []

    async def answer(received: Received) -> web.StreamResponse:
        asked.append(received.path)
        if len(asked) == 1:
            return web.Response(status=503, headers={"Retry-After": "0"})
        if len(asked) == 2:
            return web.Response(status=429)
        return web.Response(text="at last")

    told = Told()
    async with server(answer) as url:
        got = await http.fetch(request(url, retries=2), workspace, told)
    assert (got.body, len(asked)) == (b"at last", 3)
    assert "answered 503 Service Unavailable; trying again in 0.0 s" in told.lines[0]
    assert "answered 429 Too Many Requests; trying again in 1.0 s" in told.lines[1]


async def test_what_will_not_help_is_not_tried_again(http: Web, workspace: Path) -> None:
    asked = 0

    async def answer(_: Received) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return web.Response(status=404)

    async with server(answer) as url:
        assert (await fetch(http, workspace, url, retries=5)).status == 404
    assert asked == 1


async def test_redirects_are_followed_as_browsers_do(http: Web, workspace: Path) -> None:
    seen: list[tuple[str, str, str | None, bytes]] = []

    async def answer(received: Received) -> web.StreamResponse:
        seen.append((received.method, received.path, received.headers.get("Authorization"), await received.read()))
        match received.path:
            case "/see-other":
                raise web.HTTPSeeOther("/end")
            case "/again":
                raise web.HTTPTemporaryRedirect("/end")
            case "/round":
                raise web.HTTPFound("/round")
            case _:
                return web.Response(text="end")

    async def body(_: AsyncExitStack) -> bytes:
        return b"b"

    async with server(answer) as url:
        sent = {"method": "POST", "body": body, "headers": [("Authorization", "x")]}
        assert (await fetch(http, workspace, url / "see-other", **sent)).url == str(url / "end")
        assert seen == [("POST", "/see-other", "x", b"b"), ("GET", "/end", "x", b"")]
        seen.clear()
        assert (await fetch(http, workspace, url / "again", **sent)).body == b"end"
        assert seen == [("POST", "/again", "x", b"b"), ("POST", "/end", "x", b"b")]
        assert (await fetch(http, workspace, url / "again", follow=0)).status == 307
        with pytest.raises(TooManyRedirects):
            await fetch(http, workspace, url / "round", follow=3)


async def test_credentials_are_for_the_place_that_they_were_given_for(http: Web, workspace: Path) -> None:
    seen: list[str | None] = []

    async def end(received: Received) -> web.StreamResponse:
        seen.append(received.headers.get("Authorization"))
        seen.append(received.headers.get("Cookie"))
        return web.Response()

    async with server(end) as other:

        async def away(_: Received) -> web.StreamResponse:
            raise web.HTTPTemporaryRedirect(str(other))

        async with server(away) as url:
            await fetch(http, workspace, url, headers=[("authorization", "x"), ("Cookie", "y")])
    assert seen == [None, None]


async def test_who_does_not_answer_in_time_is_told_so(http: Web, workspace: Path) -> None:
    held = asyncio.Event()

    async def answer(_: Received) -> web.StreamResponse:
        await held.wait()
        return web.Response()

    async with server(answer) as url:
        with pytest.raises(RequestTimeout, match=r"gave no whole answer within 0.2 s"):
            await fetch(http, workspace, url, seconds=0.2)
        held.set()


async def test_who_is_not_there_is_told_so(http: Web, workspace: Path, unused_port: int) -> None:
    with pytest.raises(RequestFailed, match=r"cannot be reached: connection refused"):
        await fetch(http, workspace, URL(f"http://127.0.0.1:{unused_port}/?token=hush"))
    with pytest.raises(RequestFailed, match=r"there is no such host"):
        await fetch(http, workspace, URL("http://nobody.invalid/"))


async def test_what_is_no_http_is_told_so(http: Web, workspace: Path) -> None:
    async def speak(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n\r\n")
        await writer.drain()
        writer.close()

    spoken = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with spoken:
        port = spoken.sockets[0].getsockname()[1]
        with pytest.raises(RequestFailed, match=r"no HTTP|without an answer|broke off"):
            await fetch(http, workspace, URL(f"http://127.0.0.1:{port}/"))


async def test_a_rate_spreads_requests_and_says_so(workspace: Path) -> None:
    async def answer(_: Received) -> web.StreamResponse:
        return web.Response()

    told = Told()
    settings = WebSettings(allowed=["127.0.0.1"], rate="1/s")
    async with server(answer) as url, Web.open(settings) as slow, anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(slow.fetch, request(url), workspace, told)
    assert any("waits 2.0 s: the limit for `127.0.0.1` is 1/s" in line for line in told.lines), told.lines


async def test_a_burst_goes_at_once_and_the_rest_in_turn() -> None:
    bucket = rates.Bucket(rates.rate("100/m", 3))
    delays = [bucket.delay() for _ in range(5)]
    assert delays[:3] == [0, 0, 0]
    assert 0.5 < delays[3] <= 0.6
    assert 1.1 < delays[4] <= 1.2


@pytest.mark.parametrize("text", ["", "10", "0/s", "10/d", "-1/s", "1e9/s", "x/s"])
def test_a_rate_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="`"):
        rates.rate(text)


async def test_only_so_many_hosts_are_remembered() -> None:
    buckets = rates.HostBuckets(rates.rate("1/s"))
    first = buckets.of("a")
    assert buckets.of("a") is first
    for number in range(rates.HOSTS_MAXIMUM):
        buckets.of(str(number))
    assert buckets.of("a") is not first
