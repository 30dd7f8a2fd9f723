"""The HTTP client of the orchestrator's API: how runners and the command line reach a replica.

Several addresses may be given: replicas are alike, so what one does not answer the next one may. An address that
answered is kept until it fails. Every request has a deadline; what fails tells the address and the reason. A request
that came too often (429) is sent again after what the orchestrator says, as long as its deadline allows.
"""

from __future__ import annotations

import io
import logging
import os
import random
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import aiohttp
import anyio
import msgspec

from schema import tracing
from schema.errors import ErrorInfo, MoonyardError
from schema.wire import ProblemDocument

Reply = TypeVar("Reply")

CONNECT_SECONDS: Final = 5.0
REQUEST_SECONDS: Final = 30.0
STREAM_IDLE_SECONDS: Final = 45.0
"""Streams send something, an empty line at least, every 10 s: one that says nothing for this long is dead."""
RATE_LIMITED: Final = "rate_limited"
_ANSWER_BYTES_MAXIMUM: Final = 64 * 1024 * 1024
_WHOLE_BYTES_MAXIMUM: Final = 256 * 1024
_DIGITS_MAXIMUM: Final = 7


def _is_news(record: logging.LogRecord) -> bool:
    """Drop what asyncio says of an upload that was cut: whoever uploads hears it from the request itself.

    aiohttp (3.14) leaves the end of a body to a task of its own, and nobody asks that one how it went.
    """
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, aiohttp.ClientConnectionResetError)


logging.getLogger("asyncio").addFilter(_is_news)


class OrchestratorUnreachable(MoonyardError):
    """No orchestrator could be asked."""

    code = "orchestrator_unreachable"


class OrchestratorRefused(MoonyardError):
    """An orchestrator answered with a problem document."""

    code = "orchestrator_refused"

    def __init__(self, problem: ProblemDocument, address: str, retry_after: float | None = None) -> None:
        super().__init__(problem.detail, code=problem.code, hint=problem.hint, cause=problem.cause)
        self.problem = problem
        self.status = problem.status
        self.address = address
        self.retry_after = retry_after
        """After how many seconds it may be asked again, where it says so."""


class AddressInvalid(MoonyardError):
    """A setting that is no address of an orchestrator."""

    code = "settings_invalid"


