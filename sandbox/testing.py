"""A test file in its Lua process: the tests in it, one after the other, and what they say of what is mocked.

To the process, a test is the script of a stage; what the file's top level collected (``lua/testing.lua``) comes as if
it were a pipeline's stages. One script more, ``mock``, is asked what stands in for something, while a test waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import anyio
import msgspec

from plugins import Plugin
from sandbox.frames import Failed, Loaded, LogCall, Value
from sandbox.process import LOAD_SECONDS, HostCalls, JobFacts, LogPlace, Sandbox
from schema.errors import MoonyardError
from schema.states import Level

MOCK: Final = "mock"
ANSWER: Final = "test.answer"
TESTS_MAXIMUM: Final = 10_000


class TestFileInvalid(MoonyardError):
    """A test file that cannot be loaded."""

    __test__ = False
    code = "test_invalid"


class FoundTest(msgspec.Struct, frozen=True, kw_only=True):
    """A test of a file."""

    name: str
    """In the process."""
    titles: list[str]
    """Those of what it stands in, and its own last."""
    line: int


class _Collected(msgspec.Struct, frozen=True, kw_only=True):
    stages: list[Any]


class TestSandbox(Sandbox):
    """``load_tests`` once, then ``run_test`` for one after the other."""

    __test__ = False

    plugins: Mapping[str, Plugin] = MappingProxyType({})
    """Those that its file was loaded with."""

    async def load_tests(self, filename: str, source: str, plugins: Mapping[str, Plugin]) -> list[FoundTest]:
        """Load a test file, and give the tests that its top level told.

        :raises TestFileInvalid: when it cannot be loaded.
        :raises SandboxFailed: when the process could not be used.
        """
        self.plugins = plugins
        await self._process.send(0, self._load_frame(filename, source, plugins) | {"testing": True})
        try:
            with anyio.fail_after(LOAD_SECONDS):
                while isinstance(reply := await self._process.receive(), LogCall):
                    pass
        except TimeoutError as error:
            await self._process.end()
            raise TestFileInvalid(
                f"the top level of test file `{filename}` did not come to its end within {LOAD_SECONDS:.0f} s",
                hint="The top level tells the tests; what takes time belongs into them.",
            ) from error
        if isinstance(reply, Failed):
            failure = MoonyardError.from_info(reply.error)
            raise TestFileInvalid(
                f"test file `{filename}` cannot be loaded: {failure.message}", where=failure.where, hint=failure.hint
            ) from failure
        if not isinstance(reply, Loaded):
            raise await self._process.breach(reply)
        try:
            collected = msgspec.convert(reply.pipeline, _Collected).stages[:-1]
            found = [FoundTest(**{name: one[name] for name in FoundTest.__struct_fields__}) for one in collected]
        except (msgspec.ValidationError, TypeError, KeyError) as error:
            raise await self._process.breach(error) from error
        if len(found) > TESTS_MAXIMUM:
            raise TestFileInvalid(f"test file `{filename}` has {len(found)} tests, and at most {TESTS_MAXIMUM} are run")
        return found

    async def run_test(self, test: FoundTest, facts: JobFacts, calls: HostCalls) -> None:
        """Run a test with its hooks. Cancelling this ends it.

        :raises MoonyardError: what it raised.
        :raises SandboxFailed: when the process ended.
        """
        await self.run_stage(test.name, facts, calls)

    async def ask_mocks(self, test: FoundTest, asked: Mapping[str, Value], calls: HostCalls) -> Value:
        """Ask what stands in for something, while a test waits; give a table with ``answer``, or an empty one.

        :param calls: answer what a rule calls that is a function.
        :raises MoonyardError: what such a rule raised.
        """
        listening = _Listening(calls)
        await self._go({"op": "run", "stage": MOCK, "job": {"asked": dict(asked)}}, test.name, listening)
        return listening.answer


class _Listening:
    """Takes the answer, which comes as a call, and passes all other calls on."""

    def __init__(self, calls: HostCalls) -> None:
        self.answer: Value = None
        self._calls = calls

    async def call(
        self, stage: str, name: str, arguments: list[Value], *, plugin: str | None = None, group: Sequence[str] = ()
    ) -> Value:
        if name == ANSWER:
            self.answer = arguments[0] if arguments else None
            return None
        return await self._calls.call(stage, name, arguments, plugin=plugin, group=group)

    async def log(self, stage: str, level: Level, text: str, place: LogPlace) -> None:
        await self._calls.log(stage, level, text, place)
