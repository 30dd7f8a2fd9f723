"""Asks from the outside whether the promises were kept: Postgres, the API, the engine, the process table, the logs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

import anyio
import anyio.to_thread

from schema.client import Client, OrchestratorRefused, OrchestratorUnreachable
from schema.wire import ArtifactList, Job
from tests.chaos import fence, leftovers, recovery, secrecy, service_logs, tables
from tests.chaos.faults import Happened
from tests.chaos.figures import Figures
from tests.chaos.installation import Installation
from tests.chaos.load import Load
from tests.chaos.questions import AWAY, rows
from tests.chaos.review import Review
from tests.chaos.watch import Watch

SETTLE_SECONDS = 120.0
CLEAR_SECONDS = 60.0
REVIEW_SECONDS = 15.0
REVIEW_AGE_SECONDS = 60.0
"""How long after its end a job is looked at, in a run so long that it would be removed before the run's end."""
ASKED_BY_API = 30

UNSETTLED = "SELECT count(*) FROM moonyard.jobs WHERE state IN ('queued', 'running')"
SOME = """
SELECT id, state, attempt FROM moonyard.jobs WHERE idempotency_key IS NOT NULL AND finished_at IS NOT NULL
"""
RECORD = """
SELECT string_agg(lines, '' ORDER BY attempt, next_seq) FROM moonyard.event_batches WHERE job_id = $1
"""
KEPT = """
SELECT artifact.name, blob.sha256 FROM moonyard.artifacts AS artifact JOIN moonyard.blobs AS blob
ON blob.id = artifact.blob_id WHERE artifact.job_id = $1
"""


class Check:
    """Fills in the figures: some while the run lasts, most when all has settled."""

    def __init__(self, installation: Installation, load: Load, happened: Sequence[Happened], figures: Figures) -> None:
        self._here = installation
        self._load = load
        self._happened = happened
        self.figures = figures
        folders = {runner.service.name: runner.folder for runner in installation.runners}
        self.watch = Watch(installation.url, folders, figures)
        self._review = Review(installation.url, load.ledger, happened, self.figures)

    async def review(self) -> None:
        """Look at jobs while the run lasts, until cancelled."""
        while True:
            await anyio.sleep(REVIEW_SECONDS)
            with suppress(*AWAY):  # it was just killed
                await self._review.look(REVIEW_AGE_SECONDS)

    async def settle(self) -> None:
        """Wait until every job has ended."""
        with anyio.move_on_after(SETTLE_SECONDS):
            while (await rows(self._here.url, UNSETTLED))[0][0]:  # noqa: ASYNC110  # asked from outside
                await anyio.sleep(0.1)

    async def run(self, chance: random.Random) -> Figures:
        """Look at everything, when every job has ended."""
        found, here = self.figures, self._here
        await self._clear()
        await self.watch.look()
        await self._review.look()
        await self._review.close()
        await self._check_answers(chance)
        await fence.try_stale(
            here.url, here.users.address, {UUID(runner.id): runner.token for runner in here.runners}, found
        )
        found.recovery_seconds = recovery.by_fault(self._happened, self._review.ended.values())
        found.lost_attempt_to_end_seconds = recovery.of_lost_attempts(self._review.ended.values())
        found.kills = dict(Counter(fault.kind for fault in self._happened))
        self._check_sizes()
        return found

    async def after_stop(self) -> None:
        """Look at what only the end of all parts shows: what is left of them, what they said, and how they ended."""
        found, here = self.figures, self._here
        for runner in here.runners:
            for name in leftovers.owners(runner.folder):
                found.wrong("leftovers", f"after the stop: owner {name} of {runner.service.name}")
        for text in await anyio.to_thread.run_sync(leftovers.with_the_engine, here.owners):
            found.wrong("leftovers", f"after the stop: {text}")
        for line in here.strays():
            found.wrong("leftovers", f"after the stop: {line}")
        logs = {service.name: service.log for service in here.services}
        told = await anyio.to_thread.run_sync(lambda: list(secrecy.places(here.url, logs, here.secrets)))
        for text in told:
            found.wrong("secrets_told", text)
        service_logs.judge_texts(logs.values(), found)
        service_logs.judge_ends([part.service for part in [*here.runners, *here.replicas]], self._happened, found)
        found.refusals = dict(self._load.ledger.refusals)
        for text, count in found.refusals.items():
            if text.startswith("500"):
                found.wrong("answers_wrong", f"submits were answered `{text}`", count)

    async def _clear(self) -> None:
        """Wait until nothing is left of jobs that ended, while the runners are idle."""
        started = anyio.current_time()
        left: list[str] = ["?"]
        with anyio.move_on_after(CLEAR_SECONDS):
            while left := await self._left():  # noqa: ASYNC110  # the same
                await anyio.sleep(0.2)
        self.figures.cleared_seconds = round(anyio.current_time() - started, 2)
        for text in left:
            self.figures.wrong("leftovers", text)

    async def _left(self) -> list[str]:
        jobs = {job for named in self._load.ledger.acknowledged.values() for job in named}
        living = {owner for runner in self._here.runners for owner in leftovers.owners(runner.folder)}
        dead = self._here.owners - living
        left = await anyio.to_thread.run_sync(leftovers.with_the_engine, dead, jobs)
        for runner in self._here.runners:
            name = runner.service.name
            left += [f"workspace of job {job} on {name}" for job, _ in leftovers.workspaces(runner.folder)]
            left += [f"Lua process {pid} of {name}" for pid in runner.lua_processes()]
            left += [f"owner {owner} of {name}" for owner in leftovers.owners(runner.folder)[1:]]
        return left + self._here.strays()

    async def _check_answers(self, chance: random.Random) -> None:
        """Ask each replica, and the balancer, for some jobs: facts, record, artifacts."""
        addresses = [self._here.users.address, *(replica.address for replica in self._here.replicas)]
        there = await rows(self._here.url, SOME)
        for number, row in enumerate(chance.sample(there, min(len(there), ASKED_BY_API))):
            address = addresses[number % len(addresses)]
            record = (await rows(self._here.url, RECORD, row["id"]))[0][0]
            kept = {item["name"]: item["sha256"] for item in await rows(self._here.url, KEPT, row["id"])}
            self.figures.answers += 1
            try:
                async with Client.open([address], self._here.token) as client:
                    job = await client.get(f"/v1/jobs/{row['id']}", Job)
                    listed = await client.get(f"/v1/jobs/{row['id']}/artifacts", ArtifactList)
                    async with client.stream(f"/v1/jobs/{row['id']}/events") as stream:
                        lines = b"".join([line + b"\n" async for line in stream.lines()])
            except (OrchestratorRefused, OrchestratorUnreachable) as error:
                self.figures.wrong("answers_wrong", f"{address}, asked for job {row['id']}: {error.message}")
                continue
            said = {artifact.name: artifact.sha256 for artifact in listed.artifacts}
            if (job.state, job.attempt) != (row["state"], row["attempt"]) or lines.decode() != record or said != kept:
                what = f"{job.state}, attempt {job.attempt}, {len(lines)} bytes of record, artifacts {said}"
                self.figures.wrong("answers_wrong", f"{address} says of job {row['id']}: {what}; Postgres: {row}")

    def _check_sizes(self) -> None:
        found = self.figures
        found.tables = tables.sizes(self.watch.sizes)
        if found.jobs_removed:
            for text in tables.growing(found.tables):
                found.wrong("tables_growing", text)
