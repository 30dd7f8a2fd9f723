"""What a replica does on its own, now and then: finds leases that ran out, and sweeps up what was forgotten.

Every replica does all of it; each duty is one that two may do at the same moment.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import asyncpg

from orchestrator import audit, leases, logins, protections, releases, retention, schedules, shells
from orchestrator.parts import Parts
from orchestrator.problems import StoreUnavailable
from orchestrator.sql import blobs as blobs_sql
from orchestrator.sql import shells as shells_sql
from schema.database import DatabaseUnavailable

log: Final = logging.getLogger(__name__)

LEASES_SECONDS: Final = 1.0
LEASES_SECONDS_MAXIMUM: Final = 10.0
LOOK_SHARE: Final = 0.05
"""How much of the time looking for leases may take: an open transaction elsewhere keeps the entries of all attempts
that ended since in the index of running ones, and each look walks over them."""
RELEASE_SECONDS: Final = 1.0
SCHEDULES_SECONDS: Final = 1.0
SHELLS_SECONDS: Final = 2.0
TOKENS_SECONDS: Final = 10.0
HTTP_LIMITS_SECONDS: Final = 5.0
AUDIT_SECONDS: Final = 1.0
HEAD_SECONDS: Final = 600.0
SWEEP_SECONDS: Final = 600.0
PLUGINS_SECONDS: Final = 6 * 3600.0
"""Each time reads what all versions of pipelines are locked with."""
FIRST_SECONDS: Final = 20.0
"""How soon a duty is done for the first time at the latest: a replica may be restarted more often than it is due."""
UPLOAD_AGE_MAXIMUM: Final = 2 * 3600.0
UNNAMED_AGE_MAXIMUM: Final = 24 * 3600.0


async def run(parts: Parts) -> None:
    """Do all duties until cancelled."""

    async def expire() -> None:
        maximum = parts.settings.losses_maximum
        await leases.lose_expired(parts.database, parts.notifications, losses_maximum=maximum)

    async def release() -> None:
        await releases.release(parts.database, parts.notifications)
        await releases.time_out(parts.database, parts.notifications)

    async def fire() -> None:
        await schedules.fire_due(parts.database, parts.submissions, parts.notifications)

    async def end_shells() -> None:
        await shells.end_overdue(parts)

    async def seal() -> None:
        await parts.refusals.flush()
        await audit.seal(parts.database)

    async def tell_head() -> None:
        # Logs are kept elsewhere: who writes the chain anew does not reach them.
        log.info("the head of the audit is %s", await audit.head(parts.database) or "not there yet")

    async def sweep() -> None:
        if parts.settings.keep_days is not None:
            await retention.remove_old_jobs(parts.database, parts.settings.keep_days)
        if parts.settings.keep_audit_days is not None:
            await audit.remove_old(parts.database, parts.settings.keep_audit_days)
        await retention.remove_expired_workspaces(parts.database)
        await retention.remove_old_deliveries(parts.database)
        await retention.remove_unused_caches(parts.database, parts.settings.cache_days)
        await parts.database.rows(shells_sql.CONTAINERS_REMOVE_EXPIRED)
        await retention.remove_expired_artifacts(parts.database)
        await logins.forget_old(parts.database)
        await parts.database.rows(blobs_sql.BLOBS_SWEEP_NASCENT, UPLOAD_AGE_MAXIMUM)
        # One may be named at this very moment: then the rest is swept the next time.
        with contextlib.suppress(asyncpg.ForeignKeyViolationError):
            await parts.database.rows(blobs_sql.BLOBS_SWEEP_UNNAMED, UNNAMED_AGE_MAXIMUM)
        await parts.blobs.remove_remnants()

    async def sweep_plugins() -> None:
        await retention.remove_unnamed_plugins(parts.database)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_repeat, "looking for leases that ran out", LEASES_SECONDS, expire, LEASES_SECONDS_MAXIMUM)
        tasks.start_soon(_repeat, "letting go of jobs", RELEASE_SECONDS, release)
        tasks.start_soon(_repeat, "firing schedules", SCHEDULES_SECONDS, fire)
        tasks.start_soon(_repeat, "ending shells", SHELLS_SECONDS, end_shells)
        tasks.start_soon(_repeat, "noting the use of tokens", TOKENS_SECONDS, parts.authentication.note_uses)
        tasks.start_soon(_repeat, "looking for http limits", HTTP_LIMITS_SECONDS, parts.http_limits.look)
        tasks.start_soon(_repeat, "looking for protections", protections.LOOK_SECONDS, parts.protections.look)
        tasks.start_soon(_repeat, "sealing the audit", AUDIT_SECONDS, seal)
        tasks.start_soon(_repeat, "telling the head of the audit", HEAD_SECONDS, tell_head)
        tasks.start_soon(_repeat, "removing what is old", SWEEP_SECONDS, sweep)
        tasks.start_soon(_repeat, "removing plugins that nothing names", PLUGINS_SECONDS, sweep_plugins)


async def _repeat(
    what: str, seconds: float, duty: Callable[[], Awaitable[None]], seconds_maximum: float | None = None
) -> None:
    """Do a duty every ``seconds``; where it takes long, less often, down to every ``seconds_maximum``."""
    pause = min(seconds, FIRST_SECONDS)
    while True:
        # Spread out, so that replicas started together do not do it together.
        await anyio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
        started = anyio.current_time()
        try:
            await duty()
        except (DatabaseUnavailable, StoreUnavailable) as error:
            log.warning("%s failed: %s", what, error.message)
        took = anyio.current_time() - started
        pause = seconds if seconds_maximum is None else min(max(seconds, took / LOOK_SHARE), seconds_maximum)
