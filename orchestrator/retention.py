"""Removes what is old: jobs that ended long ago, with their logs, stages, commands and artifacts.

It goes in small steps, each a transaction of its own that waits for nobody, so that the queue does not notice; the
oldest jobs have the lowest numbers, so finding them costs nothing however long the history is. Contents that no
artifact names any more are swept with the others that nobody named.
"""

from __future__ import annotations

import logging
from typing import Final

import anyio

from orchestrator.database import Database
from orchestrator.sql import artifacts as artifacts_sql
from orchestrator.sql import caches as caches_sql
from orchestrator.sql import hooks as hooks_sql
from orchestrator.sql import plugins as plugins_sql
from orchestrator.sql import retention as sql
from orchestrator.sql import workspaces as workspaces_sql

log: Final = logging.getLogger(__name__)

STEP_JOBS: Final = 100
STEP_CACHES: Final = 100
STEP_PLUGINS: Final = 100
STEP_ARTIFACTS: Final = 100
STEP_DELIVERIES: Final = 1000
DELIVERIES_DAYS: Final = 30.0
"""How long what came to a webhook is remembered."""
DELIVERIES_MAXIMUM: Final = 10_000
"""How many of each webhook are, at most."""
STEPS_MAXIMUM: Final = 200
"""In one go: what is left then is the next one's."""
PAUSE_SECONDS: Final = 0.05
PLUGIN_DAYS: Final = 1.0


async def remove_expired_workspaces(database: Database) -> int:
    """Remove kept workspaces whose time is over, and give how many there were; their contents are swept later."""
    removed = 0
    for _ in range(STEPS_MAXIMUM):
        rows = await database.rows(workspaces_sql.WORKSPACES_REMOVE_EXPIRED, STEP_JOBS)
        removed += len(rows)
        if len(rows) < STEP_JOBS:
            break
        await anyio.sleep(PAUSE_SECONDS)
    return removed


async def remove_expired_artifacts(database: Database) -> int:
    """Remove artifacts whose time is over, and give how many there were; the rest as above."""
    removed = 0
    for _ in range(STEPS_MAXIMUM):
        rows = await database.rows(artifacts_sql.ARTIFACTS_REMOVE_EXPIRED, STEP_ARTIFACTS)
        removed += len(rows)
        if len(rows) < STEP_ARTIFACTS:
            break
        await anyio.sleep(PAUSE_SECONDS)
    return removed


async def remove_old_deliveries(database: Database) -> int:
    """Remove what hooks remember of deliveries that came long ago, or are too many, and secrets that hold no more."""
    await database.rows(hooks_sql.SECRETS_REMOVE_EXPIRED, STEP_DELIVERIES)
    old = await _remove(database, hooks_sql.DELIVERIES_REMOVE_OLD, DELIVERIES_DAYS, STEP_DELIVERIES)
    many = 0
    for _ in range(STEPS_MAXIMUM):
        rows = await database.rows(hooks_sql.DELIVERIES_REMOVE_MANY, DELIVERIES_MAXIMUM, STEP_DELIVERIES)
        many += len(rows)
        if len(rows) < STEP_DELIVERIES:
            break
        await anyio.sleep(PAUSE_SECONDS)
    return old + many


async def remove_unused_caches(database: Database, days: float) -> int:
    """Remove caches that were not used for ``days`` days, and give how many there were; the rest as above."""
    return await _remove(database, caches_sql.CACHES_REMOVE_UNUSED, days, STEP_CACHES)


async def remove_unnamed_plugins(database: Database, days: float = PLUGIN_DAYS) -> int:
    """Remove contents of plugins that nothing names, and that are ``days`` days old; give how many there were."""
    return await _remove(database, plugins_sql.CONTENTS_SWEEP, days, STEP_PLUGINS)


async def remove_old_jobs(database: Database, days: float) -> int:
    """Remove jobs that ended more than ``days`` days ago, and give how many there were."""
    removed = await _remove(database, sql.JOBS_REMOVE_OLD, days, STEP_JOBS)
    if removed:
        log.info("removed %d jobs that ended more than %g days ago", removed, days)
    return removed


async def _remove(database: Database, statement: str, days: float, step: int) -> int:
    removed = 0
    for _ in range(STEPS_MAXIMUM):
        rows = await database.rows(statement, days * 86400.0, step)
        removed += len(rows)
        if len(rows) < step:
            break
        await anyio.sleep(PAUSE_SECONDS)
    return removed
