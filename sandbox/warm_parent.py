"""The warm parent: a small process that has everything loaded and forks a Lua process in a few milliseconds.

It is started afresh (never forked from the runner, whose memory holds tokens), with an empty environment, has no
threads, and listens to one socket: the runner sends ``Fork`` with a descriptor, or ``Kill``; it tells
``Ended`` for each child. When the runner closes the socket, or dies, it kills what is left and ends: a child is not
asked to, for it may be no more what it was.
"""

from __future__ import annotations

import contextlib
import ctypes.util  # imported for what it loads: nothing can be imported once the walls stand
import gc
import os
import select
import signal
import socket
import sys
import traceback
from typing import Final

import msgspec

from sandbox import child, lua_state, wall
from sandbox.frames import Ended, Fork, Kill, encoder, to_parent

MESSAGE_BYTES_MAXIMUM: Final = 4096
PRELOADED: Final = (ctypes.util, traceback)


class WarmParent:
    """Forks and watches Lua processes. The kernel tells by a process's descriptor when it has ended."""

    def __init__(self, control: socket.socket, limits: wall.Limits) -> None:
        self._control = control
        self._limits = limits
        # No pipeline's code ever runs in this process; its children find the Lua side ready.
        self._prepared = lua_state.Prepared(
            lua_state.read_sources(),
            memory_bytes=limits.lua_bytes,
            load_cpu_seconds=limits.load_cpu_seconds,
            cpu_seconds=limits.cpu_seconds,
        )
        self._call_filter = wall.build_call_filter()
        self._layers = wall.no_layers()
        self._mapped_bytes = wall.mapped_bytes()
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._children: dict[int, tuple[int, int]] = {}
        """By process descriptor: token and process id."""

    def serve(self) -> None:
        self._nothing = os.open(os.devnull, os.O_RDWR)
        wall.separate(self._layers)
        # A collection would touch all that is there, and each child would copy it; a job's process makes no cycles.
        gc.collect()
        gc.disable()
        try:
            while self._serve_once():
                pass
        finally:
            self._kill_all()

    def _serve_once(self) -> bool:
        for descriptor, _ in self._poll.poll():
            if descriptor != self._control.fileno():
                self._tell_end(descriptor)
            elif not self._answer():
                return False
        return True

    def _answer(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES_MAXIMUM, 1)
        if not data:
            return False
        match to_parent.decode(data):
            case Fork(token):
                self._fork(token, socket.socket(fileno=descriptors[0]))
            case Kill(token):
                for known, pid in self._children.values():
                    if known == token:
                        os.kill(pid, signal.SIGKILL)
        return True

    def _fork(self, token: int, connection: socket.socket) -> None:
        pid = os.fork()
        if pid == 0:
            child.main(
                connection,
                nothing=self._nothing,
                layers=self._layers,
                limits=self._limits,
                shared_bytes=self._mapped_bytes,
                call_filter=self._call_filter,
                prepared=self._prepared,
            )
        connection.close()
        descriptor = os.pidfd_open(pid)
        self._children[descriptor] = (token, pid)
        self._poll.register(descriptor, select.POLLIN)

    def _tell_end(self, descriptor: int) -> None:
        token, pid = self._children.pop(descriptor)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        self._control.send(encoder.encode(Ended(token, os.waitstatus_to_exitcode(status))))

    def _kill_all(self) -> None:
        for _, pid in self._children.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def main() -> None:
    """Serve the socket whose descriptor is the first argument, under the limits in the second."""
    # The terminal's Ctrl-C is for the runner, which decides what becomes of its jobs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    limits = msgspec.json.decode(sys.argv[2], type=wall.Limits)
    with contextlib.suppress(ConnectionError):
        WarmParent(control, limits).serve()
