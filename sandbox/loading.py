"""Loads a pipeline file with the plugins that it names, and finds out what a plugin declares.

Which plugins a file wants stands in the table that it returns, and its first line may be ``require("git")``. So a file
that names any is loaded twice, each time in a process of its own: first with placeholders in their stead, to read what
it names; then with those that were found. No operation can be called while a file is loaded, so the first time shows no
difference but for names that no operation has, which the second tells. Where plugins are missing there is no second.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from plugins import Plugin, folders
from plugins.resolution import Catalogue, NoSources, Resolved, Shipped, needed, resolve
from sandbox.frames import Described
from sandbox.parent import WarmParent
from schema.definition import PipelineDefinition
from schema.plugins import Manifest, Operation, PluginDescription, PluginInvalid

SHIPPED_ONLY: Final = Catalogue([Shipped()], NoSources())
_LISTS: Final = ("positional", "choices")
_TABLES: Final = ("arguments", "gives", "errors", "fields")


class LoadedPipeline(msgspec.Struct, frozen=True, kw_only=True):
    """A checked pipeline, with the plugins that it runs with."""

    definition: PipelineDefinition
    resolved: Resolved


async def load(parent: WarmParent, filename: str, source: str, catalogue: Catalogue = SHIPPED_ONLY) -> LoadedPipeline:
    """Load a pipeline file, find its plugins, and check all of it.

    :raises PipelineInvalid: with everything that is wrong in it.
    :raises SandboxFailed: when no process could be used.
    """
    async with parent.fork() as sandbox:
        draft = await sandbox.draft(filename, source)
    resolved = await resolve(draft.references, catalogue)
    is_whole = not resolved.problems and draft.unnamed.isdisjoint(await catalogue.names() if draft.unnamed else ())
    if not draft.wants_plugins or not is_whole:
        return LoadedPipeline(definition=draft.check(resolved.plugins, resolved.problems), resolved=resolved)
    async with parent.fork() as sandbox:
        definition = await sandbox.load(filename, source, resolved.plugins)
    return LoadedPipeline(definition=definition, resolved=resolved)


async def describe(parent: WarmParent, plugin: Plugin, others: Mapping[str, Plugin] | None = None) -> PluginDescription:
    """Load a plugin in the sandbox, and give all that it says of itself.

    :param others: the plugins that it needs, by name.
    :raises PluginInvalid: when it cannot be loaded, or declares what is no declaration.
    """
    for entry in plugin.manifest.plugins:
        needed(plugin, entry)
    async with parent.fork() as sandbox:
        told = await sandbox.describe(plugin, {**(others or {}), plugin.name: plugin})
    _check_modules(plugin.manifest, told.modules)
    return PluginDescription(
        manifest=plugin.manifest,
        sha256=plugin.sha256,
        operations=_operations(plugin, told),
        has_setup=told.setup,
        has_teardown=told.teardown,
        readme=plugin.files.get(folders.README),
    )


async def describe_with_needs(parent: WarmParent, plugin: Plugin, catalogue: Catalogue) -> PluginDescription:
    """Describe a plugin, with those that it needs as a catalogue has them.

    :raises MoonyardError: as ``describe`` does, and when one that it needs is not to be found.
    """
    resolved = await resolve([needed(plugin, entry) for entry in plugin.manifest.plugins], catalogue)
    for error in resolved.problems.values():
        raise error
    return await describe(parent, plugin, resolved.plugins)


def _check_modules(manifest: Manifest, known: list[str]) -> None:
    for name in manifest.modules:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise PluginInvalid(
                f"`modules` of plugin `{manifest.name}` holds `{name[:60]}`, which is no core module"
                + (f"; did you mean `{near[0]}`?" if near else "")
                + f" (modules: {', '.join(sorted(known))})"
            )


def _operations(plugin: Plugin, told: Described) -> dict[str, Operation]:
    given: dict[Any, object] = told.operations if isinstance(told.operations, dict) else {}  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]  # looked at one by one
    operations: dict[str, Operation] = {}
    for name in sorted(map(str, given)):
        try:
            operations[name] = msgspec.convert(_untangled(given[name]), Operation)
        except msgspec.ValidationError as error:
            raise PluginInvalid(
                f"operation `{name}` of plugin `{plugin.name}` is not declared well: {error}"
            ) from error
    return operations


def _untangled(value: object) -> object:
    """Make empty lists of the empty tables where lists belong: Lua has one word for both."""
    if not isinstance(value, dict):
        return value
    table: dict[Any, object] = value  # pyright: ignore[reportUnknownVariableType]  # it is of a plugin's making
    made: dict[Any, object] = {}
    for key, item in table.items():
        if key in _LISTS and item == {}:
            made[key] = []
        elif key in _TABLES and item == []:
            made[key] = {}
        else:
            made[key] = item if key == "default" else _untangled(item)
    return made
