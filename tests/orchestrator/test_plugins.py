"""The registry of plugins: what is pushed never changes, and versions of pipelines are locked with what they found."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from orchestrator import plugins, retention
from orchestrator.sql import plugins as plugins_sql
from plugins import folders
from schema.client import Client, OrchestratorRefused
from schema.plugins import version_hash
from schema.wire import (
    JobSubmit,
    PipelinePush,
    PipelineVersion,
    PluginContents,
    PluginList,
    PluginPush,
    PluginShown,
    PluginVersion,
)
from tests.orchestrator.installation import Installation
from tests.plugins.made import files, operation, plugin, write

INIT = operation("return nil")


def source(*names: str) -> str:
    return (
        f'local mine = require("mine") return {{ name = "p", plugins = {{ {", ".join(names)} }}, stages = {{ '
        '{ name = "s", script = function() mine.run() end } } }'
    )


async def push(client: Client, contents: dict[str, str]) -> PluginVersion:
    return await client.post("/v1/plugins", PluginVersion, PluginPush(files=contents))


async def push_pipeline(client: Client, text: str, **sent: dict[str, str]) -> PipelineVersion:
    return await client.post(
        "/v1/pipelines", PipelineVersion, PipelinePush(filename="p.lua", source=text, plugins=sent)
    )


async def refusal(client: Client, contents: dict[str, str]) -> OrchestratorRefused:
    with pytest.raises(OrchestratorRefused) as raised:
        await push(client, contents)
    return raised.value


async def test_what_is_pushed_is_listed_shown_and_never_changes(installation: Installation):
    await installation.replica()
    client = await installation.client()
    contents = files(init=INIT, more={"README.md": "# Mine\n"})
    pushed = await push(client, contents)
    assert (pushed.name, pushed.version, pushed.origin, pushed.unchanged) == ("mine", "1.0.0", "pushed", False)
    assert pushed.sha256 == folders.tree_hash(contents)
    assert pushed.pushed_by == "token test"
    assert (await push(client, contents)).unchanged
    other = await refusal(client, files(init=INIT + "-- changed"))
    assert (other.status, other.code) == (409, "plugin_version_taken")
    await push(client, files(init=INIT, version="1.1.0"))
    listed = (await client.get("/v1/plugins", PluginList)).plugins
    assert [(one.name, one.version, one.origin) for one in listed] == [
        *[(name, one.version, "shipped") for name, one in sorted(folders.shipped().items())],
        ("mine", "1.1.0", "pushed"),
        ("mine", "1.0.0", "pushed"),
    ]
    shown = await client.get("/v1/plugins/mine", PluginShown, query={"version": "1.0"})
    assert (shown.origin, shown.description.sha256, shown.description.readme) == ("pushed", pushed.sha256, "# Mine\n")
    assert list(shown.description.operations) == ["run"]
    assert (await client.get("/v1/plugins/mine", PluginShown)).description.manifest.version == "1.1.0"
    for path in (
        "/v1/plugins/yours",
        "/v1/plugins/..%2f",
        "/v1/plugins/mine?version=9",
        "/v1/plugins/mine?version=%00",
    ):
        with pytest.raises(OrchestratorRefused) as raised:
            await client.get(path, PluginShown)
        assert (raised.value.status, raised.value.code) in {(404, "plugin_unknown"), (404, "route_unknown")}
    audited = await installation.fetch("SELECT actor, subject FROM inspect.audit WHERE action = 'push plugin'")
    assert [tuple(row) for row in audited] == [
        ("token test", "plugin mine 1.1.0"), ("token test", "plugin mine 1.0.0")
    ]  # fmt: skip


async def test_what_is_no_plugin_is_refused_whole(installation: Installation):
    await installation.replica()
    client = await installation.client()
    for contents, code, words in (
        ({}, "plugin_invalid", "has no `plugin.toml`"),
        (files(init="error('oh')"), "plugin_invalid", "oh"),
        (files(init="x("), "plugin_invalid", "cannot be loaded"),
        (files(init=INIT, modules=["proces"]), "plugin_invalid", "did you mean `process`?"),
        (files(init=INIT, plugins=["none"]), "plugin_unknown", "there is no plugin `none`"),
        (files(init=INIT, more={"../x": ""}), "plugin_invalid", "no plugin's file can be named"),
        (files("git", init=INIT), "plugin_name_taken", "comes with Moonyard"),
    ):
        refused = await refusal(client, contents)
        assert refused.status in {409, 422}
        assert refused.code in {code, "lua_error"}
        assert words in refused.message
    assert (await client.get("/v1/plugins", PluginList)).plugins[-1].origin == "shipped"
    assert await installation.fetch("SELECT * FROM moonyard.plugin_contents") == []


async def test_only_admins_push_and_only_runners_of_a_job_with_it_fetch(installation: Installation):
    await installation.replica()
    client, runner, other = await installation.client(), await installation.runner(), await installation.runner("other")
    pushed = await push(client, files(init=INIT))
    await push_pipeline(client, source('"mine"'))
    await client.post("/v1/jobs", object, JobSubmit(pipeline="p"))
    await runner.claim()
    refused = await refusal(runner.client, files(init=INIT, version="2.0.0"))
    assert refused.status == 403
    path = f"/v1/runner/plugins/{pushed.sha256}"
    contents = await runner.client.get(path, PluginContents)
    assert folders.tree_hash(contents.files) == pushed.sha256
    with pytest.raises(OrchestratorRefused) as raised:
        await client.get(path, PluginContents)
    assert raised.value.status == 403
    for speaking, asked in ((runner, "/v1/runner/plugins/none"), (other, path)):
        with pytest.raises(OrchestratorRefused) as raised:
            await speaking.client.get(asked, PluginContents)
        assert (raised.value.status, raised.value.code) == (404, "plugin_unknown")


async def test_a_version_of_a_pipeline_is_locked_with_its_plugins(installation: Installation):
    await installation.replica()
    client, runner = await installation.client(), await installation.runner()
    first = await push(client, files(init=INIT))
    locked = await push_pipeline(client, source('"mine@1"'))
    assert [(one.name, one.version, one.sha256, one.origin) for one in locked.plugins] == [
        ("mine", "1.0.0", first.sha256, "pushed")
    ]
    assert locked.version == version_hash(source('"mine@1"'), locked.plugins)
    assert (await push_pipeline(client, source('"mine@1"'))).unchanged
    await client.post("/v1/jobs", object, JobSubmit(pipeline="p"))
    second = await push(client, files(init=INIT, version="1.1.0"))
    newer = await push_pipeline(client, source('"mine@1"'))
    assert not newer.unchanged
    assert newer.version != locked.version
    await client.post("/v1/jobs", object, JobSubmit(pipeline="p"))
    await client.post("/v1/jobs", object, JobSubmit(pipeline="p", version=locked.version))
    assigned = [(await runner.claim())[0] for _ in range(3)]
    assert [[one.sha256 for one in job.plugins] for job in assigned] == [
        [first.sha256], [second.sha256], [first.sha256]
    ]  # fmt: skip
    shown = await client.get(f"/v1/pipelines/p?version={locked.version}", PipelineVersion)
    assert shown.plugins == locked.plugins
    rows = await installation.fetch("SELECT * FROM inspect.plugins ORDER BY version")
    assert [
        (row["plugin"], row["version"], row["hash"], row["origin"], row["pushed_by"], row["locked_by"]) for row in rows
    ] == [
        ("mine", "1.0.0", first.sha256[:12], "pushed", "token test", 1),
        ("mine", "1.1.0", second.sha256[:12], "pushed", "token test", 1),
    ]
    assert rows[0]["pipelines"] == f"p {locked.version[:8]}"


async def test_what_ships_is_stored_with_the_version_that_is_locked_with_it(installation: Installation):
    await installation.replica()
    client, runner = await installation.client(), await installation.runner()
    text = source('"git"').replace("mine", "git")
    [locked] = (await push_pipeline(client, text)).plugins
    assert (locked.name, locked.origin) == ("git", "shipped")
    await client.post("/v1/jobs", object, JobSubmit(pipeline="p"))
    await runner.claim()
    contents = await runner.client.get(f"/v1/runner/plugins/{locked.sha256}", PluginContents)
    assert contents.files == dict(folders.shipped()["git"].files)
    [row] = await installation.fetch("SELECT * FROM inspect.plugins")
    assert (row["plugin"], row["origin"], row["pushed_by"]) == ("git", "shipped", None)


async def test_plugins_of_which_the_pipeline_says_where_they_are_come_with_it(installation: Installation):
    await installation.replica()
    client = await installation.client()
    text = source('{ name = "mine", folder = "plugins/mine" }')
    with pytest.raises(OrchestratorRefused) as raised:
        await push_pipeline(client, text)
    assert raised.value.status == 422
    assert "was not sent along with the pipeline" in raised.value.message
    [locked] = (await push_pipeline(client, text, mine=files(init=INIT))).plugins
    assert (locked.name, locked.origin, locked.sha256) == ("mine", "pipeline folder", plugin(init=INIT).sha256)
    commit = "0123456789" * 4
    from_git = source(f'{{ name = "mine", git = "https://example.org/x.git", commit = "{commit}" }}')
    [locked] = (await push_pipeline(client, from_git, mine=files(init=INIT))).plugins
    assert locked.origin == f"https://example.org/x.git@{commit}"
    # What is not asked for is not looked at, and takes nothing's place.
    [locked] = (
        await push_pipeline(client, source('"git"').replace("mine", "git"), git=files("git", init=INIT))
    ).plugins
    assert locked.sha256 == folders.shipped()["git"].sha256
    for wrong in ({"mine": files("yours", init=INIT)}, {"mine": files(init="x(")}, {"mine": {"../x": ""}}):
        with pytest.raises(OrchestratorRefused) as raised:
            await push_pipeline(client, text, **wrong)
        assert raised.value.status == 422


async def test_a_folder_of_the_orchestrator_comes_before_what_was_pushed(installation: Installation, tmp_path: Path):
    write(tmp_path / "mine", files(init=INIT, version="3.0.0"))
    await installation.replica(plugin_folder=tmp_path)
    client = await installation.client()
    await push(client, files(init=INIT, version="9.0.0"))
    [locked] = (await push_pipeline(client, source('"mine"'))).plugins
    assert (locked.version, locked.origin) == ("3.0.0", "folder")
    listed = (await client.get("/v1/plugins", PluginList)).plugins
    assert [(one.version, one.origin) for one in listed if one.name == "mine"] == [("3.0.0", "folder")]


AGED = "UPDATE moonyard.plugin_contents SET created_at = now() - interval '3 days' WHERE sha256 = ANY ($1)"
FORGOTTEN = "DELETE FROM moonyard.plugins WHERE sha256 = $1"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


async def kept(installation: Installation) -> set[str]:
    rows = await installation.database.rows("SELECT sha256 FROM moonyard.plugin_contents WHERE name = 'mine'")
    return {row["sha256"] for row in rows}


async def test_contents_that_nothing_names_go_when_they_are_old(installation: Installation):
    await installation.replica()
    client = await installation.client()
    pushed = [(await push(client, files(init=INIT, version=f"1.{minor}.0"))).sha256 for minor in range(4)]
    named, locked, old, new = pushed
    await push_pipeline(client, source('"mine@1.1.0"'))
    for sha256 in (locked, old, new):
        await installation.database.rows(FORGOTTEN, sha256)
    await installation.database.rows(AGED, [named, locked, old])
    assert await retention.remove_unnamed_plugins(installation.database) == 1
    assert await kept(installation) == {named, locked, new}
    assert await retention.remove_unnamed_plugins(installation.database) == 0


async def test_what_is_being_pushed_is_not_removed_under_way(installation: Installation):
    await installation.replica()
    client = await installation.client()
    made = plugin(init=INIT)
    await push(client, dict(made.files))
    await installation.database.rows(FORGOTTEN, made.sha256)
    await installation.database.rows(AGED, [made.sha256])
    async with installation.database.transaction() as connection:
        await plugins.store(connection, [made])  # and it is named by what comes next
        assert await retention.remove_unnamed_plugins(installation.database) == 0
    assert await kept(installation) == {made.sha256}
    assert await retention.remove_unnamed_plugins(installation.database) == 0

    # Stored again before the sweep that has it in hand is done: whoever comes second waits, and stores it anew.
    await installation.database.rows(AGED, [made.sha256])
    async with anyio.create_task_group() as tasks, installation.database.transaction() as connection:
        swept = await connection.fetch(plugins_sql.CONTENTS_SWEEP, 86400.0, 100)
        assert [row["sha256"] for row in swept] == [made.sha256]
        tasks.start_soon(push, client, dict(made.files))
        await a_lock_is_waited_for(installation)
    assert await kept(installation) == {made.sha256}
    assert (await push(client, dict(made.files))).unchanged


async def a_lock_is_waited_for(installation: Installation) -> None:
    with anyio.fail_after(20):
        while not await installation.database.value(WAITING):  # noqa: ASYNC110  # asked from outside
            await anyio.sleep(0.02)
