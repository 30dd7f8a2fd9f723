"""Whether the kernel killed something of a container for want of memory.

The engine tells of it only when the container's first process was the one killed. The kernel's own count is in the
container's cgroup: ``memory.oom_control`` in version 1, ``memory.events`` in version 2; a hybrid host keeps the first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

COUNTS_BYTES_MAXIMUM: Final = 4096
CGROUPS: Final = Path("/sys/fs/cgroup")


def kill_counter(pid: int, container: str) -> Path | None:
    """Find the file that counts the kills in the cgroup of a container, by its first process, if there is one."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    # A container without a cgroup of its own is in the engine's or in ours, where others are killed too.
    lines = [line for line in lines if container in line]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _existing(CGROUPS / "memory" / path.lstrip("/") / "memory.oom_control")
    for line in lines:
        if line.startswith("0::"):
            return _existing(CGROUPS / line.removeprefix("0::").lstrip("/") / "memory.events")
    return None


def limit(counter: Path | None) -> int | None:
    """Tell how much memory may be used where kills are counted; None where there is no limit, or it is not known."""
    if counter is None:
        return None
    name = "memory.limit_in_bytes" if counter.name == "memory.oom_control" else "memory.max"
    try:
        return int(counter.with_name(name).read_text(encoding="ascii"))
    except (OSError, ValueError):  # the container is gone, or "max"
        return None


def kills(counter: Path | None) -> int:
    """Read how many processes were killed so far; 0 where it cannot be known."""
    return known_kills(counter) or 0


def known_kills(counter: Path | None) -> int | None:
    """Read how many processes were killed so far; None where it cannot be known, or not any more."""
    if counter is None:
        return None
    try:
        with counter.open("rb", buffering=0) as file:  # before each command
            text = file.read(COUNTS_BYTES_MAXIMUM)
    except OSError:
        return None  # the container is gone
    counts = dict(line.split(b" ", 1) for line in text.splitlines() if b" " in line)
    return int(counts.get(b"oom_kill", b"0"))


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None
