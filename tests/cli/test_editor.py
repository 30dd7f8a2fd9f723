"""What an editor's language server makes of a project: it knows what is right, and marks what is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from plugins import shipped
from tests import language_server
from tests.cli.command import ROOT, moonyard

WRONG = """local git = require("git")

---@type moonyard.Pipeline
local pipeline = {
  name = 5,
  stages = {
    { name = "a", script = function(job)
        log.info(job.inptus)
        local r = process.run({ command = "x" })
        log.info(r.cod)
        process.rnu({})
        fs.read(5)
        local made = git.clone("https://example.org/app.git", { depth = 1 })
        log.info(made.comit)
      end },
  },
}

return pipeline
"""
OF_STUBS = {"undefined-global", "type-not-found", "missing-parameter", "redundant-parameter", "unresolved-require"}
"""What can only be wrong where stubs are, or what uses the modules. The server guesses at much else in Lua."""


@pytest.fixture
def server() -> Path:
    found = language_server.program()
    if found is None:
        pytest.skip("there is no language server on this machine")
    return found


@pytest.fixture
async def project(tmp_path: Path) -> Path:
    assert (await moonyard("init", cwd=tmp_path)).code == 0
    return tmp_path


async def test_a_new_project_is_without_a_mistake(server: Path, project: Path) -> None:
    assert await language_server.diagnostics(server, project, [project / "pipeline.lua"]) == []


async def test_every_example_and_shipped_plugin_is_without_a_mistake(server: Path, project: Path) -> None:
    shutil.copytree(ROOT / "examples", project / "examples")
    for folder in shipped():
        shutil.copytree(ROOT / "plugins" / folder, project / "plugins" / folder)
    files = sorted([*(project / "examples").rglob("*.lua"), *(project / "plugins").rglob("*.lua")])
    assert {path.name for path in files} >= {"hello.lua", "init.lua"}
    found = await language_server.diagnostics(server, project, files)
    assert [one for one in found if is_about_stubs(*one)] == []


def is_about_stubs(file: str, _line: int, code: str, message: str) -> bool:
    """Tell what is about modules, and not about `require("./other")`, which only plugins have, or what tests try."""
    if "module `./" in message:
        return False
    return code in OF_STUBS or (code == "param-type-mismatch" and "`moonyard." in message and "_test" not in file)


WRONG_TEST = """describe("build", function()
  before_each(function() mock.process("git clone", {}) end)
  it("builds", function()
    mock.process("cargo", { code = "1" })
    mock.http(function(request) return { json = { path = request.ulr } } end)
    local result = pipeline.run("build.lua", { inputs = { ref = "next" } })
    expect(result).succeeded()
    expect(result.comands).has_length(1)
    expect(result.commands[1].argv).never.containz("x")
    log.info(result.stages.build.error.message)
    expct(1)
  end)
end)
"""


async def test_mistakes_in_tests_are_marked(server: Path, project: Path) -> None:
    path = project / "build_test.lua"
    path.write_text(WRONG_TEST, encoding="utf-8")
    found = await language_server.diagnostics(server, project, [path])
    assert sorted((line, code) for _, line, code, _ in found) == [
        (4, "param-type-mismatch"),
        (5, "undefined-field"),
        (8, "undefined-field"),
        (9, "need-check-nil"),
        (9, "undefined-field"),
        (10, "need-check-nil"),
        (11, "undefined-global"),
    ]


WRONG_PLUGIN = """plugin.operation("send", {
  description = "Sends.",
  arguments = { text = { type = "sting", required = 1 } },
}, function(arguments)
  plugin.fial("refused", "x")
  plugin.fail(arguments.text)
end)
"""


async def test_mistakes_in_plugins_are_marked(server: Path, project: Path) -> None:
    path = project / "init.lua"
    path.write_text(WRONG_PLUGIN, encoding="utf-8")
    found = await language_server.diagnostics(server, project, [path])
    assert sorted((line, code) for _, line, code, _ in found) == [
        (3, "assign-type-mismatch"),
        (5, "undefined-field"),
        (6, "missing-parameter"),
    ]


async def test_mistakes_are_marked(server: Path, project: Path) -> None:
    path = project / "wrong.lua"
    path.write_text(WRONG, encoding="utf-8")
    found = await language_server.diagnostics(server, project, [path])
    assert sorted((line, code) for _, line, code, _ in found) == [
        (5, "assign-type-mismatch"),
        (8, "undefined-field"),
        (10, "undefined-field"),
        (11, "undefined-field"),
        (12, "param-type-mismatch"),
        (14, "undefined-field"),
    ]
