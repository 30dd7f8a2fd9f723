"""Looks all the while for what must never be so, not even for a moment."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from uuid import UUID

import anyio
import anyio.to_thread

from tests.chaos import leftovers, tables
from tests.chaos.figures import Figures
from tests.chaos.pipelines import LIMIT
from tests.chaos.questions import AWAY, rows
from tests.chaos.tables import Sample

LOOK_SECONDS = 0.25
CONTAINERS_SECONDS = 2.0
SIZES_SECONDS = 5.0

LIVE_TWICE = """
SELECT job_id FROM moonyard.attempts WHERE state = 'running' GROUP BY job_id HAVING count(*) > 1
"""
LIMITED = """
SELECT count(*) FROM moonyard.jobs AS job JOIN moonyard.pipelines AS pipeline ON pipeline.id = job.pipeline_id
WHERE job.state = 'running' AND pipeline.name = 'limited'
"""
# Of a runner that fell silent, somebody else said that its attempt ended.
TOLD_THE_END = """
SELECT job_id, number FROM moonyard.attempts
WHERE state <> 'lost' AND finished_at BETWEEN now() - interval '1 minute' AND now() - make_interval(secs => $1)
"""
FORGOTTEN_SECONDS = 10.0
"""How long after an attempt's end the engine may still know a container of it in which nothing runs any more."""


class Watch:
    """Looks until cancelled, and as long as Postgres answers."""

    def __init__(self, url: str, state_folders: Mapping[str, Path], figures: Figures) -> None:
        """Prepare.

        :param state_folders: of the runners, by name.
        """
        self._url = url
        self._state_folders = state_folders
        self._figures = figures
        self._live_twice: set[UUID] = set()
        self._ended_early: set[tuple[str, int]] = set()
        self.sizes: list[Sample] = []

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            for seconds, look in (
                (LOOK_SECONDS, self.look),
                (CONTAINERS_SECONDS, self.look_at_containers),
                (SIZES_SECONDS, self._look_at_sizes),
            ):
                tasks.start_soon(_repeat, seconds, look)

    async def look(self) -> None:
        """Look at the rows, and at the workspaces."""
        for row in await rows(self._url, LIVE_TWICE):
            if row["job_id"] not in self._live_twice:
                self._live_twice.add(row["job_id"])
                self._figures.wrong("ran_twice_at_once", f"job {row['job_id']} was seen with two live attempts")
        [[count]] = await rows(self._url, LIMITED)
        if count > LIMIT:
            self._figures.wrong("over_limit", f"{count} jobs of a limit of {LIMIT} were under way")
        told = await self._told_the_end()
        self._figures.looks += 1
        for runner, folder in self._state_folders.items():
            for job, attempt in leftovers.workspaces(folder):
                self._note_early(told, job, attempt, f"workspace on {runner}")

    async def look_at_containers(self) -> None:
        # First who ended, then what is there: what was there a moment ago counts for nothing.
        told = await self._told_the_end()
        told_long_ago = await self._told_the_end(FORGOTTEN_SECONDS)
        for container in await anyio.to_thread.run_sync(leftovers.containers):
            ended = told_long_ago if container.is_over else told
            self._note_early(ended, container.job, container.attempt, container.text)

    async def _look_at_sizes(self) -> None:
        self.sizes.append(await tables.sample(self._url, anyio.current_time()))

    async def _told_the_end(self, seconds_ago: float = 0.0) -> set[tuple[str, int]]:
        return {(str(row["job_id"]), row["number"]) for row in await rows(self._url, TOLD_THE_END, seconds_ago)}

    def _note_early(self, told: set[tuple[str, int]], job: str, attempt: int, what: str) -> None:
        ended = job, attempt
        if ended in told and ended not in self._ended_early:
            self._ended_early.add(ended)
            self._figures.wrong("ended_early", f"job {job} attempt {attempt} has ended, and there is its {what}")


async def _repeat(seconds: float, look: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await look()
        except (*AWAY, subprocess.SubprocessError):
            pass  # it was just killed, or holds still
        await anyio.sleep(seconds)
