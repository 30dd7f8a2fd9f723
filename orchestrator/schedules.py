"""Schedules: jobs that are submitted by the clock.

A schedule's row holds when it is due next. A replica that locks a due row submits its jobs and moves the row on, in one
transaction: so there is one firing for all replicas, and one that dies in the middle has done nothing. Each firing has
an idempotency key of its own as well, made of the schedule and its time.

Only the database's clock is asked. When nobody looked for a while, several times may have passed; ``catch_up`` says
what becomes of them: none is made up for (`skip`), the last one is (`once`), or each (`all`, the newest 100).
"""

from __future__ import annotations

import itertools
import logging
import zoneinfo
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from cronsim import CronSim, CronSimError

from orchestrator import pipelines, problems, tokens
from orchestrator.database import Connection, Database, Row
from orchestrator.notifications import Notifications
from orchestrator.problems import Conflict, NotFound, RequestInvalid
from orchestrator.rights import ALL, Visible
from orchestrator.sql import schedules as sql
from orchestrator.submissions import Submissions
from orchestrator.versions import decode_definition
from schema import times
from schema.definition import PRIORITY_MAXIMUM, InputValue, resolve_inputs
from schema.errors import ErrorInfo, MoonyardError
from schema.ids import uuid7
from schema.wire import JobSubmit, Schedule, ScheduleCreate, ScheduleList, Trigger

log: Final = logging.getLogger(__name__)

CATCH_UP_MAXIMUM: Final = 100
LATE_SECONDS: Final = 60.0
"""A firing that is later than this was missed."""
_CRON_LENGTH_MAXIMUM: Final = 200
_CRON_FIELDS: Final = 5


async def create(database: Database, message: ScheduleCreate, actor: str) -> Schedule:
    """Store a schedule.

    :raises RequestInvalid: for a cron expression or time zone that is none, or never comes.
    :raises Conflict: when the name is taken.
    """
    tokens.check_name("schedule", message.name)
    if "/" in message.name:
        raise RequestInvalid(f"`{message.name[:40]}` cannot be the name of a schedule: it holds a slash")
    if message.priority is not None and abs(message.priority) > PRIORITY_MAXIMUM:
        raise RequestInvalid(
            f"`priority` is {message.priority}, and goes from -{PRIORITY_MAXIMUM} to {PRIORITY_MAXIMUM}"
        )
    pipeline = await pipelines.find(database, message.pipeline, None)
    inputs: Mapping[str, InputValue] = message.inputs
    resolve_inputs(decode_definition(pipeline["definition"]), dict(inputs))  # by the version of now: it may change
    next_at = next_after(message.cron, message.time_zone, await database.value(sql.NOW))
    made = await database.value(
        sql.CREATE,
        uuid7(),
        message.name,
        pipeline["pipeline_id"],
        message.cron,
        message.time_zone,
        msgspec.json.encode(inputs).decode(),
        message.priority,
        message.catch_up,
        next_at,
        actor,
    )
    if made is None:
        raise Conflict(
            f"there is a schedule `{message.name}` already",
            code="schedule_exists",
            hint=f"`moonyard schedule delete {message.name}` makes room.",
        )
    return await get(database, message.name)


async def listed(database: Database, visible: Visible) -> ScheduleList:
    """List the schedules of pipelines that may be seen."""
    rows = await database.rows(sql.LIST, None, visible.held, visible.within)
    return ScheduleList(schedules=[_schedule(row) for row in rows])


async def get(database: Database, name: str) -> Schedule:
    """Give a schedule.

    :raises NotFound: when there is none of that name.
    """
    row = await database.row(sql.LIST, name, [ALL], None)
    if row is None:
        raise unknown(name)
    return _schedule(row)


async def delete(database: Database, name: str, actor: str) -> Schedule:
    """Remove a schedule; its jobs stay.

    :raises NotFound: when there is none of that name.
    """
    schedule = await get(database, name)
    await database.rows(sql.DELETE, name, actor)
    return schedule


async def pause(database: Database, name: str, actor: str) -> Schedule:
    """Let a schedule rest.

    :raises NotFound: when there is none of that name.
    """
    if await database.value(sql.PAUSE, name, actor) is None:
        raise unknown(name)
    return await get(database, name)


async def resume(database: Database, name: str, actor: str) -> Schedule:
    """Let a schedule go on, with its next time from now.

    :raises NotFound: when there is none of that name.
    """
    schedule = await get(database, name)
    next_at = next_after(schedule.cron, schedule.time_zone, await database.value(sql.NOW))
    await database.rows(sql.RESUME, name, actor, next_at)
    return await get(database, name)


async def fire_due(
    database: Database, submissions: Submissions, notifications: Notifications, now: datetime | None = None
) -> int:
    """Fire all schedules that are due; give how many jobs were submitted.

    :param now: by default the database's.
    """
    count = 0
    while True:
        async with database.transaction() as connection:
            row = await connection.fetchrow(sql.DUE, now)
            if row is None:
                return count
            places = await _fire(submissions, connection, row)
        if places:
            count += len(places)
            notifications.queued(min(places))


