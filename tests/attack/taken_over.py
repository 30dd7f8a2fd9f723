"""A Lua process that was taken over: the sandbox's own, walls and all, with a hostile program in the place of Lua.

``program()`` gives the words for Python that start a warm parent whose children are such processes. What a child does
is said by the file that it is to load: one that begins with ``-- hostile: NAME`` is answered by the function of that
name in ``native_acts`` or ``frame_acts``; with any other, the process is what it always was.
"""

from __future__ import annotations

import codecs
import importlib
import os
import struct
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn, cast

import msgspec

from sandbox import lua_state, warm_parent
from sandbox.frames import LENGTH_FORMAT, SCRIPT_FORMAT

ROOT: Final = Path(__file__).parents[2]
MARK: Final = "-- hostile: "
ACTS: Final = ("tests.attack.native_acts", "tests.attack.frame_acts")
Act = Callable[["Taken"], None]


def program(user: int | None = None) -> str:
    """Give a program for Python; ``user`` is who the warm parent becomes, where that is not who starts it."""
    return (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.attack import taken_over; taken_over.main({user!r})"
    )


def pipeline(act: str, stages: str = "s") -> str:
    """Write the file of a pipeline that is answered by an act; the file itself is a pipeline, too."""
    listed = ", ".join(f'{{ name = "{name}", script = function() end }}' for name in stages.split())
    return f'{MARK}{act}\nreturn {{ name = "hostile", stages = {{ {listed} }} }}\n'


def main(user: int | None) -> None:
    """Be a warm parent."""
    acts: dict[str, Act] = {}
    for module in map(importlib.import_module, ACTS):
        acts |= module.ACTS
    cast("Any", lua_state).Prepared = partial(Prepared, acts)
    if user is not None:
        codecs.lookup("ascii")  # the folder that it comes from may be closed to the user
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    warm_parent.main()


class Taken:
    """What the program has: the socket to the runner, and the frames that were sent to it."""

    def __init__(self, host: lua_state.Host, first: Mapping[str, Any]) -> None:
        self._host = host
        self._frames = [dict(first)]

    def next_frame(self) -> dict[str, Any]:
        """Wait for a frame; its script's number is ``number`` in it."""
        if self._frames:
            return self._frames.pop()
        return _decoded(self._host.receive(1 << 30))

    def tell(self, op: str, **fields: Any) -> None:
        """Send a frame as the Lua side would."""
        self.raw(msgspec.msgpack.encode({"op": op, **fields}))

    def raw(self, data: bytes) -> None:
        """Send a frame of any bytes."""
        self._host.send(data)

    def bare(self, data: bytes) -> None:
        """Write bytes, with no length before them."""
        os.write(self.descriptor, data)

    def half(self, length: int, data: bytes) -> None:
        """Begin a frame of one length, and write less."""
        self.bare(struct.pack(LENGTH_FORMAT, length) + data)

    @property
    def descriptor(self) -> int:
        return cast("Any", self._host)._connection.fileno()

    def loaded(self, stages: tuple[str, ...] = ("s",), **fields: Any) -> dict[str, Any]:
        """Take the frame that loads, and tell of a pipeline; give the frame that comes then."""
        self.next_frame()
        named = [{"name": stage, "script": _FUNCTION} for stage in stages]
        self.tell("loaded", **({"pipeline": {"name": "hostile", "stages": named}} | fields))
        return self.next_frame()

    def call(self, name: str, *arguments: Any, **fields: Any) -> dict[str, Any]:
        """Make a host call, and wait for its answer."""
        self.tell("call", name=name, arguments=[*arguments, None, None][:2], **fields)
        return self.next_frame()

    def say(self, text: str) -> None:
        self.tell("log", level="info", text=text)


class Prepared:
    """Stands in for a Lua state, and has one."""

    def __init__(self, acts: Mapping[str, Act], *given: Any, **named: Any) -> None:
        self._acts = acts
        self._lua = _LUA(*given, **named)

    def serve(self, host: lua_state.Host, seed: tuple[int, int]) -> NoReturn:
        first = host.receive(1 << 30)
        frame = _decoded(first)
        source = str(frame.get("source", ""))
        if source.startswith(MARK):
            self._acts[source[len(MARK) :].partition("\n")[0]](Taken(host, frame))
            os._exit(0)
        self._lua.serve(_Again(host, first), seed)
        os._exit(1)


class _Again:
    """A host whose first frame was read already."""

    def __init__(self, host: lua_state.Host, first: bytes) -> None:
        self._first: bytes | None = first
        self._host = host
        self.send, self.orphaned, self.now = host.send, host.orphaned, host.now

    def receive(self, room_bytes: int) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return self._host.receive(room_bytes)


def _decoded(frame: bytes) -> dict[str, Any]:
    size = struct.calcsize(SCRIPT_FORMAT)
    decoded: dict[str, Any] = _decoder.decode(frame[size:])
    return {**decoded, "number": int.from_bytes(frame[:size], "big")}


_LUA: Final = lua_state.Prepared
_FUNCTION: Final = msgspec.msgpack.Ext(1, b"\0\0\0\1")
_decoder: Final = msgspec.msgpack.Decoder()
