"""``moonyard check``: what it finds, what it does not, and how it says so."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import plugins
from cli.checks import names
from cli.checks.findings import CODES, Finding
from cli.checks.names import Known
from cli.checks.tree import Source
from sandbox import loading
from sandbox.parent import WarmParent
from tests.cli.command import ROOT, argv, environment, moonyard

EXAMPLES = sorted((ROOT / "examples").glob("*.lua"))
KNOWN = Known.here({"git": None}, ["ref", "fast"])


def found(body: str) -> list[Finding]:
    """Check lines of Lua as a stage's script; they begin in line 2."""
    return names.check("try.lua", f"return {{ stages = {{ {{ script = function(job)\n{body}\nend }} }} }}", KNOWN)


MISTAKES = [
    ("process.rnu{}", "2:9", "function_unknown", "there is no `process.rnu`; did you mean `process.run`?"),
    ("local _run = process.runn", "2:22", "function_unknown", "did you mean `process.run`?"),
    ('local p = require("process") p.rnu()', "2:32", "function_unknown", "did you mean `process.run`?"),
    ("fs:read('a')", "2:4", "colon_call", "`fs.read` is called with a colon"),
    ("string.formt('a')", "2:8", "function_unknown", "`string` has no `formt`; did you mean `format`?"),
    ("os.execute('ls')", "2:4", "name_absent", "there is no `os.execute` here"),
    ("io.write('a')", "2:1", "name_absent", "there is no `io` here"),
    ('require("gti")', "2:9", "module_unknown", "there is no module or plugin `gti`; did you mean `git`?"),
    ("git.clone{}", "2:1", "name_undefined", "nothing is called `git` here"),
    ("local value = 1 log.info(vlaue, value)", "2:26", "name_undefined", "did you mean `value`?"),
    ("do local x = 1 log.info(x) end log.info(x)", "2:41", "name_undefined", "nothing is called `x` here"),
    ("process.run{ comand = 'ls' }", "2:14", "argument_unknown", "`comand` is not an argument; did you mean"),
    ("process.run{ args = {} }", "2:12", "argument_missing", "process.run: `command` is required"),
    ("process.run()", "2:12", "argument_missing", "process.run takes one table of named arguments, got nothing"),
    ("process.run('ls')", "2:13", "argument_type", "process.run takes one table of named arguments, got a string"),
    ("process.run({ command = 'ls' }, 1)", "2:33", "argument_excess", "process.run takes one table of named arguments"),
    ("process.run{ command = 'ls', args = '-l' }", "2:37", "argument_type", "`args` must be a list of strings"),
    ("process.run{ command = 'ls', args = { true } }", "2:39", "argument_type", "`args[1]` must be a string or"),
    ("process.run{ command = 'ls', env = { A = {} } }", "2:42", "argument_type", "`env.A` must be a string, a"),
    ("process.run{ command = 'ls', check = 'no' }", "2:38", "argument_type", "`check` must be true or false"),
    ("process.run{ command = 'ls', stdout = 'inof' }", "2:39", "argument_type", 'did you mean "info"?'),
    ("process.run{ command = 'ls', timeout = '5 minutes' }", "2:40", "argument_type", "`timeout` is no duration"),
    ("process.run{ command = 'ls', timeout = true }", "2:40", "argument_type", "`timeout` must be seconds, or text"),
    ("pcall(process.run, { comand = 'ls' })", "2:22", "argument_unknown", "did you mean `command`?"),
    ("fs.write('a')", "2:9", "argument_missing", "fs.write: `data` is required"),
    ("fs.write('a', 'b', { mod = '0600' })", "2:22", "argument_unknown", "did you mean `mode`?"),
    ("fs.write('a', 'b', '0600')", "2:20", "argument_type", "fs.write: after path, data comes a table, got a string"),
    ("fs.write('a', 'b', {}, 1)", "2:24", "argument_excess", "fs.write takes path, data and then a table"),
    ("fs.write('a', 5)", "2:15", "argument_type", "fs.write: `data` must be a string or a secret, got a number"),
    ("fs.read('a', { offset = 1.5 })", "2:25", "argument_type", "`offset` must be an integer, got 1.5"),
    ("fs.hash('a', { algorithm = 'sha265' })", "2:28", "argument_type", 'did you mean "sha256"?'),
    ("http.get('http://x', { auth = { usr = 'a' } })", "2:33", "argument_unknown", "`auth.usr` is not an argument"),
    ("container.run('x', { memry = '1g' }, function() end)", "2:22", "argument_unknown", "did you mean `memory`?"),
    ("container.run('x')", "2:14", "argument_missing", "container.run: `body`, a function, is required"),
    ("container.run('x', 5, function() end)", "2:20", "argument_type", "`options` must be a table with names"),
    ("json.encode({}, { prety = true })", "2:19", "argument_unknown", "did you mean `pretty`?"),
    ("time.sleep('soon')", "2:12", "argument_type", "`duration` is no duration"),
    ("log.info(job.input)", "2:14", "field_unknown", "the job has no field `input`; did you mean `inputs`?"),
    ("local f = function() return job.idd end f()", "2:33", "field_unknown", "the job has no field `idd`"),
    ("log.info(job.inputs.rev)", "2:21", "input_unknown", "the pipeline has no input `rev`; did you mean `ref`?"),
    ("local r = process.run{ command = 'ls' } log.info(r.cod)", "2:52", "field_unknown", "`r` has no field `cod`"),
    ("log.info(http.get('http://x').stauts)", "2:31", "field_unknown", "did you mean `status`?"),
    ("local unused = 1", "2:7", "variable_unused", "`unused` is never read"),
    ("local x = 1 x = 2", "2:7", "variable_unused", "`x` is assigned to and never read"),
    ("local function f() end", "2:16", "variable_unused", "`f` is never read"),
    ("counter = 1 log.info(counter)", "2:1", "global_assigned", "`counter` is no local variable"),
    ("local name = 'é' log.info(nam, name)", "2:27", "name_undefined", "did you mean `name`?"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "where", "code", "words"), MISTAKES, ids=[body for body, *_ in MISTAKES])
