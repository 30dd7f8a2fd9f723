"""The one place that knows lupa: makes a Lua state, puts ``lua/boot.lua`` into it, and lets it serve.

Only bytes, numbers, booleans and nil cross into Lua. A Python object within a script's reach would be a way out, so
the functions handed in here are kept in local variables of Lua files that scripts cannot look into, and none of them
lets an exception through, for that would arrive in Lua as an object.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from lupa import lua54

_FOLDER: Final = Path(__file__).parent / "lua"
_BOOT: Final = "boot"


class Host(Protocol):
    """What the Lua side asks of the process it runs in. None of it may raise."""

    def receive(self, room_bytes: int) -> bytes:
        """Wait for the next frame: its script's number, and the message if that is not larger than ``room_bytes``."""
        ...

    def send(self, frame: bytes) -> None: ...

    def orphaned(self) -> None:
        """End the process if nobody is left to answer to."""
        ...

    def now(self) -> float: ...


def read_sources() -> dict[str, bytes]:
    """Read the Lua side's files, by name without their ending."""
    return {path.stem: path.read_bytes() for path in _FOLDER.glob("*.lua")}


class Prepared:
    """A Lua state with the Lua side in it, and nothing of any pipeline: forked, it serves one."""

    def __init__(
        self, sources: Mapping[str, bytes], *, memory_bytes: int, load_cpu_seconds: float, cpu_seconds: float
    ) -> None:
        # lupa's stubs do not have the options that matter here.
        make: Any = lua54.LuaRuntime
        runtime: Any = make(
            encoding=None,
            source_encoding="utf-8",
            unpack_returned_tuples=False,
            register_eval=False,
            register_builtins=False,
            max_memory=memory_bytes,
        )
        host: Host | None = None

        def attached() -> Host:
            assert host is not None, "the Lua side asks for nothing before it serves"
            return host

        def receive() -> bytes:
            # Lua keeps the frame and, while it decodes, the values made from it. A frame that does not fit would end
            # the process with a panic instead of an error.
            room = (memory_bytes - int(runtime.get_memory_used() or 0)) // 3
            return attached().receive(room)

        def send(frame: bytes) -> None:
            attached().send(frame)

        def orphaned() -> None:
            attached().orphaned()

        def now() -> float:
            return attached().now()

        def source_of(name: bytes) -> bytes:
            return sources[name.decode()]

        def attach(served: Host) -> None:
            nonlocal host
            host = served

        self._attach = attach
        self._serve: Any = runtime.execute(
            sources[_BOOT],
            receive,
            send,
            orphaned,
            now,
            load_cpu_seconds,
            cpu_seconds,
            memory_bytes // 1024**2,
            source_of,
            name=b"=[moonyard]",
            mode="t",
        )

    def serve(self, host: Host, seed: tuple[int, int]) -> None:
        """Answer the host's requests; it returns only by an error, for ``host.receive`` ends the process."""
        self._attach(host)
        self._serve(*seed)
