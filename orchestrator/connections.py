"""Connections of clients: how many there may be, and how long each may keep a replica waiting.

uvicorn reads and answers requests; a connection here is uvicorn's with limits that it has not:

- so many connections in all, and from one address: one more is told 503 and closed;
- a request's head has to be whole within a time that counts from its first byte, or from the connection's beginning,
  and may not grow beyond a size; a body has to bring a least number of bytes in each span of time while there is room
  for it here. Otherwise the request is answered 408 or 431, and the connection closed;
- who takes nothing of its answer for a time is cut off. What waits to be taken is bounded all along: uvicorn holds the
  application back while more than 64 KiB do;
- a connection that is being closed has a time to end by itself.

Requests mostly arrive whole, in one piece, and pass without any of this: only connections that leave something to wait
for are looked at, once a second, by one task for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections import Counter
from http import HTTPStatus
from typing import Any, Final, Literal

import anyio
import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from orchestrator import addresses
from orchestrator.settings import EdgeSettings
from schema.wire import PROBLEM_MEDIA_TYPE, ProblemDocument

log: Final = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
HEAD_BYTES_MAXIMUM: Final = 32 * 1024
CLOSING_SECONDS: Final = 10.0
_TOLD_SECONDS: Final = 60.0
"""A replica that is full says so in its log this often, not with each connection that it turns away."""


class Wait(msgspec.Struct):
    """What is waited for, since when, and how much had been received or was left to be taken then."""

    since: float
    size: int


class Connections:
    """All connections of a replica."""

    def __init__(self, settings: EdgeSettings) -> None:
        self._settings = settings
        self._count = 0
        self._by_address: Counter[str] = Counter()
        self._reading: dict[Connection, Wait] = {}
        self._writing: dict[Connection, Wait] = {}
        self._closing: dict[Connection, Wait] = {}
        self._told_at: float | None = None

    def connection(self, **values: Any) -> Connection:
        """Make a connection, as uvicorn asks for one."""
        return Connection(self, **values)

    def admit(self, connection: Connection) -> bool:
        """Count a new connection, and say whether there is room for it."""
        self._count += 1
        host = connection.client[0] if connection.client else addresses.UNKNOWN
        connection.counted_as = None if addresses.is_trusted(host, self._settings.trusted_proxies) else host
        of_address = 0
        if connection.counted_as is not None:
            self._by_address[host] += 1
            of_address = self._by_address[host]
        if of_address > self._settings.connections_per_address > 0:
            self._tell(f"{host} has {of_address - 1} connections, and wants more (`connections_per_address`)")
            return False
        if self._count > self._settings.connections > 0:
            self._tell(f"{self._count - 1} clients are connected, and more want to be (`connections`)")
            return False
        return True

    def forget(self, connection: Connection) -> None:
        """Drop a connection that has ended."""
        self._count -= 1
        if connection.counted_as is not None:
            self._by_address[connection.counted_as] -= 1
            if not self._by_address[connection.counted_as]:
                del self._by_address[connection.counted_as]
        for waits in (self._reading, self._writing, self._closing):
            waits.pop(connection, None)

    def watch_reading(self, connection: Connection, received: int) -> None:
        """Look after a connection that has sent a part of something."""
        self._reading.setdefault(connection, Wait(connection.loop.time(), received))

    def has_read(self, connection: Connection) -> None:
        """Let a connection be that has sent all that there was to wait for."""
        self._reading.pop(connection, None)

    def watch_writing(self, connection: Connection) -> None:
        """Look after a connection whose client has not taken what it was sent."""
        self._writing[connection] = Wait(connection.loop.time(), connection.unsent())

    def has_written(self, connection: Connection) -> None:
        self._writing.pop(connection, None)

    def watch_closing(self, connection: Connection) -> None:
        """Look after a connection that is to end."""
        self._reading.pop(connection, None)
        self._closing.setdefault(connection, Wait(connection.loop.time(), 0))

    async def look_for_ever(self) -> None:
        """End the connections that kept this replica waiting for too long."""
        loop = asyncio.get_running_loop()
        while True:
            await anyio.sleep(LOOK_SECONDS)
            self.look(loop.time())

    def look(self, now: float) -> None:
        for connection, wait in list(self._reading.items()):
            self._look_at_reading(connection, wait, now)
        for connection, wait in list(self._writing.items()):
            left = connection.unsent()
            if left != wait.size:
                self._writing[connection] = Wait(now, left)
            elif now - wait.since >= self._settings.write_seconds:
                log.info("cut %s off: it took nothing of its answer for %.0f s", connection, now - wait.since)
                connection.reset()
        for connection, wait in list(self._closing.items()):
            if now - wait.since >= CLOSING_SECONDS:
                connection.reset()

    def _look_at_reading(self, connection: Connection, wait: Wait, now: float) -> None:
        if connection.awaits == "head":
            if connection.is_answering():
                # It began its next request before the answer to the last one: that is waited for first.
                wait.since = now
            elif now - wait.since >= self._settings.head_seconds:
                connection.refuse(
                    408, code="head_late", detail=f"no whole request came within {self._settings.head_seconds:g} s"
                )
            return
        if connection.flow.read_paused:
            # There was no room for more: it is not the client that is slow.
            self._reading[connection] = Wait(now, connection.received)
        elif now - wait.since >= self._settings.body_seconds:
            came = connection.received - wait.size
            if came < self._settings.body_bytes_minimum:
                within = f"within {self._settings.body_seconds:g} s"
                connection.refuse(
                    408, code="body_late", detail=f"{came} bytes of the request's body came {within}: too few"
                )
            else:
                self._reading[connection] = Wait(now, connection.received)

    def _tell(self, text: str) -> None:
        now = asyncio.get_running_loop().time()
        if self._told_at is None or now - self._told_at >= _TOLD_SECONDS:
            self._told_at = now
            log.warning("connections are turned away: %s", text)


class Connection(HttpToolsProtocol):
    """One client's connection."""

    def __init__(self, all_connections: Connections, **values: Any) -> None:
        super().__init__(**values)
        self._all = all_connections
        self.counted_as: str | None = None
        """The address that it counts for."""
        self.received = 0
        self.awaits: Literal["head", "body", "nothing"] = "head"
        """What is not whole yet."""
        self._head_at = 0
        """How much had been received when the head began, that is awaited."""
        self._is_watched = False
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # as uvicorn's own
        super().connection_made(transport)
        if not self._all.admit(self):
            self.refuse(503, code="connections_exhausted", detail="this replica has as many connections as it may have")
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.forget(self)
        self._is_refused = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        assert self.parser is not None, "uvicorn drops it when the connection is lost"
        self.received += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # There is nothing to change to: what was asked is answered, and nothing after it is read.
            if self.cycle is not None:  # pyright: ignore[reportUnnecessaryComparison]  # uvicorn has None there at first
                self.cycle.keep_alive = False
        except httptools.HttpParserError:
            self.refuse(400, code="request_malformed", detail="the request is no HTTP/1.1")
            return
        if self.awaits == "nothing":
            if self._is_watched:
                self._is_watched = False
                self._all.has_read(self)
            return
        if self.awaits == "head" and self.received - self._head_at > HEAD_BYTES_MAXIMUM:
            self.refuse(
                431, code="head_too_large", detail=f"the request's head is larger than {HEAD_BYTES_MAXIMUM} bytes"
            )
            return
        self._watch()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.awaits = "head"
        self._head_at = self.received

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.awaits = "body"
        if self._is_watched:
            self._is_watched = False
            self._all.has_read(self)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.awaits = "nothing"

    def pause_writing(self) -> None:
        super().pause_writing()
        self._all.watch_writing(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._all.has_written(self)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._all.watch_closing(self)

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._all.watch_closing(self)

    def refuse(self, status: int, *, code: str, detail: str) -> None:
        """Answer what was sent so far with a problem document, where nothing else was answered yet, and close."""
        self._is_refused = True
        if self.pipeline:
            # Several requests wait for their answers, and this would come before them.
            self.transport.abort()
            return
        if self.awaits == "body":
            if not self.cycle.response_started:
                self.transport.write(self._answer(status, code, detail))
            if not self.cycle.response_complete:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
        elif self.is_answering():
            # What is wrong came after a request that is being answered: that answer is the last.
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        else:
            self.transport.write(self._answer(status, code, detail))
        self.transport.close()
        self._all.watch_closing(self)

    def reset(self) -> None:
        """End the connection at once, and keep nothing of what its client has not taken, in the kernel neither."""
        end: socket.socket | None = self.transport.get_extra_info("socket")
        if end is not None:
            with contextlib.suppress(OSError):  # it has ended already
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def is_answering(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]  # uvicorn has None there at first

    def unsent(self) -> int:
        """How many bytes of answers the client has yet to take."""
        return self.transport.get_write_buffer_size()

    def __str__(self) -> str:
        return self.client[0] if self.client else addresses.UNKNOWN

    def _watch(self) -> None:
        if not self._is_watched:
            self._is_watched = True
            self._all.watch_reading(self, self.received)

    def _answer(self, status: int, code: str, detail: str) -> bytes:
        title = HTTPStatus(status).phrase
        body = msgspec.json.encode(ProblemDocument(title=title, status=status, detail=detail, code=code))
        headers = [
            *self.server_state.default_headers,
            (b"content-type", PROBLEM_MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers.append((b"retry-after", b"5"))
        lines = [f"HTTP/1.1 {status} {title}".encode(), *(name + b": " + value for name, value in headers)]
        return b"\r\n".join([*lines, b"", body])
