"""Finds the plugins that a pipeline names, and those that they need, in versions that go together.

Whoever looks has a **catalogue**: where plugins are, and in which versions. A name belongs to one place: what ships
with Moonyard, then the folder of the setting ``plugin_folder``, then what was pushed. So nobody's push takes the place
of a plugin that ships. The answer is a whole set, one version of each name; it is locked with the pipeline's version.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import anyio.to_thread
import msgspec

from plugins import folders, versions
from plugins.folders import Plugin
from schema.errors import MoonyardError
from schema.plugins import (
    PLUGINS_MAXIMUM,
    LockedPlugin,
    PluginConflict,
    PluginInvalid,
    PluginReference,
    PluginUnknown,
)

SHIPPED: Final = "shipped"
FOLDER: Final = "folder"
PUSHED: Final = "pushed"
PIPELINE_FOLDER: Final = "pipeline folder"
LISTED_MAXIMUM: Final = 10


class Place(Protocol):
    """Where plugins are."""

    origin: str

    async def names(self) -> list[str]:
        """List the names of the plugins there."""
        ...

    async def versions(self, name: str) -> list[str]:
        """List the versions of a plugin there; none where it has no such plugin."""
        ...

    async def load(self, name: str, version: str) -> Plugin: ...


class Sources(Protocol):
    """Gives plugins that a pipeline itself says where to find: in a folder, or in a commit of a git repository."""

    async def load(self, reference: PluginReference) -> Plugin:
        """Give a plugin.

        :raises MoonyardError: when it cannot be had from there.
        """
        ...


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin, and where it came from."""

    plugin: Plugin
    origin: str

    @property
    def locked(self) -> LockedPlugin:
        return LockedPlugin(
            name=self.plugin.name, version=self.plugin.version, sha256=self.plugin.sha256, origin=self.origin
        )


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a pipeline's references."""

    found: dict[str, Found]
    """By name, those that plugins need included; each comes after those that it needs."""
    problems: dict[str, MoonyardError]
    """By the pipeline's own names: why one is not among the others."""

    @property
    def plugins(self) -> dict[str, Plugin]:
        return {name: found.plugin for name, found in self.found.items()}

    @property
    def lock(self) -> list[LockedPlugin]:
        return [found.locked for found in self.found.values()]


class Shipped:
    """What comes with Moonyard."""

    origin = SHIPPED

    async def names(self) -> list[str]:
        return list(folders.shipped())

    async def versions(self, name: str) -> list[str]:
        plugin = folders.shipped().get(name)
        return [] if plugin is None else [plugin.version]

    async def load(self, name: str, version: str) -> Plugin:
        del version  # there is but one
        return folders.shipped()[name]


class Installed:
    """What is in a folder of this machine: a plugin's folder for each, named as it is."""

    origin = FOLDER

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def names(self) -> list[str]:
        return list(await anyio.to_thread.run_sync(folders.installed, self._folder))

    async def versions(self, name: str) -> list[str]:
        if name not in await self.names():
            return []
        return [(await self.load(name, "")).version]

    async def load(self, name: str, version: str) -> Plugin:
        del version  # there is but one
        plugin = await anyio.to_thread.run_sync(folders.read, self._folder / name)
        if plugin.name != name:
            raise PluginInvalid(f"plugin folder {self._folder / name} holds plugin `{plugin.name}`, and not `{name}`")
        return plugin


class NoSources:
    """For whoever cannot go and look: the pipeline has to be brought with the plugins that it says where to find."""

    async def load(self, reference: PluginReference) -> Plugin:
        raise PluginUnknown(
            f"plugin `{reference.name}` is to come from {described(reference)}, and it was not sent along",
            hint="`moonyard pipeline push` sends such plugins with the pipeline.",
        )


