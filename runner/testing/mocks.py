"""What stands in for a command, a request, a secret or an artifact: a test says it by the rules that it gave ``mock``.

A rule can be a Lua function, so it is asked in the test's own Lua process, while the test waits there for its call.
What no rule answers fails the call that met it and the test, whatever the pipeline makes of the error: a test that
passes has said all that its pipeline met.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from runner.modules.arguments import data, parse
from sandbox.frames import Value
from schema.errors import MoonyardError

Answered = TypeVar("Answered", bound=msgspec.Struct)
Ask = Callable[[Mapping[str, Value]], Awaitable[Value]]

TROUBLES_MAXIMUM: Final = 100


class MockMissing(MoonyardError):
    """A test has not said what stands in for something that its pipeline asked for."""

    code = "mock_missing"


class MockInvalid(MoonyardError):
    """What a test gave to stand in cannot do so."""

    code = "mock_invalid"


class MockedError(msgspec.Struct, frozen=True, kw_only=True):
    """An error instead of an answer."""

    code: str
    """Its stable code, such as `command_timeout`."""
    message: str
    """What it says."""


class ProcessAnswer(msgspec.Struct, frozen=True, kw_only=True):
    code: int = 0
    """The exit code."""
    stdout: str = ""
    """What it says."""
    stderr: str = ""
    """What it says besides."""
    signal: str | None = None
    """What killed it, such as `"SIGKILL"`."""
    duration: float = 0.0
    """Seconds that it is told to have taken."""
    error: MockedError | None = None
    """It is not run, or not to its end."""


class HttpAnswer(msgspec.Struct, frozen=True, kw_only=True):
    status: int = 200
    """Such as 404."""
    headers: dict[str, str | int | float] = {}
    """By name."""
    body: str | None = None
    """The body as text."""
    json: Any = msgspec.UNSET
    """The body, as `json.encode` writes it."""
    elapsed: float = 0.0
    """Seconds that it is told to have taken."""
    error: MockedError | None = None
    """There is no answer."""


class SecretAnswer(msgspec.Struct, frozen=True, kw_only=True):
    value: str


class ArtifactAnswer(msgspec.Struct, frozen=True, kw_only=True):
    data: str


class Mocks:
    """What one test gave ``mock``."""

    def __init__(self, ask: Ask) -> None:
        """Prepare.

        :param ask: asks the test's Lua process; gives a table with ``answer``, or an empty one.
        """
        self._ask = ask
        self._troubles: list[MoonyardError] = []

    @property
    def troubles(self) -> Sequence[MoonyardError]:
        """What was not answered, or not well."""
        return self._troubles

    async def process(self, asked: Mapping[str, Value], command: str, words: str) -> ProcessAnswer:
        """Answer a command.

        :param command: as a reader knows it.
        :param words: its first ones, for a rule.
        :raises MockMissing: when the test does not say how.
        """
        missing = MockMissing(
            f"command `{command}`{_whose(asked)} cannot be run in a test, and no mock answers it",
            hint=f'Say what it does before: mock.process("{words}", {{ stdout = "..." }}).',
        )
        return await self._answered("process", asked, ProcessAnswer, missing)

    async def http(self, asked: Mapping[str, Value], method: str, url: str) -> HttpAnswer:
        """Answer a request.

        :raises MockMissing: when the test does not say how.
        """
        missing = MockMissing(
            f"request `{method} {url}`{_whose(asked)} cannot be sent in a test, and no mock answers it",
            hint=f'Say what is answered before: mock.http("{method} {url}", {{ json = {{ ... }} }}).',
        )
        return await self._answered("http", asked, HttpAnswer, missing)

    async def secret(self, name: str) -> bytes:
        """Give a secret's value.

        :raises MockMissing: when the test has none of that name.
        """
        missing = MockMissing(
            f"secret `{name}` cannot be had in a test, and no mock stands in for it",
            hint=f'Give it a value before: mock.secret("{name}", "..."). It need not be a real one.',
        )
        return data((await self._answered("secret", {"name": name}, SecretAnswer, missing)).value)

    async def artifact(self, name: str) -> bytes:
        """Give an artifact of another job.

        :raises MockMissing: when the test has none of that name.
        """
        missing = MockMissing(
            f"artifact `{name}` cannot be fetched in a test, and no mock stands in for it",
            hint=f'Give it a content before: mock.artifact("{name}", "...").',
        )
        return data((await self._answered("artifact", {"name": name}, ArtifactAnswer, missing)).data)

    def refuse(self, call: str) -> MoonyardError:
        """Give the error for a call that no test can have answered."""
        return self._note(
            MockMissing(
                f"{call} cannot be called in a test: it needs what only a job has",
                hint="Test what is around it, and leave the call itself to a run of the pipeline.",
            )
        )

    async def _answered(
        self, kind: str, asked: Mapping[str, Value], shape: type[Answered], missing: MockMissing
    ) -> Answered:
        try:
            given = await self._ask({"kind": kind, **asked})
            if not isinstance(given, dict) or "answer" not in given:
                raise missing
            try:
                return parse(f"the answer of mock.{kind}", shape, given["answer"])
            except MoonyardError as error:
                raise MockInvalid(error.message, hint=error.hint) from error
        except MoonyardError as error:
            self._note(error)
            raise

    def _note(self, error: MoonyardError) -> MoonyardError:
        if len(self._troubles) < TROUBLES_MAXIMUM:
            self._troubles.append(error)
        return error


def _whose(asked: Mapping[str, Value]) -> str:
    return f" of stage `{asked['stage']}`" if "stage" in asked else ""
