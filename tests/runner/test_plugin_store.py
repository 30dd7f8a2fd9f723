"""How a runner gets the plugins that a version is locked with: by their hashes, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from plugins import Plugin, folders
from runner.plugin_store import KEPT_MAXIMUM, PluginFolder
from schema.client import Client
from schema.errors import MoonyardError
from schema.plugins import LockedPlugin
from schema.wire import PluginPush, PluginVersion
from tests.orchestrator.installation import Installation, SpokenRunner, installation
from tests.plugins.made import files, operation, plugin

INIT = operation("return nil")
NOBODY = ["http://127.0.0.1:1"]


def locked(one: Plugin) -> LockedPlugin:
    return LockedPlugin(name=one.name, version=one.version, sha256=one.sha256, origin="pushed")


async def begun(installed: Installation, *plugins: Plugin) -> SpokenRunner:
    """Have a runner that holds a job whose version is locked with plugins."""
    await installed.push()
    locks = msgspec.json.encode([locked(one) for one in plugins]).decode()
    await installed.fetch("UPDATE moonyard.pipeline_versions SET plugins = $1::jsonb", locks)
    await installed.submit()
    runner = await installed.runner()
    await runner.claim()
    return runner


async def test_a_plugin_is_fetched_once_and_then_of_the_disk(database_url: str, tmp_path: Path):
    async with installation(database_url) as made:
        await made.replica()
        await (await made.client()).post("/v1/plugins", PluginVersion, PluginPush(files=files(init=INIT)))
        one = plugin(init=INIT)
        runner = await begun(made, one)
        fetched = await PluginFolder(runner.client, tmp_path).fetch([locked(one)])
        assert fetched["mine"] == one
        kept = tmp_path / "plugins" / f"{one.sha256}.json"
        assert kept.is_file()
        async with Client.open(NOBODY, None) as nobody:
            assert (await PluginFolder(nobody, tmp_path).fetch([locked(one)]))["mine"] == one
        for damage in (b"", b"{", json.dumps({"sha256": one.sha256, "files": files(init="evil()")}).encode()):
            kept.write_bytes(damage)
            assert (await PluginFolder(runner.client, tmp_path).fetch([locked(one)]))["mine"] == one
            assert json.loads(kept.read_bytes())["files"] == dict(one.files)


async def test_what_ships_is_not_asked_for(tmp_path: Path):
    async with Client.open(NOBODY, None) as nobody:
        git = folders.shipped()["git"]
        assert (await PluginFolder(nobody, tmp_path).fetch([locked(git)]))["git"] is git
    assert not (tmp_path / "plugins").exists()


async def test_what_is_not_what_was_locked_is_not_used(database_url: str, tmp_path: Path):
    async with installation(database_url) as made:
        await made.replica()
        await (await made.client()).post("/v1/plugins", PluginVersion, PluginPush(files=files(init=INIT)))
        one = plugin(init=INIT)
        runner = await begun(made, one)
        await made.fetch(
            "UPDATE moonyard.plugin_contents SET files = $1::json", json.dumps(files(init=INIT + " -- and more"))
        )
        with pytest.raises(MoonyardError) as raised:
            await PluginFolder(runner.client, tmp_path).fetch([locked(one)])
        assert raised.value.code == "plugin_hash_wrong"
        with pytest.raises(MoonyardError) as raised:
            await PluginFolder(runner.client, tmp_path).fetch([locked(plugin(init="-- never pushed"))])
        assert raised.value.code == "plugin_unknown"
        assert not (tmp_path / "plugins").exists()


async def test_what_was_not_used_longest_goes(database_url: str, tmp_path: Path):
    folder = tmp_path / "plugins"
    folder.mkdir()
    for number in range(KEPT_MAXIMUM):
        (folder / f"{number:064x}.json").write_text("{}")
    async with installation(database_url) as made:
        await made.replica()
        await (await made.client()).post("/v1/plugins", PluginVersion, PluginPush(files=files(init=INIT)))
        one = plugin(init=INIT)
        await PluginFolder((await begun(made, one)).client, tmp_path).fetch([locked(one)])
    assert len(list(folder.iterdir())) == KEPT_MAXIMUM
    assert (folder / f"{one.sha256}.json").is_file()
