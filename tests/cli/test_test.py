"""``moonyard test``: what a user's tests see, how they end, and what is told of them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from runner.reference import authoring
from tests.cli.command import ROOT, Printed, moonyard

BUILD = """
return {
  name = "build",
  inputs = { ref = { type = "string", default = "main" } },
  stages = {
    { name = "checkout", script = function(job)
      process.run({ command = "git", args = { "clone", "--branch", job.inputs.ref, "https://example.org/app.git" } })
    end },
    { name = "build", container = "rust", retries = { times = 1, delay = "1h" }, script = function()
      log.info("building")
      local r = process.run({ command = "cargo", args = { "build" }, env = { A = "b" }, stdin = "in", cwd = "app" })
      fs.write("result", r.stdout)
      artifact.save("result")
      time.sleep("1h")
    end },
    { name = "report", when = "always", script = function()
      local answer = http.post("https://api.example.org/builds?x=1", { json = { ok = true }, retries = 1 })
      log.info("reported as " .. answer.json().id)
    end },
  },
}
"""
ANSWERS = """
mock.process("git clone", {})
mock.process("cargo build", { stdout = "built\\n" })
mock.http("POST https://api.example.org/builds*", { json = { id = 7 } })
"""


class Tests:
    """Test files in a folder of their own."""

    __test__ = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "build.lua").write_text(BUILD)

    async def __call__(self, source: str, *options: str, name: str = "try_test.lua") -> Printed:
        (self.folder / name).write_text(source)
        return await moonyard("test", name, "--json", *options, cwd=self.folder)

    async def body(self, body: str, *options: str) -> dict[str, Any]:
        """Run lines of Lua as the only test, and give how that ended."""
        done = await self(f'it("t", function()\n{body}\nend)', *options)
        [outcome, summary] = done.lines
        assert summary["passed"] + summary["failed"] == 1, done
        assert done.code == (0 if outcome["state"] == "passed" else 1)
        return outcome


@pytest.fixture
def tests(tmp_path: Path) -> Tests:
    return Tests(tmp_path)


async def passes(tests: Tests, body: str) -> None:
    outcome = await tests.body(body)
    assert outcome["state"] == "passed", outcome


async def fails(tests: Tests, body: str) -> dict[str, Any]:
    outcome = await tests.body(body)
    assert outcome["state"] == "failed", outcome
    return outcome["error"]


EXAMPLE = """
return { name = "build", inputs = { ref = { type = "string", default = "main" } }, stages = {
  { name = "build", script = function(job) process.run({ command = "cargo", args = { "build", job.inputs.ref } }) end },
} }
"""


async def test_the_examples_of_the_reference_pass(tests: Tests) -> None:
    (tests.folder / "build.lua").write_text(EXAMPLE)
    examples = [one.example for module in authoring.OF_TESTS for one in module.functions]
    done = await tests("\n".join(examples))
    assert done.code == 0, done
    assert done.lines[-1]["passed"] >= len(examples)


async def test_the_examples_tests_pass_and_are_shown_for_people(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    done = await moonyard("test", "examples", cwd=tmp_path)
    assert done.code == 0, done
    lines = done.stdout.splitlines()
    assert lines[0] == "examples/tests/hello_test.lua"
    assert lines[1].startswith("  ✓ hello > greets the world when nobody is named  ")
    assert lines[-1].startswith("4 passed in ")


async def test_the_tests_of_the_page_about_them_pass(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```lua\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    for number, block in enumerate(blocks):
        (tmp_path / f"{number}_test.lua").write_text(block)
    (tmp_path / "build.lua").write_text("""
    return { name = "build", inputs = { ref = { type = "string", default = "main" } }, stages = {
      { name = "checkout", script = function(job)
        process.run({ command = "git", args = { "clone", "--branch", job.inputs.ref, "https://example.org/app.git" } })
      end },
      { name = "build", script = function() process.run({ command = "cargo", args = { "build" } }) end },
    } }
    """)
    done = await moonyard("test", "--json", cwd=tmp_path)
    assert [line["state"] for line in done.lines[:-1]] == ["passed"] * 3, done.stdout


async def test_a_test_sees_all_that_became_of_a_job(tests: Tests) -> None:
    await passes(
        tests,
        ANSWERS
        + """
    local result = pipeline.run("build.lua", { inputs = { ref = "next" } })
    expect(result).succeeded()
    expect(result.state).equals("succeeded")
    expect(result.error).is_nil()
    expect(result.stages.build.state).equals("succeeded")
    expect(result.commands).has_length(2)
    expect(result.commands[1].text).equals("git clone --branch next https://example.org/app.git")
    expect(result.commands[2]).equals({ stage = "build", container = "rust", command = "cargo", code = 0,
      argv = { "cargo", "build" }, text = "cargo build", env = { A = "b" }, stdin = "in", cwd = "app" })
    expect(result.requests).has_length(1)
    expect(result.requests[1].method .. " " .. result.requests[1].url).equals("POST https://api.example.org/builds?x=1")
    expect(result.requests[1].body).equals('{"ok":true}')
    expect(result.log).contains({ stage = "build", level = "info", source = "lua", text = "building" })
    expect(result.log).contains({ source = "stdout", text = "built" })
    expect(result.log).contains({ text = "reported as 7" })
    expect(result.artifacts.result.data).equals("built\\n")
    expect(fs.read("result")).equals("built\\n")
    """,
    )


async def test_a_failure_is_looked_at_and_does_not_fail_the_test(tests: Tests) -> None:
    await passes(
        tests,
        ANSWERS
        + """
    mock.process("cargo", { code = 101, stderr = "no such crate\\n" })
    local result = pipeline.run("build.lua")
    expect(result).failed("command_failed")
    expect(result).failed("no such crate")
    expect(result).never.failed("command_timeout")
    expect(result.error.cause.where).matches("^build.lua:%d+$")
    expect(result.stages.build.state).equals("failed")
    expect(result.stages.report.state).equals("succeeded")
    expect(result.commands).has_length(3)
    """,
    )


async def test_rules_are_asked_from_the_last_to_the_first_and_may_call_modules(tests: Tests) -> None:
    await passes(
        tests,
        ANSWERS
        + """
    local tries = 0
    mock.process("cargo *", function(command)
      expect(command.stage).equals("build")
      tries = tries + 1
      if tries == 1 then return { error = { code = "command_timeout", message = "too slow" } } end
      fs.write("app", "made by the mock")
    end)
    local result = pipeline.run("build.lua", { stages = { "build" } })
    expect(result).succeeded()
    expect(tries).equals(2)
    expect(fs.read("app")).equals("made by the mock")
    expect(result.stages.checkout).is_nil()
    expect(result.log).contains({ source = "stdout", text = "built" })
    """,
    )


async def test_secrets_and_artifacts_of_other_jobs_are_what_the_test_says(tests: Tests) -> None:
    (tests.folder / "release.lua").write_text("""
    return { name = "release", stages = { { name = "s", script = function()
      artifact.fetch("app.tar", { pipeline = "build" })
      process.run({ command = "upload", args = { fs.read("app.tar") }, env = { TOKEN = secret.get("TOKEN") } })
      http.get("https://example.org/", { auth = { bearer = secret.get("TOKEN") } })
      fs.write("mine", "kept")
      artifact.save("mine")
      artifact.fetch("mine", { to = "again" })
    end } } }
    """)
    mocks = """
    mock.secret("TOKEN", "not-a-real-one")
    mock.artifact("app.tar", "the content")
    mock.http("https://example.org/", {})
    mock.process("upload", function(command) return { stdout = "sent with " .. command.env.TOKEN } end)
    """
    await passes(
        tests,
        mocks
        + """
    local result = pipeline.run("release.lua")
    expect(result).succeeded()
    expect(result.commands[1].argv).equals({ "upload", "the content" })
    expect(result.requests[1].headers.authorization).equals("Bearer not-a-real-one")
    expect(result.log).contains({ source = "stdout", text = "sent with [secret TOKEN]" })
    expect(fs.read("again")).equals("kept")
    """,
    )
    for left_out, hint in (("secret", 'mock.secret("TOKEN"'), ("artifact", 'mock.artifact("app.tar"')):
        lines = "\n".join(line for line in mocks.splitlines() if not line.strip().startswith(f"mock.{left_out}"))
        error = await fails(tests, f'{lines}\npipeline.run("release.lua")')
        assert (error["code"], hint in error["hint"]) == ("mock_missing", True), error


async def test_nothing_is_waited_for_and_what_runs_at_once_is_told_in_order(tests: Tests) -> None:
    (tests.folder / "flow.lua").write_text("""
