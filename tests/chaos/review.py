"""Looks at jobs that have ended, each once, and at what became of each that was ever acknowledged.

In a long run old jobs are removed while it lasts, as an operator would have it. They are looked at before that: long
enough after their end for those who sleep to have woken up, and early enough to be there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from uuid import UUID

import msgspec

from orchestrator.settings import OrchestratorSettings
from schema.errors import ErrorInfo, chain
from schema.events import AnyEvent, decode_line
from tests.chaos import records
from tests.chaos.faults import Happened
from tests.chaos.figures import Figures
from tests.chaos.load import Ledger
from tests.chaos.questions import Row, rows

LOSSES_MAXIMUM = OrchestratorSettings(database_url="").losses_maximum
JOBS_AT_ONCE = 200
SLACK_SECONDS = 2.0
"""How long after a fault an attempt may still meet what it did."""

# $1 how long ago it has to have ended, in seconds; $2 those that were looked at
ENDED = """
SELECT id, number, state, attempt, losses, idempotency_key, created_at, finished_at, error FROM moonyard.jobs
WHERE idempotency_key IS NOT NULL -- the load's own
    AND finished_at < now() - make_interval(secs => $1) AND id <> ALL ($2::uuid[])
ORDER BY number
"""
JOBS = """
SELECT id, number, state, attempt, idempotency_key FROM moonyard.jobs WHERE idempotency_key IS NOT NULL
"""
ATTEMPTS = """
SELECT attempt.job_id, attempt.number, attempt.state, attempt.started_at, attempt.finished_at, runner.name AS runner
FROM moonyard.attempts AS attempt JOIN moonyard.runners AS runner ON runner.id = attempt.runner_id
WHERE attempt.job_id = ANY ($1) ORDER BY attempt.job_id, attempt.number
"""
RECORDS = """
SELECT job_id, lines FROM moonyard.event_batches WHERE job_id = ANY ($1) ORDER BY job_id, attempt, next_seq
"""
TOLD_AT_WRONG_TIMES = """
SELECT count(*) FROM moonyard.event_batches
WHERE abs(extract(epoch FROM stored_at - substring(lines FROM '"at":"([^"]+)"')::timestamptz)) > 1800
"""
STAGES = "SELECT job_id, attempt, name, state FROM moonyard.stages WHERE job_id = ANY ($1)"
COMMANDS = "SELECT job_id, attempt, seq, code FROM moonyard.commands WHERE job_id = ANY ($1)"
ARTIFACTS = """
SELECT artifact.job_id, artifact.name, artifact.attempt, blob.sha256,
    (
        SELECT encode(sha256(string_agg(chunk.data, '' ORDER BY chunk.position)), 'hex')
        FROM moonyard.blob_chunks AS chunk WHERE chunk.blob_id = blob.id
    ) AS content_sha256
FROM moonyard.artifacts AS artifact JOIN moonyard.blobs AS blob ON blob.id = artifact.blob_id
WHERE artifact.job_id = ANY ($1)
"""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    state: str
    runner: str
    started_at: datetime
    finished_at: datetime | None


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of a job that was looked at."""

    key: str
    state: str
    attempt: int
    created_at: datetime
    finished_at: datetime
    attempts: list[Attempt]


