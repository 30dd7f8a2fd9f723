"""Runs the stages of an attempt, each as soon as it may: several at once in one Lua state.

What may begin says ``runner.graph``. Each stage that runs has a stop of its own below the job's: by it the first
failure ends what runs beside it, as a cancel would, unless the pipeline says ``fail_fast = false``.
What ends with the job as a whole, by a cancel or its timeout, is ended from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import anyio
import anyio.abc
import msgspec

from runner.engine.stopping import Stop
from runner.graph import Graph, Outcome, ends_with_the_first_failure
from runner.host_calls import ConditionCalls
from runner.job_context import JobContext
from sandbox.process import JobFacts, Sandbox, SandboxStopped
from schema.definition import PARALLEL_STAGES, PipelineDefinition, StageDefinition
from schema.errors import MoonyardError


class StageFailed(MoonyardError):
    """A stage's script raised."""

    code = "stage_failed"


class RunStage(Protocol):
    async def __call__(self, stage: StageDefinition, facts: JobFacts, stop: Stop) -> None:
        """Run a stage, its retries included; ``stop`` asks it to end.

        :raises StageFailed: when it failed for good.
        """
        ...


class Stages:
    """The stages of one attempt. ``run`` once."""

    def __init__(
        self,
        graph: Graph,
        *,
        definition: PipelineDefinition,
        sandbox: Sandbox,
        facts: JobFacts,
        context: JobContext,
        run_stage: RunStage,
        grace: Callable[[], float],
    ) -> None:
        self._graph = graph
        self._definition = definition
        self._sandbox = sandbox
        self._facts = facts
        self._context = context
        self._run_stage = run_stage
        self._grace = grace
        self._running: dict[str, tuple[StageDefinition, Stop]] = {}
        self._failures: list[StageFailed] = []

    @property
    def failure(self) -> StageFailed | None:
        """What failed first, of the stages that are not allowed to.

        One that was stopped with the Lua process has not failed for a reason of its own, and may have told it first.
        """
        own = (failure for failure in self._failures if not isinstance(failure.__cause__, SandboxStopped))
        return next(own, self._failures[0] if self._failures else None)

    async def run(self) -> None:
        """Run all that may run. Cancelling this ends it; what has not begun is told as skipped."""
        try:
            await self._context.containers.start_services(None, self._definition.services)
            async with anyio.create_task_group() as tasks:
                self._begin_more(tasks)
        finally:
            await skip(self._context, self._graph.waiting)

    def _begin_more(self, tasks: anyio.abc.TaskGroup) -> None:
        slots = self._definition.parallel or PARALLEL_STAGES
        while len(self._running) < slots and (taken := self._graph.take()) is not None:
            stage, outcome = taken
            if outcome is not None:
                tasks.start_soon(self._pass_over, tasks, stage, outcome)
                continue
            self._running[stage.name] = stage, Stop(self._context.stop)
            # What images are needed next is known: this stage's, and while it runs the one after it.
            for coming in (stage, *self._graph.waiting[:1]):
                if coming.when == "on_success":
                    self._context.containers.prepare(coming)
            tasks.start_soon(self._take_turn, tasks, *self._running[stage.name])

    async def _take_turn(self, tasks: anyio.abc.TaskGroup, stage: StageDefinition, stop: Stop) -> None:
        outcome: Outcome = "cancelled"
        with stop.scope:
            outcome = await self._outcome(stage, stop)
        del self._running[stage.name]
        self._graph.settle(stage.name, outcome)
        self._begin_more(tasks)

    async def _pass_over(self, tasks: anyio.abc.TaskGroup, stage: StageDefinition, outcome: Outcome) -> None:
        await skip(self._context, [stage])
        self._graph.settle(stage.name, outcome)
        self._begin_more(tasks)

    async def _outcome(self, stage: StageDefinition, stop: Stop) -> Outcome:
        facts = msgspec.structs.replace(
            self._facts,
            stage=stage.name,
            matrix=stage.matrix,
            stages=self._graph.states,
            outputs=self._context.outputs.values,
        )
        try:
            if stage.when == "function" and not await self._ask(stage, facts):
                await skip(self._context, [stage])
                return "passed_over"
            await self._run_stage(stage, facts, stop)
        except StageFailed as failure:
            lost = self._context.losses.behind(failure)
            if stage.allow_failure and lost is None and self._sandbox.is_alive:
                await self._context.stream.log(
                    stage.name, "warn", "system", f"{failure.message}; it may (`allow_failure`), and the job goes on"
                )
                return "allowed_to_fail"
            if self._failures:  # the first is told as the job's own
                await self._context.stream.log(stage.name, "error", "system", failure.message)
            self._failures.append(failure)
            if lost is not None or not self._sandbox.is_alive:
                self._graph.halt()
            await self._stop_others(stage)
            return "failed"
        return "succeeded"

    async def _ask(self, stage: StageDefinition, facts: JobFacts) -> bool:
        calls = ConditionCalls(self._context)
        try:
            return await self._sandbox.ask_condition(stage.name, facts, calls, script=stage.name_in_file)
        except MoonyardError as error:
            self._context.losses.note(error)
            failure = StageFailed(f"the `when` of stage `{stage.name}` failed: {error.message}", where=error.where)
            failure.__cause__ = error
            await self._context.stream.stage(stage.name, "failed", error=failure.info)
            raise failure from error
        except anyio.get_cancelled_exc_class():
            await skip(self._context, [stage])
            raise

    async def _stop_others(self, failed: StageDefinition) -> None:
        if not self._definition.fail_fast:
            return
        others = [
            (stage, stop)
            for stage, stop in self._running.values()
            if stage.name != failed.name
            and stop.grace is None
            and ends_with_the_first_failure(stage)
            # One that ran out of its own time fails with that, also where it takes others with it that tell it first.
            and not self._is_over_time(stage)
        ]
        for _, stop in others:
            stop.ask(self._grace())
        for stage, _ in others:
            await self._context.stream.log(
                stage.name,
                "warn",
                "system",
                f"stage `{stage.name}` is stopped, for stage `{failed.name}` failed (`fail_fast`)",
            )

    def _is_over_time(self, stage: StageDefinition) -> bool:
        own = self._context.stops.get(stage.name)
        return own is not None and own.was_asked


async def skip(context: JobContext, stages: list[StageDefinition]) -> None:
    """Tell that stages do not run."""
    if stages:
        with anyio.CancelScope(shield=True):
            for stage in stages:
                await context.stream.stage(stage.name, "skipped")