return { name = "flow", stages = { { name = "s", script = function()
  local r = retry({ times = 3, delay = "1h", fn = function() return process.run({ command = "flaky" }) end })
  parallel({ function() process.run({ command = "a" }) end, function() process.run({ command = "b" }) end })
  sleep("1h")
  job.output("k", 1)
  log.info(r.stdout, { n = 1 })
end } } }
""")
    await passes(
        tests,
        """
  local n = 0
  mock.process("flaky", function() n = n + 1 if n < 3 then return { code = 1 } end return { stdout = "third" } end)
  mock.process("a", {}) mock.process("b", {})
  local r = pipeline.run("flow.lua")
  expect(r).succeeded()
  expect(n).equals(3)
  expect(r.stages.s.outputs).equals({ k = 1 })
  expect(r.log).contains({ text = "third", fields = { n = 1 } })
    parallel({ function() process.run({ command = "a" }) end, function() process.run({ command = "b" }) end })
    """,
    )


async def test_a_plugin_is_called_directly(tests: Tests) -> None:
    await passes(
        tests,
        """
    local git, seen = require("git"), {}
    mock.process("*", {})
    mock.process("git", function(command) seen[#seen + 1] = command.text return { stdout = "5ca1ab1e\\n" } end)
    git.clone({ url = "https://example.org/app.git", branch = "main" })
    expect(table.concat(seen, ";")).matches("clone .*%-%-branch=main")
    """,
    )


@pytest.mark.parametrize(
    ("body", "words", "hint"),
    [
        ('pipeline.run("build.lua")', "command `git clone", 'mock.process("git clone"'),
        ('process.run({ command = "make" })', "command `make` cannot be run in a test", 'mock.process("make"'),
        (
            'mock.process("git", {}) mock.process("cargo", {}) pcall(pipeline.run, "build.lua")',
            "request `POST https://api.example.org/builds` of stage `report` cannot be sent",
            'mock.http("POST https://api.example.org/builds"',
        ),
        ('pcall(process.run, { command = "make" })', "command `make` cannot be run in a test", "mock.process"),
        ('http.get("http://127.0.0.1:1/", { retries = 0 })', "cannot be sent in a test", "mock.http"),
    ],
)
async def test_what_is_not_mocked_fails_the_test_with_the_line_to_write(
    tests: Tests, body: str, words: str, hint: str
) -> None:
    error = await fails(tests, body)
    assert error["code"] == "mock_missing", error
    assert words in error["message"]
    assert hint in error["hint"]


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("expect(1).equals(2)", "expectation_failed", "expected: 2\n  got:      1"),
        (
            'expect({ a = { "x", "y" } }).equals({ a = { "x", "z" } })',
            "expectation_failed",
            'at .a[2]\n    expected: "z"\n    got:      "y"',
        ),
        (
            "expect({ a = 1, b = 2 }).equals({ a = 1 })",
            "expectation_failed",
            "at .b\n    expected: nil\n    got:      2",
        ),
        ('expect("a\\nb").equals("a\\nc")', "expectation_failed", 'line 2 is\n    expected: "c"\n    got:      "b"'),
        ("expect(nil).is_true()", "expectation_failed", "expected true, got nil"),
        ("expect(1).never.equals(1)", "expectation_failed", "expected another value than 1"),
        ('expect("abc").contains("x")', "expectation_failed", 'expected "x" in\n  "abc"'),
        ("expect({ { a = 1 } }).contains({ a = 2 })", "expectation_failed", "expected { a = 2 } in"),
        ('expect("abc").matches("%d")', "expectation_failed", "expected a match of the pattern"),
        ("expect({}).has_length(1)", "expectation_failed", "expected the length 1, got 0"),
        ("expect(function() end).raises()", "expectation_failed", "there was none"),
        (
            'expect(function() error("other") end).raises("this")',
            "expectation_failed",
            'expected an error with "this", and it was',
        ),
        ("expect(1).equal(1)", "argument_invalid", "expect(...) has no `equal` (there are: never, contains"),
        ("expect(1).succeeded()", "argument_invalid", "is for what pipeline.run gave, got 1"),
        ('mock.process("make", { cod = 1 }) process.run({ command = "make" })', "mock_invalid", "did you mean `code`?"),
        ('mock.process("make", 5)', "argument_invalid", "takes a table or a function"),
        ("mock.process()", "argument_invalid", "takes a command's first words"),
        ('pipeline.run("../../../etc/passwd")', "path_refused", "no pipeline file that a test may run"),
        ('pipeline.run("/root/other.lua")', "path_refused", "no pipeline file that a test may run"),
        ('pipeline.run("none.lua")', "file_not_found", "`none.lua` does not exist"),
        ('pipeline.run("build.lua", { input = {} })', "argument_invalid", "input"),
        ('pipeline.run("build.lua", { stages = { "bild" } })', "stage_unknown", "no stage `bild`"),
        ('pipeline.run("build.lua", { inputs = { nope = 1 } })', "inputs_invalid", "nope"),
        ('it("in it", function() end)', "test_invalid", "it was called while a test runs"),
        ('error("just so")', "lua_error", "just so"),
    ],
)
async def test_each_failure_says_what_was_expected_and_where(tests: Tests, body: str, code: str, words: str) -> None:
    error = await fails(tests, body)
    assert error["code"] == code, error
    assert words in error["message"]
    if code != "mock_invalid":
        assert error["where"] == "try_test.lua:2", error


async def test_expectations_that_hold_say_nothing(tests: Tests) -> None:
    await passes(
        tests,
        """
    expect({ a = { 1, { b = "c" } } }).equals({ a = { 1, { b = "c" } } })
    expect({ 1 }).never.equals({ 1, 2 })
    expect(false).is_false() expect(true).is_true() expect(nil).is_nil() expect("x").is_a("string")
    expect("abc").contains("b") expect({ "a", "b" }).contains("b")
    expect({ a = { b = 1, c = 2 } }).contains({ a = { b = 1 } })
    expect({ "a" }).never.contains("b")
    expect("v1.2").matches("^v%d") expect("ab").has_length(2)
    expect(function() error("some words") end).raises("words")
    expect(function() fs.read("../x") end).raises("path_refused")
    """,
    )


async def test_hooks_run_around_each_test_and_mocks_and_files_are_its_own(tests: Tests) -> None:
    done = await tests(
        """
    local said = {}
    local function note(word) return function() said[#said + 1] = word end end
    before_each(note("1"))
    after_each(note("6"))
    describe("outer", function()
      before_each(note("2"))
      after_each(note("5"))
      describe("inner", function()
        before_each(note("3"))
        it("writes", function()
          note("t")()
          mock.process("make", {})
          fs.write("left", "x")
        end)
        after_each(note("4"))
      end)
      it("fails", function() error("x") end)
    end)
    it("has nothing of it", function()
      expect(table.concat(said)).equals("123t4561256" .. "1")
      expect(fs.exists("left")).is_false()
      expect(function() process.run({ command = "make" }) end).raises("mock_missing")
    end)
    """
    )
    outcomes = {line["name"]: line for line in done.lines[:-1]}
    assert list(outcomes) == ["outer > inner > writes", "outer > fails", "has nothing of it"]
    assert outcomes["outer > inner > writes"]["state"] == "passed"
    assert outcomes["outer > fails"]["state"] == "failed"
    # What was not mocked fails a test even where the test expected it.
    assert outcomes["has nothing of it"]["error"]["code"] == "mock_missing", outcomes["has nothing of it"]
    assert done.lines[-1] | {"duration": 0} == {"type": "summary", "passed": 1, "failed": 2, "files": 1, "duration": 0}


async def test_a_test_that_never_ends_fails_and_those_after_it_run(tests: Tests) -> None:
    done = await tests(
        """
    it("loops", function() while true do end end)
    it("waits", function() mock.process("x", function() while true do end end) process.run({ command = "x" }) end)
    it("passes", function() end)
    """,
        "--timeout",
        "500ms",
    )
    assert [line["state"] for line in done.lines[:-1]] == ["failed", "failed", "passed"]
    assert [line["error"]["code"] for line in done.lines[:2]] == ["test_timeout", "test_timeout"]
    assert done.lines[0]["error"]["where"] == "try_test.lua:2"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("it(", "unexpected symbol"),
        ('error("at the top")', "at the top"),
        ('process.run({ command = "x" })', "cannot be called while the file is loaded"),
        ('it("no body")', "it takes a title and a function"),
        ("\xff\xfe", "not UTF-8"),
    ],
)
async def test_a_file_that_cannot_be_loaded_fails(tests: Tests, source: str, words: str) -> None:
    (tests.folder / "bad_test.lua").write_text(source, encoding="latin-1")
    done = await moonyard("test", "bad_test.lua", "--json", cwd=tests.folder)
    assert done.code == 1
    assert done.lines[0]["name"] == "(the file)"
    assert done.lines[0]["error"]["code"] == "test_invalid"
    assert words in done.lines[0]["error"]["message"]


async def test_files_are_found_and_filtered_by_name(tests: Tests) -> None:
    for name in ("a_test.lua", "deep/er/b_test.lua", "tests/c.lua", ".hidden/d_test.lua", "node_modules/e_test.lua"):
        path = tests.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'describe("in {path.stem}", function() it("passes", function() end) end)')
    done = await moonyard("test", "--json", cwd=tests.folder)
    assert done.code == 0
    assert [line["name"] for line in done.lines[:-1]] == ["in a_test > passes", "in b_test > passes", "in c > passes"]
    one = await moonyard("test", "--json", "--filter", "B_TEST", cwd=tests.folder)
    assert [line["file"] for line in one.lines[:-1]] == ["deep/er/b_test.lua"]
    assert (await moonyard("test", "--filter", "nothing", cwd=tests.folder)).code == 2


async def test_where_there_is_nothing_to_test_that_is_told(tmp_path: Path) -> None:
    empty = await moonyard("test", cwd=tmp_path)
    assert empty.code == 2
    assert "tests_not_found" in empty.stderr
    missing = await moonyard("test", "none", cwd=tmp_path)
    assert missing.code == 2
    assert "file_not_found" in missing.stderr
    (tmp_path / "x_test.lua").write_text("")
    assert (await moonyard("test", cwd=tmp_path)).code == 2


async def test_failures_are_shown_for_people_with_place_and_difference(tests: Tests) -> None:
    (tests.folder / "p_test.lua").write_text('it("t", function()\n  log.info("said")\n  expect(1).equals(2)\nend)')
    done = await moonyard("test", "-v", cwd=tests.folder)
    assert done.code == 1
    assert "✗ t" in done.stdout
    assert "info  said" in done.stdout
    assert (
        "error[expectation_failed] p_test.lua:3: expected another value\n    expected: 2\n    got:      1"
        in done.stdout
    )
    assert done.stdout.splitlines()[-1].startswith("1 failed in ")
