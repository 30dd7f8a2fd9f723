"""The agent of a registered runner: claims jobs, renews their leases, runs them, and drains when it is told to stop.

Three kinds of task live side by side: one that claims, one that sends heartbeats, and one for each job. The heartbeat
tells which attempts the runner holds and hears which of them a user wants cancelled and which are no longer its own;
its answer is waited for, so that a cancel is heard without delay.
It goes on for as long as a job runs, also while draining: a runner that finishes its work is not to look dead.

To stop: nothing new is claimed, running jobs are finished. What is not finished after the drain time is stopped and
cleaned up without a final event; its lease runs out, and the orchestrator queues it again.
"""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Final

import anyio
import anyio.abc
import msgspec

from runner import checkup, traces
from runner import owner as owners
from runner.approvals import OrchestratorApprovals
from runner.artifact_stores import OrchestratorArtifacts
from runner.cache_folder import CACHE_BYTES, CacheFolder
from runner.cache_stores import OrchestratorCaches
from runner.delivery import (
    AttemptGone,
    OrchestratorSecrets,
    OrchestratorSink,
    OrchestratorWorkspaces,
)
from runner.engine.engine import Engine
from runner.engine.settings import EngineSettings
from runner.event_stream import EventStream
from runner.job import Job, JobOrder
from runner.kept import KeepSettings, KeptAttempts
from runner.plugin_store import PluginFolder
from runner.reaper import reaping
from runner.redaction.credentials import Credentials, RedactSettings
from runner.redaction.redactor import Redaction
from runner.rotation import Rotation, RotationSettings
from runner.shells import Places, Shells
from runner.web.ceilings import Ceilings
from runner.web.exchange import Web, WebSettings
from sandbox.parent import WarmParent
from schema import log_context
from schema.client import Client, OrchestratorRefused, OrchestratorUnreachable
from schema.errors import MoonyardError, single_error
from schema.tracing import Tracer
from schema.wire import Assignment, Claim, Claimed, Heartbeat, HeartbeatAnswer, Holding, Trigger

log: Final = logging.getLogger(__name__)

CLAIM_WAIT_SECONDS: Final = 25.0
CALLED_SECONDS: Final = CLAIM_WAIT_SECONDS - 1.0
"""A claim that brings nothing and comes back sooner was let go for a reason."""
ANSWER_SECONDS: Final = 10.0
LEASE_SECONDS_ASSUMED: Final = 15.0
PAUSE_SECONDS_FIRST: Final = 0.5
PAUSE_SECONDS_MAXIMUM: Final = 15.0
REVOKED: Final = "runner_revoked"


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    engine: EngineSettings
    orchestrators: list[str]
    token: str
    version: str
    capacity: int = 4
    """How many jobs run at once."""
    cache_budget: int = CACHE_BYTES
    """How many bytes of packed caches are kept here."""
    drain_seconds: float = 600.0
    """How long running jobs may go on after the runner was told to stop."""
    sandbox_require: tuple[str, ...] = ()
    """The walls around Lua without which it does not start (``sandbox.wall.LAYERS``)."""
    shells: bool = True
    """Whether users may open shells in containers here."""
    web: WebSettings = WebSettings()
    """Where jobs may connect to by `http`, and how often."""
    keep: KeepSettings = KeepSettings()
    """Whether, and how long, failed attempts' containers are kept."""
    redact: RedactSettings = RedactSettings()
    """What is taken out of logs besides the secrets that are delivered."""
    tls_ca: Path | None = None
    """Who certifies the orchestrators, where it is none that the system trusts."""
    rotation: RotationSettings | None = None
    """Where the token stands, and how long it is used; None where it stands nowhere and stays as it is."""


class RunnerRejected(MoonyardError):
    """The orchestrator does not know this runner, or no longer."""

    code = "runner_rejected"


class RunningJob:
    """A job under way on this runner."""

    def __init__(self, job: Job, attempt: int) -> None:
        self.job = job
        self.attempt = attempt
        self.scope = anyio.CancelScope()
        self.cancelling = False
        self.killing = False
        self.is_ours = True


