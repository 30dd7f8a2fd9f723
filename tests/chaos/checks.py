"""Asks from the outside whether the promises were kept: Postgres, the API, the engine, the process table."""

from __future__ import annotations

import random
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any
from uuid import UUID

import anyio
import anyio.to_thread
import asyncpg
import msgspec

from orchestrator.settings import OrchestratorSettings
from schema.client import Client, OrchestratorRefused, OrchestratorUnreachable
from schema.errors import ErrorInfo, chain
from schema.events import AnyEvent, JobEvent, LogEvent, decode_line, encode_line
from schema.states import FINAL_JOB_STATES
from schema.wire import Artifact, ArtifactList, ArtifactSave, EventsAccepted, Heartbeat, HeartbeatAnswer, Holding, Job
from tests.chaos.faults import Happened
from tests.chaos.installation import Installation
from tests.chaos.load import Load
from tests.chaos.pipelines import Order

SAMPLE_SECONDS = 0.25
SETTLE_SECONDS = 120.0
CLEAR_SECONDS = 60.0
ASKED_BY_API = 30
STALE_TRIED_MAXIMUM = 60
LOSSES_MAXIMUM = OrchestratorSettings(database_url="").losses_maximum

MUST_BE_ZERO = (
    *("lost", "submitted_twice", "unexplained", "ran_twice_at_once", "stale_accepted", "log_lines_missing"),
    *("log_lines_doubled", "records_disordered", "artifacts_wrong", "follows_wrong", "answers_wrong", "leftovers"),
)
EXPLAINED: dict[str, frozenset[str]] = {
    "lua_killed": frozenset({"sandbox_failed", "sandbox_lost"}),
    "warm_parent_killed": frozenset({"sandbox_failed", "sandbox_lost"}),
    "engine_killed": frozenset({"engine_lost", "engine_unavailable", "container_gone", "container_start_failed"}),
}
"""With which codes a job may fail for which faults. Nothing else may fail one."""

JOBS = """
SELECT id, number, state, attempt, losses, idempotency_key, finished_at, error FROM moonyard.jobs
WHERE idempotency_key IS NOT NULL -- the load's own
"""
ATTEMPTS = """
SELECT attempt.job_id, attempt.number, attempt.state, attempt.started_at, attempt.finished_at, attempt.next_seq,
    attempt.runner_id, job.finished_at AS job_finished_at
FROM moonyard.attempts AS attempt JOIN moonyard.jobs AS job ON job.id = attempt.job_id
WHERE job.idempotency_key IS NOT NULL
ORDER BY attempt.job_id, attempt.number
"""
RECORDS = "SELECT job_id, lines FROM moonyard.event_batches ORDER BY job_id, attempt, next_seq"
LIVE_TWICE = """
SELECT job_id FROM moonyard.attempts WHERE state = 'running' GROUP BY job_id HAVING count(*) > 1
"""
UNSETTLED = "SELECT count(*) FROM moonyard.jobs WHERE state IN ('queued', 'running')"
FINGERPRINT = """
SELECT md5(string_agg(job::text || coalesce(batches, ''), '' ORDER BY job.id)) FROM moonyard.jobs AS job LEFT JOIN (
    SELECT job_id,
        string_agg(attempt || ':' || next_seq || ':' || md5(lines), ',' ORDER BY attempt, next_seq) AS batches
    FROM moonyard.event_batches GROUP BY job_id
) AS record ON record.job_id = job.id
"""

STOPPED = re.compile(r"attempt \d+ (?:was stopped|is no longer ours)")

