"""``moonyard init`` and ``moonyard stubs``: what they write, what they leave, and that it works without an edit."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from runner.reference import stubs
from tests.cli.command import moonyard
from tests.cli.conftest import Runner
from tests.cli.job_lines import succeeded
from tests.orchestrator.installation import Installation
from tests.orchestrator.installation import installation as opened
from tests.plugins.made import files, operation, write


@pytest.fixture
async def installation(database_url: str) -> AsyncGenerator[Installation]:
    async with opened(database_url) as made:
        yield made


async def test_a_project_in_an_empty_folder_runs_and_is_clean_without_an_edit(run: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "My First Project"
    folder.mkdir()
    made = await moonyard("init", cwd=folder)
    assert (made.code, made.stderr) == (0, "")
    assert "moonyard run pipeline.lua" in made.stdout
    printed = succeeded(
        await moonyard("run", "pipeline.lua", "--json", "--state-folder", str(run.state_folder), cwd=folder)
    )
    assert printed.texts(source="lua") == ["the greeting has 2 words"]
    checked = await moonyard("check", "--strict", "pipeline.lua", cwd=folder)
    assert (checked.code, checked.stdout) == (0, "")
    assert 'name = "my-first-project"' in (folder / "pipeline.lua").read_text(encoding="utf-8")


async def test_what_is_there_is_left_and_the_stubs_are_written_anew(tmp_path: Path) -> None:
    assert (await moonyard("init", "project", cwd=tmp_path)).code == 0
    folder = tmp_path / "project"
    (folder / "pipeline.lua").write_text("-- mine", encoding="utf-8")
    (folder / ".luarc.json").write_text("{}", encoding="utf-8")
    (folder / ".gitignore").write_text("build", encoding="utf-8")
    (folder / stubs.FOLDER / "core" / "fs.lua").write_text("old", encoding="utf-8")
    (folder / stubs.FOLDER / "core" / "gone.lua").write_text("of a version before", encoding="utf-8")
    again = await moonyard("init", "project", cwd=tmp_path)
    assert again.code == 0
    assert "left project/pipeline.lua as it is" in again.stdout
    assert (folder / "pipeline.lua").read_text(encoding="utf-8") == "-- mine"
    assert (folder / ".luarc.json").read_text(encoding="utf-8") == "{}"
    assert (folder / ".gitignore").read_text(encoding="utf-8") == "build\n.moonyard/\n"
    assert (folder / stubs.FOLDER / "core" / "fs.lua").read_text(encoding="utf-8") == stubs.files()["core/fs.lua"]
    assert not (folder / stubs.FOLDER / "core" / "gone.lua").exists()
    assert (await moonyard("init", "project", cwd=tmp_path)).stdout.count(".gitignore") == 0


async def test_the_editors_settings_lead_to_the_stubs(tmp_path: Path) -> None:
    assert (await moonyard("init", cwd=tmp_path)).code == 0
    settings = json.loads((tmp_path / ".luarc.json").read_text(encoding="utf-8"))
    modules, plugins = settings["workspace.library"]
    assert (tmp_path / modules / "process.lua").is_file()
    assert "function git.clone(url, options) end" in (tmp_path / plugins / "git.lua").read_text(encoding="utf-8")
    assert settings["runtime.builtin"]["io"] == "disable"


async def test_plugins_that_are_named_are_in_the_pipeline(tmp_path: Path) -> None:
    assert (await moonyard("init", "--plugins", "git", cwd=tmp_path)).code == 0
    text = (tmp_path / "pipeline.lua").read_text(encoding="utf-8")
    assert 'plugins = { "git" }' in text
    assert "@" not in text.replace("---@type", "")
    checked = await moonyard("check", "--strict", "pipeline.lua", cwd=tmp_path)
    assert (checked.code, checked.stdout) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["init", "--plugins", "gti"], "there is no plugin `gti`; did you mean `git`?"),
        (["init", "file"], "error[project_refused] `file` is a file, and a project is a folder"),
        (["stubs", "file"], "error[project_refused] `file` is no folder"),
        (["stubs", "nowhere"], "error[project_refused] `nowhere` is no folder"),
    ],
)
async def test_what_cannot_be_made_is_refused(arguments: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    printed = await moonyard(*arguments, cwd=tmp_path)
    assert printed.code == 2
    assert words in printed.stderr
    assert not (tmp_path / "pipeline.lua").exists()


def gives(field: str) -> str:
    return f'gives = {{ {field} = {{ type = "string", required = true, description = "who it is" }} }}'


async def test_stubs_are_of_the_plugins_that_pipelines_use_in_the_versions_that_they_name(
    installation: Installation, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    written = project / stubs.FOLDER / "plugins"
    for version, field in (("1.0.0", "first"), ("1.1.0", "second"), ("2.0.0", "third")):
        folder = tmp_path / version
        write(folder, files("mine", operation(f"return {{ {field} = 'me' }}", gives(field)), version=version))
    write(project / "plugins" / "own", files("own", operation("return { who = 'me' }", gives("who"))))
    replica = await installation.replica()
    access = {"MOONYARD_ORCHESTRATOR": replica.address, "MOONYARD_TOKEN": installation.admin_secret}
    for version in ("1.0.0", "1.1.0", "2.0.0"):
        pushed = await moonyard("plugin", "push", version, cwd=tmp_path, **access)
        assert pushed.code == 0, pushed.stderr

    nothing = await moonyard("plugin", "sync", "project", cwd=tmp_path)
    assert (nothing.code, nothing.stdout.partition("(")[2]) == (0, "plugins in use: none)\n")
    assert {path.name for path in written.iterdir()} >= {"git.lua", "own.lua"}
    named = 'return { name = "p", plugins = { "mine@1", "git" }, stages = { { name = "s", script = print } } }'
    (project / "p.lua").write_text(f'local mine = require("mine")\n{named}', encoding="utf-8")
    (project / "broken.lua").write_text("return { plugins = ", encoding="utf-8")
    synced = await moonyard("plugin", "sync", "project", cwd=tmp_path, **access)
    assert synced.code == 0, synced.stderr
    assert "(plugins in use: git, mine)" in synced.stdout
    assert "---@field second string # who it is" in (written / "mine.lua").read_text(encoding="utf-8")

    (project / "q.lua").write_text(named.replace("mine@1", "mien"), encoding="utf-8")
    refused = await moonyard("plugin", "sync", "project", cwd=tmp_path, **access)
    assert refused.code == 2
    assert "error[plugin_unknown] there is no plugin `mien` here or at the orchestrator" in refused.stderr
    assert (written / "mine.lua").is_file()


async def test_a_project_may_begin_with_a_plugin_that_was_pushed(installation: Installation, tmp_path: Path) -> None:
    write(tmp_path / "mine", files("mine", operation("return { who = 'me' }", gives("who"))))
    replica = await installation.replica()
    access = {"MOONYARD_ORCHESTRATOR": replica.address, "MOONYARD_TOKEN": installation.admin_secret}
    assert (await moonyard("plugin", "push", "mine", cwd=tmp_path, **access)).code == 0
    made = await moonyard("init", "project", "--plugins", "git,mine", cwd=tmp_path, **access)
    assert made.code == 0, made.stderr
    stub = tmp_path / "project" / stubs.FOLDER / "plugins" / "mine.lua"
    assert "---@field who string # who it is" in stub.read_text(encoding="utf-8")
    assert 'plugins = { "git", "mine" }' in (tmp_path / "project" / "pipeline.lua").read_text(encoding="utf-8")


async def test_stubs_are_written_into_a_project_that_is_there(tmp_path: Path) -> None:
    printed = await moonyard("stubs", cwd=tmp_path)
    assert printed.code == 0
    assert (tmp_path / stubs.FOLDER / "core" / "moonyard.lua").is_file()
    assert "`moonyard init .` writes one" in printed.stderr
