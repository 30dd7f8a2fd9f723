"""``moonyard check``: finds mistakes in pipelines and plugins without running them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import anyio
import click

from cli import settings
from schema.wire import SOURCE_BYTES_MAXIMUM

if TYPE_CHECKING:
    from cli.checks.files import PluginFolder, Text
    from cli.checks.findings import Finding

EXIT_FOUND: Final = 1
STDIN: Final = "-"


@click.command(short_help="Find mistakes in pipeline files without running them.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of text.")
@click.option("--sarif", "as_sarif", is_flag=True, help="Print SARIF 2.1.0, for editors and forges.")
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@click.option("--filename", metavar="NAME", help="What the file is called that comes on stdin (`-`).")
@click.option("--fetch", is_flag=True, help="Fetch plugins that a pipeline names in git repositories.")
@settings.setting("plugin_folder")
def check(
    files: tuple[str, ...],
    *,
    as_json: bool,
    as_sarif: bool,
    strict: bool,
    filename: str | None,
    fetch: bool,
    plugin_folder: Path | None,
) -> int:
    """Find mistakes in pipeline FILEs, test files and plugins' folders, without running them. `-` reads stdin.

    Each file is loaded in the sandbox, as a push does, and then read: names that nothing has, functions that no module
    has, arguments that a function does not take, variables that nothing reads. No network is asked: plugins of git
    repositories are those that were fetched before, unless --fetch fetches them.

    \b
    Exit code 0: no error was found, though there may be warnings. 1: there are errors. 2: a file cannot be read.

    \b
    Examples:
      moonyard check pipeline.lua
      moonyard check --json examples/*.lua
      moonyard check --filename build.lua - < build.lua
    """
    if as_json and as_sarif:
        raise click.UsageError("--json and --sarif are two forms of the same: give one")
    if filename is not None and STDIN not in files:
        raise click.UsageError("--filename names what comes on stdin: give `-` as the file")
    if files.count(STDIN) > 1:
        raise click.UsageError("`-` is given twice, and there is one stdin")
    from cli.checks import files as checked
    from cli.checks import findings as forms
    from cli.tables import print_json
    from plugins.fetched import FetchedPlugins

    given = [_given(file, filename) for file in files]
    fetched = FetchedPlugins(settings.fetched_plugins())
    found = anyio.run(partial(checked.check, given, plugin_folder, fetched=fetched, fetches=fetch))
    if as_json:
        print_json(found)
    elif as_sarif:
        click.echo(forms.sarif(found).decode())
    else:
        _show(found, sum(one.count if isinstance(one, checked.PluginFolder) else 1 for one in given))
    wrong = [finding for finding in found if strict or finding.severity == "error"]
    return EXIT_FOUND if wrong else 0


def _given(file: str, filename: str | None) -> Text | PluginFolder:
    from cli.checks.files import PluginFolder, Text
    from cli.run import decode_pipeline, read_pipeline
    from plugins import folders

    if file == STDIN:
        name = filename or "stdin"
        text = decode_pipeline(sys.stdin.buffer.read(SOURCE_BYTES_MAXIMUM + 1), name)
        return Text(filename=name, text=text, folder=Path(name).parent, kind=_kind(Path(name)))
    path = Path(file)
    if path.is_dir():
        return PluginFolder(shown=_shown(path), plugin=folders.read(path), folder=path)
    return Text(filename=_shown(path), text=read_pipeline(path), folder=path.parent, kind=_kind(path))


def _kind(path: Path) -> Literal["pipeline", "test"]:
    """Tell a test file, by where `moonyard test` finds them."""
    return "test" if path.name.endswith("_test.lua") or path.absolute().parent.name == "tests" else "pipeline"


def _shown(path: Path) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")


def _show(found: Sequence[Finding], count: int) -> None:
    """Tell people: findings on stdout, how many there are on stderr."""
    colours = {"error": "red", "warning": "yellow"}
    for finding in found:
        label = click.style(finding.severity, fg=colours[finding.severity], bold=True)
        click.echo(f"{finding.file}:{finding.line}:{finding.column}: {label}[{finding.code}] {finding.message}")
        if finding.hint:
            click.echo(f"  {click.style('hint', fg='cyan')}: {finding.hint}")
    errors = sum(finding.severity == "error" for finding in found)
    where = "1 file" if count == 1 else f"{count} files"
    if not found:
        click.echo(f"no mistakes in {where}", err=True)
        return
    told = [_number(errors, "error"), _number(len(found) - errors, "warning")]
    click.echo(f"{' and '.join(part for part in told if part)} in {where}", err=True)


def _number(count: int, what: str) -> str:
    return "" if count == 0 else f"{count} {what}{'' if count == 1 else 's'}"