def test_a_mistake_is_found_where_it_is(body: str, where: str, code: str, words: str) -> None:
    told = found(body)
    assert [(f"{one.line}:{one.column}", one.code) for one in told] == [(where, code)], told
    assert words in told[0].message, told[0].message


FINE = [
    "process.run{ command = 'ls', args = { 1, 'a' }, timeout = '5m', stdout = 'off', capture = 100 }",
    "process.run({ command = 'ls', args = { table.unpack({}) } })",
    "local options = { command = 'ls' } process.run(options)",
    "local command = 'ls' process.run{ command = command, env = { A = command .. '1' } }",
    "fs.write('a', 'b', { mode = '0600' }) fs.write{ path = 'a', data = 'b' } fs.write(table.unpack({ 'a', 'b' }))",
    "for line in fs.lines 'a' do log.info(line) end",
    "for _, path in ipairs(fs.glob('*', { folders = true })) do log.info(path) end",
    "container.run('x', function() end) container.run('x', { network = 'none' }, function() end)",
    "local r = process.run{ command = 'ls' } r.extra = 1 log.info(r.extra, r.code, r.stdout:upper())",
    "local api = http.client{ base_url = 'http://x' } log.info(api.get('/').json().anything.at.all)",
    "local function f() return job.id, job.outputs.x end f() job.output('a', 1)",
    "log.info(job.inputs.ref, job.id, job.matrix and job.matrix.version, job.state)",
    "local function f(n) if n > 0 then return f(n - 1) end end f(2)",
    "repeat local done = true until done",
    "local x <const> = 1 local y <close> = nil log.info(x // 2, x & 3, ~x, y)",
    "goto finish do log.info(1) end ::finish::",
    "local _unused, used = 1, 2 log.info(used)",
    "local t = { inner = { f = function(self) return self end } } function t.inner:g() return self end t.inner:f():g()",
    "process.run = function() return { other = 1 } end log.info(process.run().other)",
    "local process = { rnu = function() end } process.rnu()",
    "if job.inputs.fast then time.sleep(0) end",
    "local ok, problem = pcall(fs.read, 'a') if not ok then log.warn(problem.code) end",
    "log.info(_G.fs.exists('a'), math.pi, math.huge, utf8.charpattern, _VERSION, json.null)",
    "while true do local a, b = 1, 2 if a < b then break end end",
    "http.post('http://x', { json = { any = { thing = true } }, files = { a = 'b', c = { path = 'd' } }, auth = nil })",
    "archive.extract('a.zip', { max_size = '20g', strip = 1 })",
    "local git = require('git') git.anything{ at = 'all' }",
]


