"""The HTTP client of the orchestrator's API: how runners and the command line reach a replica.

Several addresses may be given: replicas are alike, so what one does not answer the next one may. An address that
answered is kept until it fails. Every request has a deadline; what fails tells the address and the reason.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
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
_ANSWER_BYTES_MAXIMUM: Final = 64 * 1024 * 1024
_WHOLE_BYTES_MAXIMUM: Final = 256 * 1024


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

    def __init__(self, problem: ProblemDocument, address: str) -> None:
        super().__init__(problem.detail, code=problem.code, hint=problem.hint, cause=problem.cause)
        self.problem = problem
        self.status = problem.status
        self.address = address


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
        addresses: Sequence[str], token: str | None, *, traceparent: str | None = None
    ) -> AsyncGenerator[Client]:
        """Open a client. ``addresses`` are base URLs such as ``http://127.0.0.1:8400``.

        :param traceparent: the trace that all its requests belong to.

        :raises AddressInvalid: when one is none.
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
            connector=aiohttp.TCPConnector(limit=0),
            json_serialize=lambda value: msgspec.json.encode(value).decode(),
        ) as session:
            yield Client(session, addresses, token, traceparent)

    @property
    def address(self) -> str:
        """The address that is asked first."""
        return self._addresses[self._current]

    async def get(self, path: str, kind: type[Reply], *, query: Mapping[str, str | int] | None = None) -> Reply:
        return await self._request("GET", path, kind, query=query)

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
        try:
            async with self._session.get(
                address + path, params=query, headers=self._headers, timeout=timeout
            ) as response:
                if response.status >= 400:
                    raise await _refusal(response, address)
                yield Stream(response, address)
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


def unreachable(address: str, error: Exception) -> OrchestratorUnreachable:
    """Say in words why an address did not answer."""
    return OrchestratorUnreachable(
        f"orchestrator {address} is unreachable ({reason(error)})",
        hint="Is it running, and is the address right? `moonyard up` starts one; `--orchestrator URL` names another.",
    )


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
    return OrchestratorRefused(problem, address)


def _what_it_said(response: aiohttp.ClientResponse, body: bytes) -> ErrorInfo | None:
    """Give the first line of an answer in plain text; a page for browsers tells nobody anything here."""
    lines = body[:500].decode("utf-8", errors="replace").strip().splitlines()
    is_text = response.content_type in {"text/plain", "application/json"}
    return ErrorInfo(code="answer", message=lines[0]) if lines and is_text else None
