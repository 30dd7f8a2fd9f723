"""One run of one test: its workspace, its mocks, and the pipelines that it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import anyio
import msgspec

from runner import owner as owners
from runner.event_stream import EventStream
from runner.modules.arguments import parse
from runner.owner import Owner
from runner.testing.calls import TestHostCalls
from runner.testing.context import mocked_context
from runner.testing.engine import MockedEngine
from runner.testing.mocks import Mocks
from runner.testing.rehearsal import LoadArguments, RunArguments, Stage, definition_of, rehearse
from runner.testing.web import MockedWeb
from sandbox.frames import Value
from sandbox.parent import WarmParent
from sandbox.process import JobFacts
from sandbox.testing import FoundTest, TestSandbox
from schema.errors import single_error
from schema.events import LogEvent, decode_line
from schema.ids import uuid7

LOG_LINES_MAXIMUM: Final = 1000


class LogLines:
    """Keeps the log of a test, as lines for people."""

    gathering_seconds = 0.0

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def deliver(self, first_seq: int, lines: Sequence[bytes]) -> None:
        del first_seq
        for line in lines:
            event = decode_line(line)
            if isinstance(event, LogEvent):
                self.add(event)

    def add(self, event: LogEvent) -> None:
        if len(self.lines) < LOG_LINES_MAXIMUM:
            self.lines.append(f"{event.level:<5} {event.text}")


class TestAttempt:
    """Runs one test. ``run`` once."""

    __test__ = False

    def __init__(
        self, test: FoundTest, sandbox: TestSandbox, *, folder: Path, parent: WarmParent, owner: Owner
    ) -> None:
        self._test = test
        self._sandbox = sandbox
        self._folder = folder
        self._parent = parent
        self._owner = owner
        self._log = LogLines()
        self._calls: TestHostCalls | None = None
        self._mocks = Mocks(self._ask)

    @property
    def log(self) -> list[str]:
        return self._log.lines

    async def run(self) -> None:
        """Run it.

        :raises MoonyardError: what made it fail.
        """
        name = self._test.name
        id_ = str(uuid7())
        stream = EventStream(job=id_, number=None, attempt=1, sink=self._log)
        async with owners.workspace(self._owner, f"test-{id_}", 1) as workspace:
            self._workspace = workspace
            with single_error():
                async with anyio.create_task_group() as delivery:
                    delivery.start_soon(stream.deliver_all)
                    try:
                        async with mocked_context(
                            stages=[Stage(name=name)],
                            stream=stream,
                            engine=MockedEngine(self._owner.folder, self._mocks),
                            web=MockedWeb(self._mocks),
                            workspace=workspace,
                            owner=self._owner,
                            mocks=self._mocks,
                            plugins=self._sandbox.plugins,
                        ) as context:
                            own = {"test.run": self._run_pipeline, "test.load": self._load_pipeline}
                            self._calls = TestHostCalls(context, self._mocks, own)
                            facts = JobFacts(id=id_, number=None, attempt=1, pipeline="test", inputs={})
                            await self._sandbox.run_test(self._test, facts, self._calls)
                    finally:
                        stream.finish()
        if self._mocks.troubles:
            raise self._mocks.troubles[0]

    async def _ask(self, asked: Mapping[str, Value]) -> Value:
        assert self._calls is not None, "it is the test that calls"
        return await self._sandbox.ask_mocks(self._test, asked, self._calls)

    async def _run_pipeline(self, value: Value) -> Value:
        arguments = parse("pipeline.run", RunArguments, value)
        earlier = len(self._mocks.troubles)
        result = await rehearse(
            self._folder,
            arguments,
            parent=self._parent,
            owner=self._owner,
            workspace=self._workspace,
            mocks=self._mocks,
            log=self._log,
        )
        if self._mocks.troubles[earlier:]:
            raise self._mocks.troubles[earlier]
        return result

    async def _load_pipeline(self, value: Value) -> Value:
        arguments = parse("pipeline.load", LoadArguments, value)
        definition = await definition_of(self._folder, arguments.file, self._parent)
        return msgspec.to_builtins(definition)