@pytest.mark.parametrize("body", FINE)
def test_what_is_right_is_left_alone(body: str) -> None:
    assert found(body) == []


async def test_every_example_and_shipped_plugin_is_without_a_mistake() -> None:
    folders = [str(path.parent) for path in sorted((ROOT / "plugins").glob("*/init.lua"))]
    tests = [str(path) for path in sorted((ROOT / "examples").rglob("*_test.lua"))]
    assert folders
    assert tests
    printed = await moonyard("check", "--strict", *(str(path) for path in EXAMPLES), *folders, *tests, cwd=ROOT)
    assert (printed.code, printed.stdout) == (0, "")


async def test_the_examples_of_plugins_are_without_a_mistake(tmp_path: Path) -> None:
    examples: list[str] = []
    async with WarmParent.start() as parent:
        for plugin in plugins.shipped().values():
            described = await loading.describe_with_needs(parent, plugin, loading.SHIPPED_ONLY)
            for operation in described.operations.values():
                assert operation.example
                name = plugin.name
                stage = f'{{ name = "s", script = function() {operation.example} end }}'
                use = f'return {{ name = "try", plugins = {{ "{name}" }}, stages = {{ {stage} }} }}'
                examples.append(f'local {name} = require("{name}")\n{use}')
    files = [tmp_path / f"{number}.lua" for number, _ in enumerate(examples)]
    for file, example in zip(files, examples, strict=True):
        file.write_text(example, encoding="utf-8")
    printed = await moonyard("check", *(str(file) for file in files), cwd=tmp_path)
    assert (printed.code, re.findall(r"error.*", printed.stdout)) == (0, [])


PLUGIN = """
plugin.operation("send", {
  description = "Sends.",
  positional = { "text" },
  arguments = { text = { type = "string", required = true }, kind = { type = "string", choices = { "a", "b" } } },
  gives = { id = { type = "string", required = true } },
}, function(arguments)
  log.info(arguments.text)
  BODY
  return { id = "1" }
end)
plugin.operation("all", {
  description = "Sends all.",
  positional = { "texts" },
  arguments = { texts = { type = "list", items = { type = "string" }, required = true } },
}, function() end)
"""


def own_plugin(folder: Path, body: str = "") -> None:
    (folder / "tests").mkdir(parents=True)
    manifest = 'name = "mine"\nversion = "1.0.0"\ndescription = "Sends."\nmodules = ["log"]\n'
    (folder / "plugin.toml").write_text(manifest, encoding="utf-8")
    (folder / "init.lua").write_text(PLUGIN.replace("BODY", body), encoding="utf-8")
    (folder / "tests" / "mine_test.lua").write_text(
        'local mine = require("mine")\nit("sends", function() expect(mine).is_a("table") end)\n', encoding="utf-8"
    )