class Client:
    """Speaks to the orchestrators under one token."""

    def __init__(
        self, session: aiohttp.ClientSession, addresses: Sequence[str], token: str | None, traceparent: str | None
    ) -> None:
        assert addresses, "a client needs an orchestrator's address"
        self._session = session
        self._addresses = [address.rstrip("/") for address in addresses]
        self._current = 0
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        if traceparent is not None:
            self._headers[tracing.HEADER] = traceparent

    @staticmethod
    @asynccontextmanager
    async def open(
        addresses: Sequence[str],
        token: str | None,
        *,
        traceparent: str | None = None,
        tls_ca: Path | None = None,
    ) -> AsyncGenerator[Client]:
        """Open a client. ``addresses`` are base URLs such as ``http://127.0.0.1:8400``.

        :param traceparent: the trace that all its requests belong to.
        :param tls_ca: a PEM file with who certifies the orchestrators, in place of those that the system trusts.

        :raises AddressInvalid: when one is none, or the file cannot be used.
        :raises MoonyardError: `token_invalid`, when the token could stand in no header.
        """
        for address in addresses:
            _check_address(address)
        if token is not None and not (token.isascii() and token.isprintable()):
            raise MoonyardError(
                "the token that was given is none of Moonyard's: it holds a line break or a character beyond ASCII",
                code="token_invalid",
                hint="Was something else copied with it? A token is one word: moonyard_KIND_ and hexadecimal digits.",
            )
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            connector=aiohttp.TCPConnector(limit=0, ssl=True if tls_ca is None else tls_context(tls_ca)),
            json_serialize=lambda value: msgspec.json.encode(value).decode(),
        ) as session:
            yield Client(session, addresses, token, traceparent)

    def use(self, token: str) -> None:
        """Speak under another token from now on."""
        self._headers = {**self._headers, "Authorization": f"Bearer {token}"}

    @property
    def address(self) -> str:
        """The address that is asked first."""
        return self._addresses[self._current]

    async def get(
        self,
        path: str,
        kind: type[Reply],
        *,
        query: Mapping[str, str | int] | None = None,
        seconds: float = REQUEST_SECONDS,
    ) -> Reply:
        return await self._request("GET", path, kind, query=query, seconds=seconds)

    async def post(
        self, path: str, kind: type[Reply], body: msgspec.Struct | None = None, *, seconds: float = REQUEST_SECONDS
    ) -> Reply:
        data = b"{}" if body is None else msgspec.json.encode(body)
        return await self._request("POST", path, kind, data=data, seconds=seconds)

    async def post_lines(self, path: str, kind: type[Reply], data: bytes, *, query: Mapping[str, str | int]) -> Reply:
        return await self._request("POST", path, kind, data=data, query=query, content_type="application/x-ndjson")

    async def put(self, path: str, kind: type[Reply], data: Any, *, seconds: float) -> Reply:
        """Send a body that is bytes, an open file, or an async iterator of bytes."""
        return await self._request(
            "PUT", path, kind, data=data, content_type="application/octet-stream", seconds=seconds, failover=False
        )

    async def delete(self, path: str, kind: type[Reply]) -> Reply:
        return await self._request("DELETE", path, kind)

    @asynccontextmanager
    async def stream(self, path: str, *, query: Mapping[str, str | int] | None = None) -> AsyncGenerator[Stream]:
        """Open an answer that is read as it comes: followed events, an artifact's bytes."""
        address = self.address
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=STREAM_IDLE_SECONDS)
        gives_up_at = anyio.current_time() + REQUEST_SECONDS
        try:
            while True:
                async with self._session.get(
                    address + path, params=query, headers=self._headers, timeout=timeout
                ) as response:
                    if response.status < 400:
                        yield Stream(response, address)
                        return
                    refusal = await _refusal(response, address)
                await _pause(refusal, gives_up_at)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._try_next()
            raise unreachable(address, error) from error

    async def _request(
        self,
        method: str,
        path: str,
        kind: type[Reply],
        *,
        query: Mapping[str, str | int] | None = None,
        data: Any = None,
        content_type: str = "application/json",
        seconds: float = REQUEST_SECONDS,
        failover: bool = True,
    ) -> Reply:
        headers = self._headers if data is None else {**self._headers, "Content-Type": content_type}
        gives_up_at = anyio.current_time() + (seconds if failover else 0)
        while True:
            try:
                return await self._asked(method, path, kind, query, data, headers, seconds, failover=failover)
            except OrchestratorRefused as refusal:
                await _pause(refusal, gives_up_at)

    async def _asked(
        self,
        method: str,
        path: str,
        kind: type[Reply],
        query: Mapping[str, str | int] | None,
        data: Any,
        headers: Mapping[str, str],
        seconds: float,
        *,
        failover: bool,
    ) -> Reply:
        attempts = len(self._addresses) if failover else 1
        for attempt in range(1, attempts + 1):
            address = self.address
            try:
                with anyio.fail_after(seconds):
                    async with self._session.request(
                        method, address + path, params=query, data=_body(data), headers=headers
                    ) as response:
                        if response.status >= 400:
                            raise await _refusal(response, address)
                        body = await _whole(response)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self._try_next()
                if attempt == attempts or not _never_sent(error, method):
                    raise unreachable(address, error) from error
                continue
            try:
                return msgspec.json.decode(body or b"null", type=kind)
            except msgspec.DecodeError as error:
                raise OrchestratorUnreachable(
                    f"{method} {address}{path} was answered with something that no orchestrator says ({error})",
                    hint="Is the address that of an orchestrator, and of a version that fits?",
                ) from error
        raise AssertionError("every attempt returns or raises")

    def _try_next(self) -> None:
        self._current = (self._current + 1) % len(self._addresses)


class Stream:
    """An answer that is being read."""

    def __init__(self, response: aiohttp.ClientResponse, address: str) -> None:
        self._response = response
        self.address = address
        self.headers: Mapping[str, str] = response.headers

    async def lines(self) -> AsyncIterator[bytes]:
        """Give whole lines without their ends; the empty ones that keep the connection alive are left out."""
        rest = b""
        async for chunk in self._response.content.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line:
                    yield line

    def chunks(self) -> AsyncIterator[bytes]:
        return self._response.content.iter_chunked(256 * 1024)


async def _pause(refusal: OrchestratorRefused, gives_up_at: float) -> None:
    """Wait until a request may be sent again that came too often.

    :raises OrchestratorRefused: when it was refused for another reason, or there is no time to wait.
    """
    pause = refusal.retry_after
    if refusal.code != RATE_LIMITED or pause is None or anyio.current_time() + pause > gives_up_at:
        raise refusal
    await anyio.sleep(pause * random.uniform(1, 1.2))  # noqa: S311  # spreads clients out, hides nothing


