"""What a process has used of the machine, as the kernel tells it (proc(5))."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PROC: Final = Path("/proc")


def cpu_seconds(pid: int) -> float:
    """Give the processor time of a process and all that it started and that lives."""
    return sum(_cpu_seconds(one) for one in (pid, *descendants(pid)))


def resident_kib(pid: int) -> int:
    """Give how much memory a process holds now."""
    return _status(pid, "VmRSS")


def peak_kib(pid: int) -> int:
    """Give how much memory a process held at most since its start."""
    return _status(pid, "VmHWM")


def descendants(pid: int) -> list[int]:
    """Find all processes below one."""
    found: list[int] = []
    for task in (_PROC / str(pid) / "task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *descendants(child)]
    return found


def command_line(pid: int) -> list[str]:
    """Give a process's arguments; none for one that has ended."""
    try:
        return (_PROC / str(pid) / "cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


def _cpu_seconds(pid: int) -> float:
    # The program's name, in parentheses, may hold anything.
    fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _status(pid: int, field: str) -> int:
    for line in (_PROC / str(pid) / "status").read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    raise ValueError(f"process {pid} tells no {field}: it has ended")
