"""``moonyard test``: the tests that people write for their pipelines and plugins."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import click

from cli.duration import Duration
from cli.errors import lines_of
from schema.errors import MoonyardError

if TYPE_CHECKING:
    from runner.testing.files import Summary, TestOutcome

EXIT_TESTS_FAILED: Final = 1
SECONDS_DEFAULT: Final = 10.0


@click.command(short_help="Run the tests that were written for pipelines and plugins.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--filter", "wanted", metavar="TEXT", help="Run only tests that have TEXT in their names.")
@click.option("--timeout", type=Duration(), default=SECONDS_DEFAULT, help="How long one test may take; by default 10s.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of text.")
@click.option("-v", "--verbose", is_flag=True, help="Show the log of each test too.")
def test(paths: tuple[Path, ...], *, wanted: str | None, timeout: float, as_json: bool, verbose: bool) -> int:
    """Run the tests in PATHS: test files, or folders in which all `*_test.lua` and all `tests/*.lua` are run.

    Without PATHS, those of the working folder. Tests run in the sandbox that jobs run in; commands, requests, secrets
    and artifacts are what a test says by `mock`, so no container engine is needed, and no network.

    \b
    Exit code 0: all passed. 1: some did not. 2: there are none, or they could not be run at all.

    \b
    Examples:
      moonyard test
      moonyard test build_test.lua --filter "a branch"
    """
    if not verbose:
        logging.getLogger().setLevel(logging.WARNING)
    from runner.testing import files

    shown = _Json() if as_json else _Text(verbose=verbose)
    found = files.find(paths or (Path(),))
    summary = anyio.run(lambda: files.run(found, wanted=wanted, seconds=timeout, tell=shown.test))
    if not summary.count:
        raise MoonyardError(
            f"no test has `{wanted}` in its name" if wanted else "the test files have no tests in them",
            code="tests_not_found",
            hint='A test is told by `it("...", function() ... end)`; its name has those of the `describe`s around it.',
        )
    shown.end(summary)
    return EXIT_TESTS_FAILED if summary.failed else 0


class _Json:
    def test(self, outcome: TestOutcome) -> None:
        self._print(outcome)

    def end(self, summary: Summary) -> None:
        self._print(summary)

    def _print(self, told: TestOutcome | Summary) -> None:
        import msgspec

        sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
        sys.stdout.buffer.flush()


class _Text:
    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._file: str | None = None
        self._failed: list[TestOutcome] = []

    def test(self, outcome: TestOutcome) -> None:
        if outcome.file != self._file:
            self._file = outcome.file
            click.secho(outcome.file, bold=True)
        colour, mark = ("green", "✓") if outcome.state == "passed" else ("red", "✗")
        took = click.style(f"  {outcome.duration * 1000:.0f} ms", fg="bright_black")
        click.echo(f"  {click.style(mark, fg=colour)} {outcome.name}{took}")
        if self._verbose:
            for line in outcome.log:
                click.secho(f"      {line}", fg="bright_black")
        if outcome.state == "failed":
            self._failed.append(outcome)

    def end(self, summary: Summary) -> None:
        for outcome in self._failed:
            click.echo()
            click.echo(f"{click.style('✗', fg='red')} {click.style(outcome.name, bold=True)}  {outcome.file}")
            assert outcome.error is not None, "it failed"
            for line in lines_of(outcome.error, "  "):
                click.echo(line.replace("\n", "\n  "))
        click.echo()
        counted = [
            click.style(f"{summary.failed} failed", fg="red", bold=True) if summary.failed else "",
            click.style(f"{summary.passed} passed", fg="green", bold=True) if summary.passed else "",
        ]
        click.echo(f"{', '.join(filter(None, counted))} in {summary.duration:.2f} s")