async def test_what_plugins_declare_is_checked_where_they_are_used(tmp_path: Path) -> None:
    own_plugin(tmp_path / "plugins" / "mine")
    source = """local mine = require("mine")
local plugins = { { name = "mine", folder = "plugins/mine" } }
return { name = "a", plugins = plugins, stages = { { name = "s", script = function()
  mine.sned("x")
  mine.send("x", { kidn = "a" })
  mine.send("x", { kind = "c" })
  mine.send({ kind = "a" })
  log.info(mine.send("x").di)
  mine.all({ "x", "y" })
  mine.all({ "x", 2 })
  mine.send({ "x" })
end } } }
"""
    code, out, _ = await run_check(tmp_path, source, "--json")
    found = [(line["line"], line["code"]) for line in map(json.loads, out.splitlines())]
    assert code == 1
    assert found == [
        (4, "function_unknown"),
        (5, "argument_unknown"),
        (6, "argument_type"),
        (7, "argument_missing"),
        (8, "field_unknown"),
        (10, "argument_type"),
        (11, "argument_type"),
    ]


async def test_a_plugin_of_a_repository_is_fetched_only_when_that_is_said(tmp_path: Path) -> None:
    own_plugin(tmp_path / "repository" / "mine")
    script = "git init -q . && git add -A && git -c user.name=A -c user.email=a@b commit -q -m 1 && git rev-parse HEAD"
    done = await anyio.run_process(["sh", "-c", script], cwd=tmp_path / "repository")
    place = f'git = "{(tmp_path / "repository").as_uri()}", commit = "{done.stdout.decode().strip()}", folder = "mine"'
    (tmp_path / "p.lua").write_text(
        'local mine = require("mine")\n'
        f'return {{ name = "a", plugins = {{ {{ name = "mine", {place} }} }},\n'
        'stages = { { name = "s", script = function() mine.sned("x") log.inof("x") end } } }\n',
        encoding="utf-8",
    )

    async def codes(*options: str) -> list[tuple[int, str]]:
        printed = await moonyard(
            "check", "p.lua", "--json", *options, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache")
        )
        assert printed.code == 1, printed
        return [(line["line"], line["code"]) for line in map(json.loads, printed.stdout.splitlines())]

    unknown = [(2, "plugin_not_fetched"), (3, "function_unknown")]
    known = [(3, "function_unknown"), (3, "function_unknown")]
    assert await codes() == unknown
    assert not (tmp_path / "cache").exists()
    assert await codes("--fetch") == known
    (tmp_path / "repository").rename(tmp_path / "away")
    assert await codes() == known
    [kept] = (tmp_path / "cache" / "moonyard" / "plugins").iterdir()
    kept.write_text(kept.read_text(encoding="utf-8").replace('"sned"', "").replace("Sends", "Bends"), encoding="utf-8")
    assert await codes() == unknown


async def test_a_plugins_folder_is_checked_with_its_tests(tmp_path: Path) -> None:
    own_plugin(tmp_path / "mine")
    fine = await moonyard("check", "--strict", "mine", "--plugin-folder", ".", cwd=tmp_path)
    assert (fine.code, fine.stdout) == (0, "")
    own_plugin(tmp_path / "wrong", "fs.read('a') log.inof('x') plugin.fial()")
    wrong = await moonyard("check", "wrong", cwd=tmp_path)
    assert wrong.code == 1
    assert "wrong/init.lua:9:3: error[name_undefined] nothing is called `fs` here" in wrong.stdout
    assert "wrong/init.lua:9:20: error[function_unknown] there is no `log.inof`" in wrong.stdout


async def test_a_plugin_that_cannot_be_loaded_is_told_with_its_line(tmp_path: Path) -> None:
    own_plugin(tmp_path / "mine")
    path = tmp_path / "mine" / "init.lua"
    path.write_text("local x = 1\nplugin.operation('send', { description = 5 }, function() return x end)", "utf-8")
    printed = await moonyard("check", "mine", cwd=tmp_path)
    assert printed.code == 1
    assert printed.stdout.startswith("mine/init.lua:2:1: error[plugin_invalid] ")


