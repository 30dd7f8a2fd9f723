"""Where a job's plugins come from: always exactly those that its pipeline's version was locked with.

A runner has them by their hashes: of what ships with its own Moonyard, of its disk, or of the orchestrator, in this
order. Whatever it is, it is hashed before it is used.

    <state>/plugins/<sha256>.json     the files of a plugin; its time is that of its last use
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import anyio.to_thread
import msgspec

from plugins import Plugin, folders
from runner.delivery import PATIENCE_SECONDS, persistently
from schema.client import Client
from schema.plugins import LockedPlugin, PluginInvalid
from schema.wire import PluginContents

log: Final = logging.getLogger(__name__)

KEPT_MAXIMUM: Final = 200
"""How many plugins are kept on disk: those that were used last."""


class PluginStore(Protocol):
    async def fetch(self, lock: Sequence[LockedPlugin]) -> Mapping[str, Plugin]:
        """Give the plugins of a lock, by name.

        :raises MoonyardError: when one is not to be had.
        """
        ...


class ResolvedPlugins:
    """Plugins that are at hand: of ``moonyard run``, which has just looked for them."""

    def __init__(self, plugins: Mapping[str, Plugin]) -> None:
        self._plugins = plugins

    async def fetch(self, lock: Sequence[LockedPlugin]) -> Mapping[str, Plugin]:
        del lock  # it is made of them
        return self._plugins


class PluginFolder:
    """The plugins on a runner's disk, and the way to others."""

    def __init__(self, client: Client, state_folder: Path) -> None:
        self._client = client
        self._folder = state_folder / "plugins"

    async def fetch(self, lock: Sequence[LockedPlugin]) -> Mapping[str, Plugin]:
        return {locked.name: await self._one(locked) for locked in lock}

    async def _one(self, locked: LockedPlugin) -> Plugin:
        shipped = folders.shipped().get(locked.name)
        if shipped is not None and shipped.sha256 == locked.sha256:
            return shipped
        plugin = await anyio.to_thread.run_sync(self._read, locked)
        if plugin is None:
            plugin = await self._download(locked)
            await anyio.to_thread.run_sync(self._keep, plugin)
        return plugin

    async def _download(self, locked: LockedPlugin) -> Plugin:
        received: list[Plugin] = []

        async def receive() -> None:
            contents = await self._client.get(f"/v1/runner/plugins/{locked.sha256}", PluginContents)
            plugin = _checked(locked, contents.files)
            if plugin is None:
                raise PluginInvalid(
                    f"plugin `{locked.name}` {locked.version} is not what the pipeline's version was locked with: its "
                    f"hash is not {locked.sha256[:12]}",
                    code="plugin_hash_wrong",
                    hint="Somebody changed it in the database. Pushing the pipeline again locks what is there now.",
                )
            received.append(plugin)

        await persistently(f"fetching plugin `{locked.name}`", receive, patience=PATIENCE_SECONDS)
        return received[-1]

    def _read(self, locked: LockedPlugin) -> Plugin | None:
        path = self._path(locked.sha256)
        try:
            contents = msgspec.json.decode(path.read_bytes(), type=PluginContents)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("plugin `%s` in %s cannot be read (%s): it is fetched again", locked.name, path, error)
            return None
        plugin = _checked(locked, contents.files)
        if plugin is None:
            log.warning("plugin `%s` in %s is not what was written there: it is fetched again", locked.name, path)
            path.unlink(missing_ok=True)
            return None
        with suppress(OSError):
            os.utime(path)
        return plugin

    def _keep(self, plugin: Plugin) -> None:
        """Write a plugin to disk; where that does not work, it is fetched again the next time."""
        nascent = self._folder / f".new-{secrets.token_hex(8)}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            nascent.write_bytes(msgspec.json.encode(PluginContents(sha256=plugin.sha256, files=dict(plugin.files))))
            nascent.rename(self._path(plugin.sha256))
            found = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
            for path in found[KEPT_MAXIMUM:]:
                path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("plugin `%s` could not be kept in %s: %s", plugin.name, self._folder, error)
            with suppress(OSError):
                nascent.unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.json"


def _checked(locked: LockedPlugin, files: Mapping[str, str]) -> Plugin | None:
    """Make a plugin of files, if they are those that were locked."""
    if folders.tree_hash(files) != locked.sha256:
        return None
    try:
        plugin = folders.from_files(files)
    except PluginInvalid as error:
        log.warning("plugin `%s` %s is none for this version of Moonyard: %s", locked.name, locked.version, error)
        raise
    return plugin if plugin.name == locked.name else None
