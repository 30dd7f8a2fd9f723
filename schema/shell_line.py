"""What both ends of a shell do alike: make requests again while they fail, and send bytes in their order."""

from __future__ import annotations

from typing import Final, TypeVar

import anyio
import msgspec

from schema.client import Client, OrchestratorRefused, OrchestratorUnreachable
from schema.shells import WAIT_SECONDS, Shell, ShellReceive, ShellReceived, ShellSend, ShellSent

Reply = TypeVar("Reply")

ANSWER_SECONDS: Final = WAIT_SECONDS + 10.0
TRYING_SECONDS: Final = 45.0
"""How long requests may fail before a shell is given up."""
PAUSE_SECONDS: Final = 0.25
PIECE_BYTES: Final = 64 * 1024
BUFFER_BYTES: Final = 2 * PIECE_BYTES


class Line:
    """One end's requests about one shell. All may be made twice: the bytes have positions."""

    def __init__(self, client: Client, path: str) -> None:
        self._client = client
        self._path = path

    async def receive(self, message: ShellReceive) -> ShellReceived:
        return await self.ask("receive", ShellReceived, message)

    async def send(self, message: ShellSend) -> ShellSent:
        return await self.ask("send", ShellSent, message)

    async def tell(self, what: str, message: msgspec.Struct | None = None) -> Shell:
        return await self.ask(what, Shell, message)

    async def ask(self, what: str, kind: type[Reply], message: msgspec.Struct | None) -> Reply:
        """Ask, and ask again, of any replica, for as long as none answers, up to a time.

        :raises OrchestratorUnreachable: when that is over.
        :raises OrchestratorRefused: when one refused.
        """
        deadline = anyio.current_time() + TRYING_SECONDS
        while True:
            try:
                return await self._client.post(f"{self._path}/{what}", kind, message, seconds=ANSWER_SECONDS)
            except (OrchestratorUnreachable, OrchestratorRefused) as error:
                is_refused = isinstance(error, OrchestratorRefused) and error.status < 500
                if is_refused or anyio.current_time() > deadline:
                    raise
            await anyio.sleep(PAUSE_SECONDS)


class Sender:
    """Sends bytes one way: gathered while a request is under way, and bounded, so that a flood waits for its reader."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._pieces: list[tuple[bool, bytearray]] = []
        self._size = 0
        self._position = 0
        self._is_finished = False
        self._changed = anyio.Event()
        self._all_sent = anyio.Event()

    async def write(self, data: bytes, *, is_stderr: bool = False) -> None:
        """Take bytes, as soon as there is room for them."""
        for start in range(0, len(data), PIECE_BYTES):
            while self._size >= BUFFER_BYTES:
                await self._changed.wait()
            part = data[start : start + PIECE_BYTES]
            last = self._pieces[-1] if self._pieces else None
            if last is not None and last[0] == is_stderr and len(last[1]) + len(part) <= PIECE_BYTES:
                last[1].extend(part)
            else:
                self._pieces.append((is_stderr, bytearray(part)))
            self._size += len(part)
            self._change()
        await anyio.lowlevel.checkpoint()

    def finish(self) -> None:
        """Say that nothing more is written."""
        self._is_finished = True
        self._change()

    async def wait_until_sent(self) -> None:
        """Wait until all is sent, and that nothing more comes."""
        await self._all_sent.wait()

    async def run(self) -> None:
        """Send all that is written, until ``finish`` was called."""
        while self._pieces or not self._is_finished:
            if not self._pieces:
                await self._changed.wait()
                continue
            is_stderr, data = self._pieces.pop(0)
            await self._send(bytes(data), is_stderr=is_stderr)
            self._size -= len(data)
            self._change()
        await self._line.send(ShellSend(position=self._position, is_over=True))
        self._all_sent.set()

    async def _send(self, data: bytes, *, is_stderr: bool) -> None:
        end = self._position + len(data)
        while self._position < end:
            # Where nobody reads, the orchestrator lets each wait for a while.
            sent = await self._line.send(ShellSend(position=self._position, data=data, is_stderr=is_stderr))
            self._position = end if sent.state == "ended" else max(self._position, sent.position)

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
