"""Holds a container's processes still, so that none starts another while they are looked at.

The kernel does it for a whole cgroup: ``freezer.state`` in version 1, ``cgroup.freeze`` in version 2. The engine's own
`pause` does the same and takes longer. A signal that comes meanwhile is taken when the processes go on.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from runner.engine.memory import CGROUPS

FREEZE_SECONDS: Final = 2.0


class Freezer:
    def __init__(self, switch: Path, state: Path, on: str, off: str, reached: str) -> None:
        self._switch = switch
        self._state = state
        self._on, self._off, self._reached = on, off, reached

    @classmethod
    def of(cls, pid: int, container: str) -> Freezer | None:
        """Find the freezer of a container, by its first process; None where there is none that may be used."""
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()
        except OSError:
            return None
        # A container without a cgroup of its own is in the engine's or in ours, which is not to be frozen.
        lines = [line for line in lines if container in line]
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if "freezer" in controllers.split(","):
                state = CGROUPS / "freezer" / path.lstrip("/") / "freezer.state"
                return cls(state, state, "FROZEN", "THAWED", "FROZEN") if state.exists() else None
        for line in lines:
            if line.startswith("0::/"):
                folder = CGROUPS / line.removeprefix("0::/")
                if (folder / "cgroup.freeze").exists():
                    return cls(folder / "cgroup.freeze", folder / "cgroup.events", "1", "0", "frozen 1")
        return None

    @contextmanager
    def held(self) -> Generator[bool]:
        """Hold the processes still, as far as that can be had; tells whether it could."""
        try:
            yield self._freeze()
        finally:
            with suppress(OSError):  # the container is gone
                self._switch.write_text(self._off, encoding="utf-8")

    def _freeze(self) -> bool:
        deadline = time.monotonic() + FREEZE_SECONDS
        try:
            while time.monotonic() < deadline:
                # Version 1 wants to be told again while a process is just being started.
                self._switch.write_text(self._on, encoding="utf-8")
                if self._reached in self._state.read_text(encoding="utf-8"):
                    return True
                time.sleep(0.001)
        except OSError:
            pass
        return False
