"""A sandbox to try things in, and a host that writes down what it was asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

import plugins
from sandbox.parent import WarmParent
from sandbox.process import JobFacts, LogPlace, Sandbox, Value
from sandbox.wall import Limits
from schema.definition import InputValue, PipelineDefinition
from schema.errors import MoonyardError
from schema.states import Level

FILENAME = "try.lua"


class RecordingHost:
    """Answers every call with what ``answer`` gives, and remembers calls and log lines."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[Value]]] = []
        self.plugins: list[str | None] = []
        self.lines: list[str] = []
        self.levels: list[Level] = []
        self.places: list[LogPlace] = []
        self.groups: list[list[str]] = []
        self.answers: dict[str, Callable[[list[Value]], Awaitable[Value]]] = {}
        self._handles = 0

    async def call(
        self, stage: str, name: str, arguments: list[Value], *, plugin: str | None = None, group: Sequence[str] = ()
    ) -> Value:
        del stage
        self.calls.append((name, arguments))
        self.plugins.append(plugin)
        self.groups.append(list(group))
        if name in self.answers:
            return await self.answers[name](arguments)
        if name == "container.open":
            self._handles += 1
            return f"c{self._handles}"
        if name == "process.run":
            return {"code": 0, "ok": True, "stdout": "", "stderr": "", "duration": 0.5}
        return None

    async def log(self, stage: str, level: Level, text: str, place: LogPlace) -> None:
        del stage
        self.levels.append(level)
        self.lines.append(text)
        self.places.append(place)

    def fail(self, name: str, error: MoonyardError) -> None:
        async def refuse(_arguments: list[Value]) -> Value:
            raise error

        self.answers[name] = refuse


class Pipeline:
    """A loaded pipeline and its host."""

    def __init__(self, sandbox: Sandbox, definition: PipelineDefinition, host: RecordingHost) -> None:
        self.sandbox = sandbox
        self.definition = definition
        self.host = host

    async def run(self, stage: str = "s", inputs: dict[str, InputValue] | None = None) -> None:
        facts = JobFacts(id="job-id", number=7, attempt=1, pipeline=self.definition.name, inputs=inputs or {})
        await self.sandbox.run_stage(stage, facts, self.host)


Loading = Callable[[str], "Pipeline"]


@asynccontextmanager
async def loaded(source: str, limits: Limits | None = None) -> AsyncGenerator[Pipeline]:
    """Load a whole pipeline file."""
    async with WarmParent.start(limits) as parent, parent.fork() as sandbox:
        yield Pipeline(sandbox, await sandbox.load(FILENAME, source, plugins.shipped()), RecordingHost())


def script(body: str, before: str = "") -> str:
    """Wrap lines of Lua into a pipeline with one stage ``s``; the body starts on line 2."""
    return f'{before} return {{ name = "try", stages = {{ {{ name = "s", script = function(job)\n{body}\nend }} }} }}'


async def run_script(body: str, before: str = "") -> RecordingHost:
    """Run lines of Lua as the only stage of a pipeline."""
    async with loaded(script(body, before)) as pipeline:
        await pipeline.run()
        return pipeline.host


async def failure_of(body: str, before: str = "") -> MoonyardError:
    """Run lines of Lua that have to fail, and give their error."""
    with pytest.raises(MoonyardError) as raised:
        await run_script(body, before)
    return raised.value