class Review:
    """Fills in the figures, job by job."""

    def __init__(self, url: str, ledger: Ledger, happened: Sequence[Happened], figures: Figures) -> None:
        self._url = url
        self._ledger = ledger
        self._happened = happened
        self._figures = figures
        self.ended: dict[UUID, Ended] = {}
        """All that was looked at."""

    async def look(self, age_seconds: float = 0.0) -> None:
        """Look at all jobs that ended so long ago and were not looked at yet."""
        found = await rows(self._url, ENDED, age_seconds, list(self.ended))
        for start in range(0, len(found), JOBS_AT_ONCE):
            await self._look_at(found[start : start + JOBS_AT_ONCE])

    async def close(self) -> None:
        """See what became of all that was acknowledged, when every job has ended and was looked at."""
        found = self._figures
        there = {row["id"]: row for row in await rows(self._url, JOBS)}
        found.submitted = len(self._ledger.orders)
        found.acknowledged = len(self._ledger.acknowledged)
        if missing := sorted(self._ledger.orders.keys() - self._ledger.acknowledged.keys()):
            found.wrong("unacknowledged", f"{', '.join(missing[:10])} ...", len(missing))
        found.cancels = len(self._ledger.cancelled)
        found.states = dict(Counter(ended.state for ended in self.ended.values()))
        for key, named in self._ledger.acknowledged.items():
            if len(named) > 1:
                found.wrong("submitted_twice", f"{key} became the jobs {', '.join(sorted(named))}")
            job = UUID(min(named))
            if job in self.ended:
                found.final += 1
            else:
                state = there[job]["state"] if job in there else "not there"
                found.wrong("lost", f"{key} was acknowledged as job {job}, which is {state}")
        for job, row in there.items():
            named = self._ledger.acknowledged.get(row["idempotency_key"], set())
            if named and str(job) not in named:
                found.wrong("submitted_twice", f"job {row['number']} has the key of {', '.join(sorted(named))}")
            was = self.ended.get(job)
            if was is not None and (was.state, was.attempt) != (row["state"], row["attempt"]):
                found.wrong("ends_changed", f"job {row['number']} was {was.state}, and is {row['state']}")
        found.told_at_wrong_times = (await rows(self._url, TOLD_AT_WRONG_TIMES))[0][0]
        found.jobs_removed = len(self.ended.keys() - there.keys())

    async def _look_at(self, jobs: Sequence[Row]) -> None:
        found = self._figures
        ids = [row["id"] for row in jobs]
        attempts: dict[UUID, list[Attempt]] = {job: [] for job in ids}
        for row in await rows(self._url, ATTEMPTS, ids):
            attempts[row["job_id"]].append(msgspec.convert(dict(row), Attempt))
        told: dict[UUID, list[AnyEvent]] = {job: [] for job in ids}
        for row in await rows(self._url, RECORDS, ids):
            told[row["job_id"]] += [decode_line(line) for line in row["lines"].splitlines()]
        stages: dict[UUID, dict[tuple[int, str], str]] = {job: {} for job in ids}
        for row in await rows(self._url, STAGES, ids):
            stages[row["job_id"]][row["attempt"], row["name"]] = row["state"]
        commands: dict[UUID, dict[tuple[int, int], int | None]] = {job: {} for job in ids}
        for row in await rows(self._url, COMMANDS, ids):
            commands[row["job_id"]][row["attempt"], row["seq"]] = row["code"]
        kept: dict[UUID, list[Row]] = {job: [] for job in ids}
        for row in await rows(self._url, ARTIFACTS, ids):
            kept[row["job_id"]].append(row)
        for job in jobs:
            if job["idempotency_key"] not in self._ledger.orders:
                continue  # of somebody else
            here = job["id"]
            self.ended[here] = Ended(
                key=job["idempotency_key"], state=job["state"], attempt=job["attempt"], created_at=job["created_at"],
                finished_at=job["finished_at"], attempts=attempts[here],
            )  # fmt: skip
            record = records.Told(
                number=job["number"], state=job["state"], attempt=job["attempt"], events=told[here],
                attempts={attempt.number: attempt.state for attempt in attempts[here]},
                stages=stages[here], commands=commands[here],
            )  # fmt: skip
            for wrong in records.judge(record, self._ledger.orders[job["idempotency_key"]]):
                found.wrong(wrong.figure, wrong.text, wrong.count)
            found.log_lines += records.lines_of(told[here])
            self._judge_end(job, attempts[here])
            self._judge_attempts(job, attempts[here])
            self._judge_artifacts(job, kept[here])
            self._judge_follow(str(here), told[here])

    def _judge_end(self, job: Row, attempts: list[Attempt]) -> None:
        """See that a job which did not succeed has a reason for it."""
        found = self._figures
        if job["state"] == "succeeded":
            return
        error = msgspec.json.decode(job["error"], type=ErrorInfo) if job["error"] else None
        codes = [] if error is None else [link.code for link in chain(error)]
        match job["state"]:
            case "cancelled":
                is_explained = self._ledger.orders[job["idempotency_key"]].cancelled
            case "lost":
                is_explained = job["losses"] > LOSSES_MAXIMUM
            case _:
                is_explained = bool(attempts) and "internal_error" not in codes and self._broke(attempts[-1])
        if job["state"] != "cancelled":
            name = " < ".join(codes)
            found.failures[name] = found.failures.get(name, 0) + 1
        if not is_explained:
            what = f"job {job['number']} {job['state']} after {job['losses']} losses: {job['error']}"
            found.wrong("unexplained", f"{job['idempotency_key']}, {what}")

    def _broke(self, attempt: Attempt) -> bool:
        """Tell whether a runner had no room on its disk for an attempt: that alone can fail one."""
        end = attempt.finished_at.timestamp() if attempt.finished_at is not None else float("inf")
        return any(
            fault.kind == "disk_filled"
            and fault.target == attempt.runner
            and fault.at <= end
            and attempt.started_at.timestamp() <= fault.until + SLACK_SECONDS
            for fault in self._happened
        )

    def _judge_attempts(self, job: Row, attempts: list[Attempt]) -> None:
        """See that no attempt began before the one before it was over."""
        found = self._figures
        found.attempts += len(attempts)
        found.attempts_lost += sum(attempt.state == "lost" for attempt in attempts)
        for before, after in pairwise(attempts):
            is_over = before.state == "lost" and before.finished_at is not None
            if not is_over or after.number != before.number + 1 or before.finished_at > after.started_at:  # pyright: ignore[reportOptionalOperand]  # it is over
                found.wrong("ran_twice_at_once", f"job {job['number']}: {before}, {after}")

    def _judge_artifacts(self, job: Row, kept: list[Row]) -> None:
        found = self._figures
        found.artifacts += len(kept)
        for row in kept:
            if row["content_sha256"] != row["sha256"]:
                found.wrong("artifacts_wrong", f"job {job['number']}: `{row['name']}` is not what its name says")
        if job["state"] == "succeeded":
            expected = self._ledger.orders[job["idempotency_key"]].artifacts(job["attempt"])
            said = {row["name"]: row["sha256"] for row in kept}
            if said != expected or any(row["attempt"] != job["attempt"] for row in kept):
                found.wrong("artifacts_wrong", f"job {job['number']} kept {kept}, and should have kept {expected}")

    def _judge_follow(self, job: str, told: list[AnyEvent]) -> None:
        lines = self._ledger.followed.get(job)
        if lines is None:
            return
        self._figures.followed += 1
        if [decode_line(line) for line in lines] != told:
            self._figures.wrong("follows_wrong", f"who followed job {job} got {len(lines)} lines of {len(told)}")
