"""What a run found, as the one JSON object that it prints."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

MUST_BE_ZERO = (
    *(
        "unacknowledged",
        "lost",
        "submitted_twice",
        "unexplained",
        "ends_changed",
        "ran_twice_at_once",
        "over_limit",
        "stale_accepted",
    ),
    *("log_lines_missing", "log_lines_doubled", "records_disordered", "rows_wrong", "artifacts_wrong"),
    *("follows_wrong", "answers_wrong", "ended_early", "leftovers", "reached_too_far", "secrets_told"),
    *("drains_wrong", "crashes", "defects", "tables_growing"),
)


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, of so many times."""

    count: int
    p50: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Recovery:
        return cls(count=len(seconds), p50=round(statistics.median(seconds), 2), max=round(max(seconds), 2))


class TableSize(msgspec.Struct, kw_only=True):
    """How large a table was, with its indexes: at most in the run's second quarter, at most in its last, and then."""

    middle_bytes: int
    late_bytes: int
    end_bytes: int


class Figures(msgspec.Struct, kw_only=True):
    """What was found. Whatever promises something says so in ``MUST_BE_ZERO``."""

    broken: list[str] = []
    """The figures that have to be zero and are not."""
    stubborn: list[str] = []
    """Parts that did not stop when they were told to, after everything."""
    seconds: float = 0.0
    seed: int = 0
    rate: float = 0.0

    submitted: int = 0
    acknowledged: int = 0
    unacknowledged: int = 0
    """Submits that nobody took, though they were sent again and again and nothing was broken any more."""
    final: int = 0
    lost: int = 0
    """Acknowledged jobs that are not there, or came to no end."""
    submitted_twice: int = 0
    """Idempotency keys that became more than one job."""
    states: dict[str, int] = {}
    failures: dict[str, int] = {}
    """Codes of jobs that did not succeed, with those of their causes."""
    unexplained: int = 0
    """Jobs whose end nothing that was done to them explains."""
    ends_changed: int = 0
    """Jobs that had ended, and are something else now."""
    cancels: int = 0
    """Acknowledged cancels; a job may have succeeded before its runner heard of it."""
    attempts: int = 0
    attempts_lost: int = 0
    ran_twice_at_once: int = 0
    over_limit: int = 0
    """Looks that saw more jobs of a group under way than it may have."""
    stale_stopped: int = 0
    """Attempts that a runner stopped, for they were no longer its own."""
    stale_tried: int = 0
    stale_accepted: int = 0
    told_at_wrong_times: int = 0
    """Batches of events from a runner whose clock had jumped: they count as any others."""
    log_lines: int = 0
    log_lines_missing: int = 0
    log_lines_doubled: int = 0
    records_disordered: int = 0
    """Jobs whose events are not numbered without a gap, end twice, or stand in another order than they were told."""
    rows_wrong: int = 0
    """Jobs whose stages or commands, as people see them in psql, are not those of their record."""
    artifacts: int = 0
    artifacts_wrong: int = 0
    followed: int = 0
    follows_wrong: int = 0
    answers: int = 0
    answers_wrong: int = 0
    """Jobs of which the API tells something else than Postgres, and answers that speak of a defect."""
    looks: int = 0
    """How often it was looked whether what has ended is gone."""
    ended_early: int = 0
    """Attempts that were told to have ended while something of theirs ran, or their workspace was there."""
    leftovers: int = 0
    reached_too_far: int = 0
    """Lines of jobs that found something that is not theirs."""
    secrets_told: int = 0
    """Places where a token stands that has no business there."""
    drains: Recovery | None = None
    """From SIGTERM to the end of a replica or runner."""
    drains_wrong: int = 0
    """Parts that were told to drain and did not end well."""
    crashes: int = 0
    """Parts that ended though nobody had ended them, but for replicas that found no database when they started."""
    defects: int = 0
    """Stack traces and defects in the logs of the parts."""
    tables: dict[str, TableSize] = {}
    tables_growing: int = 0
    """Tables that grew on though old jobs were removed; judged in long runs alone."""
    jobs_removed: int = 0
    """By their age; they had been looked at before."""
    settled_seconds: float = 0.0
    cleared_seconds: float = 0.0
    lost_attempt_to_end_seconds: Recovery | None = None
    """From the end of an attempt that was lost to its job's end."""
    recovery_seconds: dict[str, Recovery] = {}
    """From a fault until a job has succeeded that was submitted after it; where it struck a runner, on that runner."""
    kills: dict[str, int] = {}
    refusals: dict[str, int] = {}
    """What submitters were told while they tried again."""
    surprises: dict[str, int] = {}
    """Ends that nobody had asked for, by part and exit code."""
    details: list[str] = []
    """What is wrong, in words."""

    def wrong(self, name: str, text: str, count: int = 1) -> None:
        """Count what must not be, and say it."""
        assert name in MUST_BE_ZERO, name
        setattr(self, name, getattr(self, name) + count)
        self.details.append(f"{name}: {text}")

    def judge(self) -> list[str]:
        """Name the promises that were broken."""
        self.broken = [name for name in MUST_BE_ZERO if getattr(self, name)]
        if self.stubborn:
            self.broken.append("stubborn")
        return self.broken
