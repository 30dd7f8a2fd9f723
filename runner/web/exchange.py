"""One request and its answer: each hop to a place that is allowed, in its turn, and again where that may help.

┌─> try ─> hop ─> answer ── a redirect ──> next hop, without what was for the place before
│                   │
└── pause ── 429, 502, 503, 504, or nobody answered, and tries are left
"""

from __future__ import annotations

import email.utils
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import aiohttp
import anyio
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from multidict import CIMultiDict
from yarl import URL

from runner.web.answers import Answer, taken
from runner.web.ceilings import Ceilings
from runner.web.destinations import Destinations
from runner.web.errors import (
    AnswerTooLarge,
    DestinationRefused,
    RequestFailed,
    RequestTimeout,
    TooManyRedirects,
)
from runner.web.failures import CONNECT_SECONDS, told
from runner.web.rates import HostBuckets, Rate, rate
from runner.web.request import Body, Request

RATE_DEFAULT: Final = "50/s"
CONNECTIONS_MAXIMUM: Final = 200
CONNECTIONS_OF_HOST_MAXIMUM: Final = 32
RETRY_STATUS: Final = frozenset({429, 502, 503, 504})
RETRY_PAUSE_SECONDS: Final = 0.5
RETRY_PAUSE_MAXIMUM: Final = 60.0
WAIT_TOLD_SECONDS: Final = 1.0
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_FOR_ONE_PLACE: Final = ("Authorization", "Proxy-Authorization", "Cookie")

Tell = Callable[[str], Awaitable[None]]


class WebSettings(msgspec.Struct, frozen=True, kw_only=True):
    allowed: list[str] = []
    denied: list[str] = []
    rate: str = RATE_DEFAULT
    """Of all jobs together, to one host."""


