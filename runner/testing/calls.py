"""The host side of the Lua modules in a test: what stays in the sandbox is as in a job, and the rest is mocked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from runner.host_calls import HANDLERS, JobHostCalls
from runner.job_context import JobContext
from runner.testing.engine import asking_stage
from runner.testing.mocks import Mocks
from sandbox.frames import Value
from schema import times
from schema.errors import MoonyardError

ALLOWED_MODULES: Final = frozenset(
    {
        "archive", "artifact", "base64", "container", "fs", "hash", "http", "job", "json",
        "process", "regex", "secret", "toml", "yaml",
    }
)  # fmt: skip
"""Those whose calls leave nothing of the sandbox, or come to what is mocked."""
ALLOWED: Final = frozenset({"time.format", "time.parse", "time.parts"})

Own = Callable[[Value], Awaitable[Value]]


class TestHostCalls(JobHostCalls):
    """Answers the calls of a test, or of a pipeline that a test runs.

    :param own: calls that only tests make, by name.
    """

    __test__ = False

    def __init__(self, job: JobContext, mocks: Mocks, own: Mapping[str, Own] | None = None) -> None:
        super().__init__(job)
        self._mocks = mocks
        self._own = own or {}
        self.slept = 0.0
        """Seconds that it was to wait: nobody does."""

    async def call(
        self, stage: str, name: str, arguments: list[Value], *, plugin: str | None = None, group: Sequence[str] = ()
    ) -> Value:
        if name in self._own:
            return await self._own[name](arguments[0])
        if name == "time.sleep":
            return self._sleep(arguments)
        if name in HANDLERS and name not in ALLOWED and name.partition(".")[0] not in ALLOWED_MODULES:
            raise self._mocks.refuse(name)
        token = asking_stage.set(None if self._own else stage)  # a test is no stage to whoever wrote it
        try:
            return await super().call(stage, name, arguments, plugin=plugin, group=group)
        finally:
            asking_stage.reset(token)

    def _sleep(self, arguments: list[Value]) -> Value:
        value = arguments[0] if arguments else None
        if value != 0:
            try:
                self.slept += times.duration_seconds(value)
            except ValueError as error:
                raise MoonyardError(f"time.sleep: {error}", code="argument_invalid") from error
        return None
