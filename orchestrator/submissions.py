"""Queues jobs: one, with others that come at the same moment; thousands of one request, all or none; one by the clock.

What a message asks for is checked whole before anything is stored. Then it goes into one statement, which gives the
job, or the one that an earlier submit with the same idempotency key queued.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import anyio
import msgspec

from orchestrator import jobs, origins, pipelines
from orchestrator.database import Connection, Database, Row
from orchestrator.gathering import Gatherer
from orchestrator.notifications import Notifications
from orchestrator.problems import Refusal, RequestInvalid
from orchestrator.sql import jobs as sql
from orchestrator.sql import pipelines as pipelines_sql
from orchestrator.versions import Versions
from schema import times, tracing
from schema.definition import PRIORITY_MAXIMUM, InputsInvalid, InputValue, PipelineDefinition, resolve_inputs
from schema.ids import uuid7
from schema.wire import Job, JobSubmit, JobSubmitted, Trigger

KEY_LENGTH_MAXIMUM: Final = 200
BATCH_MAXIMUM: Final = 10_000
SECONDS_MAXIMUM: Final = 366 * 86400.0


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    """The version of a pipeline that a job is to run."""

    pipeline_id: UUID
    version_id: UUID
    pipeline: str
    sha256: str
    definition: PipelineDefinition


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A job to be queued, after all checks."""

    pipeline: str
    version: str
    inputs: dict[str, InputValue]
    priority: int
    is_parked: bool
    row: dict[str, Any]


class Queued(NamedTuple):
    """A job that was queued within a transaction."""

    id: UUID
    number: int
    place: int
    """In the queue, for whoever commits it to tell."""
    fresh: bool


