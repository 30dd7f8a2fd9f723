"""The one place that knows lupa: makes a Lua state and starts it on ``lua/boot.lua``.

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

    def receive(self, room_bytes: int) -> bytes | None:
        """Wait for the next frame; None for one larger than ``room_bytes``, which is dropped."""
        ...

    def send(self, frame: bytes) -> None: ...

    def orphaned(self) -> None:
        """End the process if nobody is left to answer to."""
        ...

    def now(self) -> float: ...


def read_sources() -> dict[str, bytes]:
    """Read the Lua side's files, by name without their ending."""
    return {path.stem: path.read_bytes() for path in _FOLDER.glob("*.lua")}


def run(
    host: Host,
    sources: Mapping[str, bytes],
    *,
    memory_bytes: int,
    seed: tuple[int, int],
    load_cpu_seconds: float,
    cpu_seconds: float,
) -> None:
    """Run the Lua side; it returns only by an error, for ``host.receive`` ends the process when its work is done."""
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

    def receive() -> bytes | bool:
        # Lua keeps the frame and, while it decodes, the values made from it. A frame that does not fit would end the
        # process with a panic instead of an error.
        room = (memory_bytes - int(runtime.get_memory_used() or 0)) // 3
        frame = host.receive(room)
        return False if frame is None else frame

    def source_of(name: bytes) -> bytes:
        return sources[name.decode()]

    runtime.execute(
        sources[_BOOT],
        receive,
        host.send,
        host.orphaned,
        host.now,
        *seed,
        load_cpu_seconds,
        cpu_seconds,
        source_of,
        name=b"=[moonyard]",
        mode="t",
    )
