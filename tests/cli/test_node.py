"""The plugin ``node`` with this machine's own node and npm, put into an image: no stand-in of Debian's has both."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.cli.command import Printed
from tests.cli.conftest import Runner

PACKAGE = """{
  "name": "app", "version": "1.0.0",
  "scripts": { "greet": "node greet.js", "break": "exit 3" },
  "dependencies": { "word": "file:word" }
}"""
LOCK = """{
  "name": "app", "version": "1.0.0", "lockfileVersion": 3, "requires": true,
  "packages": {
    "": { "name": "app", "version": "1.0.0", "dependencies": { "word": "file:word" } },
    "node_modules/word": { "resolved": "word", "link": true },
    "word": { "version": "1.0.0" }
  }
}"""
TESTS = """
const test = require("node:test"), assert = require("node:assert")
test("adds", () => assert.equal(1 + 1, 2))
test("differs", () => assert.equal(require("word"), "another"))
test("later", { skip: true }, () => {})
"""
LUA = """
local function try(f, ...)
  local ok, problem = pcall(f, ...)
  return ok and "ok" or problem.code .. ": " .. problem.message
end
return {{ name = "p", plugins = {{ "node@1" }}, stages = {{ {{ name = "s", script = function(job)
fs.mkdir("app/word") fs.mkdir("app/test") fs.mkdir("bare")
fs.write("app/package.json", [==[{package}]==])
fs.write("app/package-lock.json", [==[{lock}]==])
fs.write("app/word/package.json", '{{ "name": "word", "version": "1.0.0", "main": "main.js" }}')
fs.write("app/word/main.js", 'module.exports = "word"')
fs.write("app/greet.js", 'console.log(require("word"), process.env.LEVEL, ...process.argv.slice(2))')
fs.write("app/test/app.test.js", [==[{tests}]==])
{body}
end }} }} }}
"""


@pytest.fixture(scope="module")
def node_map(image_map: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """An image with node and npm, and the settings file with an image map that names it."""
    node, npm = shutil.which("node"), shutil.which("npm")
    folder = Path(npm or "/").resolve().parent.parent
    if node is None or not (folder / "node_modules").is_dir():
        pytest.skip("this machine has no node with npm")
    name, made = f"localhost/moonyard-test/node-{secrets.token_hex(4)}", f"moonyard-test-node-{secrets.token_hex(4)}"

    def podman(*words: str) -> None:
        subprocess.run(["podman", *words], check=True, capture_output=True)

    podman("create", "--name", made, image_map["docker.io/library/python:3.11"])
    try:
        podman("cp", node, f"{made}:/usr/local/bin/node")
        podman("cp", str(folder), f"{made}:/usr/local/lib/npm")
        program = tmp_path_factory.mktemp("npm") / "npm"
        program.write_text('#!/bin/sh\nexec node /usr/local/lib/npm/bin/npm-cli.js "$@"\n', encoding="utf-8")
        program.chmod(0o755)
        podman("cp", str(program), f"{made}:/usr/local/bin/npm")
        podman("commit", "--quiet", made, name)
    finally:
        podman("rm", made)
    lines = "".join(f'"{one}" = "{other}"\n' for one, other in image_map.items())
    yield f'[image_map]\n{lines}"docker.io/library/node:22" = "{name}"\n'
    podman("rmi", name)


async def told(run: Runner, node_map: str, body: str) -> Printed:
    (run.folder / "moonyard.toml").write_text(node_map, encoding="utf-8")
    printed = await run(LUA.format(package=PACKAGE, lock=LOCK, tests=TESTS, body=body), "-v")
    assert printed.code == 0, printed.stdout[-3000:] + printed.stderr
    return printed


async def test_packages_are_installed_scripts_run_and_tests_told_by_name(run: Runner, node_map: str) -> None:
    printed = await told(
        run,
        node_map,
        """
local function with(more) more.path, more.version = more.path or "app", "22" return more end
node.install(with({ offline = true, scripts = false }))
local ran = node.run("greet", with({ env = { LEVEL = "high" }, args = { "--loud", 7 } }))
log.info((ran.stdout:gsub("\\n$", "")), ran.ok)
log.info(node.run("break", with({ check = false })).code, try(node.run, "break", with({})):match("^[%w_]+"))
local counts = node.test(with({ fail_on = "never" }))
log.info(counts.tests, counts.passed, counts.failed, counts.skipped, counts.ok)
log.info(try(node.test, with({})))
log.info(try(node.install, with({ path = "bare" })):match("^[%w_]+"))
log.info(try(node.test, with({ path = "bare" })):match("^[%w_]+"))
log.info(try(node.run, "--help", with({})):match("^[%w_]+"))
log.info(try(node.install, with({ path = "../app" })):match("^[%w_]+"))
""",
    )
    said = printed.texts(source="lua", level="info")
    assert said[:3] == ["word high --loud 7 true", "3 command_failed", "3 1 1 1 false"]
    assert said[3].startswith("junit_tests_failed: junit.report: 1 of 3 tests failed: ")
    assert said[3].endswith("differs")
    assert said[4:] == ["node_no_lock", "node_no_tests", "argument_invalid", "argument_invalid"]
