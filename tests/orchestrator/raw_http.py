"""HTTP as bytes: for what no library would send, and for reading what comes back exactly."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio
import msgspec

from schema.wire import ProblemDocument
from tests.orchestrator.installation import DEADLINE_SECONDS

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Ended(Exception):
    """The connection ended, and no answer was begun."""


class Answered(msgspec.Struct, frozen=True):
    status: int
    headers: dict[str, list[str]]
    body: bytes

    @property
    def problem(self) -> ProblemDocument:
        found = msgspec.json.decode(self.body, type=ProblemDocument)
        assert found.status == self.status
        return found


class RawConnection:
    """One connection to a replica."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> Answered:
        """Read one answer.

        :raises Ended: when there is none.
        """
        with anyio.fail_after(DEADLINE_SECONDS):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    raise
                raise Ended from error
            length = _LENGTH.search(head)
            body = await self.reader.readexactly(int(length[1])) if length else b""
        status, *lines = head.decode("latin-1").rstrip().split("\r\n")
        headers: dict[str, list[str]] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers.setdefault(name.lower(), []).append(value.strip())
        return Answered(int(status.split()[1]), headers, body)

    async def rest(self) -> bytes:
        """Read all that comes until the replica closes the connection."""
        with anyio.fail_after(DEADLINE_SECONDS):
            return await self.reader.read()


@asynccontextmanager
async def connected(address: str, tls: ssl.SSLContext | None = None) -> AsyncGenerator[RawConnection]:
    """Connect to a replica."""
    parts = urlsplit(address)
    with anyio.fail_after(DEADLINE_SECONDS):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=tls)
    try:
        yield RawConnection(reader, writer)
    finally:
        writer.transport.abort()


async def exchanged(address: str, data: bytes) -> list[Answered]:
    """Send bytes over a connection of their own; give all answers, until the replica closes it."""
    async with connected(address) as connection:
        connection.send(data)
        answers = [await connection.answer()]
        while not connection.reader.at_eof():
            # An end shows only when one reads on; what is broken off before it is an error.
            with contextlib.suppress(Ended):
                answers.append(await connection.answer())
    return answers
