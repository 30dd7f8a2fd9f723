"""What a command used of the machine: processor time, and the most memory its container had meanwhile.

The kernel counts both for a container's cgroup as a whole, so they are a command's own only while it runs alone there.
The peak of memory can be set back before a command: ``memory.max_usage_in_bytes`` in version 1; ``memory.peak`` in
version 2, for who holds it open, since Linux 6.12. Where it cannot, a peak that did not rise tells nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from runner.engine.memory import CGROUPS

NANOSECONDS: Final = 1e-9
MICROSECONDS: Final = 1e-6


class Usage:
    """What one command used; None for what is not known."""

    def __init__(self) -> None:
        self.cpu_seconds: float | None = None
        self.memory_peak_bytes: int | None = None


class Meter:
    """The counters of one container."""

    def __init__(self, cpu_seconds: Callable[[], float] | None, peak: Path | None) -> None:
        self._cpu_seconds = cpu_seconds
        self._peak = peak

    @classmethod
    def of(cls, pid: int, container: str) -> Meter:
        """Find the counters of a container, by its first process, as far as this machine has them."""
        cpu_seconds: Callable[[], float] | None = None
        peak: Path | None = None
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()
        except OSError:
            lines = []
        # Version 1 comes first: on a hybrid host its controllers are the ones that count.
        for line in sorted((line for line in lines if container in line), key=lambda line: line.startswith("0::")):
            _, controllers, path = line.split(":", 2)
            names = controllers.split(",")
            folder = CGROUPS / path.lstrip("/")
            if "cpuacct" in names and cpu_seconds is None:
                cpu_seconds = _counter(CGROUPS / "cpuacct" / path.lstrip("/") / "cpuacct.usage")
            if "memory" in names and peak is None:
                peak = _existing(CGROUPS / "memory" / path.lstrip("/") / "memory.max_usage_in_bytes")
            if not controllers:
                cpu_seconds = cpu_seconds or _statistic(folder / "cpu.stat")
                peak = peak or _existing(folder / "memory.peak")
        return cls(cpu_seconds, peak)

    def start(self) -> Callable[[Usage], None]:
        """Begin to measure; what this gives ends it, and fills in what was used."""
        cpu_before = None if self._cpu_seconds is None else _read(self._cpu_seconds)
        peak = None if self._peak is None else Peak.begin(self._peak)

        def end(usage: Usage) -> None:
            if cpu_before is not None and self._cpu_seconds is not None:
                cpu_after = _read(self._cpu_seconds)
                usage.cpu_seconds = None if cpu_after is None else round(max(cpu_after - cpu_before, 0.0), 6)
            if peak is not None:
                usage.memory_peak_bytes = peak.end()

        return end


class Peak:
    """The most memory from one moment on."""

    def __init__(self, descriptor: int, before: int) -> None:
        self._descriptor = descriptor
        self._before = before
        """What the file said already; 0 where it was set back."""

    @classmethod
    def begin(cls, file: Path) -> Peak | None:
        try:
            try:
                descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
            except PermissionError:
                descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        with suppress(OSError):
            os.write(descriptor, b"0" if file.name == "memory.max_usage_in_bytes" else b"reset")
            return cls(descriptor, 0)
        try:
            return cls(descriptor, int(os.pread(descriptor, 64, 0)))
        except OSError:
            os.close(descriptor)
            return None

    def end(self) -> int | None:
        try:
            peak = int(os.pread(self._descriptor, 64, 0))
        except OSError:
            return None  # the container is gone
        finally:
            os.close(self._descriptor)
        return peak if peak > self._before else None


def _counter(file: Path) -> Callable[[], float] | None:
    return (lambda: int(file.read_bytes()) * NANOSECONDS) if file.exists() else None


def _statistic(file: Path) -> Callable[[], float] | None:
    def read() -> float:
        return int(dict(line.split() for line in file.read_text().splitlines())["usage_usec"]) * MICROSECONDS

    return read if file.exists() else None


def _read(counter: Callable[[], float]) -> float | None:
    try:
        return counter()
    except OSError:
        return None  # the container is gone


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None
