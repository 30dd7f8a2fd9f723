"""Stores the events that runners send, once, and applies what they mean.

A batch says the ``seq`` of its first event. What is stored already is passed over, so a batch may come as often as its
sender is unsure; what would leave a gap is refused. Storing the lines and applying them (stages, commands, the job's
end) is one statement for the batches of many runners, and each is acknowledged after its commit.

Of an attempt that was delivered secrets, a batch is stored only once it was looked through for them
(``orchestrator.leaks``); the statement compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

import anyio
import msgspec

from orchestrator.database import Database
from orchestrator.events import Batch, gap, gone, invalid
from orchestrator.gathering import Gatherer
from orchestrator.leaks import Leaks
from orchestrator.notifications import Notifications
from orchestrator.sql import events as sql
from schema.database import DatabaseUnavailable
from schema.events import CommandEvent, StageEvent

STATEMENT_BYTES_MAXIMUM: Final = 1024 * 1024
_PAUSES: Final = (None, 0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Before each try: a heartbeat, or the same batch on its way twice, holds the rows for a few milliseconds."""


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """A batch and whose it is."""

    runner: UUID
    job: UUID
    attempt: int
    batch: Batch
    secrets: int
    """For how many versions of secrets it was looked through."""


class Record:
    """What runners told of their attempts. ``run`` has to run."""

    def __init__(self, database: Database, notifications: Notifications, leaks: Leaks) -> None:
        self._database = database
        self._leaks = leaks
        self._notifications = notifications
        self._gatherer = Gatherer(self._store_all, size_maximum=STATEMENT_BYTES_MAXIMUM)

    async def run(self) -> None:
        """Store, until cancelled."""
        await self._gatherer.run()

    async def store(self, runner: UUID, job: UUID, attempt: int, batch: Batch) -> int:
        """Store and apply a batch; give the ``seq`` below which all is stored.

        :raises Conflict: when the attempt is not, or no longer, this runner's, or events before the batch are missing.
        :raises DatabaseUnavailable: when somebody else holds the attempt's rows for longer than a moment, too.
        """
        for pause in _PAUSES:
            if pause is not None:
                await anyio.sleep(pause)
            delivered = self._leaks.known(job, attempt)
            if delivered.count:
                batch = await self._leaks.without(batch, delivered, job=job, attempt=attempt, runner=runner)
            told = _Told(runner=runner, job=job, attempt=attempt, batch=batch, secrets=delivered.count)
            if await self._gatherer.ask(told, len(batch.data)):
                if delivered.count and batch.final is not None:
                    self._leaks.forget(job, attempt)
                self._notifications.job_told(job)
                return batch.next_seq
            next_seq = await self._stored(told)
            if next_seq >= batch.next_seq:
                return next_seq
            if next_seq > batch.first_seq:
                batch = batch.since(next_seq)
        raise DatabaseUnavailable(
            f"events of job {job} attempt {attempt} could not be stored: its rows are locked by somebody else",
            hint="`SELECT * FROM inspect.locks` shows who holds them: an open transaction in psql, for instance.",
        )

    async def without_secrets(self, runner: UUID, job: UUID, attempt: int, batch: Batch) -> Batch:
        """Take out of a batch what its attempt was delivered: for events that are not stored by ``store``."""
        delivered = await self._leaks.of(job, attempt)
        if not delivered.count:
            return batch
        return await self._leaks.without(batch, delivered, job=job, attempt=attempt, runner=runner)

    async def _store_all(self, asked: Sequence[_Told]) -> Sequence[bool]:
        # Of two that speak of one job, one is passed over: a statement changes a row once.
        chosen = {told.job: told for told in asked}
        told = sorted(chosen.values(), key=attrgetter("job"))
        finals = [one.batch.final for one in told]
        rows = await self._database.rows(
            sql.EVENTS_STORE,
            [one.job for one in told],
            [one.attempt for one in told],
            [one.runner for one in told],
            [one.batch.first_seq for one in told],
            [one.batch.next_seq for one in told],
            [None if final is None else final.state for final in finals],
            [len(one.batch.data) for one in told],
            [one.batch.data.decode() for one in told],
            [None if final is None or final.error is None else _json(final.error) for final in finals],
            [one.batch.number for one in told],
            _json([stage for one in told for stage in _stages(one)]),
            _json([command for one in told for command in _commands(one)]),
            [one.secrets for one in told],
        )
        stored = {row["job_id"] for row in rows}
        return [one.job in stored and chosen[one.job] is one for one in asked]

    async def _stored(self, told: _Told) -> int:
        """Say why a batch was not stored, or how far the record goes."""
        job, attempt, batch = told.job, told.attempt, told.batch
        row = await self._database.row(sql.ATTEMPT_LOOK, job, attempt)
        # Whoever does not hold it does not learn whether it is there.
        if row is None or row["runner_id"] != told.runner or row["state"] == "lost":
            raise gone(job, attempt)
        next_seq: int = row["next_seq"]
        if next_seq >= batch.next_seq:
            return next_seq
        if row["state"] != "running":
            raise gone(job, attempt)
        if batch.number not in {None, row["number"]}:
            raise invalid(f"job {job} has number {row['number']}, not {batch.number}")
        if batch.first_seq > next_seq:
            raise gap(job, attempt, next_seq, batch.first_seq)
        versions = row["secret_versions"] or ()
        if len(versions) != told.secrets:
            await self._leaks.learn(job, attempt, versions)
        return next_seq


def _stages(told: _Told) -> list[dict[str, Any]]:
    """Sum up what the events say of each stage."""
    stages: dict[str, dict[str, Any]] = {}
    for event in told.batch.events:
        if not isinstance(event, StageEvent):
            continue
        stage = stages.setdefault(
            event.stage,
            {"job_id": told.job, "name": event.stage, "first_seq": event.seq, "container": None, "started_at": None},
        )
        outputs = None if event.outputs is msgspec.UNSET else event.outputs
        stage |= {"state": event.state, "error": event.error, "outputs": outputs, "finished_at": None}
        stage["container"] = event.container or stage["container"]
        if event.state == "running":
            stage["started_at"] = event.at
        else:
            stage["finished_at"] = event.at
    return list(stages.values())


def _commands(told: _Told) -> list[dict[str, Any]]:
    return [
        {
            "job_id": told.job,
            "seq": event.seq,
            "stage": event.stage,
            "argv": event.argv,
            "container": event.container,
            "digest": event.digest,
            "code": event.code,
            "duration": event.duration,
            "cpu_seconds": event.cpu_seconds,
            "memory_peak_bytes": event.memory_peak_bytes,
            "output_bytes": event.output_bytes,
            "at": event.at,
            "error": event.error,
        }
        for event in told.batch.events
        if isinstance(event, CommandEvent)
    ]


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