class Catalogue:
    """All places where a plugin may be, in the order in which a name is looked for in them."""

    def __init__(self, places: Sequence[Place], sources: Sources) -> None:
        self._places = places
        self._sources = sources

    async def find(self, reference: PluginReference) -> Found:
        """Find a plugin in the newest version that fits.

        :raises PluginUnknown: when there is none; it says which there are.
        """
        if reference.has_source:
            return await self._from_source(reference)
        for place in self._places:
            known = await place.versions(reference.name)
            if not known:
                continue
            version = versions.newest(known, reference.range)
            if version is None:
                listed = ", ".join(versions.in_order(known)[:LISTED_MAXIMUM])
                raise PluginUnknown(
                    f"there is no version of plugin `{reference.name}` that `{reference}` takes (there are: {listed})",
                    hint="A version before a release is taken only by its whole name.",
                )
            return Found(plugin=await place.load(reference.name, version), origin=place.origin)
        names = await self.names()
        near = difflib.get_close_matches(reference.name, names, n=1)
        raise PluginUnknown(
            f"there is no plugin `{reference.name}`"
            + (f"; did you mean `{near[0]}`?" if near else "")
            + f" (plugins: {', '.join(names)})"
        )

    async def names(self) -> list[str]:
        return sorted({name for place in self._places for name in await place.names()})

    async def _from_source(self, reference: PluginReference) -> Found:
        plugin = await self._sources.load(reference)
        if plugin.name != reference.name:
            raise PluginUnknown(
                f"{described(reference)} holds plugin `{plugin.name}`, and the pipeline calls it `{reference.name}`",
                hint="A plugin has the name that its plugin.toml says.",
            )
        if reference.range is not None and not versions.fits(plugin.version, reference.range):
            raise PluginUnknown(
                f"plugin `{plugin.name}` from {described(reference)} is version {plugin.version}, and `{reference}` "
                "was asked for"
            )
        origin = PIPELINE_FOLDER
        if reference.git is not None:
            inside = "" if reference.folder is None else f" in {reference.folder}"
            origin = f"{reference.git}@{reference.commit}{inside}"
        return Found(plugin=plugin, origin=origin)


def described(reference: PluginReference) -> str:
    """Say where a reference leads."""
    if reference.git is not None:
        return f"{reference.git} at commit {(reference.commit or '')[:12]}"
    return f"folder `{reference.folder}`"


async def resolve(references: Sequence[PluginReference], catalogue: Catalogue) -> Resolved:
    """Find all plugins of a pipeline, with those that they need themselves. Nothing is raised: see ``problems``."""
    found: dict[str, Found] = {}
    problems: dict[str, MoonyardError] = {}
    named = {reference.name: reference for reference in references}
    for reference in references:
        before = dict(found)
        try:
            await _add(reference, catalogue, named, found, ())
        except MoonyardError as error:
            problems[reference.name] = error
            found = before
    return Resolved(found=found, problems=problems)


async def _add(
    reference: PluginReference,
    catalogue: Catalogue,
    named: Mapping[str, PluginReference],
    found: dict[str, Found],
    needed_by: tuple[str, ...],
) -> None:
    name = reference.name
    if name in needed_by:
        raise PluginConflict(f"plugins need each other in a circle: {' needs '.join((*needed_by, name))}")
    taken = found.get(name)
    if taken is None:
        # What the pipeline says of a plugin holds for those that need it too: a job has one version of each.
        taken = await catalogue.find(named.get(name, reference))
        for text in taken.plugin.manifest.plugins:
            await _add(needed(taken.plugin, text), catalogue, named, found, (*needed_by, name))
        if len(found) >= PLUGINS_MAXIMUM:
            raise PluginConflict(f"a job has at most {PLUGINS_MAXIMUM} plugins, those that they need included")
        found[name] = taken
    version = taken.plugin.version
    if needed_by and reference.range is not None and not versions.fits(version, reference.range):
        raise PluginConflict(
            f"plugin `{needed_by[-1]}` needs `{reference}`, and the job has version {version} of plugin `{name}`",
            hint=f'Name a version that fits both in the pipeline: "{reference}".',
        )


def needed(plugin: Plugin, text: str) -> PluginReference:
    """Read an entry of a manifest's ``plugins``.

    :raises PluginInvalid: when it names none.
    """
    name, at, wanted = text.partition("@")
    if not folders.is_name(name) or (at and not versions.is_range(wanted)):
        raise PluginInvalid(
            f"`plugins` of plugin `{plugin.name}` holds `{text[:60]}`, which names no plugin",
            hint='Write plugins = ["git"] or ["git@1.2"].',
        )
    return PluginReference(name=name, range=wanted if at else None)