class Submissions:
    """Takes what users submit to this replica. ``run`` has to run."""

    def __init__(self, database: Database, versions: Versions, notifications: Notifications) -> None:
        self._database = database
        self._versions = versions
        self._notifications = notifications
        self._newest = Gatherer(self._find_newest)
        self._queue = Gatherer(self._queue_all)

    async def run(self) -> None:
        """Queue what is submitted, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._newest.run)
            tasks.start_soon(self._queue.run)

    async def submit(self, message: JobSubmit, actor: str | None = None) -> Job:
        """Queue a job, or find the one that an earlier submit with the same idempotency key queued.

        :param actor: who wants it, for the audit.
        :raises NotFound: when there is no such pipeline or version.
        :raises InputsInvalid: naming all that is wrong with the inputs; nothing is stored.
        :raises Conflict: when the key was used for something else.
        """
        _check(message)
        wanted = _wanted(message, await self._find(message.pipeline, message.version), actor)
        row = await self._queue.ask(wanted)
        if not row["fresh"] or wanted.is_parked:
            return await jobs.get(self._database, row["id"])
        return Job(
            id=str(row["id"]),
            number=row["number"],
            pipeline=wanted.pipeline,
            version=wanted.version,
            inputs=wanted.inputs,
            state="queued",
            attempt=0,
            created_at=times.rfc3339(row["created_at"]),
            priority=wanted.priority,
        )

    async def submit_all(self, messages: Sequence[JobSubmit], actor: str | None = None) -> list[JobSubmitted]:
        """Queue jobs: all of them, or none.

        :raises RequestInvalid: for none, or more than 10,000.
        :raises MoonyardError: as ``submit``, saying which of the jobs is wrong.
        """
        if not 0 < len(messages) <= BATCH_MAXIMUM:
            raise RequestInvalid(f"a batch has 1 to {BATCH_MAXIMUM:,} jobs, and this one has {len(messages):,}")
        versions: dict[tuple[str, str | None], _Found] = {}
        wanted: list[Wanted] = []
        for place, message in enumerate(messages, 1):
            try:
                _check(message)
                named = message.pipeline, message.version
                if named not in versions:
                    versions[named] = await self._find(*named)
                wanted.append(_wanted(message, versions[named], actor, together=True))
            except (Refusal, InputsInvalid) as error:
                raise _of_batch(error, place, len(messages)) from error
        rows = await self._queue_all(wanted)
        return [
            JobSubmitted(id=str(row["id"]), number=row["number"], pipeline=asked.pipeline, fresh=row["fresh"])
            for row, asked in zip(rows, wanted, strict=True)
        ]

    async def definition(self, pipeline: str) -> PipelineDefinition:
        """Give what a job of a pipeline would be a job of now.

        :raises NotFound: when there is no such pipeline.
        """
        return (await self._find(pipeline, None)).definition

    async def prepare(self, message: JobSubmit, *, trigger: Trigger, actor: str | None = None) -> Wanted:
        """Check a job that is to be queued within a transaction. (Looking for its version takes another connection.)

        :raises MoonyardError: as ``submit``.
        """
        _check(message)
        return _wanted(message, await self._find(message.pipeline, message.version), actor, trigger=trigger)

    async def submit_within(self, connection: Connection, wanted: Wanted) -> Queued:
        """Queue a job within a transaction."""
        [row] = await connection.fetch(sql.JOBS_SUBMIT, _encoded([wanted]))
        return Queued(row["id"], row["number"], row["queue_place"], row["fresh"])

    async def _find(self, pipeline: str, version: str | None) -> _Found:
        newest = await self._newest.ask(pipeline) if version is None else None
        found = newest or await pipelines.find(self._database, pipeline, version)
        stored = await self._versions.get(found["version_id"])
        return _Found(
            pipeline_id=found["pipeline_id"],
            version_id=found["version_id"],
            pipeline=stored.pipeline,
            sha256=stored.sha256,
            definition=stored.definition,
        )

    async def _find_newest(self, names: Sequence[str]) -> Sequence[Row | None]:
        searchable = {pipelines.searchable(name) for name in names}
        rows = {row["name"]: row for row in await self._database.rows(pipelines_sql.PIPELINES_NEWEST, list(searchable))}
        return [rows.get(name) for name in names]

    async def _queue_all(self, wanted: Sequence[Wanted]) -> Sequence[Row]:
        rows = await self._database.rows(sql.JOBS_SUBMIT, _encoded(wanted))
        self._notifications.queued(min(row["queue_place"] for row in rows))
        return rows


def _of_batch(error: Refusal | InputsInvalid, place: int, count: int) -> Refusal:
    message = f"job {place} of the batch: {error.message}; none of the {count} jobs was queued"
    if isinstance(error, pipelines.PipelineUnknown):
        return pipelines.PipelineUnknown(message, name=error.name, code=error.code, hint=error.hint)
    kind = type(error) if isinstance(error, Refusal) else RequestInvalid
    return kind(message, code=error.code, hint=error.hint)


def _check(message: JobSubmit) -> None:
    key = message.idempotency_key
    if key is not None and (not 0 < len(key) <= KEY_LENGTH_MAXIMUM or "\0" in key):
        raise RequestInvalid(f"`idempotency_key` has to have 1 to {KEY_LENGTH_MAXIMUM} characters, and no NUL")
    if message.priority is not None and abs(message.priority) > PRIORITY_MAXIMUM:
        raise RequestInvalid(
            f"`priority` is {message.priority}, and goes from -{PRIORITY_MAXIMUM} to {PRIORITY_MAXIMUM}"
        )
    times_given = {
        "delay": message.delay,
        "queue_timeout": message.queue_timeout,
        "keep_on_failure": message.keep_on_failure,
    }
    for name, seconds in times_given.items():
        if seconds is not None and not (math.isfinite(seconds) and 0 < seconds <= SECONDS_MAXIMUM):
            raise RequestInvalid(f"`{name}` is {seconds}: expected seconds, more than 0, at most a year")
    if message.not_before is not None:
        if message.delay is not None:
            raise RequestInvalid("`delay` and `not_before` say the same in two ways: give one of them")
        _check_time(message.not_before)


def _check_time(text: str) -> None:
    try:
        if len(text) <= 40 and datetime.fromisoformat(text).tzinfo is not None:
            return
    except ValueError:
        pass
    raise RequestInvalid(
        f"`not_before` is `{text[:40]}`, and has to be a time with its zone, such as 2026-11-24T18:00:00Z"
    )


def _wanted(
    message: JobSubmit,
    found: _Found,
    actor: str | None = None,
    *,
    together: bool = False,
    trigger: Trigger | None = None,
) -> Wanted:
    definition = found.definition
    inputs = resolve_inputs(definition, dict(message.inputs))
    for name, value in inputs.items():
        if isinstance(value, str) and "\0" in value:
            raise RequestInvalid(f"input `{name}` holds a NUL character, which Postgres cannot store")
    row: dict[str, Any] = {
        "id": uuid7(),
        "pipeline_id": found.pipeline_id,
        "version_id": found.version_id,
        "inputs": inputs,
        "priority": message.priority,
        "delay": message.delay,
        "not_before": message.not_before,
        "queue_timeout": message.queue_timeout,
        "keep_on_failure": message.keep_on_failure,
        "traceparent": tracing.parent.get(),
        "actor": actor,
        "address": origins.address.get(),
        "together": together,
        "trigger": trigger or Trigger(kind="submit", by=None if actor is None else actor.removeprefix("token ")),
    }
    if message.idempotency_key is not None:
        asked = {
            "version": message.version,
            "inputs": message.inputs,
            "priority": message.priority,
            "delay": message.delay,
            "not_before": message.not_before,
            "queue_timeout": message.queue_timeout,
            "keep_on_failure": message.keep_on_failure,
        }
        row["idempotency_key"] = message.idempotency_key
        row["request"] = {name: value for name, value in asked.items() if value is not None}
    return Wanted(
        pipeline=found.pipeline,
        version=found.sha256,
        inputs=inputs,
        priority=definition.priority if message.priority is None else message.priority,
        is_parked=definition.concurrency is not None or message.delay is not None or message.not_before is not None,
        row=row,
    )


def _encoded(wanted: Sequence[Wanted]) -> str:
    return msgspec.json.encode([asked.row | {"place": place} for place, asked in enumerate(wanted)]).decode()
