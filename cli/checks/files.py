"""Checks files: loads each in the sandbox, as a push does, and reads what it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import anyio
import msgspec

from cli.checks import names
from cli.checks.findings import Finding
from cli.checks.names import Known
from cli.checks.tree import Source
from plugins import Plugin, sources
from plugins.fetched import FetchedPlugins
from plugins.resolution import Catalogue
from runner.reference import authoring
from runner.reference import plugin as plugin_reference
from runner.reference.description import Module
from sandbox import loading
from sandbox.parent import WarmParent
from schema.definition import PipelineInvalid, Problem
from schema.errors import MoonyardError, chain
from schema.plugins import PluginNotFetched, PluginReference

LOAD_SECONDS: Final = 30.0
_SYNTAX: Final = "lua_syntax"
_BESIDE: Final = 'end return { name = "check", stages = { { name = "s", script = print } } }'


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """A Lua file: of a pipeline, or of tests of one."""

    filename: str
    text: str
    folder: Path
    """What the plugins' folders in it are relative to."""
    kind: Literal["pipeline", "test"] = "pipeline"


class PluginFolder(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin with all its files."""

    shown: str
    """How its folder is named in what is told."""
    plugin: Plugin
    folder: Path

    @property
    def tests(self) -> dict[str, str]:
        """Its test files, by their paths."""
        files = self.plugin.files.items()
        return {path: text for path, text in files if path.startswith("tests/") and path.endswith(".lua")}

    @property
    def count(self) -> int:
        """How many files of it are looked at."""
        return len(self.plugin.code) + len(self.tests)


async def check(
    given: Sequence[Text | PluginFolder], plugin_folder: Path | None, *, fetched: FetchedPlugins, fetches: bool
) -> list[Finding]:
    """Check files, in their order.

    :param plugin_folder: where plugins are beside those that ship.
    :param fetched: plugins that were fetched from git repositories.
    :param fetches: whether others are fetched.
    :raises MoonyardError: when there is no sandbox to load them in.
    """
    found: list[Finding] = []
    async with WarmParent.start() as parent:
        for one in given:
            known = sources.here(plugin_folder, one.folder, fetched=fetched, fetches=fetches)
            checker = _Checker(parent, known)
            found += await (checker.plugin(one) if isinstance(one, PluginFolder) else checker.text(one))
    return found


class _Checker:
    def __init__(self, parent: WarmParent, catalogue: Catalogue) -> None:
        self._parent = parent
        self._catalogue = catalogue

    async def text(self, text: Text) -> list[Finding]:
        """Check a pipeline's file, or a test's."""
        source = Source(text.text)
        problems: list[Problem] = []
        plugins: dict[str, Plugin] = {}
        inputs: list[str] | None = None
        try:
            with anyio.fail_after(LOAD_SECONDS):
                if text.kind == "test":
                    await self._compile(text.filename, text.text)
                else:
                    loaded = await loading.load(self._parent, text.filename, text.text, self._catalogue)
                    inputs, plugins = [*loaded.definition.inputs], loaded.resolved.plugins
        except PipelineInvalid as error:
            problems = error.problems
        except TimeoutError:
            problems = [_too_long(text.filename)]
        found = [_finding(text.filename, source, problem) for problem in problems]
        if any(problem.code == _SYNTAX for problem in problems):
            return found
        known = Known.here(await self._modules(names.required(text.text), plugins), inputs)
        if any(problem.code == PluginNotFetched.code for problem in problems):
            absent = await self._in_repositories(text)
            known = msgspec.structs.replace(known, plugins={**dict.fromkeys(absent), **known.plugins})
        if text.kind == "test":
            known = known.with_modules(authoring.OF_TESTS)
        return _without_repeats(found, names.check(text.filename, text.text, known))

    async def plugin(self, given: PluginFolder) -> list[Finding]:
        """Check a plugin: what it declares, and each of its files."""
        found: list[Finding] = []
        manifest = given.plugin.manifest
        try:
            with anyio.fail_after(LOAD_SECONDS):
                await loading.describe_with_needs(self._parent, given.plugin, self._catalogue)
        except MoonyardError as error:
            found.append(_of_plugin(given, error))
        except TimeoutError:
            found.append(_finding(f"{given.shown}/init.lua", Source(""), _too_long(f"{given.shown}/init.lua")))
        needs = [entry.partition("@")[0] for entry in manifest.plugins]
        known = Known.here(await self._modules(needs, {}))
        known = msgspec.structs.replace(
            known,
            modules={name: module for name, module in known.modules.items() if name in manifest.modules},
            has_files=True,
        ).with_modules([authoring.PLUGIN])
        for path, text in sorted(given.plugin.code.items()):
            filename = f"{given.shown}/{path}"
            try:
                await self._compile(filename, text)
            except PipelineInvalid as error:
                found += [_finding(filename, Source(text), problem) for problem in error.problems]
            else:
                found = _without_repeats(found, names.check(filename, text, known))
        for path, text in sorted(given.tests.items()):
            filename = f"{given.shown}/{path}"
            found += await self.text(Text(filename=filename, text=text, folder=given.folder, kind="test"))
        return found

    async def _compile(self, filename: str, text: str) -> None:
        """See that a text is Lua, without running it.

        :raises PipelineInvalid: when it is none.
        """
        async with self._parent.fork() as sandbox:
            await sandbox.load(filename, f"local function _(...) {text}\n{_BESIDE}", {})

    async def _in_repositories(self, text: Text) -> list[str]:
        """List the plugins that a pipeline names in git repositories."""
        async with self._parent.fork() as sandbox:
            draft = await sandbox.draft(text.filename, text.text)
        return [reference.name for reference in draft.references if reference.git is not None]

    async def _modules(self, required: Sequence[str], plugins: Mapping[str, Plugin]) -> dict[str, Module | None]:
        """Find out what is known of the plugins that there are, and what those declare that a file requires."""
        found: dict[str, Module | None] = dict.fromkeys([*await self._catalogue.names(), *plugins])
        for name in required:
            if name not in found:
                continue
            try:
                plugin = plugins.get(name) or (await self._catalogue.find(PluginReference(name=name))).plugin
                description = await loading.describe_with_needs(self._parent, plugin, self._catalogue)
            except MoonyardError:
                continue  # the load tells what is wrong with it
            found[name] = plugin_reference.module(description)
        return found


def _too_long(filename: str) -> Problem:
    return Problem(
        message=f"the file did not load within {LOAD_SECONDS:.0f} s",
        where=filename,
        code="pipeline_timeout",
        hint="What stands outside of the stages' scripts runs when the file is loaded: keep it short.",
    )


def _without_repeats(told: list[Finding], more: list[Finding]) -> list[Finding]:
    """Leave out what the load has told already."""
    known = {(finding.file, finding.line, finding.code) for finding in told}
    return sorted([*told, *(one for one in more if (one.file, one.line, one.code) not in known)])


def _finding(filename: str, source: Source, problem: Problem) -> Finding:
    line = problem.where.rpartition(":")[2]
    number = int(line) if line.isdigit() else 1
    place = source.damage(number) if problem.code == _SYNTAX else source.line(number)
    return Finding(
        file=filename,
        line=place.line,
        column=place.column,
        end_line=place.end_line,
        end_column=place.end_column,
        severity="error",
        code=problem.code,
        message=problem.message,
        hint=problem.hint,
    )


def _of_plugin(given: PluginFolder, error: MoonyardError) -> Finding:
    """Tell of a plugin that cannot be loaded, at the place in its files that the error names."""
    prefix = f"plugins/{given.plugin.name}/"
    where = next(
        (link.where for link in chain(error.info) if link.where is not None and link.where.startswith(prefix)),
        f"{prefix}init.lua:1",
    )
    path = where.removeprefix(prefix).rpartition(":")[0]
    text = given.plugin.files.get(path, "")
    problem = Problem(message=error.message, where=where, code=error.code, hint=error.hint)
    return _finding(f"{given.shown}/{path or 'init.lua'}", Source(text), problem)
