"""One attempt of a job, from its first event to its last: the same for ``moonyard run`` and for a registered runner.

    stages, also at once ── succeeded ────────────────────┐
       ├───── failed, timed out (commands: SIGTERM first) ─┼──> finally stages ──> clean-up ──> final event
       └───── cancelled (commands: SIGTERM first) ──> on_cancel stages ──┘            ^
              killed, given back, lost ───────────────────────────────────────────────┘

The order at the end is what the promises rest on: the Lua process is gone first, then all that runs in containers, then
the workspace, and only then is the final event told. Whoever reads "succeeded" can rely on nothing of the job being
left; the engine forgets the dead containers a moment later.

Which stages may begin says ``runner.graph``. Those that run after the others do so in the same Lua process, have a time
limit of their own, and do not change how the job ended, but for one that fails a job that had succeeded. Only a script
that never waits cannot be ended without its process (``sandbox.process``): then they cannot run, and the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Final

import anyio
import msgspec

from plugins import Plugin
from runner import kept_workspace
from runner import owner as owners
from runner.approvals import Approvals, NoApprovals
from runner.caches import CacheStore, JobCaches
from runner.containers import JobContainers
from runner.engine.engine import Engine
from runner.engine.stopping import Stop, limited
from runner.event_stream import EventStream
from runner.graph import Graph
from runner.host_calls import JobHostCalls
from runner.job_context import ArtifactStore, JobContext, WorkspaceStore
from runner.kept import Keeper
from runner.losses import AttemptLost, Losses
from runner.outputs import JobOutputs
from runner.plugin_hooks import PluginHooks
from runner.plugin_rights import PluginRights
from runner.plugin_store import PluginStore
from runner.registries import JobRegistries
from runner.secrets import NO_SECRETS, JobSecrets, SecretStore
from runner.stages import StageFailed, Stages, skip
from runner.web.exchange import Web
from sandbox.parent import WarmParent
from sandbox.process import JobFacts, Sandbox
from schema.definition import CANCEL_GRACE_SECONDS, FINALLY_SECONDS, PipelineDefinition, StageDefinition
from schema.errors import ErrorInfo, MoonyardError, single_error
from schema.events import JobEvent
from schema.plugins import LockedPlugin, version_hash
from schema.states import JobState
from schema.wire import Resume, Trigger

log: Final = logging.getLogger(__name__)

CLEANUP_SECONDS: Final = 60.0
RETRY_DELAY_MAXIMUM: Final = 3600.0
"""Beyond it, a retry's delay is not doubled any further."""
JOB_SECONDS_DEFAULT: Final = 24 * 3600.0
"""A job without a timeout of its own ends here: nothing runs for ever."""


class JobOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What to run."""

    id: str
    number: int | None
    attempt: int
    filename: str
    source: str
    inputs: dict[str, str | int | float | bool]
    definition: PipelineDefinition | None = None
    """What its source was found to describe when it was checked; None takes what it describes now. What a job may have
    goes by this: a file can describe something else the next time, and a Lua process that was taken over anything."""
    version: str | None = None
    """Its SHA-256; None has it worked out."""
    plugins: list[LockedPlugin] = []
    """What its version is locked with."""
    trigger: Trigger = Trigger(kind="run")
    resume: Resume | None = None
    """What it begins with, where that is not the first stage."""
    keep_on_failure: float | None = None
    """Seconds for which its containers and workspace are kept if it fails."""


class StageTimeout(MoonyardError):
    """A stage ran longer than it may."""

    code = "stage_timeout"


class JobTimeout(MoonyardError):
    """A job ran longer than it may."""

    code = "job_timeout"


class FinallyTimeout(MoonyardError):
    """The stages that run after the others took longer than they may."""

    code = "finally_timeout"


class Job:
    """Runs one attempt. ``run`` once; ``cancel`` and ``kill`` at any time from the same event loop."""

    def __init__(
        self,
        order: JobOrder,
        *,
        engine: Engine,
        parent: WarmParent,
        owner: owners.Owner,
        stream: EventStream,
        artifacts: ArtifactStore,
        caches: CacheStore,
        web: Web,
        plugins: PluginStore | None = None,
        workspaces: WorkspaceStore | None = None,
        before_loss: Callable[[], Awaitable[None]] | None = None,
        keeper: Keeper | None = None,
        secrets: SecretStore = NO_SECRETS,
        approvals: Approvals | None = None,
    ) -> None:
        """Prepare.

        :param secrets: where the secrets come from that its pipeline may have.
        :param approvals: what stages wait for; by default for nothing.
        :param plugins: where those come from that the order names, if it names any.
        :param keeper: takes over what is left of it, where that is wanted and it failed.
        :param before_loss: called before it is told that the attempt was lost, and so before it is run again.
        """
        self._order = order
        self._engine = engine
        self._parent = parent
        self._owner = owner
        self._stream = stream
        self._artifacts = artifacts
        self._approvals = approvals or NoApprovals()
        self._caches = caches
        self._web = web
        self._plugins = plugins
        self._workspaces = workspaces
        self._scope = anyio.CancelScope()
        self._stop = Stop()
        self._grace = CANCEL_GRACE_SECONDS
        self._cancel_asked = False
        self._stages_ended = False
        self._losses = Losses()
        self._before_loss = before_loss
        self._keeper = keeper
        self._secrets = JobSecrets(secrets, stream)
        self._variables: dict[str, str] = {}
        self.containers: JobContainers | None = None
        """While it has any."""

    @property
    def id(self) -> str:
        return self._order.id

    def cancel(self) -> None:
        """End the job as cancelled: its commands are asked to end, then ``on_cancel`` and ``finally`` stages run.

        It changes nothing when the job's stages have ended: those that run afterwards end in time by themselves.
        """
        if not self._stages_ended:
            self._cancel_asked = True
            self._stop.ask(self._grace)

    def kill(self) -> None:
        """End the job as cancelled at once, with all that still runs, and run nothing more."""
        self._cancel_asked = True
        self._scope.cancel()

    async def run(self) -> JobEvent:
        """Run the attempt to its final event, which is in the stream when this returns.

        Cancelling the caller's own scope stops the job and cleans up without a final event: for an attempt whose lease
        is gone, and for a runner that gives its job back.
        """
        await self._stream.job_state("running")
        state: JobState
        error: ErrorInfo | None
        try:
            with self._scope:
                await self._run_stages()
            if self._cancel_asked:
                state, error = "cancelled", None
            else:
                state, error = "succeeded", None
        except MoonyardError as failure:
            if self._cancel_asked:  # what our own cancel broke on its way is not the job's failure
                state, error = "cancelled", None
            elif lost := self._losses.behind(failure):
                state, error = "lost", await self._tell_loss(lost, failure)
            else:
                state, error = "failed", failure.info
        except Exception as defect:  # a defect of ours ends this job with a reason, not the runner with all its jobs
            log.exception("job %s attempt %d met a defect", self._order.id, self._order.attempt)
            state = "failed"
            error = ErrorInfo(
                code="internal_error", message=f"the runner has a defect: {type(defect).__name__}: {defect}"
            )
        await self._stream.say_what_was_dropped()
        return await self._stream.job_state(state, error)

    async def _tell_loss(self, lost: MoonyardError, failure: MoonyardError) -> ErrorInfo:
        error = AttemptLost(
            f"attempt {self._order.attempt} was lost: {lost.message}",
            hint=lost.hint or "It is no fault of the job's: run it again.",
        )
        error.__cause__ = failure
        if self._before_loss is not None:
            await self._before_loss()
        await self._stream.log(None, "warn", "system", f"{error.message}; this is no failure of the job's own")
        return error.info

    async def _run_stages(self) -> None:
        async with AsyncExitStack() as held, AsyncExitStack() as stack:
            stack.enter_context(single_error())
            workspace = await held.enter_async_context(self._workspace())
            tasks = await stack.enter_async_context(anyio.create_task_group())
            containers = JobContainers(
                engine=self._engine,
                stream=self._stream,
                workspace=workspace,
                tasks=tasks,
                keeps_failed=self._order.keep_on_failure is not None,
            )
            self.containers = containers
            stack.push_async_callback(_remove_all, containers)
            plugins: Mapping[str, Plugin] = {}
            if self._order.plugins:
                assert self._plugins is not None, "an order with plugins comes with where to get them"
                plugins = await self._plugins.fetch(self._order.plugins)
            sandbox = await stack.enter_async_context(self._parent.fork())
            definition = await sandbox.load(self._order.filename, self._order.source, plugins)
            definition = self._part(await self._held_to(definition))
            containers.pipeline = definition.name
            self._variables = {**self._given(definition), **definition.env}
            containers.environment = self._variables
            containers.registries = JobRegistries(definition.registries, self._secrets)
            context = JobContext(
                stages=[*definition.stages, *definition.on_cancel, *definition.finally_],
                stream=self._stream,
                containers=containers,
                workspace=workspace,
                artifacts=self._artifacts,
                caches=JobCaches(
                    definition,
                    self._order.inputs,
                    store=self._caches,
                    workspace=workspace,
                    scratch=self._owner.folder,
                    stream=self._stream,
                ),
                losses=self._losses,
                web=self._web,
                stop=self._stop,
                outputs=JobOutputs(),
                rights=PluginRights(plugins),
                scratch=self._owner.folder,
                secrets=self._secrets,
            )
            if definition.cancel_grace is not None:
                self._grace = definition.cancel_grace
            try:
                await self._run_all(definition, sandbox, context)
            except MoonyardError as failure:
                await self._keep(failure, containers, held)
                raise

    async def _held_to(self, described: PipelineDefinition) -> PipelineDefinition:
        """Give the definition that counts, and say so where the file describes another one now."""
        checked = self._order.definition
        if checked is None or checked == described:
            return described
        text = (
            f"{self._order.filename} describes another pipeline now than when it was checked, as one does that looks "
            "at the time or at random numbers; it runs as it was checked"
        )
        await self._stream.log(None, "warn", "system", text)
        return checked

    # What a job that is only run for a test does otherwise (``runner.testing.rehearsal``).

    def _workspace(self) -> AbstractAsyncContextManager[Path]:
        return owners.workspace(self._owner, self._order.id, self._order.attempt)

    def _part(self, definition: PipelineDefinition) -> PipelineDefinition:
        """Give what of a pipeline is run."""
        return definition

    def _host_calls(self, context: JobContext) -> JobHostCalls:
        return JobHostCalls(context)

    async def _pause(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def _keep(self, failure: MoonyardError, containers: JobContainers, held: AsyncExitStack) -> None:
        """Hand over what is left of an attempt that failed, and was neither cancelled nor lost."""
        seconds = self._order.keep_on_failure
        if seconds is None or self._keeper is None or self._cancel_asked or self._losses.behind(failure):
            return
        await self._keeper.keep(self._stream, seconds, containers, held)

    async def _run_all(self, definition: PipelineDefinition, sandbox: Sandbox, context: JobContext) -> None:
        facts = JobFacts(
            id=self._order.id,
            number=self._order.number,
            attempt=self._order.attempt,
            pipeline=definition.name,
            version=self._version(),
            trigger=self._order.trigger,
            inputs=self._order.inputs,
            env=self._variables,
        )
        calls = self._host_calls(context)
        failure: MoonyardError | None = None
        graph = await self._begin(definition, context)
        hooks = PluginHooks(sandbox, calls, context)
        try:
            await self._run_graph(graph, definition, sandbox, facts, calls, context, hooks)
        except MoonyardError as error:
            failure = error
        if failure is None or (sandbox.is_alive and not self._cancel_asked and not self._losses.behind(failure)):
            with anyio.CancelScope() as saving, self._stop.interrupting(saving):
                await context.caches.save_job(succeeded=failure is None)
        self._stages_ended = True
        if failure is None or not self._losses.behind(failure):
            keeps = self._workspaces if definition.keep_workspace is not None and not self._cancel_asked else None
            if failure is not None and keeps is not None:
                await kept_workspace.keep(keeps, context.workspace, self._owner.folder, self._stream)
            facts = msgspec.structs.replace(self._with_outcome(facts, failure), stages=graph.states)
            late = await self._run_afterwards(definition, sandbox, facts, calls, context)
            failure = failure or late
            await hooks.tear_down()
        if failure is not None:
            raise failure

    async def _begin(self, definition: PipelineDefinition, context: JobContext) -> Graph:
        """Give the stages; where some of them are skipped, begin with the workspace that was kept of them.

        :raises MoonyardError: when that workspace cannot be had.
        """
        graph = Graph(definition.stages, fail_fast=definition.fail_fast)
        resume = self._order.resume
        if resume is None:
            return graph
        first = next(index for index, stage in enumerate(definition.stages) if stage.name == resume.stage)
        await skip(context, definition.stages[:first])
        for stage in definition.stages[:first]:
            graph.settle(stage.name, "succeeded")
        context.outputs.take_over(resume.outputs, [stage.name for stage in definition.stages[:first]])
        begins = f"it begins with stage `{resume.stage}`: the stages before it were done in an earlier attempt"
        if not resume.workspace or self._workspaces is None:
            await self._stream.log(None, "info", "system", f"{begins}; the workspace is empty")
            return graph
        count = await kept_workspace.fetch(self._workspaces, context.workspace, self._owner.folder)
        await self._stream.log(None, "info", "system", f"{begins}; its workspace is back ({count} files)")
        return graph

    async def _run_graph(
        self,
        graph: Graph,
        definition: PipelineDefinition,
        sandbox: Sandbox,
        facts: JobFacts,
        calls: JobHostCalls,
        context: JobContext,
        hooks: PluginHooks,
    ) -> None:
        async def run_stage(stage: StageDefinition, facts: JobFacts, stop: Stop) -> None:
            await self._run_stage(stage, sandbox, facts, calls, context, stop)

        stages = Stages(
            graph,
            definition=definition,
            sandbox=sandbox,
            facts=facts,
            context=context,
            run_stage=run_stage,
            grace=lambda: self._grace,
        )
        seconds = definition.timeout or JOB_SECONDS_DEFAULT
        async with limited(self._stop, seconds):
            try:
                await hooks.set_up()
            except BaseException:
                await skip(context, graph.waiting)
                raise
            await stages.run()
        if stages.failure is not None:
            raise stages.failure
        if self._stop.scope.cancelled_caught and not self._cancel_asked:
            raise JobTimeout(f"job of pipeline `{definition.name}` ran longer than its timeout of {seconds:g} s")

    async def _run_afterwards(
        self,
        definition: PipelineDefinition,
        sandbox: Sandbox,
        facts: JobFacts,
        calls: JobHostCalls,
        context: JobContext,
    ) -> MoonyardError | None:
        """Run what runs after the stages: each, whatever becomes of the others. Give what went wrong first."""
        waiting = [*(definition.on_cancel if self._cancel_asked else []), *definition.finally_]
        if not waiting:
            return None
        seconds = definition.finally_timeout or FINALLY_SECONDS
        context.stop = Stop()
        failure: MoonyardError | None = None
        try:
            async with limited(context.stop, seconds):
                while waiting and sandbox.is_alive:
                    stage = waiting.pop(0)
                    context.containers.prepare(stage)
                    try:
                        await self._run_stage(stage, sandbox, facts, calls, context, context.stop)
                    except StageFailed as error:
                        failure = failure or error
                        await self._stream.log(stage.name, "error", "system", error.message)
        finally:
            await skip(context, waiting)
        if context.stop.scope.cancelled_caught:
            late = FinallyTimeout(
                f"the stages that run after the others took longer than their timeout of {seconds:g} s",
                hint="Raise the pipeline's `finally_timeout`, or find out what they wait for.",
            )
            await self._stream.log(None, "error", "system", late.message)
            return failure or late
        if waiting:
            names = ", ".join(f"`{stage.name}`" for stage in waiting)
            await self._stream.log(
                None, "warn", "system", f"what was to run after the others did not: {names} ({sandbox.end})"
            )
        return failure

    def _with_outcome(self, facts: JobFacts, failure: MoonyardError | None) -> JobFacts:
        """Tell those that run after the stages how these ended."""
        if self._cancel_asked:
            return msgspec.structs.replace(facts, state="cancelled")
        if failure is not None:
            # A script is to see of it what everybody else does.
            return msgspec.structs.replace(facts, state="failed", error=self._stream.redaction.error(failure.info))
        return msgspec.structs.replace(facts, state="succeeded")

    async def _run_stage(
        self,
        stage: StageDefinition,
        sandbox: Sandbox,
        facts: JobFacts,
        calls: JobHostCalls,
        context: JobContext,
        whole: Stop,
    ) -> None:
        await self._await_approval(stage, context)
        for tries_left in range(stage.retries, -1, -1):
            try:
                await self._try_stage(stage, sandbox, facts, calls, context, whole)
            except StageFailed as failure:
                # A script that could only be stopped with its whole process has nothing left to be tried again in; and
                # a loss takes nothing from what the stage may try.
                if not sandbox.is_alive or self._losses.behind(failure):
                    raise
                if not tries_left:
                    await context.caches.save(stage, succeeded=False)
                    raise
                pause = stage.retry_delay
                if stage.retry_backoff == "exponential":
                    pause = min(pause * 2 ** (stage.retries - tries_left), max(pause, RETRY_DELAY_MAXIMUM))
                when = f" in {pause:g} s" if pause else ""
                await self._stream.log(
                    stage.name, "warn", "system", f"{failure.message}; trying again{when} ({tries_left} left)"
                )
                context.containers.forget_stage(stage.name)
                await self._pause(pause)
            else:
                return

    async def _await_approval(self, stage: StageDefinition, context: JobContext) -> None:
        """Wait for somebody's yes, where the stage needs one.

        :raises StageFailed: when it may not begin.
        """
        try:
            await self._approvals.wait(stage, self._stream)
        except anyio.get_cancelled_exc_class():
            await skip(context, [stage])
            raise
        except MoonyardError as error:
            self._losses.note(error)
            failure = StageFailed(f"stage `{stage.name}` failed: {error.message}")
            failure.__cause__ = error
            await self._stream.stage(stage.name, "failed", error=failure.info)
            raise failure from error

    async def _try_stage(
        self,
        stage: StageDefinition,
        sandbox: Sandbox,
        facts: JobFacts,
        calls: JobHostCalls,
        context: JobContext,
        whole: Stop,
    ) -> None:
        await self._stream.stage(stage.name, "running", container=stage.container)
        started = anyio.current_time()

        def duration() -> float:
            return round(anyio.current_time() - started, 6)

        has_failed = False
        context.outputs.begin(stage.name)
        facts = msgspec.structs.replace(facts, stage=stage.name, outputs=context.outputs.values)
        stop = context.stops[stage.name] = Stop(whole)
        try:
            await context.caches.restore(stage)
            async with limited(stop, stage.timeout):
                context.containers.check(stage)
                await context.containers.start_services(stage, stage.services)
                await sandbox.run_stage(stage.name, facts, calls, script=stage.name_in_file)
            if stop.scope.cancelled_caught:
                where = f"{self._order.filename}:{stage.line}" if stage.line else self._order.filename
                raise StageTimeout(
                    f"stage `{stage.name}` ran longer than its timeout of {stage.timeout:g} s",
                    where=where,
                    hint="Raise the stage's `timeout`, or give its commands timeouts of their own.",
                )
            await context.caches.save(stage, succeeded=True)
        except MoonyardError as error:
            has_failed = True
            context.containers.close_blocks_of(stage.name)
            self._losses.note(error)
            failure = StageFailed(f"stage `{stage.name}` failed: {error.message}", where=error.where)
            failure.__cause__ = error
            told = context.outputs.of(stage.name)
            await self._stream.stage(stage.name, "failed", duration=duration(), error=failure.info, outputs=told)
            raise failure from error
        except anyio.get_cancelled_exc_class():
            context.containers.close_blocks_of(stage.name)
            with anyio.CancelScope(shield=True), anyio.move_on_after(CLEANUP_SECONDS):
                told = context.outputs.of(stage.name)
                await self._stream.stage(stage.name, "cancelled", duration=duration(), outputs=told)
            raise
        finally:
            context.containers.end_stage(stage.name, has_failed=has_failed)
        told = context.outputs.of(stage.name)
        await self._stream.stage(stage.name, "succeeded", duration=duration(), outputs=told)

    def _version(self) -> str:
        return self._order.version or version_hash(self._order.source, self._order.plugins)

    def _given(self, definition: PipelineDefinition) -> dict[str, str]:
        """Give the variables that each container of the job has, whatever the pipeline says."""
        return {
            "CI": "true",
            "MOONYARD": "true",
            "MOONYARD_JOB": self._order.id,
            "MOONYARD_JOB_NUMBER": "" if self._order.number is None else str(self._order.number),
            "MOONYARD_ATTEMPT": str(self._order.attempt),
            "MOONYARD_PIPELINE": definition.name,
            "MOONYARD_VERSION": self._version(),
            "MOONYARD_TRIGGER": self._order.trigger.kind,
        }


async def _remove_all(containers: JobContainers) -> None:
    with anyio.CancelScope(shield=True), anyio.move_on_after(CLEANUP_SECONDS):
        await containers.remove_all()
