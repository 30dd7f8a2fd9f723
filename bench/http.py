"""HTTP with as little work as can be: what measures a server shares the machine with it.

A connection is kept open and asks one thing after the other; answers have a length, as the orchestrator's have.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import anyio
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

_HEAD_BYTES_MAXIMUM: Final = 64 * 1024
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Connection:
    """One connection under one token."""

    def __init__(self, stream: SocketStream, token: str) -> None:
        self._stream = stream
        self._answers = BufferedByteReceiveStream(stream)
        self._head = f"HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"

    @staticmethod
    @asynccontextmanager
    async def open(address: str, token: str) -> AsyncGenerator[Connection]:
        """Connect to an address such as ``http://127.0.0.1:8400``."""
        parts = urlsplit(address)
        assert parts.hostname, "an address names a host"
        assert parts.port, "an address of a replica of ours names a port"
        async with await anyio.connect_tcp(parts.hostname, parts.port) as stream:
            yield Connection(stream, token)

    async def post(self, path: str, body: bytes) -> bytes:
        """Send a body and give the answer's.

        :raises RuntimeError: when the answer is an error.
        """
        await self._stream.send(f"POST {path} {self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        head = await self._answers.receive_until(b"\r\n\r\n", _HEAD_BYTES_MAXIMUM)
        length = _LENGTH.search(head)
        assert length is not None, f"an answer without a length: {head!r}"
        answer = await self._answers.receive_exactly(int(length[1])) if int(length[1]) else b""
        if not head.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(f"POST {path} was answered {head.partition(b' ')[2][:40]!r}: {answer[:300]!r}")
        return answer
