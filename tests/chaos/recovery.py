"""How long it took until things worked again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.chaos.faults import Happened
from tests.chaos.figures import Recovery
from tests.chaos.review import Ended


def by_fault(happened: Sequence[Happened], ended: Iterable[Ended]) -> dict[str, Recovery]:
    """Tell, by kind of fault, the time from it until something has succeeded that began after it.

    Where a fault struck a runner, that is an attempt on this runner; else a job, from its submit.
    """
    jobs: list[tuple[float, float]] = []
    on_runner: dict[str, list[tuple[float, float]]] = {}
    for job in ended:
        if job.state != "succeeded":
            continue
        jobs.append((job.created_at.timestamp(), job.finished_at.timestamp()))
        last = job.attempts[-1]
        on_runner.setdefault(last.runner, []).append((last.started_at.timestamp(), job.finished_at.timestamp()))
    seconds: dict[str, list[float]] = {}
    for fault in happened:
        after = [end for start, end in on_runner.get(fault.target, jobs) if start > fault.at]
        if after:
            seconds.setdefault(fault.kind, []).append(min(after) - fault.at)
    return {kind: Recovery.of(found) for kind, found in sorted(seconds.items())}


def of_lost_attempts(ended: Iterable[Ended]) -> Recovery | None:
    """Tell the time from the end of attempts that were lost to their jobs' ends."""
    seconds = [
        (job.finished_at - attempt.finished_at).total_seconds()
        for job in ended
        for attempt in job.attempts
        if attempt.state == "lost" and attempt.finished_at is not None
    ]
    return Recovery.of(seconds) if seconds else None
