"""A Lua process, from the fork to its end: raises the walls, and answers the runner's frames.

It holds one descriptor, its end of a socket pair. Frames are MessagePack with four bytes of length before each; Lua
itself writes and reads them, so that no Python object stands between. The process ends when the other end is closed.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import time
from typing import Final, NoReturn

import msgspec

from sandbox import lua_state, wall
from sandbox.frames import LENGTH_FORMAT, SCRIPT_FORMAT, Failed, Ready
from schema.errors import ErrorInfo

EXIT_OVER: Final = 0
EXIT_DEFECT: Final = 70


class Host:
    """The socket as the Lua side sees it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._watch = select.poll()
        self._watch.register(connection, select.POLLHUP | select.POLLERR)

    def receive(self, room_bytes: int) -> bytes:
        try:
            (length,) = struct.unpack(LENGTH_FORMAT, self._read(struct.calcsize(LENGTH_FORMAT)))
            if length <= room_bytes:
                return self._read(length)
            script = self._read(struct.calcsize(SCRIPT_FORMAT))
            length -= len(script)
            while length:
                length -= len(self._read(min(length, 65536)))
        except BaseException:  # noqa: BLE001  # nothing may reach Lua
            os._exit(EXIT_DEFECT)
        return script

    def _read(self, length: int) -> bytes:
        parts: list[bytes] = []
        while length:
            part = self._connection.recv(min(length, 1 << 20))
            if not part:
                os._exit(EXIT_OVER)
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def send(self, frame: bytes) -> None:
        try:
            self._connection.sendall(struct.pack(LENGTH_FORMAT, len(frame)) + frame)
        except BaseException:  # noqa: BLE001  # nothing may reach Lua
            os._exit(EXIT_OVER)

    def orphaned(self) -> None:
        try:
            if any(events & (select.POLLHUP | select.POLLERR) for _, events in self._watch.poll(0)):
                os._exit(EXIT_OVER)
        except BaseException:  # noqa: BLE001  # nothing may reach Lua
            os._exit(EXIT_DEFECT)

    def now(self) -> float:
        return time.time()


def main(
    connection: socket.socket,
    *,
    nothing: int,
    layers: wall.Layers,
    limits: wall.Limits,
    shared_bytes: int,
    call_filter: bytes | None,
    prepared: lua_state.Prepared,
) -> NoReturn:
    """Be a Lua process. Never returns, and runs no clean-up of the parent's on its way out.

    :param nothing: a descriptor of /dev/null.
    """
    host = Host(connection)
    try:
        wall.leave_descriptors(connection.fileno(), nothing)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        seed = struct.unpack("=qq", os.urandom(16))
        wall.confine(layers, limits, shared_bytes, call_filter)
        host.send(msgspec.msgpack.encode(Ready(raised=layers.raised, missing=layers.missing)))
        prepared.serve(host, (seed[0], seed[1]))
    except BaseException as defect:  # noqa: BLE001  # the last word of a process that has no log
        message = f"a Lua process met a defect: {type(defect).__name__}: {defect}"
        host.send(msgspec.msgpack.encode(Failed(error=ErrorInfo(code="sandbox_failed", message=message))))
    os._exit(EXIT_DEFECT)