class Agent:
    """Runs the jobs of one registered runner."""

    def __init__(
        self,
        settings: AgentSettings,
        client: Client,
        engine: Engine,
        parent: WarmParent,
        owner: owners.Owner,
        web: Web,
        tracer: Tracer | None = None,
    ) -> None:
        self._settings = settings
        self._tracer = tracer
        self._client = client
        self._engine = engine
        self._parent = parent
        self._owner = owner
        self._caches = CacheFolder(settings.engine.state_folder, settings.cache_budget)
        self._web = web
        self._plugins = PluginFolder(client, settings.engine.state_folder)
        self._running: dict[tuple[str, int], RunningJob] = {}
        """By job and attempt: a job that was lost can come back here while its old attempt is still being stopped."""
        self._slot_freed = anyio.Event()
        self._claiming = anyio.CancelScope()
        self._asking = anyio.CancelScope()
        """The one claim under way."""
        self._draining = False
        self._is_fit = True
        """There is an engine, and room on the disk, as far as is known. It is looked for when an attempt is lost."""
        self._lease_seconds = LEASE_SECONDS_ASSUMED
        self._heartbeat = anyio.CancelScope()
        self._heart_wanted = anyio.Event()
        """A job runs, something is kept, or the runner drains. Without that, its claims tell that it is there."""
        self._is_called = True
        """There may be something to hear, or to tell: that what it kept before it was started again is gone."""
        self._kept = KeptAttempts(client, settings.keep, self._heart_needed)
        self._shells = Shells(client, allowed=settings.shells)
        self._credentials = Credentials(settings.redact)
        self._rotation = None if settings.rotation is None else Rotation(client, settings.rotation)

    async def run(self) -> None:
        """Claim and run jobs until ``drain`` was called and what was running has ended.

        :raises RunnerRejected: when the orchestrator no longer takes the runner's token; running jobs are stopped.
        """
        await self._caches.trim()
        async with anyio.create_task_group() as heart:
            heart.start_soon(self._beat)
            heart.start_soon(self._kept.run)
            heart.start_soon(self._shells.run)
            if self._rotation is not None:
                heart.start_soon(self._rotation.run)
            async with anyio.create_task_group() as jobs:
                with self._claiming:
                    await self._claim_for_ever(jobs)
                if self._running:
                    log.info(
                        "draining: %d jobs go on for up to %.0f s", len(self._running), self._settings.drain_seconds
                    )
                await self._wait_for_jobs()
            heart.cancel_scope.cancel()

    def drain(self) -> None:
        """Claim nothing more and let ``run`` return when the running jobs have ended."""
        self._draining = True
        self._claiming.cancel()
        self._heart_needed()

    def _heart_needed(self) -> None:
        """Send a heartbeat now: the one under way does not tell what there is to tell."""
        self._heart_wanted.set()
        self._heartbeat.cancel()

    async def _wait_for_jobs(self) -> None:
        with anyio.move_on_after(self._settings.drain_seconds):
            while self._running:
                await self._slot_freed.wait()
        for running in self._running.values():
            with log_context.about(job=running.job.id, attempt=running.attempt):
                log.warning("drain time is over: job %s is stopped and given back", running.job.id)
            running.scope.cancel()

    async def _claim_for_ever(self, jobs: anyio.abc.TaskGroup) -> None:
        pause = PAUSE_SECONDS_FIRST
        has_failed = False
        while True:
            slots = self._settings.capacity - len(self._running)
            if not slots:
                await self._slot_freed.wait()
                continue
            if not self._is_fit:
                await self._until_fit()
            with anyio.CancelScope() as self._asking:
                asked_at = anyio.current_time()
                try:
                    claimed = await self._client.post(
                        "/v1/runner/claim",
                        Claimed,
                        Claim(
                            slots=slots,
                            # After a failure, whoever watches wants to know that it is over before the next job comes.
                            wait=0.0 if has_failed else CLAIM_WAIT_SECONDS,
                            capacity=self._settings.capacity,
                            version=self._settings.version,
                        ),
                        seconds=CLAIM_WAIT_SECONDS + ANSWER_SECONDS,
                    )
                except (OrchestratorRefused, OrchestratorUnreachable) as error:
                    self._raise_if_rejected(error)
                    wait = pause * random.uniform(0.8, 1.2)  # noqa: S311  # spreads runners out, hides nothing
                    log.warning("polling failed: %s; next try in %.1f s", error.message, wait)
                    await anyio.sleep(wait)
                    pause = min(pause * 2, PAUSE_SECONDS_MAXIMUM)
                    has_failed = True
                    continue
                if has_failed:
                    log.info("orchestrator %s answers again", self._client.address)
                if not claimed.assignments and not has_failed and anyio.current_time() < asked_at + CALLED_SECONDS:
                    # Somebody let it go before its time: what for, the answer to a heartbeat says.
                    self._is_called = True
                    self._heart_wanted.set()
                pause, has_failed = PAUSE_SECONDS_FIRST, False
                self._web.ceilings.hear(claimed.http_limits)
                for assignment in claimed.assignments:
                    self._start(assignment, jobs)

    async def _check_fitness(self) -> None:
        owners.check_room(self._owner)
        await self._engine.check()

    async def _note_loss(self) -> None:
        """Take back the claim under way where nothing can be run: it would bring one job after another to be lost.

        That is before the loss is told: the job that was lost would be the first of them.
        """
        try:
            await self._check_fitness()
        except MoonyardError:
            self._is_fit = False
            self._asking.cancel()

    async def _until_fit(self) -> None:
        """Claim nothing until it can be run here."""
        pause = PAUSE_SECONDS_FIRST
        while not self._is_fit:
            try:
                await self._check_fitness()
            except MoonyardError as error:
                log.warning("nothing is claimed: %s; next try in %.1f s", error.message, pause)
                await anyio.sleep(pause)
                pause = min(pause * 2, PAUSE_SECONDS_MAXIMUM)
            else:
                self._is_fit = True

    def _start(self, assignment: Assignment, jobs: anyio.abc.TaskGroup) -> None:
        if assignment.lease_seconds < self._lease_seconds:
            # The heartbeat under way waits for longer than this lease may allow: the next one is due at once.
            self._heartbeat.cancel()
        self._lease_seconds = assignment.lease_seconds
        sink = OrchestratorSink(self._client, assignment.job, assignment.attempt)
        stream = traces.stream(self._tracer, assignment, sink, Redaction(self._credentials))
        job = Job(
            JobOrder(
                id=assignment.job,
                number=assignment.number,
                attempt=assignment.attempt,
                filename=assignment.filename,
                source=assignment.source,
                definition=assignment.definition,
                inputs=assignment.inputs,
                version=assignment.version,
                plugins=assignment.plugins,
                trigger=assignment.trigger or Trigger(kind="submit"),
                resume=assignment.resume,
                keep_on_failure=assignment.keep_on_failure,
            ),
            engine=self._engine,
            parent=self._parent,
            owner=self._owner,
            stream=stream,
            artifacts=OrchestratorArtifacts(self._client, assignment.job, assignment.attempt),
            caches=OrchestratorCaches(self._client, assignment.job, assignment.attempt, self._caches),
            web=self._web,
            plugins=self._plugins,
            workspaces=OrchestratorWorkspaces(self._client, assignment.job, assignment.attempt),
            before_loss=self._note_loss,
            keeper=self._kept,
            secrets=OrchestratorSecrets(self._client, assignment.job, assignment.attempt),
            approvals=OrchestratorApprovals(
                self._client,
                assignment.job,
                assignment.number,
                assignment.attempt,
                is_protected=assignment.is_protected,
            ),
        )
        running = RunningJob(job, assignment.attempt)
        for older in self._running.values():
            if older.job.id == assignment.job:
                self._stop(older)
        self._running[assignment.job, assignment.attempt] = running
        self._heart_wanted.set()
        with log_context.about(job=assignment.job, attempt=assignment.attempt):
            log.info("job %d (%s) attempt %d starts", assignment.number, assignment.pipeline, assignment.attempt)
        jobs.start_soon(self._run_job, running, stream, name=f"job {assignment.number}")

    async def _run_job(self, running: RunningJob, stream: EventStream) -> None:
        with log_context.about(job=running.job.id, attempt=running.attempt):
            await self._run_logged(running, stream)

    async def _run_logged(self, running: RunningJob, stream: EventStream) -> None:
        try:
            with running.scope, single_error():
                async with anyio.create_task_group() as delivery:
                    delivery.start_soon(stream.deliver_all)
                    final = await running.job.run()
                    log.info("job %s attempt %d %s", running.job.id, running.attempt, final.state)
                    stream.finish()
        except AttemptGone as gone:
            log.warning("job %s attempt %d was stopped: %s", running.job.id, running.attempt, gone.message)
        except MoonyardError as error:
            log.error("job %s attempt %d could not be reported: %s", running.job.id, running.attempt, error.message)
        finally:
            del self._running[running.job.id, running.attempt]
            self._slot_freed.set()
            self._slot_freed = anyio.Event()

    async def _beat(self) -> None:
        while True:
            kept = self._kept.listed
            if not self._running and not self._draining and not kept and not self._is_called:
                self._heart_wanted = anyio.Event()
                await self._heart_wanted.wait()
                kept = self._kept.listed
            holding = [
                Holding(job=job, attempt=running.attempt, cancelling=running.cancelling, killing=running.killing)
                for (job, _), running in self._running.items()
                if running.is_ours
            ]
            # The orchestrator renews the leases at once, and waits with the answer for something to say.
            wait = self._lease_seconds / 3
            is_idle = not holding and not kept and not self._draining
            message = Heartbeat(
                holding=holding,
                kept=kept,
                draining=self._draining,
                rotating=self._rotation is None or self._rotation.is_wanted,
                wait=0.0 if is_idle else wait,
            )
            with anyio.CancelScope() as self._heartbeat:  # to drain is told at once
                try:
                    answer = await self._client.post(
                        "/v1/runner/heartbeat", HeartbeatAnswer, message, seconds=wait * 1.5
                    )
                except (OrchestratorRefused, OrchestratorUnreachable) as error:
                    if not is_idle:  # else the claim meets the same, and tells it
                        self._raise_if_rejected(error)
                    # Without a job nothing depends on it, and the claim tells of the same trouble.
                    level = logging.WARNING if holding else logging.DEBUG
                    log.log(level, "heartbeat failed: %s; next try in %.1f s", error.message, wait / 4)
                    await anyio.sleep(wait / 4)
                    continue
                self._hear(answer, {held.job: held.attempt for held in holding})
                self._is_called = bool(kept)  # when the last is gone, that is told once

    def _hear(self, answer: HeartbeatAnswer, asked: dict[str, int]) -> None:
        self._lease_seconds = answer.lease_seconds
        self._web.ceilings.hear(answer.http_limits)
        for job in answer.cancel:
            if running := self._holding(job, asked):
                running.cancelling = True
                running.job.cancel()
        for job in answer.kill:
            if running := self._holding(job, asked):
                running.killing = True
                running.job.kill()
        for job in answer.gone:
            if running := self._holding(job, asked):
                self._stop(running)
        for shell in answer.shells:
            places = self._places(shell.job, shell.attempt)
            if places is None:
                self._kept.deny(shell.job, shell.attempt)
            self._shells.open(shell, places)
        for kept in answer.release:
            self._kept.release(kept)
        if answer.rotate and self._rotation is not None:
            self._rotation.want()

    def _places(self, job: str, attempt: int) -> Places | None:
        """Find the containers of an attempt, which runs or is kept."""
        running = self._running.get((job, attempt))
        return self._kept.containers_of(job, attempt) if running is None else running.job.containers

    def _holding(self, job: str, asked: dict[str, int]) -> RunningJob | None:
        """Find the attempt that the answer speaks of, which is the one that was asked about, if it still runs."""
        return self._running.get((job, asked[job])) if job in asked else None

    def _stop(self, running: RunningJob) -> None:
        """Stop an attempt that is no longer this runner's, and say nothing more of it."""
        with log_context.about(job=running.job.id, attempt=running.attempt):
            log.warning("job %s attempt %d is no longer ours: it is stopped", running.job.id, running.attempt)
        running.is_ours = False
        running.scope.cancel()

    def _raise_if_rejected(self, error: MoonyardError) -> None:
        if isinstance(error, OrchestratorRefused) and error.code == REVOKED:
            raise RunnerRejected(
                f"{error.message}: orchestrator {error.address} takes nothing more from it",
                code=REVOKED,
                hint=error.hint,
            ) from error
        if isinstance(error, OrchestratorRefused) and error.status in {401, 403}:
            raise RunnerRejected(
                f"orchestrator {error.address} does not accept this runner's token: {error.message}",
                hint=(
                    "Register the runner again: `moonyard token create --kind registration --name NAME`, then "
                    "`moonyard runner register`."
                ),
            ) from error


