"""The plugin ``python`` with a real Python, a real pip and a real pytest, from wheels in the workspace."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from tests import wheels
from tests.cli.command import Printed
from tests.cli.conftest import Runner

PYTEST = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")
BACKEND = """
import zipfile
def build_wheel(directory, settings=None, metadata=None):
    with zipfile.ZipFile(directory + "/app-1.4.2-py3-none-any.whl", "w") as packed:
        packed.writestr("app.py", "name = 'app'")
        info = "app-1.4.2.dist-info/"
        packed.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: app\\nVersion: 1.4.2\\n")
        packed.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        packed.writestr(info + "RECORD", "")
    return "app-1.4.2-py3-none-any.whl"
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "app"
version = "1.4.2"
"""
TESTS = """
import os, pytest
def test_good(): assert os.environ["LEVEL"] == "high"
def test_bad(): assert 1 == 2
@pytest.mark.skip
def test_later(): pass
"""
LUA = """
local function try(f, ...)
  local ok, problem = pcall(f, ...)
  return ok and "ok" or problem.code .. ": " .. problem.message
end
return {{ name = "p", plugins = {{ "python@1" }}, stages = {{ {{ name = "s"{fields}, script = function(job)
{body}
end }} }} }}
"""


def written(files: dict[str, str | bytes]) -> str:
    """Write Lua that writes files into the workspace."""
    lines: list[str] = []
    for path, content in files.items():
        data = base64.b64encode(content.encode() if isinstance(content, str) else content).decode()
        folder = path.rpartition("/")[0]
        lines.append((f'fs.mkdir("{folder}") ' if folder else "") + f'fs.write("{path}", base64.decode("{data}"))')
    return "\n".join(lines) + "\n"


@asynccontextmanager
async def served(folder: Path) -> AsyncGenerator[str]:
    """Serve a folder's files on loopback."""
    application = web.Application()
    application.router.add_static("/", folder)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def told(run: Runner, body: str, fields: str = "", *options: str) -> Printed:
    printed = await run(LUA.format(body=body, fields=fields), "-v", *options)
    assert printed.code == 0, printed.stdout[-3000:] + printed.stderr
    return printed


async def test_packages_come_from_wheels_with_the_hashes_that_are_asked_for(run: Runner, tmp_path: Path) -> None:
    wheel = wheels.made("greeting", "1.2", "text = 'hello'", tmp_path)
    right = hashlib.sha256(wheel.read_bytes()).hexdigest()
    files: dict[str, str | bytes] = {
        f"links/{wheel.name}": wheel.read_bytes(),
        "right.txt": f"greeting==1.2 --hash=sha256:{right}\n",
        "wrong.txt": f"greeting==1.2 --hash=sha256:{'0' * 64}\n",
    }
    printed = await told(
        run,
        written(files)
        + """
local offline = { offline = true, links = { "links" }, version = "3.11" }
local function with(more)
  for name, value in pairs(offline) do if more[name] == nil then more[name] = value end end
  return more
end
log.info(try(python.install, with({ requirements = { "wrong.txt" }, hashes = true })):match("^[^\\n]*"))
local made = python.install(with({ requirements = { "right.txt" }, hashes = true, only_wheels = true }))
log.info(made.packages.greeting)
log.info((python.run({ args = { "-c", "import greeting; print(greeting.text)" } }).stdout:gsub("%s", "")))
local venv = python.venv()
log.info(venv.made, venv.python, venv.version:match("^3%.11%.%d+$") ~= nil)
log.info(try(python.install, with({ packages = { "nosuch" } })):match("^[%w_]+"))
log.info(try(python.install, with({ packages = { "--index-url=http://127.0.0.1" } })):match("^[%w_]+"))
log.info(try(python.install, with({ packages = { "greeting" }, version = "3.10" })))
log.info(try(python.venv, { venv = "../out" }):match("^[%w_]+"))
local bad = { "-c", "exit(3)" }
log.info(try(python.run, { args = bad }):match("^[%w_]+"), python.run({ args = bad, check = false }).code)
""",
    )
    said = [
        text for text in printed.texts(source="lua", level="info") if not text.startswith("python.install: .venv has")
    ]
    assert said[0].startswith("command_failed: ")
    assert said[1:4] == ["1.2", "hello", "false /workspace/.venv/bin/python true"]
    assert said[4:6] == ["command_failed", "argument_invalid"]
    assert said[6].startswith("argument_invalid: python.install: `.venv` was made by Python 3.11")
    assert said[7:] == ["argument_invalid", "command_failed 3"]
    assert any("do not match" in text.lower() for text in printed.texts()), "pip says why"


async def test_pytest_runs_and_its_failures_are_told_by_name(run: Runner, tmp_path: Path) -> None:
    names = [wheels.repacked(name, tmp_path).name for name in PYTEST]
    fetched = "".join(f'http.get(url .. "/{name}", {{ to = "links/{name}" }})\n' for name in names)
    async with served(tmp_path) as url:
        printed = await told(
            run,
            written({"app/tests/test_app.py": TESTS})
            + f'fs.mkdir("links") local url = "{url}"\n'
            + fetched
            + """
python.install({ packages = { "pytest" }, offline = true, links = { "links" } })
local env = { LEVEL = "high" }
local counts = python.test({ path = "app", env = env, fail_on = "never" })
log.info(counts.tests, counts.passed, counts.failed, counts.skipped, counts.ok)
log.info(try(python.test, { path = "app", env = env }))
log.info(python.test({ path = "app", env = env, select = "good" }).ok)
log.info(try(python.test, { path = "app", env = env, select = "nothing" }))
log.info(try(python.test, { path = "app", tests = { "nowhere" } }))
""",
            ', container = "docker.io/library/python:3.11"',
            "--http-allowed",
            "127.0.0.1",
        )
    said = [text for text in printed.texts(source="lua", level="info") if not text.startswith("python.install")]
    assert said[0] == "3 1 1 1 false"
    assert said[1] == "junit_tests_failed: junit.report: 1 of 3 tests failed: tests.test_app.test_bad"
    assert said[2] == "true"
    assert said[3].startswith("python_no_tests: ")
    assert said[4].startswith("python_pytest_failed: python.test: pytest ended with code 4: ")
    assert "error" in said[4].lower()


@pytest.mark.parametrize("fields", ["", ', container = "docker.io/library/python:3.11"'])
async def test_a_wheel_is_built_as_the_project_says(run: Runner, fields: str) -> None:
    version = "" if fields else ', version = "3.11"'
    printed = await told(
        run,
        written({"app/pyproject.toml": PROJECT, "app/backend.py": BACKEND, "bare/readme": "nothing to build"})
        + f"""
local built = python.build("app", {{ offline = true{version} }})
log.info(built.wheel, fs.exists(built.wheel))
python.install({{ packages = {{ "./" .. built.wheel }}, offline = true }})
log.info(python.run({{ args = {{ "-c", "import app; print(app.name)" }} }}).ok)
log.info(try(python.build, "bare", {{ offline = true }}):match("^[%w_]+"))
""",
        fields,
    )
    said = [text for text in printed.texts(source="lua", level="info") if not text.startswith("python.")]
    assert said == ["dist/app-1.4.2-py3-none-any.whl true", "true", "command_failed"]
