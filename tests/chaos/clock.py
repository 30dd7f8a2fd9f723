"""A clock of one process's own, that can be made to jump: Debian's libfaketime, which reads how far from a file.

Only the time of day jumps. The clock that deadlines go by does not, as it does not when a machine's time is set.
"""

from __future__ import annotations

from pathlib import Path

LIBRARY = "/usr/$LIB/faketime/libfaketimeMT.so.1"
"""The loader puts in what `$LIB` is on this machine."""
PLACES = ("/usr/lib", "/usr/lib64")
CACHE_SECONDS = 1
"""How soon a jump is seen."""
PATCH = Path(__file__).parent / "clock_patch"


class Clock:
    def __init__(self, file: Path) -> None:
        self._file = file
        self.jump(0)

    @classmethod
    def make(cls, file: Path) -> Clock | None:
        """Make a clock; None where there is no libfaketime."""
        found = (match for place in PLACES for match in Path(place).glob("**/faketime/libfaketimeMT.so.1"))
        return cls(file) if next(found, None) is not None else None

    def environment(self, python_path: str) -> dict[str, str]:
        """Give what a process has to be started with."""
        return {
            "LD_PRELOAD": LIBRARY,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": str(CACHE_SECONDS),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": f"{PATCH}:{python_path}",
        }

    def jump(self, seconds: int) -> None:
        """Set it so far from the right time."""
        # Half a file must not be read.
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n", encoding="ascii")
        new.rename(self._file)