async def _fire(submissions: Submissions, connection: Connection, row: Row) -> list[int]:
    """Submit what a schedule's row says, and move it on; give the places of the jobs in the queue."""
    now: datetime = row["now"]
    fired: list[tuple[datetime, UUID]] = []
    places: list[int] = []
    error: ErrorInfo | None = None
    try:
        next_at = next_after(row["cron"], row["time_zone"], now)
    except RequestInvalid as invalid:
        # Somebody wrote into the row by hand, or this machine knows fewer time zones.
        log.error("schedule `%s` cannot fire: %s", row["name"], invalid.message)
        told = msgspec.json.encode(invalid.info).decode()
        await connection.execute(sql.FIRED, row["id"], now + timedelta(minutes=1), None, None, told)
        return []
    for at in due_times(row["cron"], row["time_zone"], row["next_at"], now, row["catch_up"]):
        message = JobSubmit(
            pipeline=row["pipeline"],
            inputs=msgspec.json.decode(row["inputs"], type=dict[str, InputValue]),
            priority=row["priority"],
            idempotency_key=f"schedule {row['id']} {times.rfc3339(at)}",
        )
        try:
            async with connection.transaction():
                wanted = await submissions.prepare(message, trigger=Trigger(kind="schedule", by=row["name"]))
                queued = await submissions.submit_within(connection, wanted)
                fired.append((at, queued.id))
                places.append(queued.place)
        except asyncpg.RaiseError as refusal:
            error = problems.refused(refusal).info
        except problems.Refusal as refusal:
            error = refusal.info
        except MoonyardError as failure:
            if failure.code == "database_unavailable":
                raise
            error = failure.info
    if error is not None:
        log.warning("schedule `%s` could not submit its job: %s", row["name"], error.message)
    last_at, last_job = fired[-1] if fired else (None, None)
    told = None if error is None else msgspec.json.encode(error).decode()
    await connection.execute(sql.FIRED, row["id"], next_at, last_at, last_job, told)
    return places


def due_times(cron: str, time_zone: str, first: datetime, now: datetime, catch_up: str) -> list[datetime]:
    """List the times from ``first`` to ``now`` for which a job is to be submitted, in order."""
    limit = CATCH_UP_MAXIMUM if catch_up == "all" else 1
    local = now.astimezone(zoneinfo.ZoneInfo(time_zone)).replace(microsecond=0) + timedelta(seconds=1)
    # Backwards from now: a minute's schedule that nobody looked at for a year costs no more than any other.
    passed = itertools.takewhile(lambda at: at >= first, CronSim(cron, local, reverse=True))
    found = [at.astimezone(UTC) for at in itertools.islice(passed, limit)][::-1] or [first]
    if catch_up == "skip" and now - found[-1] > timedelta(seconds=LATE_SECONDS):
        return []
    return found


def next_after(cron: str, time_zone: str, now: datetime) -> datetime:
    """Give the first time of a cron expression after ``now``.

    :raises RequestInvalid: when expression or time zone is none, or no time comes.
    """
    try:
        zone = zoneinfo.ZoneInfo(time_zone)
    except (KeyError, ValueError, OSError) as error:
        raise RequestInvalid(
            f"`{time_zone[:60]}` is not a time zone",
            code="schedule_invalid",
            hint="A time zone has a name such as `Europe/Berlin` or `UTC`.",
        ) from error
    if len(cron) > _CRON_LENGTH_MAXIMUM or len(cron.split()) != _CRON_FIELDS:
        raise _no_cron(cron, "wrong number of fields")
    try:
        return next(CronSim(cron, now.astimezone(zone))).astimezone(UTC)
    except CronSimError as error:
        raise _no_cron(cron, f"{str(error)[:1].lower()}{str(error)[1:]}") from error
    except StopIteration as error:
        raise RequestInvalid(f"`{cron[:60]}` is a time that never comes", code="schedule_invalid") from error


def _no_cron(cron: str, why: str) -> RequestInvalid:
    return RequestInvalid(
        f"`{cron[:60]}` is not a cron expression: {why}",
        code="schedule_invalid",
        hint="It has five fields: minute, hour, day of month, month, day of week, such as `30 6 * * MON-FRI`.",
    )


def unknown(name: str) -> NotFound:
    return NotFound(
        f"there is no schedule `{name[:60]}`", code="schedule_unknown", hint="`moonyard schedule list` lists them."
    )


def _schedule(row: Row) -> Schedule:
    return Schedule(
        name=row["name"],
        pipeline=row["pipeline"],
        cron=row["cron"],
        time_zone=row["time_zone"],
        inputs=msgspec.json.decode(row["inputs"], type=dict[str, InputValue]),
        priority=row["priority"],
        catch_up=row["catch_up"],
        created_at=times.rfc3339(row["created_at"]),
        next_at=None if row["paused_by"] else times.rfc3339(row["next_at"]),
        last_at=tokens.moment(row["last_at"]),
        last_job=row["last_job"],
        paused_by=row["paused_by"],
        error=None if row["error"] is None else msgspec.json.decode(row["error"], type=ErrorInfo),
    )
