"""One attempt of a job, from its first event to its last: the same for ``moonyard run`` and for a registered runner.

The order at the end is what the promises rest on: the Lua process is gone first, then the containers, then the
workspace, and only then is the final event told. Whoever reads "succeeded" can rely on nothing being left behind.
"""

from __future__ import annotations

import logging
import math
from contextlib import AsyncExitStack
from typing import Final

import anyio
import msgspec

import plugins
from runner import owner as owners
from runner.containers import JobContainers
from runner.engine.engine import Engine
from runner.event_stream import EventStream
from runner.host_calls import JobHostCalls
from runner.job_context import ArtifactStore, JobContext
from sandbox.parent import WarmParent
from sandbox.process import JobFacts, Sandbox
from schema.definition import PipelineDefinition, StageDefinition
from schema.errors import ErrorInfo, MoonyardError, single_error
from schema.events import JobEvent
from schema.states import JobState

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


class StageFailed(MoonyardError):
    """A stage's script raised."""

    code = "stage_failed"


class StageTimeout(MoonyardError):
    """A stage ran longer than it may."""

    code = "stage_timeout"


class JobTimeout(MoonyardError):
    """A job ran longer than it may."""

    code = "job_timeout"


class Job:
    """Runs one attempt. ``run`` once; ``cancel`` at any time from the same event loop."""

    def __init__(
        self,
        order: JobOrder,
        *,
        engine: Engine,
        parent: WarmParent,
        owner: owners.Owner,
        stream: EventStream,
        artifacts: ArtifactStore,
    ) -> None:
        self._order = order
        self._engine = engine
        self._parent = parent
        self._owner = owner
        self._stream = stream
        self._artifacts = artifacts
        self._scope = anyio.CancelScope()
        self._cancel_asked = False

    @property
    def id(self) -> str:
        return self._order.id

    def cancel(self) -> None:
        """End the job as cancelled: its commands are stopped, its containers removed."""
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
            # What our own cancel broke on its way is not the job's failure.
            state, error = ("cancelled", None) if self._cancel_asked else ("failed", failure.info)
        except Exception as defect:  # a defect of ours ends this job with a reason, not the runner with all its jobs
            log.exception("job %s attempt %d met a defect", self._order.id, self._order.attempt)
            state = "failed"
            error = ErrorInfo(
                code="internal_error", message=f"the runner has a defect: {type(defect).__name__}: {defect}"
            )
        await self._stream.say_what_was_dropped()
        return await self._stream.job_state(state, error)

    async def _run_stages(self) -> None:
        async with AsyncExitStack() as stack:
            stack.enter_context(single_error())
            workspace = await stack.enter_async_context(
                owners.workspace(self._owner, self._order.id, self._order.attempt)
            )
            tasks = await stack.enter_async_context(anyio.create_task_group())
            containers = JobContainers(
                engine=self._engine,
                stream=self._stream,
                workspace=workspace,
                environment=self._environment(),
                tasks=tasks,
            )
            stack.push_async_callback(_remove_all, containers)
            sandbox = await stack.enter_async_context(self._parent.fork())
            definition = await sandbox.load(self._order.filename, self._order.source, plugins.shipped())
            context = JobContext(
                stages=definition.stages,
                stream=self._stream,
                containers=containers,
                workspace=workspace,
                artifacts=self._artifacts,
            )
            await self._run_in_order(definition, sandbox, context)

    async def _run_in_order(self, definition: PipelineDefinition, sandbox: Sandbox, context: JobContext) -> None:
        facts = JobFacts(
            id=self._order.id,
            number=self._order.number,
            attempt=self._order.attempt,
            pipeline=definition.name,
            inputs=self._order.inputs,
        )
        calls = JobHostCalls(context)
        waiting = list(definition.stages)
        seconds = definition.timeout or JOB_SECONDS_DEFAULT
        try:
            with anyio.move_on_after(seconds) as scope:
                while waiting:
                    stage = waiting.pop(0)
                    # What images are needed next is known: this stage's, and while it runs the one after it.
                    for coming in (stage, *waiting[:1]):
                        context.containers.prepare(coming)
                    await self._run_stage(stage, sandbox, facts, calls, context)
            if scope.cancelled_caught:
                raise JobTimeout(  # noqa: TRY301  # all that ends a job early passes by the same place
                    f"job of pipeline `{definition.name}` ran longer than its timeout of {seconds:g} s"
                )
        except BaseException:
            with anyio.CancelScope(shield=True):
                for stage in waiting:
                    await self._stream.stage(stage.name, "skipped")
            raise

    async def _run_stage(
        self, stage: StageDefinition, sandbox: Sandbox, facts: JobFacts, calls: JobHostCalls, context: JobContext
    ) -> None:
        for tries_left in range(stage.retries, -1, -1):
            try:
                await self._try_stage(stage, sandbox, facts, calls, context)
            except StageFailed as failure:
                # A script that could only be stopped with its whole process has nothing left to be tried again in.
                if not tries_left or not sandbox.is_alive:
                    raise
                pause = stage.retry_delay
                if stage.retry_backoff == "exponential":
                    pause = min(pause * 2 ** (stage.retries - tries_left), max(pause, RETRY_DELAY_MAXIMUM))
                when = f" in {pause:g} s" if pause else ""
                await self._stream.log(
                    stage.name, "warn", "system", f"{failure.message}; trying again{when} ({tries_left} left)"
                )
                await anyio.sleep(pause)
            else:
                return

    async def _try_stage(
        self, stage: StageDefinition, sandbox: Sandbox, facts: JobFacts, calls: JobHostCalls, context: JobContext
    ) -> None:
        await self._stream.stage(stage.name, "running", container=stage.container)
        started = anyio.current_time()

        def duration() -> float:
            return round(anyio.current_time() - started, 6)

        try:
            with anyio.move_on_after(stage.timeout or math.inf) as scope:
                await sandbox.run_stage(stage.name, facts, calls)
            if scope.cancelled_caught:
                where = f"{self._order.filename}:{stage.line}" if stage.line else self._order.filename
                raise StageTimeout(
                    f"stage `{stage.name}` ran longer than its timeout of {stage.timeout:g} s",
                    where=where,
                    hint="Raise the stage's `timeout`, or give its commands timeouts of their own.",
                )
        except MoonyardError as error:
            context.containers.close_blocks_of(stage.name)
            failure = StageFailed(f"stage `{stage.name}` failed: {error.message}", where=error.where)
            failure.__cause__ = error
            await self._stream.stage(stage.name, "failed", duration=duration(), error=failure.info)
            raise failure from error
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True), anyio.move_on_after(CLEANUP_SECONDS):
                await self._stream.stage(stage.name, "cancelled", duration=duration())
            raise
        finally:
            context.containers.end_stage(stage.name)
        await self._stream.stage(stage.name, "succeeded", duration=duration())

    def _environment(self) -> dict[str, str]:
        return {
            "CI": "true",
            "MOONYARD": "true",
            "MOONYARD_JOB": self._order.id,
            "MOONYARD_JOB_NUMBER": "" if self._order.number is None else str(self._order.number),
            "MOONYARD_ATTEMPT": str(self._order.attempt),
        }


async def _remove_all(containers: JobContainers) -> None:
    with anyio.CancelScope(shield=True), anyio.move_on_after(CLEANUP_SECONDS):
        await containers.remove_all()