class Web:
    """The runner's side of HTTP: one for all its jobs."""

    def __init__(
        self, session: aiohttp.ClientSession, destinations: Destinations, host_rate: Rate, ceilings: Ceilings
    ) -> None:
        self.ceilings = ceilings
        """The limits that all runners share."""
        self._session = session
        self._destinations = destinations
        self._buckets = HostBuckets(host_rate)

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: WebSettings, ceilings: Ceilings | None = None) -> AsyncGenerator[Web]:
        """Have it for the span of a block.

        :param ceilings: those of the orchestrator, where there is one.
        :raises ValueError: when a setting cannot be read.
        """
        destinations = Destinations(settings.allowed, settings.denied)
        host_rate = rate(settings.rate)
        connector = aiohttp.TCPConnector(
            resolver=_Checked(destinations),
            use_dns_cache=False,  # what is connected to is what was just looked at
            limit=CONNECTIONS_MAXIMUM,
            limit_per_host=CONNECTIONS_OF_HOST_MAXIMUM,
        )
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),  # jobs have nothing in common
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            max_line_size=64 * 1024,
            max_field_size=64 * 1024,
        ) as session:
            yield cls(session, destinations, host_rate, ceilings or Ceilings())

    async def fetch(self, request: Request, workspace: Path, tell: Tell) -> Answer:
        """Send a request, and take its answer.

        :param tell: puts what a user should know into the log: waits, tries.
        :raises RequestFailed: when there is no answer, or not all of it.
        :raises JailError: when the answer's file cannot be written.
        """
        for number in range(request.retries + 1):
            is_last = number == request.retries
            try:
                answer = await self._try(request, workspace, tell)
            except (DestinationRefused, AnswerTooLarge, TooManyRedirects):
                raise
            except RequestFailed as error:
                if is_last:
                    raise
                await _pause(number, None, error.message, tell)
                continue
            if is_last or answer.status not in RETRY_STATUS:
                return answer
            why = f"{request.call}: {request.shown(request.url)} answered {answer.status} {answer.reason}"
            await _pause(number, answer.headers.get("retry-after"), why, tell)
        raise AssertionError("the last try gives an answer or an error")

    async def _try(self, request: Request, workspace: Path, tell: Tell) -> Answer:
        method, url, headers, body = request.method, request.url, request.headers, request.body
        started = anyio.current_time()
        for _ in range(request.follow + 1):
            await self._take_turn(request, url, tell)
            status, target = 0, url
            with anyio.move_on_after(request.seconds) as scope, told(request.call, request.shown(url)):
                async with self._hop(request, method, url, headers, body) as response:
                    location = response.headers.get("Location")
                    if not request.follow or response.status not in _REDIRECTS or location is None:
                        return await taken(request, response, workspace, started)
                    status, target = response.status, _target(request, url, location)
            if scope.cancelled_caught:
                raise RequestTimeout(
                    f"{request.call}: {request.shown(url)} gave no whole answer within {request.seconds:g} s",
                    hint="`timeout` sets another time.",
                )
            if status == 303 or (status in {301, 302} and method == "POST"):
                method, body = "GET", None
                headers = [pair for pair in headers if not pair[0].lower().startswith("content-")]
            if target.origin() != url.origin():
                if body is not None and request.is_body_private:
                    raise RequestFailed(
                        f"{request.call}: {request.shown(url)} redirects to {request.shown(target)}, another place, "
                        "and the body holds a secret: it is not sent there",
                        hint="Send the request there at once, if that place may have it.",
                    )
                headers = [
                    pair
                    for pair in headers
                    if pair[0].title() not in _FOR_ONE_PLACE and pair[0].lower() not in request.private_headers
                ]
            url = target
        raise TooManyRedirects(
            f"{request.call}: {request.shown(request.url)} was redirected more than {request.follow} times, "
            f"last to {request.shown(url)}"
        )

    @asynccontextmanager
    async def _hop(
        self, request: Request, method: str, url: URL, headers: list[tuple[str, str]], body: Body | None
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        if request.check is not None:
            assert url.host is not None, "it was looked at"
            assert url.port is not None, "http and https have one"
            request.check(url.host, url.port)
        _check_literal(self._destinations, url)
        async with AsyncExitStack() as opened:
            data = None if body is None else await body(opened)
            response = await opened.enter_async_context(
                self._session.request(
                    method,
                    url,
                    headers=CIMultiDict(headers),
                    data=data,
                    allow_redirects=False,
                    ssl=request.verify,
                )
            )
            yield response

    async def _take_turn(self, request: Request, url: URL, tell: Tell) -> None:
        assert url.host is not None, "it was looked at"
        for bucket, whose in ((request.bucket, "this client"), (self._buckets.of(url.host), f"`{url.host}`")):
            if bucket is None or not (delay := bucket.delay()):
                continue
            if delay >= WAIT_TOLD_SECONDS:
                await tell(f"{request.call} waits {delay:.1f} s: the limit for {whose} is {bucket.rate.text}")
            await anyio.sleep(delay)
        # The last one, so that a permit is used when it is due.
        while (ceiling := self.ceilings.of(url.host)) is not None:
            if await ceiling.take(request.call, url.host, request.seconds, tell):
                return


class _Checked(AbstractResolver):
    """Gives only addresses that may be connected to."""

    def __init__(self, destinations: Destinations) -> None:
        self._destinations = destinations
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for result in found:
            self._destinations.check(host, port, result["host"])
        return found

    async def close(self) -> None:
        await self._resolver.close()


def _check_literal(destinations: Destinations, url: URL) -> None:
    """Look at an address that stands in the URL itself: nobody is asked for it."""
    assert url.host is not None, "it was looked at"
    assert url.port is not None, "http and https have one"
    with suppress(ValueError):
        destinations.check(url.host, url.port, url.host)


def _target(request: Request, url: URL, location: str) -> URL:
    try:
        target = url.join(URL(location))
        if target.scheme in {"http", "https"} and target.host:
            return target
    except ValueError:
        pass
    where = f"`{location[:200]}`, which" if request.private is None else "what"
    raise RequestFailed(f"{request.call}: {request.shown(url)} redirects to {where} is no http URL")


async def _pause(number: int, retry_after: str | None, why: str, tell: Tell) -> None:
    seconds = _asked_for(retry_after)
    if seconds is None:
        seconds = RETRY_PAUSE_SECONDS * 2**number
    seconds = min(seconds, RETRY_PAUSE_MAXIMUM)
    await tell(f"{why}; trying again in {seconds:.1f} s")
    await anyio.sleep(seconds)


def _asked_for(retry_after: str | None) -> float | None:
    """Read ``Retry-After``: seconds, or a time (RFC 9110, 10.2.3)."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    with suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    return None