async def test_a_test_file_has_what_tests_have(tmp_path: Path) -> None:
    (tmp_path / "build_test.lua").write_text(
        'describe("a", function() it("b", function() expect(pipeline.run("x.lua")).succeeded() end) end)\n'
        'mock.process("a", {}) expect(function() process.run({ comand = "x" }) end).raises("argument_invalid")\n'
        'mokc.process("a", {})\n', encoding="utf-8"
    )  # fmt: skip
    printed = await moonyard("check", "build_test.lua", cwd=tmp_path)
    assert printed.code == 1
    assert printed.stdout.splitlines() == [
        "build_test.lua:3:1: error[name_undefined] nothing is called `mokc` here; did you mean `mock`?",
    ]
    (tmp_path / "build_test.lua").write_text(
        'mock.proces("a")\nmock.http("x", { staus = 1 })\nlocal made = pipeline.run("x.lua", { input = {} })\n'
        "expect(made.comands).equls(1)\nexpect(made.error).never.is_nil()\nexpect(made.commands).has_length(2)\n",
        encoding="utf-8",
    )
    printed = await moonyard("check", "build_test.lua", "--json", cwd=tmp_path)
    found = [(line["line"], line["code"]) for line in map(json.loads, printed.stdout.splitlines())]
    assert found == [
        (1, "function_unknown"),
        (2, "argument_unknown"),
        (3, "argument_unknown"),
        (4, "field_unknown"),
        (4, "field_unknown"),
    ]
    (tmp_path / "build_test.lua").write_text("it('a', function()\n", encoding="utf-8")
    assert "[lua_syntax]" in (await moonyard("check", "build_test.lua", cwd=tmp_path)).stdout


@given(st.text(alphabet="{}[]()=,;:.\"' \n\\processrunlocalfunctionendreturnif<>~é", max_size=120))
def test_any_text_can_be_read(text: str) -> None:
    count = text.count("\n") + 1
    for finding in names.check("x.lua", text, KNOWN):
        assert finding.code in CODES
        assert 1 <= finding.line <= finding.end_line <= count
        assert finding.column >= 1
    for line in range(1, count + 1):
        assert Source(text).damage(line).line == line


def test_a_chain_of_thousands_is_read() -> None:
    assert found("local s = 'x'" + " .. 'x'" * 150 + " log.info(s" + " + 1" * 20000 + ")") == []
    assert found("local t = {} log.info(t" + ".a" * 20000 + ")") == []


