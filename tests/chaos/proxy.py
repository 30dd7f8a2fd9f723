"""A TCP proxy that does to connections what networks do: cuts them, slows them, holds them, loses an answer."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal

import anyio
import anyio.abc
from anyio.abc import ByteStream, SocketAttribute, SocketStream

BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)
CHUNK_BYTES = 65536
ANSWER_BYTES_MAXIMUM = 65536
LINGER_NOT = struct.pack("ii", 1, 0)
"""A close with this setting is a reset."""


class Server:
    """A connection to where a proxy leads. asyncio's own: anyio's Unix sockets (4.16) say untrue things when cut."""

    def __init__(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        self._reader, self._writer = streams

    async def receive(self) -> bytes:
        data = await self._reader.read(CHUNK_BYTES)
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def reset(self) -> None:
        self._writer.transport.abort()


Connect = Callable[[], Awaitable[Server]]


async def to_port(port: int) -> Server:
    return Server(await asyncio.open_connection("127.0.0.1", port))


async def to_unix_socket(path: str) -> Server:
    return Server(await asyncio.open_unix_connection(path))


class Trap:
    """Lets one request through, and loses the answer to it."""

    def __init__(self, request: bytes, answer: bytes = b"", *, passes: bytes | None = None) -> None:
        self.request = request
        """How the request starts."""
        self.answer = answer
        """The answer is complete enough to be judged when it has this in it."""
        self.passes = passes
        """An answer with this in it is none to lose: the next one is waited for."""
        self.sprung = anyio.Event()

    def judge(self, answer: bytes) -> Literal["wait", "lose", "pass"]:
        """Say what becomes of an answer of which this much has come."""
        is_refusal = answer.startswith(b"HTTP/") and not answer.startswith(b"HTTP/1.1 2")
        if is_refusal or (self.passes is not None and self.passes in answer):
            return "pass"
        return "lose" if self.answer in answer or len(answer) > ANSWER_BYTES_MAXIMUM else "wait"


class Proxy:
    """Relays connections to one place, as well as it was told."""

    def __init__(self, name: str, connect: Connect) -> None:
        self.name = name
        self.port = 0
        self.delay_seconds = 0.0
        self._connect = connect
        self._flowing = anyio.Event()
        self._flowing.set()
        self._refusing = False
        self._links: set[anyio.CancelScope] = set()
        self._traps: list[Trap] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            self.port = int(listener.extra(SocketAttribute.local_port))  # noqa: S610  # not Django's
            task_status.started()
            await listener.serve(self._relay)

    def cut(self) -> int:
        """Cut all connections; give how many there were."""
        count = len(self._links)
        for link in self._links:
            link.cancel()
        return count

    def refuse(self) -> None:
        """Take no new connections."""
        self._refusing = True

    def hold(self) -> None:
        """Let nothing through, and say nothing: a cable that was pulled."""
        if self._flowing.is_set():
            self._flowing = anyio.Event()

    def release(self) -> None:
        """Let through what comes."""
        self._flowing.set()

    def heal(self) -> None:
        """Work as a proxy should."""
        self.release()
        self._refusing = False
        self.delay_seconds = 0.0
        self._traps.clear()

    def set_trap(self, trap: Trap) -> None:
        self._traps.append(trap)

    def take_away(self, trap: Trap) -> None:
        with suppress(ValueError):
            self._traps.remove(trap)

    async def _relay(self, client: ByteStream) -> None:
        assert isinstance(client, SocketStream)
        try:
            if self._refusing:
                raise ConnectionRefusedError  # as if nobody listened there
            server = await self._connect()
        except OSError:
            await _reset(client)
            return
        link = anyio.CancelScope()
        caught: list[Trap] = []
        self._links.add(link)
        try:
            with link:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._ask, client, server, caught, link)
                    tasks.start_soon(self._answer, server, client, caught, link)
        finally:
            self._links.discard(link)
            server.reset()
            with anyio.CancelScope(shield=True):
                await _reset(client)

    async def _ask(self, client: SocketStream, server: Server, caught: list[Trap], link: anyio.CancelScope) -> None:
        with suppress(*BROKEN):
            while True:
                data = await client.receive(CHUNK_BYTES)
                for trap in list(self._traps):
                    if data.startswith(trap.request) and not caught:
                        self._traps.remove(trap)
                        caught.append(trap)
                await self._pass(server, data)
        # The client has gone: the server is to see that at once, as it would without a proxy.
        link.cancel()

    async def _answer(self, server: Server, client: SocketStream, caught: list[Trap], link: anyio.CancelScope) -> None:
        with suppress(*BROKEN):
            held = b""
            while True:
                held += await server.receive()
                if caught:
                    trap = caught[0]
                    match trap.judge(held):
                        case "wait":
                            continue
                        case "lose":
                            trap.sprung.set()
                            link.cancel()
                            return
                        case "pass":
                            caught.clear()
                            self._traps.append(trap)
                await self._pass(client, held)
                held = b""
        link.cancel()

    async def _pass(self, stream: SocketStream | Server, data: bytes) -> None:
        if self.delay_seconds:
            await anyio.sleep(self.delay_seconds)
        await self._flowing.wait()
        await stream.send(data)


async def _reset(client: SocketStream) -> None:
    raw: socket.socket = client.extra(SocketAttribute.raw_socket)  # noqa: S610  # not Django's
    with suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
    with suppress(*BROKEN):
        await client.aclose()
