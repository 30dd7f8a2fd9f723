"""Limits of requests that all runners share: who sets them, how permits go out, and what a runner does with them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from orchestrator.http_limits import PERMITS_MAXIMUM
from runner.web.ceilings import Ceilings
from runner.web.errors import RequestTimeout
from runner.web.exchange import Web, WebSettings
from schema.client import Client, OrchestratorRefused
from schema.wire import (
    Claim,
    Claimed,
    Heartbeat,
    HeartbeatAnswer,
    HttpCeiling,
    HttpLimit,
    HttpLimitList,
    HttpLimitRemove,
    HttpLimitRemoved,
    HttpLimitSet,
    HttpPermits,
    HttpPermitsTake,
)
from tests.chaos.proxy import Proxy, to_port
from tests.orchestrator.installation import DEADLINE_SECONDS, Installation, SpokenRunner
from tests.postgres import psql
from tests.runner.test_web import Told, fetch, request, server

URL = "/v1/http-limits"


async def limit(installation: Installation, host: str, rate: str, burst: int | None = None) -> HttpLimit:
    admin = await installation.client()
    return await admin.post(URL, HttpLimit, HttpLimitSet(host=host, rate=rate, burst=burst))


async def take(runner: SpokenRunner, host: str, wanted: int = 1) -> HttpPermits:
    return await runner.client.post("/v1/runner/http/permits", HttpPermits, HttpPermitsTake(host=host, wanted=wanted))


async def test_limits_are_set_listed_and_removed_and_the_audit_says_by_whom(installation: Installation):
    await installation.replica()
    made = await limit(installation, "API.Example.org.", "50/s")
    assert (made.host, made.rate, made.burst, made.set_by) == ("api.example.org", "50/s", 50, "token test")
    await limit(installation, "*.example.org", "30 / m", 5)
    await limit(installation, "api.example.org", "10/s")
    admin = await installation.client()
    listed = (await admin.get(URL, HttpLimitList)).limits
    assert [(one.host, one.rate, one.burst) for one in listed] == [
        ("*.example.org", "30/m", 5),
        ("api.example.org", "10/s", 10),
    ]
    message = HttpLimitRemove(host="*.Example.org")
    assert (await admin.post(f"{URL}/remove", HttpLimitRemoved, message)).host == "*.example.org"
    with pytest.raises(OrchestratorRefused) as raised:
        await admin.post(f"{URL}/remove", HttpLimitRemoved, message)
    assert (raised.value.status, raised.value.code) == (404, "http_limit_unknown")
    rows = await installation.fetch("SELECT actor, action, subject FROM moonyard.audit WHERE action LIKE '%http%'")
    assert [tuple(row) for row in rows] == [
        ("token test", "set http limit", "host api.example.org"),
        ("token test", "set http limit", "host *.example.org"),
        ("token test", "set http limit", "host api.example.org"),
        ("token test", "remove http limit", "host *.example.org"),
    ]


@pytest.mark.parametrize(
    ("host", "rate", "burst"),
    [
        *[(host, "1/s", None) for host in ("", "http://a.b", "a.b:80", "a b", "-a", "a/b", "ä", "a\0", "a" * 300)],
        *[("a.b", rate, None) for rate in ("", "fast", "1", "0/s", "-1/s", "1/d", "1e9/s", "9999999/s", "0.01/h")],
        *[("a.b", "1/s", burst) for burst in (0, -1, 1_000_001)],
    ],
)
async def test_what_is_no_limit_is_refused_whole(installation: Installation, host: str, rate: str, burst: int | None):
    await installation.replica()
    with pytest.raises(OrchestratorRefused) as raised:
        await limit(installation, host, rate, burst)
    assert raised.value.status in {400, 422}, raised.value.problem
    assert await installation.fetch("SELECT FROM moonyard.http_limits") == []


async def test_there_are_no_more_limits_than_runners_can_hear_of(installation: Installation):
    await installation.replica()
    await installation.fetch(
        "INSERT INTO moonyard.http_limits (host, rate, interval_seconds, burst, set_by) "
        "SELECT 'host-' || number, '1/s', 1, 1, 'test' FROM generate_series(1, 1000) AS number"
    )
    with pytest.raises(OrchestratorRefused, match="1,000 limits"):
        await limit(installation, "a.b", "1/s")
    assert (await limit(installation, "host-1", "2/s")).rate == "2/s", "one that is there can be changed"


async def test_an_operator_sets_and_sees_limits_in_psql(installation: Installation):
    replica = await installation.replica()
    set_it = "SELECT control.set_http_limit('*.example.org', '20/s', burst => 3)"
    assert psql(installation.url, set_it, "-At", role="moonyard_operator") == "*.example.org: 20/s, 3 at once\n"
    shown = psql(installation.url, "SELECT host, rate, burst, permits FROM inspect.http_limits", "-AtF", " ")
    assert shown == "*.example.org 20/s 3 0\n"
    # What was set by another way than through this replica is seen at its next look.
    with anyio.fail_after(DEADLINE_SECONDS):
        while replica.parts.http_limits.known != [HttpCeiling(host="*.example.org", rate="20/s")]:  # noqa: ASYNC110
            await anyio.sleep(0.05)
    psql(installation.url, "SELECT control.remove_http_limit('*.example.org')", role="moonyard_operator")
    assert psql(installation.url, "SELECT * FROM inspect.http_limits", "-At") == ""
    with pytest.raises(subprocess.CalledProcessError):
        psql(installation.url, set_it, role="moonyard_reader")


async def test_runners_hear_of_limits_with_claims_and_heartbeats(installation: Installation):
    await installation.replica()
    runner = await installation.runner()
    claim = Claim(slots=1, wait=0.0, capacity=1, version="test")
    assert (await runner.client.post("/v1/runner/claim", Claimed, claim)).http_limits == []
    await limit(installation, "a.b", "1/s")
    told = [HttpCeiling(host="a.b", rate="1/s")]
    assert (await runner.client.post("/v1/runner/claim", Claimed, claim)).http_limits == told
    heartbeat = Heartbeat(holding=[])
    assert (await runner.client.post("/v1/runner/heartbeat", HeartbeatAnswer, heartbeat)).http_limits == told


async def test_runners_take_turns_whatever_each_of_them_wants(installation: Installation):
    await installation.replica()
    await limit(installation, "a.b", "1/m")
    one, two = await installation.runner("one"), await installation.runner("two")
    batches = [await take(one, "a.b", 500), await take(two, "a.b"), await take(one, "a.b", 500)]
    assert [batch.granted for batch in batches] == [1, 1, 1], "no more than come in a second, and at least one"
    # Each batch begins where the one before ends; the clock went on in between.
    for number, batch in enumerate(batches):
        assert 60 * number - 30 < batch.delay <= 60 * number
    assert psql(installation.url, "SELECT permits FROM inspect.http_limits", "-At") == "3\n"


async def test_a_batch_is_what_comes_in_a_second_and_a_burst_goes_first(installation: Installation):
    await installation.replica()
    await limit(installation, "a.b", "20/s", 10)
    runner = await installation.runner()
    batch = await take(runner, "a.b", PERMITS_MAXIMUM)
    assert (batch.granted, batch.interval, batch.rate) == (20, 0.05, "20/s")
    assert batch.delay == pytest.approx(-9 * 0.05)


async def test_permits_are_for_runners_and_for_limits_that_there_are(installation: Installation):
    await installation.replica()
    runner = await installation.runner()
    with pytest.raises(OrchestratorRefused, match="no limit for"):
        await take(runner, "a.b")
    for wanted in (0, PERMITS_MAXIMUM + 1):
        with pytest.raises(OrchestratorRefused, match="has to be from 1 to"):
            await take(runner, "a.b", wanted)
    admin = await installation.client()
    with pytest.raises(OrchestratorRefused) as raised:
        await admin.post("/v1/runner/http/permits", HttpPermits, HttpPermitsTake(host="a.b", wanted=1))
    assert raised.value.status == 403


async def test_the_limit_that_says_most_holds(installation: Installation):
    await installation.replica()
    ceilings = Ceilings(await installation.client())
    hosts = ("*", "*.example.org", "api.example.org", "*.api.example.org", "::1")
    ceilings.hear([HttpCeiling(host=host, rate=f"{number}/s") for number, host in enumerate(hosts, 1)])
    found = {
        host: one.rate
        for host in ("elsewhere", "www.example.org", "API.example.org", "x.api.example.org", "::1")
        if (one := ceilings.of(host)) is not None
    }
    assert list(found.values()) == ["1/s", "2/s", "3/s", "4/s", "5/s"]
    ceilings.hear([])
    assert ceilings.of("api.example.org") is None


class Site:
    """A server that counts, a limit for it, and what asks it with permits that come through a proxy."""

    def __init__(self, http: Web, proxy: Proxy, ceiling: HttpCeiling) -> None:
        self.http = http
        self.proxy = proxy
        self.ceiling = ceiling
        self.served = 0

    async def serve(self, _request: web.Request) -> web.Response:
        self.served += 1
        return web.Response(text="served")


@pytest.fixture
async def site(installation: Installation):
    replica = await installation.replica()
    made = await limit(installation, "127.0.0.1", "20/s", 1)
    runner = await installation.runner()

    async def connect() -> Any:
        return await to_port(int(replica.address.rpartition(":")[2]))

    proxy = Proxy("to the orchestrator", connect)
    async with anyio.create_task_group() as tasks:
        await tasks.start(proxy.serve)
        async with Client.open([proxy.address], runner.registered.token) as client:
            ceilings = Ceilings(client)
            ceiling = HttpCeiling(host=made.host, rate=made.rate)
            ceilings.hear([ceiling])
            async with Web.open(WebSettings(allowed=["127.0.0.1"], rate="1000/s"), ceilings) as http:
                yield Site(http, proxy, ceiling)
        tasks.cancel_scope.cancel()


async def test_requests_go_at_the_limits_rate_and_permits_are_asked_for_in_batches(
    site: Site, installation: Installation, tmp_path: Path
):
    began = anyio.current_time()
    async with server(site.serve) as url, anyio.create_task_group() as tasks:
        for _ in range(41):
            tasks.start_soon(fetch, site.http, tmp_path, url)
    assert site.served == 41
    assert anyio.current_time() - began >= 40 / 20, "no machine is too slow for this"
    metrics = await installation.replicas[0].parts.metrics.text(installation.database)
    [asked] = [line for line in metrics.decode().splitlines() if "http/permits" in line and "_requests_total" in line]
    assert float(asked.rpartition(" ")[2]) <= 8, "some of a batch may lapse on a busy machine"
    # One after the other, the first asks for one, and then for ever more.
    async with server(site.serve) as url:
        for _ in range(10):
            await fetch(site.http, tmp_path, url)


async def test_a_host_without_a_limit_costs_nothing(site: Site, tmp_path: Path):
    site.proxy.refuse()
    site.proxy.cut()
    site.http.ceilings.hear([HttpCeiling(host="*.example.org", rate="1/h")])
    async with server(site.serve) as url:
        assert (await fetch(site.http, tmp_path, url)).body == b"served"


async def test_without_an_orchestrator_a_request_waits_as_long_as_it_may_and_says_so(site: Site, tmp_path: Path):
    site.proxy.refuse()
    site.proxy.cut()
    told = [Told(), Told()]

    async with server(site.serve) as url:

        async def ask(number: int) -> None:
            with pytest.raises(RequestTimeout, match=r"could not be asked: orchestrator .* is unreachable") as raised:
                await site.http.fetch(request(url, seconds=1.5 + number), tmp_path, told[number])
            assert raised.value.code == "http_timeout"

        async with anyio.create_task_group() as tasks:
            for number in range(2):
                tasks.start_soon(ask, number)
    assert site.served == 0
    for number, one in enumerate(told):
        assert any(f"waits for up to {1.5 + number:g} s for a permit" in line for line in one.lines), one.lines


async def test_a_request_goes_on_when_the_orchestrator_answers_again(site: Site, tmp_path: Path):
    site.proxy.refuse()
    site.proxy.cut()
    told: list[str] = []

    async def tell(words: str) -> None:
        told.append(words)
        site.proxy.heal()

    async with server(site.serve) as url:
        assert (await site.http.fetch(request(url, seconds=60.0), tmp_path, tell)).body == b"served"
    assert "which the orchestrator hands out" in told[0]


async def test_a_limit_that_is_removed_or_raised_holds_nobody_up(
    site: Site, installation: Installation, tmp_path: Path
):
    await limit(installation, "127.0.0.1", "1/h", 1)
    site.http.ceilings.hear([HttpCeiling(host="127.0.0.1", rate="1/h")])
    admin = await installation.client()
    first, second = anyio.Event(), anyio.Event()

    async def tell_first(words: str) -> None:
        assert words.endswith("the limit of all runners for `127.0.0.1` is 1/h")
        first.set()

    async def tell_second(words: str) -> None:
        assert words == "http.get waits behind 1: the limit of all runners for `127.0.0.1` is 1/h"
        second.set()

    async with server(site.serve) as url:
        await fetch(site.http, tmp_path, url)
        for raised in (True, False):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(site.http.fetch, request(url), tmp_path, tell_first)
                with anyio.fail_after(DEADLINE_SECONDS):
                    await first.wait()
                tasks.start_soon(site.http.fetch, request(url), tmp_path, tell_second)
                with anyio.fail_after(DEADLINE_SECONDS):
                    await second.wait()
                if raised:
                    await limit(installation, "127.0.0.1", "100/s", 1)
                    site.http.ceilings.hear([HttpCeiling(host="127.0.0.1", rate="100/s")])
                else:
                    await admin.post(f"{URL}/remove", HttpLimitRemoved, HttpLimitRemove(host="127.0.0.1"))
                    site.http.ceilings.hear([])
            if raised:
                assert site.served == 3
                first, second = anyio.Event(), anyio.Event()
                await limit(installation, "127.0.0.1", "1/h", 1)
                site.http.ceilings.hear([HttpCeiling(host="127.0.0.1", rate="1/h")])
                await fetch(site.http, tmp_path, url)
    assert site.served == 6
