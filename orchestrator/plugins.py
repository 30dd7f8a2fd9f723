"""The registry of plugins: what was pushed, and what pipelines' versions are locked with.

A push is checked in the sandbox, hashed, and stored under its name and version for ever. When a pipeline is pushed, its
plugins are found (``plugins.resolution``) and their contents stored under their hashes, wherever they came from: those
that ship, too, for the next Moonyard ships others. Runners get them by these hashes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec

from orchestrator.checking import Checker
from orchestrator.database import Connection, Database
from orchestrator.problems import Conflict, NotFound, RequestInvalid
from orchestrator.sql import plugins as sql
from plugins import Plugin, folders
from plugins import versions as plugin_versions
from plugins.resolution import PUSHED, Catalogue, Installed, Place, Shipped, Sources
from schema import times
from schema.plugins import PluginConflict, PluginInvalid, PluginReference, PluginUnknown, is_name
from schema.wire import PluginContents, PluginList, PluginShown, PluginVersion

VERSION_LENGTH_MAXIMUM: Final = 64


class Pushed:
    """What was pushed to this installation."""

    origin = PUSHED

    def __init__(self, database: Database) -> None:
        self._database = database

    async def names(self) -> list[str]:
        return [row["name"] for row in await self._database.rows(sql.PLUGIN_NAMES)]

    async def versions(self, name: str) -> list[str]:
        return [row["version"] for row in await self._database.rows(sql.PLUGIN_VERSIONS, name)]

    async def load(self, name: str, version: str) -> Plugin:
        files: str | None = await self._database.value(sql.PLUGIN_CONTENTS, name, version)
        assert files is not None, f"what was pushed is never removed, and {name} {version} is not there"
        return folders.from_files(_decode(files))


class NowhereElse:
    """For plugins that are to be found without a pipeline: there is none that would say where one is."""

    async def load(self, reference: PluginReference) -> Plugin:
        raise PluginUnknown(f"plugin `{reference.name}` is not here")


def places(database: Database, plugin_folder: Path | None) -> list[Place]:
    """List where this installation looks for plugins, in this order."""
    installed: list[Place] = [] if plugin_folder is None else [Installed(plugin_folder)]
    return [Shipped(), *installed, Pushed(database)]


def catalogue(database: Database, plugin_folder: Path | None, sources: Sources | None = None) -> Catalogue:
    return Catalogue(places(database, plugin_folder), sources or NowhereElse())


async def push(
    database: Database, checker: Checker, known: Catalogue, files: dict[str, str], *, actor: str
) -> PluginVersion:
    """Check a plugin and store it under its name and version.

    :raises RequestInvalid: when it is none, or does not load.
    :raises Conflict: when the name is that of a plugin that ships, or the version names other files.
    """
    try:
        plugin = folders.from_files(files)
        await checker.describe(plugin, known)
    except (PluginInvalid, PluginUnknown, PluginConflict) as error:
        raise RequestInvalid(error.message, code=error.code, hint=error.hint, where=error.where) from error
    name, version = plugin.name, plugin.version
    if name in folders.shipped():
        raise Conflict(
            f"plugin `{name}` comes with Moonyard: another one cannot take its name",
            code="plugin_name_taken",
            hint="Give yours another `name` in its plugin.toml.",
        )
    async with database.transaction() as connection:
        await store(connection, [plugin])
        pushed = await connection.fetchrow(sql.PLUGIN_PUSH, name, version, plugin.sha256, actor)
        stored = await connection.fetchrow(sql.PLUGIN_GET, name, version)
        assert stored is not None, "it was stored, now or before"
        if stored["sha256"] != plugin.sha256:
            raise Conflict(  # and nothing of it is kept
                f"plugin `{name}` {version} was pushed before, with other files (hash {stored['sha256'][:12]}, now "
                f"{plugin.sha256[:12]})",
                code="plugin_version_taken",
                hint="What a version names never changes: raise `version` in plugin.toml.",
            )
    return PluginVersion(
        name=name,
        version=version,
        sha256=plugin.sha256,
        origin=PUSHED,
        description=plugin.manifest.description,
        pushed_by=stored["pushed_by"],
        pushed_at=times.rfc3339(stored["pushed_at"]),
        unchanged=pushed is None,
    )


async def store(connection: Connection, plugins: Iterable[Plugin]) -> None:
    """Store the contents of plugins under their hashes."""
    for plugin in plugins:
        files = msgspec.json.encode(dict(plugin.files))
        await connection.execute(
            sql.CONTENTS_STORE, plugin.sha256, plugin.name, plugin.version, files.decode(), len(files)
        )


async def contents(database: Database, runner: UUID, sha256: str) -> PluginContents:
    """Give the files of a plugin by its hash, to a runner whose job's version is locked with it.

    :raises NotFound: when there is none, or no job of the runner has it.
    """
    row = await database.row(sql.CONTENTS_GET, sha256.replace("\0", ""), runner)
    if row is None:
        raise NotFound(f"there is no plugin with the hash `{sha256[:64]}`", code="plugin_unknown")
    return PluginContents(sha256=sha256, files=_decode(row["files"]))


async def listed(database: Database, plugin_folder: Path | None) -> PluginList:
    """List all plugins of this installation, each name's newest version first."""
    found: list[PluginVersion] = []
    known: set[str] = set()
    for place in places(database, plugin_folder)[:-1]:
        for name in await place.names():
            for version in [] if name in known else await place.versions(name):
                plugin = await place.load(name, version)
                found.append(_version(plugin, place.origin))
            known.add(name)
    rows = [row for row in await database.rows(sql.PLUGINS_LIST) if row["name"] not in known]
    found += [
        PluginVersion(
            name=row["name"],
            version=row["version"],
            sha256=row["sha256"],
            origin=PUSHED,
            pushed_by=row["pushed_by"],
            pushed_at=times.rfc3339(row["pushed_at"]),
        )
        for row in rows
    ]
    return PluginList(plugins=found)


async def shown(checker: Checker, known: Catalogue, name: str, version: str | None) -> PluginShown:
    """Give all that a plugin says of itself, by default in its newest version.

    :raises NotFound: when there is none.
    """
    if not is_name(name) or (version is not None and not plugin_versions.is_range(version[:VERSION_LENGTH_MAXIMUM])):
        raise NotFound(f"there is no plugin `{name[:60]}`", code="plugin_unknown")
    try:
        found = await known.find(PluginReference(name=name, range=version))
    except PluginUnknown as error:
        raise NotFound(error.message, code=error.code, hint=error.hint) from error
    return PluginShown(origin=found.origin, description=await checker.describe(found.plugin, known))


def _version(plugin: Plugin, origin: str) -> PluginVersion:
    return PluginVersion(
        name=plugin.name,
        version=plugin.version,
        sha256=plugin.sha256,
        origin=origin,
        description=plugin.manifest.description,
    )


def _decode(files: str) -> dict[str, str]:
    return msgspec.json.decode(files, type=dict[str, str])
