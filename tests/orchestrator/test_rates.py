"""How often a token, and an address without one, may ask; and what clients make of being told to wait."""

from __future__ import annotations

import aiohttp
import msgspec
import pytest

from orchestrator import rates
from orchestrator.rates import BURST_SECONDS, Limit
from orchestrator.settings import EdgeSettings
from schema.client import Client, OrchestratorRefused
from schema.wire import Health, JobList, ProblemDocument, Token, TokenCreate
from tests.orchestrator.installation import Installation

ASKED = 30
"""More than a burst at the rate of these tests, and what comes while they are sent."""


def taken(limit: Limit, key: str, now: float, tries: int) -> int:
    """Ask as often as that at one moment; give how often it was let through."""
    count = 0
    for _ in range(tries):
        if not limit.wait(key, now):
            limit.count(key, now)
            count += 1
    return count


def test_a_burst_and_then_the_rate_is_let_through():
    limit = Limit(8)  # an eighth of a second is a number that a computer has
    burst = 8 * int(BURST_SECONDS) + 1
    assert taken(limit, "a", 100.0, 1000) == burst
    assert taken(limit, "b", 100.0, 1000) == burst
    assert limit.wait("a", 100.0) == 0.125
    assert taken(limit, "a", 101.0, 1000) == 8
    assert taken(limit, "a", 1000.0, 1000) == burst


def test_a_rate_of_zero_is_none():
    assert taken(Limit(0), "a", 100.0, 10_000) == 10_000


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rates, "REMEMBERED_MAXIMUM", 100)
    limit = Limit(1)
    assert taken(limit, "busy", 100.0, 3) == 3
    for number in range(1000):
        limit.count(str(number), 100.0 + number)
        assert len(limit._due) <= 100


async def answers(
    address: str, path: str, tokens: list[str | None], count: int = ASKED
) -> list[tuple[int, str | None, bytes]]:
    """Ask again and again, with each token in turn; give the statuses, what they say of later, and the bodies."""
    found: list[tuple[int, str | None, bytes]] = []
    async with aiohttp.ClientSession() as session:
        for number in range(count):
            token = tokens[number % len(tokens)]
            headers = {} if token is None else {"Authorization": token}
            async with session.get(address + path, headers=headers) as response:
                found.append((response.status, response.headers.get("Retry-After"), await response.read()))
    return found


async def test_an_address_without_a_token_may_ask_so_often_and_tokens_go_on(installation: Installation):
    replica = await installation.replica(edge=EdgeSettings(anonymous_rate=1))
    admin = await installation.client()
    await admin.get("/v1/jobs", JobList)
    found = await answers(replica.address, "/v1/health", [None])
    assert {status for status, _, _ in found} == {200, 429}
    assert [status for status, _, _ in found[:5]] == [200] * 5
    status, retry_after, body = next(answer for answer in found if answer[0] == 429)
    problem = msgspec.json.decode(body, type=ProblemDocument)
    assert (problem.status, problem.code, retry_after) == (status, "rate_limited", "1")
    for _ in range(ASKED):
        await admin.get("/v1/jobs", JobList)


@pytest.mark.parametrize("token", ["Bearer nonsense", "Bearer moonyard_admin_" + "0" * 72, "Basic YTpi", "Bearer"])
async def test_a_token_that_is_not_valid_counts_for_its_address(installation: Installation, token: str):
    replica = await installation.replica(edge=EdgeSettings(anonymous_rate=1))
    found = await answers(replica.address, "/v1/jobs", [token])
    assert {status for status, _, _ in found} == {401, 429}


async def test_a_token_may_ask_so_often_and_others_go_on(installation: Installation):
    replica = await installation.replica(edge=EdgeSettings(request_rate=1))
    secret = f"Bearer {installation.admin_secret}"
    assert {status for status, _, _ in await answers(replica.address, "/v1/jobs", [secret])} == {200, 429}
    assert {status for status, _, _ in await answers(replica.address, "/v1/health", [None])} == {200}


async def test_a_token_written_in_many_ways_is_one_token(installation: Installation):
    replica = await installation.replica(edge=EdgeSettings(request_rate=1, anonymous_rate=1))
    ways = [f"Bearer{' ' * number}{installation.admin_secret}" for number in range(1, ASKED + 1)]
    found = [status for status, _, _ in await answers(replica.address, "/v1/jobs", [*ways])]
    assert set(found) == {200, 429}


async def test_a_revoked_token_is_none(installation: Installation):
    replica = await installation.replica(edge=EdgeSettings(anonymous_rate=1))
    admin = await installation.client()
    other = await admin.post("/v1/tokens", Token, TokenCreate(kind="admin", name="other"))
    assert {status for status, _, _ in await answers(replica.address, "/v1/jobs", [f"Bearer {other.secret}"])} == {200}
    await admin.delete(f"/v1/tokens/{other.id}", Token)
    found = await answers(replica.address, "/v1/jobs", [f"Bearer {other.secret}"])
    assert {status for status, _, _ in found} == {401, 429}


async def test_a_client_waits_as_long_as_it_is_told_to(installation: Installation):
    await installation.replica(edge=EdgeSettings(request_rate=4))
    admin = await installation.client()
    for _ in range(ASKED):
        assert (await admin.get("/v1/jobs", JobList)).jobs == []


async def test_a_client_without_the_time_to_wait_says_why_it_was_refused(installation: Installation):
    replica = await installation.replica(edge=EdgeSettings(anonymous_rate=0.01))
    await answers(replica.address, "/v1/health", [None], 1)
    async with Client.open([replica.address], None) as client:
        with pytest.raises(OrchestratorRefused) as raised:
            await client.get("/v1/health", Health)
    assert (raised.value.status, raised.value.code) == (429, "rate_limited")
    assert raised.value.retry_after is not None
    assert raised.value.retry_after > 60