Row = asyncpg.Record


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds from a fault until the next job succeeded."""

    count: int
    p50: float
    max: float


class Figures(msgspec.Struct, kw_only=True):
    """What was found. All that has to be zero says so in ``broken``."""

    submitted: int = 0
    acknowledged: int = 0
    final: int = 0
    lost: int = 0
    """Acknowledged jobs that are not there, or came to no end."""
    submitted_twice: int = 0
    """Idempotency keys that became more than one job."""
    states: dict[str, int] = {}
    failures: dict[str, int] = {}
    unexplained: int = 0
    """Jobs whose end nothing that was done to them explains."""
    cancels: int = 0
    """Acknowledged cancels; a job may have succeeded before its runner heard of it."""
    attempts: int = 0
    attempts_lost: int = 0
    ran_twice_at_once: int = 0
    stale_stopped: int = 0
    """Attempts that a runner stopped, for they were no longer its own."""
    stale_tried: int = 0
    stale_accepted: int = 0
    log_lines: int = 0
    log_lines_missing: int = 0
    log_lines_doubled: int = 0
    records_disordered: int = 0
    """Jobs whose events are not numbered without a gap, end twice, or stand in another order than they were told."""
    artifacts: int = 0
    artifacts_wrong: int = 0
    followed: int = 0
    follows_wrong: int = 0
    answers_wrong: int = 0
    """Jobs of which the API tells something else than Postgres."""
    leftovers: int = 0
    settled_seconds: float = 0.0
    cleared_seconds: float = 0.0
    lost_attempt_to_end_seconds: Recovery | None = None
    """From the end of an attempt's lease to its job's end."""
    recovery_seconds: dict[str, Recovery] = {}
    kills: dict[str, int] = {}
    refusals: dict[str, int] = {}
    """What submitters were told while they tried again."""
    surprises: dict[str, int] = {}
    """Parts that ended though nobody had ended them, by exit code."""
    details: list[str] = []
    """What is wrong, in words."""

    def broken(self) -> list[str]:
        """Name the promises that were broken."""
        return [name for name in MUST_BE_ZERO if getattr(self, name)]


class Watch:
    """Looks at the database all the while for what must never be so, not even for a moment."""

    def __init__(self, installation: Installation) -> None:
        self._here = installation
        self.live_twice: set[UUID] = set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self._here.note_processes()
            try:
                for row in await _rows(self._here.url, LIVE_TWICE):
                    self.live_twice.add(row["job_id"])
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                pass  # it was just killed
            await anyio.sleep(SAMPLE_SECONDS)


class Check:
    """Fills in the figures, when all has settled."""

    def __init__(self, installation: Installation, load: Load, happened: Sequence[Happened], watch: Watch) -> None:
        self._here = installation
        self._load = load
        self._happened = happened
        self._watch = watch
        self.figures = Figures()

    def _say(self, text: str) -> None:
        self.figures.details.append(text)

    async def run(self, chance: random.Random) -> Figures:
        """Look at everything, when every job has ended."""
        found = self.figures
        await self._clear()
        jobs = {row["id"]: row for row in await _rows(self._here.url, JOBS)}
        attempts = await _rows(self._here.url, ATTEMPTS)
        records: dict[UUID, list[AnyEvent]] = {job: [] for job in jobs}
        for row in await _rows(self._here.url, RECORDS):
            if row["job_id"] in records:
                records[row["job_id"]] += [decode_line(line) for line in row["lines"].splitlines()]
        self._check_jobs(jobs)
        self._check_attempts(attempts)
        for job, row in jobs.items():
            self._check_record(row, records[job])
        self._check_follows(records)
        await self._check_answers(jobs, chance)
        await self._check_fence(attempts)
        self._measure(jobs, attempts)
        for runner in self._here.runners:
            found.stale_stopped += len(STOPPED.findall(runner.service.log.read_text(encoding="utf-8")))
        found.kills = dict(Counter(fault.kind for fault in self._happened))
        found.refusals = dict(self._load.refusals)
        found.surprises = {
            f"{service.name}: {code}": count
            for service in self._here.services
            for code, count in service.surprises.items()
        }
        for text, count in found.refusals.items():
            if text.startswith("500"):
                found.answers_wrong += count
                self._say(f"submits were answered `{text}` {count} times")
        return found

    async def settle(self) -> None:
        """Wait until every job has ended."""
        with anyio.move_on_after(SETTLE_SECONDS):
            while (await _rows(self._here.url, UNSETTLED))[0][0]:  # noqa: ASYNC110  # asked from outside
                await anyio.sleep(0.1)

    async def _clear(self) -> None:
        """Wait until nothing is left of jobs that ended, while the runners are idle."""
        started = anyio.current_time()
        left: list[str] = ["?"]
        with anyio.move_on_after(CLEAR_SECONDS):
            while left := await self._left():  # noqa: ASYNC110  # the same
                await anyio.sleep(0.2)
        self.figures.leftovers = len(left)
        self.figures.cleared_seconds = round(anyio.current_time() - started, 2)
        for text in left:
            self._say(f"left over: {text}")

    async def left_after_stop(self) -> list[str]:
        """List what is there of runners that have stopped."""
        owners = [f"owner {name} of {part.service.name}" for part in self._here.runners for name in part.owners()]
        return owners + [f"process {line}" for line in self._here.strays()]

    async def _left(self) -> list[str]:
        jobs = {job for named in self._load.acknowledged.values() for job in named}
        containers = await anyio.to_thread.run_sync(self._here.containers, jobs)
        left = [f"container {line}" for line in containers]
        for runner in self._here.runners:
            left += [f"workspace {folder}" for folder in runner.workspaces()]
            left += [f"Lua process {pid} of {runner.service.name}" for pid in runner.lua_processes()]
            left += [f"owner {name} of {runner.service.name}" for name in runner.owners()[1:]]
        return left + [f"process {line}" for line in self._here.strays()]

    def _check_jobs(self, jobs: dict[UUID, Row]) -> None:
        found, load = self.figures, self._load
        found.submitted = len(load.orders)
        found.acknowledged = len(load.acknowledged)
        found.states = dict(Counter(row["state"] for row in jobs.values()))
        kinds = {fault.kind for fault in self._happened}
        explained = frozenset[str]().union(*(codes for kind, codes in EXPLAINED.items() if kind in kinds))
        failures: Counter[str] = Counter()
        for key, named in load.acknowledged.items():
            if len(named) > 1:
                found.submitted_twice += 1
                self._say(f"{key} became the jobs {', '.join(named)}")
            row = jobs.get(UUID(next(iter(named))))
            if row is None or row["finished_at"] is None:
                found.lost += 1
                self._say(f"{key} was acknowledged and is {'not there' if row is None else row['state']}")
                continue
            found.final += 1
            match row["state"]:
                case "succeeded":
                    continue
                case "cancelled":
                    is_explained = load.orders[key].cancelled
                case "lost":
                    is_explained = row["losses"] > LOSSES_MAXIMUM
                    failures["lost"] += 1
                case _:
                    error = msgspec.json.decode(row["error"], type=ErrorInfo) if row["error"] else None
                    codes = [] if error is None else [link.code for link in chain(error)]
                    is_explained = row["state"] == "failed" and bool(explained & set(codes))
                    failures[" < ".join(codes)] += 1
            if not is_explained:
                found.unexplained += 1
                self._say(f"{key} (job {row['number']}) {row['state']} after {row['losses']} losses: {row['error']}")
        found.failures = dict(failures)
        found.cancels = len(load.cancelled)
        for row in jobs.values():
            if str(row["id"]) not in load.acknowledged.get(row["idempotency_key"], ()):
                found.submitted_twice += 1
                self._say(f"job {row['number']} ({row['idempotency_key']}) was never acknowledged")

    def _check_attempts(self, attempts: list[Row]) -> None:
        """See that no two attempts of a job were live at once: in the rows, and whenever somebody looked."""
        found = self.figures
        found.attempts = len(attempts)
        found.attempts_lost = sum(row["state"] == "lost" for row in attempts)
        twice = set(self._watch.live_twice)
        for before, after in pairwise(attempts):
            if before["job_id"] != after["job_id"]:
                continue
            is_next = after["number"] == before["number"] + 1 and before["state"] == "lost"
            if not is_next or before["finished_at"] > after["started_at"]:
                twice.add(before["job_id"])
        found.ran_twice_at_once = len(twice)
        for job in twice:
            self._say(f"job {job} ran twice at once: {[tuple(row) for row in attempts if row['job_id'] == job]}")

    def _check_record(self, job: Row, events: list[AnyEvent]) -> None:
        """See that a record is whole and in order, and that each attempt says what it has to say, up to its end."""
        found = self.figures
        problems: list[str] = []
        by_attempt: dict[int, list[AnyEvent]] = {}
        for event in events:
            by_attempt.setdefault(event.attempt, []).append(event)
        if list(by_attempt) != sorted(by_attempt) or max(by_attempt) != job["attempt"]:
            problems.append(f"attempts {list(by_attempt)}, newest {job['attempt']}")
        finals = [event for event in events if isinstance(event, JobEvent) and event.state in FINAL_JOB_STATES]
        last = events[-1]
        if job["finished_at"] is not None and (finals != [last] or finals[0].state != job["state"]):
            problems.append(f"final events {finals}, state {job['state']}")
        for attempt, told in by_attempt.items():
            numbers = [event.seq for event in told]
            if numbers != list(range(1, len(numbers) + 1)):
                problems.append(f"attempt {attempt} has events {numbers}")
            if attempt and attempt < job["attempt"]:
                end = told[-1]
                if not isinstance(end, JobEvent) or end.state != "queued":
                    # What stands behind the word that an attempt is lost was told by one that was no longer live.
                    found.stale_accepted += 1
                    self._say(f"job {job['number']} attempt {attempt} goes on after its end: {end}")
        order = self._load.orders[job["idempotency_key"]]
        for attempt, told in by_attempt.items():
            is_whole = attempt == job["attempt"] and job["state"] == "succeeded"
            self._check_texts(job, order, attempt, told, is_whole=is_whole)
        if problems:
            found.records_disordered += 1
            self._say(f"the record of job {job['number']}: {'; '.join(problems)}")

    def _check_texts(self, job: Row, order: Order, attempt: int, told: list[AnyEvent], *, is_whole: bool) -> None:
        found = self.figures
        texts = [event.text for event in told if isinstance(event, LogEvent) and event.source in {"lua", "stdout"}]
        expected = order.texts()
        if not is_whole:
            expected = expected[: len(set(texts))]  # as far as it came: a beginning, without holes
        found.log_lines += len(texts)
        missing = Counter(expected) - Counter(texts)
        doubled = Counter(texts) - Counter(expected)
        found.log_lines_missing += missing.total()
        found.log_lines_doubled += doubled.total()
        if missing or doubled:
            self._say(
                f"job {job['number']} attempt {attempt}: missing {list(missing)[:5]}, doubled {list(doubled)[:5]}"
            )
        elif texts != expected:
            found.records_disordered += 1
            self._say(f"job {job['number']} attempt {attempt} ({order.kind}) has its lines in another order")

    def _check_follows(self, records: dict[UUID, list[AnyEvent]]) -> None:
        for job, lines in self._load.followed.items():
            self.figures.followed += 1
            if [decode_line(line) for line in lines] != records.get(UUID(job)):
                self.figures.follows_wrong += 1
                self._say(f"who followed job {job} got {len(lines)} lines of {len(records.get(UUID(job), []))}")

    async def _check_answers(self, jobs: dict[UUID, Row], chance: random.Random) -> None:
        """Ask each replica, and the balancer, for some jobs, and for all artifacts."""
        found = self.figures
        addresses = [self._here.users.address, *(replica.address for replica in self._here.replicas)]
        some = chance.sample(sorted(jobs), min(len(jobs), ASKED_BY_API))
        for number, address in enumerate(addresses):
            async with Client.open([address], self._here.token) as client:
                for job in some[number :: len(addresses)]:
                    row = jobs[job]
                    try:
                        answer = await client.get(f"/v1/jobs/{job}", Job)
                        said = (answer.state, answer.attempt)
                    except (OrchestratorRefused, OrchestratorUnreachable) as error:
                        said = error.message
                    if said != (row["state"], row["attempt"]):
                        found.answers_wrong += 1
                        self._say(f"{address} says of job {job}: {said}, and Postgres {row['state']}")
        async with Client.open([self._here.users.address], self._here.token) as client:
            for row in jobs.values():
                expected = self._load.orders[row["idempotency_key"]].artifacts()
                if row["state"] != "succeeded" or not expected:
                    continue
                listed = await client.get(f"/v1/jobs/{row['id']}/artifacts", ArtifactList)
                found.artifacts += len(listed.artifacts)
                if {artifact.name: artifact.sha256 for artifact in listed.artifacts} != expected:
                    found.artifacts_wrong += 1
                    self._say(f"job {row['number']} kept {listed.artifacts}, and should have kept {expected}")

    async def _check_fence(self, attempts: list[Row]) -> None:
        """Speak as runners do whose attempts have ended: with their token, and with the very event that is next."""
        found = self.figures
        runners = {UUID(runner.id): runner for runner in self._here.runners}
        ended = sorted(attempts, key=lambda row: row["state"] != "lost")[:STALE_TRIED_MAXIMUM]
        before = (await _rows(self._here.url, FINGERPRINT))[0][0]
        for row in ended:
            async with Client.open([self._here.users.address], runners[row["runner_id"]].token) as client:
                for what, attempt in (("events", _send), ("artifact", _name), ("heartbeat", _renew)):
                    found.stale_tried += 1
                    if await attempt(client, row):
                        found.stale_accepted += 1
                        self._say(f"a stale {what} of job {row['job_id']} attempt {row['number']} was accepted")
        if (await _rows(self._here.url, FINGERPRINT))[0][0] != before:
            found.stale_accepted += 1
            self._say("what stale attempts sent has changed something")

    def _measure(self, jobs: dict[UUID, Row], attempts: list[Row]) -> None:
        found = self.figures
        successes = sorted(row["finished_at"].timestamp() for row in jobs.values() if row["state"] == "succeeded")
        times: dict[str, list[float]] = {}
        for fault in self._happened:
            after = next((at for at in successes if at > fault.at), None)
            if after is not None:
                times.setdefault(fault.kind, []).append(after - fault.at)
        found.recovery_seconds = {kind: _recovery(seconds) for kind, seconds in sorted(times.items())}
        lost: list[float] = [
            _seconds(row["finished_at"], row["job_finished_at"])
            for row in attempts
            if row["state"] == "lost" and row["job_finished_at"] is not None
        ]
        if lost:
            found.lost_attempt_to_end_seconds = _recovery(lost)


async def _send(client: Client, row: Row) -> bool:
    line = LogEvent(
        at="2026-01-01T00:00:00.000Z",
        job=str(row["job_id"]),
        attempt=row["number"],
        seq=row["next_seq"],
        stage="s",
        level="info",
        source="lua",
        text="stale",
    )
    try:
        await client.post_lines(
            f"/v1/runner/jobs/{row['job_id']}/{row['number']}/events",
            EventsAccepted,
            encode_line(line),
            query={"first_seq": row["next_seq"]},
        )
    except OrchestratorRefused as refused:
        return refused.code != "attempt_gone"
    return True


async def _name(client: Client, row: Row) -> bool:
    message = ArtifactSave(name="stale", sha256="0" * 64, size_bytes=1)
    try:
        await client.post(f"/v1/runner/jobs/{row['job_id']}/{row['number']}/artifacts", Artifact, message)
    except OrchestratorRefused as refused:
        return refused.code != "attempt_gone"
    return True


async def _renew(client: Client, row: Row) -> bool:
    message = Heartbeat(holding=[Holding(job=str(row["job_id"]), attempt=row["number"])])
    answer = await client.post("/v1/runner/heartbeat", HeartbeatAnswer, message)
    return answer.gone != [str(row["job_id"])]


async def _rows(url: str, statement: str, *values: Any) -> list[Row]:
    connection = await asyncpg.connect(url, timeout=10, command_timeout=30)
    try:
        return await connection.fetch(statement, *values)
    finally:
        connection.terminate()


def _recovery(seconds: Sequence[float]) -> Recovery:
    return Recovery(count=len(seconds), p50=round(statistics.median(seconds), 2), max=round(max(seconds), 2))


def _seconds(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds()
