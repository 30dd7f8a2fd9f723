"""``moonyard plugin sync``: tells a project's editor of the plugins that its pipelines use, as they name them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import click

from cli import connection, settings
from cli.init import ProjectRefused, descriptions, pushed, write_stubs
from schema.definition import PipelineInvalid
from schema.errors import MoonyardError
from schema.plugins import PluginReference, PluginUnknown
from schema.wire import SOURCE_BYTES_MAXIMUM

if TYPE_CHECKING:
    from runner.reference.description import Module

FILES_MAXIMUM: Final = 500
_NOT_LOOKED_INTO: Final = frozenset({"tests", "plugins", "node_modules", "target", "build", "dist"})


@click.command(short_help="Write stubs of the plugins that a project's pipelines use.")
@click.argument("folder", default=".", type=click.Path(path_type=Path))
@settings.setting("orchestrator")
@settings.setting("plugin_folder")
def sync(folder: Path, *, orchestrator: tuple[str, ...], plugin_folder: Path | None) -> None:
    """Write the stubs of FOLDER anew, and those of the plugins that its pipelines name, in the versions they name.

    A plugin that is not on this machine is asked for at the orchestrator, where it was pushed; one of a git repository
    is fetched from there. `moonyard stubs` does the same for what is on this machine, and asks nobody.
    """
    from runner.reference import stubs

    if not folder.is_dir():
        raise ProjectRefused(f"`{folder}` is no folder", hint="`moonyard init FOLDER` makes one.")
    known = {module.name: module for module in anyio.run(descriptions, plugin_folder, folder)}
    found, left = anyio.run(_used, folder, plugin_folder)
    if left:
        wanted = {name: reference.range for name, reference in left.items()}
        found |= connection.ask(orchestrator, lambda client: pushed(client, wanted))
    for name, reference in left.items():
        if name not in found:
            near = difflib.get_close_matches(name, known, n=1)
            question = f"; did you mean `{near[0]}`?" if near else ""
            raise PluginUnknown(
                f"there is no plugin `{reference}` here or at the orchestrator{question}",
                hint="`moonyard plugin list` lists those that there are.",
            )
    written = write_stubs(folder, list((known | found).values()))
    used = ", ".join(sorted(found)) or "none"
    click.echo(f"wrote {written} stubs to {folder / stubs.FOLDER} (plugins in use: {used})")


async def _used(folder: Path, plugin_folder: Path | None) -> tuple[dict[str, Module], Mapping[str, PluginReference]]:
    """Find the plugins that pipelines use: what those of this machine declare, and which are left to be asked for."""
    from plugins import sources
    from plugins.fetched import FetchedPlugins
    from runner.reference import plugin as reference
    from sandbox import loading
    from sandbox.parent import WarmParent

    found: dict[str, Module] = {}
    left: dict[str, PluginReference] = {}
    told: dict[str, tuple[PluginReference, Path]] = {}
    fetched = FetchedPlugins(settings.fetched_plugins())
    async with WarmParent.start() as parent:
        for path, source in _sources(folder):
            catalogue = sources.here(plugin_folder, path.parent, fetched=fetched)
            try:
                async with parent.fork() as sandbox:
                    draft = await sandbox.draft(path.name, source)
            except PipelineInvalid:
                continue  # `moonyard check` tells of it; or it is a test, or no pipeline
            for named in draft.references:
                before = told.setdefault(named.name, (named, path))
                if before != (named, path):
                    _tell_of_another(before, (named, path))
                    continue
                try:
                    one = await catalogue.find(named)
                except PluginUnknown:
                    if named.has_source:
                        raise
                    left[named.name] = named
                    continue
                description = await loading.describe_with_needs(parent, one.plugin, catalogue)
                found[named.name] = reference.module(description)
    return found, left


def _tell_of_another(before: tuple[PluginReference, Path], other: tuple[PluginReference, Path]) -> None:
    if before[0] != other[0]:
        click.echo(
            f"{other[1]} names another `{other[0]}` than {before[1]}: the stubs are those of the latter", err=True
        )


def _sources(folder: Path) -> Iterator[tuple[Path, str]]:
    """List a project's files that may be pipelines and name plugins.

    :raises MoonyardError: when there are more than any project has.
    """
    count = 0
    for path in sorted(folder.rglob("*.lua")):
        inside = path.relative_to(folder).parts
        if any(part.startswith(".") or part in _NOT_LOOKED_INTO for part in inside[:-1]) or not path.is_file():
            continue
        count += 1
        if count > FILES_MAXIMUM:
            raise MoonyardError(
                f"`{folder}` has more than {FILES_MAXIMUM} Lua files", code="project_too_large",
                hint="Name the folder of the pipelines.",
            )  # fmt: skip
        with path.open("rb") as file:
            text = file.read(SOURCE_BYTES_MAXIMUM + 1).decode(errors="replace")
        if "plugins" in text and len(text) <= SOURCE_BYTES_MAXIMUM:  # else it names none, or is no pipeline
            yield path, text
