"""Answers the host calls of a job's Lua: finds the module's handler, and nothing that is not listed."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from runner.job_context import Call, JobContext
from runner.lines import LineSplitter
from runner.modules import archive, artifact, container, data, documents, fs, http, job, process, regex, secret, time
from sandbox.process import LogPlace, Value
from schema.errors import MoonyardError
from schema.states import Level

log: Final = logging.getLogger(__name__)

Handler = Callable[[JobContext, Call], Awaitable[Value]]

_MODULES: Final = (process, container, time, artifact, fs, documents, archive, data, http, job, regex, secret)
HANDLERS: Final[Mapping[str, Handler]] = {
    name: handler for module in _MODULES for name, handler in module.CALLS.items()
}
COMPUTING: Final = {*data.CALLS, *regex.CALLS, *time.COMPUTING}
"""What only computes, and so may decide whether a stage runs."""


class ConditionCalls:
    """The host side of what decides whether a stage runs: that may compute, and does nothing."""

    def __init__(self, job: JobContext) -> None:
        self._job = job

    async def call(
        self, stage: str, name: str, arguments: list[Value], *, plugin: str | None = None, group: Sequence[str] = ()
    ) -> Value:
        """Answer a call that only computes.

        :raises MoonyardError: for all others, and what the Lua caller gets as its error.
        """
        if name in COMPUTING:
            return await JobHostCalls(self._job).call(stage, name, arguments, plugin=plugin, group=group)
        raise MoonyardError(
            f"{name} was called in the `when` of stage `{stage}`, which only decides whether the stage runs",
            code="call_in_condition",
            hint="Call it in the stage's script, or in one before, and let `when` look at what came of it.",
        )

    async def log(self, stage: str, level: Level, text: str, place: LogPlace) -> None:
        await _log(self._job, stage, level, text, place)


class JobHostCalls:
    """The host side of one attempt's sandbox."""

    def __init__(self, job: JobContext) -> None:
        self._job = job

    async def call(
        self, stage: str, name: str, arguments: list[Value], *, plugin: str | None = None, group: Sequence[str] = ()
    ) -> Value:
        """Answer one call.

        :raises MoonyardError: what the Lua caller gets as its error.
        """
        handler = HANDLERS.get(name)
        if handler is None:
            raise MoonyardError(f"this runner has no `{name}`", code="call_unknown")
        if plugin is not None:
            self._job.rights.check(plugin, name, arguments)
        try:
            call = Call(stage=stage, arguments=arguments, plugin=plugin, group=list(group))
            return await handler(self._job, await secret.opened(self._job, name, call))
        except MoonyardError as error:
            self._job.losses.note(error)
            raise
        except Exception as defect:
            # A defect of ours fails the call that met it, at a place in the user's Lua, not the runner with its jobs.
            log.exception("%s met a defect", name)
            raise MoonyardError(
                f"{name} met a defect of the runner: {type(defect).__name__}: {defect}",
                code="internal_error",
                hint="The runner's log has the details; please report it.",
            ) from defect

    async def log(self, stage: str, level: Level, text: str, place: LogPlace) -> None:
        await _log(self._job, stage, level, text, place)


async def _log(job: JobContext, stage: str, level: Level, text: str, place: LogPlace) -> None:
    shown = job.stream.redaction.data(text.encode(errors="backslashreplace"))
    lines = LineSplitter().feed(shown + b"\n")
    await job.stream.log_lines(stage, level, "lua", lines, place=place)
