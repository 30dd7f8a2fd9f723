"""What the parts said in their logs, and how they ended."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.chaos.faults import Happened
from tests.chaos.figures import Figures, Recovery
from tests.chaos.processes import End, Service

STOPPED = re.compile(r"attempt \d+ (?:was stopped|is no longer ours)")
DEFECT = re.compile(r"Traceback \(most recent call last\)|met a defect")
ONLY_TERMINATED = frozenset({signal.SIGTERM})
DRAINED_EXIT_CODE = 0
CANNOT_START_EXIT_CODE = 2
"""A replica that finds no database when it starts ends so, and a runner that finds no room on its disk."""
SLACK_SECONDS = 2.0


def judge_texts(logs: Iterable[Path], figures: Figures) -> None:
    for path in logs:
        text = path.read_text(encoding="utf-8", errors="replace")
        figures.stale_stopped += len(STOPPED.findall(text))
        if defects := len(DEFECT.findall(text)):
            figures.wrong("defects", f"{defects} in {path}", defects)


def judge_ends(services: Iterable[Service], happened: Sequence[Happened], figures: Figures) -> None:
    """See that nothing ended by itself, and that what was told to drain ended well.

    :param services: those that can drain.
    """
    drains: list[float] = []
    for service in services:
        for end in service.ends:
            what = f"{service.name} ended with {end.code} after {end.after_seconds:.1f} s"
            if not end.signals:
                name = f"{service.name}: {end.code}"
                figures.surprises[name] = figures.surprises.get(name, 0) + 1
                if end.code != CANNOT_START_EXIT_CODE or not _could_not_start(service.name, end, happened):
                    figures.wrong("crashes", what)
            elif end.signals == ONLY_TERMINATED and end.was_ready:
                drains.append(end.after_seconds)
                if end.code != DRAINED_EXIT_CODE:
                    figures.wrong("drains_wrong", f"{what}, when it was told to drain")
    figures.drains = Recovery.of(drains) if drains else None


def _could_not_start(name: str, end: End, happened: Sequence[Happened]) -> bool:
    return name.startswith("replica") or any(
        fault.kind == "disk_filled" and fault.target == name and fault.at <= end.at <= fault.until + SLACK_SECONDS
        for fault in happened
    )
