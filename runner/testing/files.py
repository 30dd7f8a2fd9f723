"""Finds test files, and runs the tests in them, one after the other."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Literal

import anyio
import msgspec

import plugins
from plugins import folders
from runner import owner as owners
from runner.owner import Owner
from runner.testing.attempt import TestAttempt
from sandbox.parent import WarmParent
from sandbox.process import SandboxFailed
from sandbox.testing import FoundTest, TestFileInvalid, TestSandbox
from schema.errors import ErrorInfo, MoonyardError
from schema.plugins import PluginInvalid
from schema.wire import SOURCE_BYTES_MAXIMUM

FILES_MAXIMUM: Final = 10_000
PASSED_OVER: Final = frozenset({"node_modules", "__pycache__", "venv"})
"""Folders of what others wrote."""
BETWEEN: Final = " > "


class TestOutcome(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="test"):
    """How a test ended."""

    __test__ = False

    file: str
    name: str
    line: int
    state: Literal["passed", "failed"]
    duration: float
    """Seconds."""
    error: ErrorInfo | None = None
    log: list[str] = []
    """What it, and the pipelines that it ran, put into the log."""


class Summary(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="summary"):
    """How all tests ended."""

    passed: int
    failed: int
    files: int
    duration: float

    @property
    def count(self) -> int:
        return self.passed + self.failed


class TestTimeout(MoonyardError):
    """A test took longer than it may."""

    __test__ = False
    code = "test_timeout"


def find(paths: Sequence[Path]) -> list[Path]:
    """Find the test files below folders; a file that is named is one whatever its name.

    :raises MoonyardError: when a path leads to nothing, or there is no test file.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_file():
            found[path] = None
        elif path.is_dir():
            found |= dict.fromkeys(_below(path))
        else:
            raise MoonyardError(f"there is no `{path}` to test", code="file_not_found", hint="Is the path right?")
    if not found:
        where = ", ".join(f"`{path}`" for path in paths)
        raise MoonyardError(
            f"there are no test files in {where}",
            code="tests_not_found",
            hint="They are named `*_test.lua`, or stand in a folder `tests`.",
        )
    return list(found)


def _below(folder: Path) -> list[Path]:
    found: list[Path] = []
    for above, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if name not in PASSED_OVER and not name.startswith("."))
        is_of_tests = Path(above).resolve().name == "tests"
        found += [
            Path(above, name)
            for name in sorted(names)
            if name.endswith("_test.lua") or (is_of_tests and name.endswith(".lua"))
        ]
        if len(found) > FILES_MAXIMUM:
            raise MoonyardError(
                f"there are more than {FILES_MAXIMUM} test files in `{folder}`",
                code="tests_not_found",
                hint="Name the folders that are yours.",
            )
    return found


async def run(
    files: Sequence[Path], *, wanted: str | None, seconds: float, tell: Callable[[TestOutcome], None]
) -> Summary:
    """Run the tests of files.

    :param wanted: what a test has to have in its name to be run.
    :param seconds: how long one test may take.
    :param tell: is told of each test when it has ended.
    """
    started = time.monotonic()
    counts = {"passed": 0, "failed": 0}

    def count(outcome: TestOutcome) -> None:
        counts[outcome.state] += 1
        tell(outcome)

    with tempfile.TemporaryDirectory(prefix="moonyard-test-") as folder, owners.take(Path(folder)) as owner:
        async with WarmParent.start() as parent:
            for path in files:
                await TestFile(path, parent, owner, seconds).run(wanted, count)
    return Summary(**counts, files=len(files), duration=round(time.monotonic() - started, 6))


class TestFile:
    """One test file."""

    __test__ = False

    def __init__(self, path: Path, parent: WarmParent, owner: Owner, seconds: float) -> None:
        self._path = path
        self._parent = parent
        self._owner = owner
        self._seconds = seconds

    async def run(self, wanted: str | None, tell: Callable[[TestOutcome], None]) -> None:
        """Run its tests; a file that cannot be loaded is told as a test that failed."""
        started = time.monotonic()
        try:
            source = _read(self._path)
            known = {**plugins.shipped(), **folders.around(self._path)}
            left: list[FoundTest] | None = None
            # A test that ends its process takes no other with it: those after it have a new one.
            while left is None or left:
                async with self._sandbox() as sandbox:
                    tests = await sandbox.load_tests(self._path.name, source, known)
                    if left is None:
                        left = [test for test in tests if wanted is None or wanted.lower() in _name(test).lower()]
                    while left and sandbox.is_alive:
                        tell(await self._run_test(sandbox, left.pop(0)))
        except (TestFileInvalid, SandboxFailed, PluginInvalid) as error:
            tell(
                TestOutcome(
                    file=str(self._path),
                    name="(the file)",
                    line=0,
                    state="failed",
                    duration=round(time.monotonic() - started, 6),
                    error=error.info,
                )
            )

    @asynccontextmanager
    async def _sandbox(self) -> AsyncGenerator[TestSandbox]:
        async with self._parent.process() as process:
            yield TestSandbox(process)

    async def _run_test(self, sandbox: TestSandbox, test: FoundTest) -> TestOutcome:
        started = time.monotonic()
        error: MoonyardError | None = None
        attempt = TestAttempt(test, sandbox, folder=self._path.parent, parent=self._parent, owner=self._owner)
        try:
            with anyio.move_on_after(self._seconds) as scope:
                await attempt.run()
            if scope.cancelled_caught:
                error = TestTimeout(
                    f"the test took longer than {self._seconds:g} s",
                    where=f"{self._path.name}:{test.line}",
                    hint="`--timeout` gives it more; in a test, nothing should have to be waited for.",
                )
        except MoonyardError as failure:
            error = failure
        return TestOutcome(
            file=str(self._path),
            name=_name(test),
            line=test.line,
            state="passed" if error is None else "failed",
            duration=round(time.monotonic() - started, 6),
            error=None if error is None else error.info,
            log=attempt.log,
        )


def _name(test: FoundTest) -> str:
    return BETWEEN.join(test.titles)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            source = file.read(SOURCE_BYTES_MAXIMUM + 1)
        if len(source) > SOURCE_BYTES_MAXIMUM:
            raise TestFileInvalid(f"test file `{path}` is larger than {SOURCE_BYTES_MAXIMUM // 1024} KiB")
        return source.decode()
    except OSError as error:
        raise TestFileInvalid(f"test file `{path}` cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TestFileInvalid(f"test file `{path}` is not UTF-8 text (byte {error.start}): is it Lua?") from error
