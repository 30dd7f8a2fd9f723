"""What containers get of a machine when nobody says how much."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

MEMORY_RESERVE_SHARE: Final = 0.1
MEMORY_RESERVE_MINIMUM: Final = 256 * 1024 * 1024
TMP_BYTES: Final = 1024 * 1024 * 1024
_MEMORY: Final = Path("/proc/meminfo")
CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN_LIMITS: Final = (CGROUPS / "memory.max", CGROUPS / "memory" / "memory.limit_in_bytes")


def machine_memory() -> int | None:
    """Tell how much memory there is: the machine's, or less where this process is held to less."""
    try:
        lines = _MEMORY.read_text(encoding="ascii").splitlines()
        total = int(next(line for line in lines if line.startswith("MemTotal:")).split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        return None
    for path in _OWN_LIMITS:
        try:
            total = min(total, int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):  # none such here, or "max"
            continue
    return total


def can_limit_memory() -> bool:
    """Tell whether a container's memory can be limited: root always can, others where systemd lets them."""
    user = os.geteuid()
    if user == 0:
        return True
    controllers = CGROUPS / f"user.slice/user-{user}.slice/user@{user}.service/cgroup.controllers"
    try:
        return "memory" in controllers.read_text(encoding="ascii").split()
    except OSError:
        return False


def container_memory() -> int | None:
    """Give the memory that a container may use: all but what the machine itself needs to go on."""
    total = machine_memory()
    if total is None or not can_limit_memory():
        return None
    return max(total - max(MEMORY_RESERVE_MINIMUM, int(total * MEMORY_RESERVE_SHARE)), total // 2)