def test_luacheck_sees_the_same_variables(tmp_path: Path) -> None:
    if shutil.which("luacheck") is None:
        pytest.skip("luacheck is not installed")
    bodies = {f"{number}.lua": body for number, body in enumerate([*(body for body, *_ in MISTAKES), *FINE])}
    for name, body in bodies.items():
        (tmp_path / name).write_text(f"return {{ stages = {{ {{ script = function(job)\n{body}\nend }} }} }}", "utf-8")
    options = ["--std", "lua54", "--formatter", "plain", "--codes", "--allow-defined"]
    options += ["--ignore", "2../_.*", "--globals", *KNOWN.modules]
    done = subprocess.run(
        ["luacheck", *options, "--", *bodies], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    codes = {"113": "name_undefined", "211": "variable_unused", "231": "variable_unused"}
    theirs = re.findall(r"^(\d+\.lua):(\d+):\d+: \([WE](\d+)\)", done.stdout, re.MULTILINE)
    for name, body in bodies.items():
        ours = {(one.line, one.code) for one in found(body) if one.code in codes.values()}
        assert ours == {(int(line), codes[code]) for file, line, code in theirs if file == name and code in codes}, body


async def run_check(folder: Path, text: str, *options: str) -> tuple[int, str, str]:
    (folder / "build.lua").write_text(text, encoding="utf-8")
    printed = await moonyard("check", "build.lua", *options, cwd=folder)
    return printed.code, printed.stdout, printed.stderr


WRONG = """local git = require("git")
return {
  name = "build",
  stages = {
    { name = "a", script = function() process.run({ comand = "ls" }) end },
  },
}
"""


async def test_people_are_told_where_and_what_to_do(tmp_path: Path) -> None:
    code, out, err = await run_check(tmp_path, WRONG)
    assert code == 1
    assert "build.lua:1:7: warning[variable_unused] `git` is never read" in out
    assert 'build.lua:1:1: error[pipeline_invalid] `require("git")` needs the plugin to be named' in out
    assert "build.lua:5:53: error[argument_unknown] process.run: `comand` is not an argument; did you mean" in out
    assert '  hint: Write `plugins = { "git" }`' in out
    assert err == "2 errors and 1 warning in 1 file\n"


async def test_programs_get_a_line_for_each(tmp_path: Path) -> None:
    code, out, _ = await run_check(tmp_path, WRONG, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    [unknown] = [line for line in lines if line["code"] == "argument_unknown"]
    assert (unknown["file"], unknown["line"], unknown["column"], unknown["end_column"]) == ("build.lua", 5, 53, 59)
    assert unknown["severity"] == "error"


async def test_editors_get_sarif(tmp_path: Path) -> None:
    code, out, _ = await run_check(tmp_path, WRONG, "--sarif")
    [run] = json.loads(out)["runs"]
    assert code == 1
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert rules == sorted({result["ruleId"] for result in run["results"]})
    region = next(one for one in run["results"] if one["ruleId"] == "argument_unknown")["locations"][0][
        "physicalLocation"
    ]
    assert region["artifactLocation"] == {"uri": "build.lua"}
    assert region["region"] == {"startLine": 5, "startColumn": 53, "endLine": 5, "endColumn": 59}


async def test_warnings_alone_are_no_failure_unless_they_are_to_be(tmp_path: Path) -> None:
    text = 'local unused = 1\nreturn { name = "a", stages = { { name = "s", script = print } } }'
    assert (await run_check(tmp_path, text))[0] == 0
    assert (await run_check(tmp_path, text, "--strict"))[0] == 1


async def test_a_syntax_error_is_told_with_its_column(tmp_path: Path) -> None:
    code, out, _ = await run_check(tmp_path, "local x = 1\nlocal y = = 2\n")
    assert code == 1
    assert re.match(r"build\.lua:2:\d+: error\[lua_syntax\] ", out)
    assert out.count("error[") == 1


async def test_stdin_is_a_file_with_the_name_that_it_is_given(tmp_path: Path) -> None:
    with anyio.fail_after(60):
        done = await anyio.run_process(
            argv("check", "--json", "--filename", "my.lua", "-"), input=WRONG.encode(), cwd=tmp_path,
            env=environment(), check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert {json.loads(line)["file"] for line in done.stdout.decode().splitlines()} == {"my.lua"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.lua"], "error[file_not_found]"),
        (["."], "plugin folder `.` has no `plugin.toml`"),
        (["-", "-"], "`-` is given twice"),
        (["--json", "--sarif", "x.lua"], "--json and --sarif"),
        (["--filename", "x", "y.lua"], "--filename names what comes on stdin"),
        ([], "Missing argument"),
    ],
)
async def test_what_cannot_be_checked_is_a_usage_error(arguments: list[str], words: str, tmp_path: Path) -> None:
    printed = await moonyard("check", *arguments, cwd=tmp_path)
    assert printed.code == 2
    assert words in printed.stderr


async def test_an_endless_loop_at_the_top_is_a_finding(tmp_path: Path) -> None:
    code, out, _ = await run_check(tmp_path, "while true do end")
    assert code == 1
    assert "[cpu_limit]" in out
