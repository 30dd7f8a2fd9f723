"""A disk so small that it can be filled: a file system in memory, mounted for a run."""

from __future__ import annotations

import math
import os
import subprocess
from contextlib import suppress
from pathlib import Path

import anyio

SIZE = "48m"
CHUNK = bytes(64 * 1024)
MOUNT_SECONDS = 30.0
FILL_SECONDS = 0.02


class Disk:
    """Mounted at a folder. Only root can have one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fill = folder / "fill"

    @classmethod
    def mount(cls, folder: Path) -> Disk | None:
        """Mount a small disk; None where that is not for this user."""
        folder.mkdir()
        if os.geteuid() != 0:
            return None
        options = f"size={SIZE},mode=0700"
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "moonyard-chaos", str(folder)], check=True, timeout=MOUNT_SECONDS
        )
        return cls(folder)

    def fill(self) -> None:
        """Leave no byte free at this moment."""
        for chunk in (CHUNK, b"x"):
            with suppress(OSError), self._fill.open("ab", buffering=0) as file:
                while True:
                    file.write(chunk)

    async def keep_full(self, seconds: float = math.inf) -> None:
        """Leave no byte free, whoever removes something, and free it in the end."""
        try:
            with anyio.move_on_after(seconds):
                while True:
                    self.fill()
                    await anyio.sleep(FILL_SECONDS)
        finally:
            self.free()

    def free(self) -> None:
        self._fill.unlink(missing_ok=True)

    def unmount(self) -> None:
        # Somebody may still be in it, when a test broke off: it goes when that one does.
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True, timeout=MOUNT_SECONDS)