def tls_context(tls_ca: Path) -> ssl.SSLContext:
    """Trust those whose certificates a PEM file holds, and nobody else.

    :raises AddressInvalid: when it cannot be used.
    """
    try:
        return ssl.create_default_context(cafile=tls_ca)
    except OSError as error:  # ssl.SSLError is one
        is_none = isinstance(error, ssl.SSLError)
        raise AddressInvalid(
            f"`tls_ca` cannot be used: {tls_ca}: "
            + ("it is no PEM file with certificates" if is_none else (error.strerror or str(error)).lower()),
            hint="It is a PEM file with the certificate of who certifies the orchestrators.",
        ) from error


def unreachable(address: str, error: Exception) -> OrchestratorUnreachable:
    """Say in words why an address did not answer."""
    hint = "Is it running, and is the address right? `moonyard up` starts one; `--orchestrator URL` names another."
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        hint = "Where its authority is one of your own, `tls_ca` (MOONYARD_TLS_CA) names the file with its certificate."
    return OrchestratorUnreachable(f"orchestrator {address} is unreachable ({reason(error)})", hint=hint)


def _check_address(address: str) -> None:
    try:
        parts = urlsplit(address)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and not parts.query
        is_address = is_address and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise AddressInvalid(
            f"`{address}` is not the address of an orchestrator",
            hint="It looks like http://127.0.0.1:8400; it is the setting `orchestrator` (--orchestrator URL).",
        )


def reason(error: BaseException) -> str:
    """Name a connection's failure as people know it."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return f"host name `{error.host}` is not known"
        case aiohttp.ClientConnectorCertificateError():
            return f"its certificate was not accepted: {error.certificate_error}"
        case aiohttp.ClientConnectorSSLError():
            speaks_plainly = "WRONG_VERSION_NUMBER" in str(error)
            return (
                "it does not speak TLS: is it http:// and not https://?" if speaks_plainly else f"TLS failed: {error}"
            )
        case aiohttp.ClientConnectorError() if error.os_error.errno:
            # asyncio's own text is "Connect call failed ('127.0.0.1', 1)"; the number tells why.
            return os.strerror(error.os_error.errno).lower()
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection without an answer"
        case aiohttp.ClientPayloadError():
            return "its answer broke off"
        case TimeoutError():
            return "no answer in time"
        case OSError() if error.strerror:
            return error.strerror.lower()
        case _:
            return str(error) or type(error).__name__


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    """Read an answer to its end: one read gives what has arrived, and a long answer comes in pieces."""
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > _ANSWER_BYTES_MAXIMUM:
            raise aiohttp.ClientPayloadError
        pieces.append(piece)
    return b"".join(pieces)


def _body(data: Any) -> Any:
    """Let large bytes be sent in pieces: aiohttp would write them in one go, and says so in a warning."""
    return io.BytesIO(data) if isinstance(data, bytes) and len(data) > _WHOLE_BYTES_MAXIMUM else data


def _never_sent(error: Exception, method: str) -> bool:
    """Whether a request may be sent to another replica: it did not reach this one, or asking twice changes nothing."""
    return method in {"GET", "DELETE"} or isinstance(error, aiohttp.ClientConnectorError)


async def _refusal(response: aiohttp.ClientResponse, address: str) -> OrchestratorRefused:
    body = await response.content.read(1024 * 1024)
    try:
        problem = msgspec.json.decode(body, type=ProblemDocument)
    except msgspec.DecodeError:
        is_gateway = response.status in {502, 503, 504}
        said = f"{response.status} {response.reason or ''}".rstrip()
        problem = ProblemDocument(
            title=response.reason or "error",
            status=response.status,
            detail=f"{response.method} {response.url} was answered `{said}`, and not by an orchestrator",
            code="orchestrator_unreachable" if is_gateway else "orchestrator_refused",
            hint=(
                f"Something before the orchestrator at {address} answers in its place: is the orchestrator running?"
                if is_gateway
                else f"Is {address} the address of an orchestrator? `{address}/v1/health` tells."
            ),
            cause=_what_it_said(response, body),
        )
    return OrchestratorRefused(problem, address, _retry_after(response))


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < _DIGITS_MAXIMUM else None


def _what_it_said(response: aiohttp.ClientResponse, body: bytes) -> ErrorInfo | None:
    """Give the first line of an answer in plain text; a page for browsers tells nobody anything here."""
    lines = body[:500].decode("utf-8", errors="replace").strip().splitlines()
    is_text = response.content_type in {"text/plain", "application/json"}
    return ErrorInfo(code="answer", message=lines[0]) if lines and is_text else None