async def serve(settings: AgentSettings, stop: anyio.Event, tracer: Tracer | None = None) -> None:
    """Run a registered runner until ``stop`` is set and it has drained.

    :raises MoonyardError: when there is no engine, or the orchestrator rejects the runner.
    """
    with single_error(), owners.take(settings.engine.state_folder) as owner:
        async with (
            WarmParent.start(required=settings.sandbox_require) as parent,
            Engine.open(settings.engine, owner.name) as engine,
            reaping(settings.engine.state_folder, owner, engine),
            Client.open(settings.orchestrators, settings.token, tls_ca=settings.tls_ca) as client,
            Web.open(settings.web, Ceilings(client)) as web,
        ):
            if settings.sandbox_require:
                async with parent.fork():
                    pass  # better to end now than with each job
            agent = Agent(settings, client, engine, parent, owner, web, tracer)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_drain_when, stop, agent)
                tasks.start_soon(_tell_what_is_weaker, engine, parent)
                await agent.run()
                tasks.cancel_scope.cancel()


async def _tell_what_is_weaker(engine: Engine, parent: WarmParent) -> None:
    for finding in await checkup.look(engine, parent):
        # What the sandbox lacks is told by itself, when its first process starts.
        if finding.state != "ok" and finding.check != "sandbox":
            log.warning("%s: %s (`moonyard doctor` says more)", finding.check, finding.text)


async def _drain_when(stop: anyio.Event, agent: Agent) -> None:
    await stop.wait()
    agent.drain()
