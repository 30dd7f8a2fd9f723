"""Plugins in the sandbox: what they declare, what they get, and what they and a pipeline can do to each other."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

import plugins
from plugins import Plugin
from plugins.resolution import Catalogue, NoSources
from runner.reference import authoring
from sandbox import loading
from sandbox.parent import WarmParent
from sandbox.process import Value
from schema.definition import PipelineInvalid
from schema.errors import MoonyardError
from schema.plugins import PluginInvalid
from tests.plugins.made import Shelf, operation, plugin
from tests.sandbox.conftest import FILENAME, Pipeline, RecordingHost

ANY = 'arguments = { a = { type = "any" } }, gives = { a = { type = "any" } }'


def pipeline(body: str, names: str = '"mine"', before: str = "") -> str:
    return (
        f'{before} return {{ name = "try", plugins = {{ {names} }}, stages = {{ {{ name = "s", script = function(job)\n'
        f"{body}\nend }} }} }}"
    )


@asynccontextmanager
async def loaded(source: str, *given: Plugin) -> AsyncGenerator[Pipeline]:
    async with WarmParent.start() as parent, parent.fork() as sandbox:
        by_name = {one.name: one for one in given}
        yield Pipeline(sandbox, await sandbox.load(FILENAME, source, by_name), RecordingHost())


async def run(body: str, *given: Plugin, names: str = '"mine"', before: str = "") -> RecordingHost:
    async with loaded(pipeline(body, names, before), *given) as made:
        await made.run()
        return made.host


async def failure(body: str, *given: Plugin, names: str = '"mine"') -> MoonyardError:
    with pytest.raises(MoonyardError) as raised:
        await run(body, *given, names=names)
    return raised.value


async def problems(source: str, *given: Plugin) -> list[str]:
    with pytest.raises(PipelineInvalid) as raised:
        async with loaded(source, *given):
            pass
    return [f"{problem.where}: {problem.message}" for problem in raised.value.problems]


async def described(given: Plugin, *others: Plugin) -> MoonyardError:
    async with WarmParent.start() as parent:
        with pytest.raises(PluginInvalid) as raised:
            await loading.describe(parent, given, {other.name: other for other in others})
    return raised.value


# --- arguments and results

SPECS = """
plugin.operation("run", {
  description = "Runs.",
  positional = { "url" },
  arguments = {
    url = { type = "string", required = true, description = "where from", pattern = "https://%S+" },
    depth = { type = "integer", default = 1, minimum = 0, maximum = 10 },
    ratio = { type = "number" },
    quiet = { type = "boolean", default = false },
    mode = { type = "string", choices = { "fast", "safe" } },
    names = { type = "list", items = { type = "string" }, length_maximum = 2 },
    auth = {
      type = "table",
      fields = { user = { type = "string", required = true }, port = { type = "integer", default = 22 } },
    },
    env = { type = "table", values = { type = { "string", "number" } } },
    each = { type = "function" },
    token = { type = "secret" },
  },
  gives = { got = { type = "any" } },
}, function(arguments) return { got = arguments } end)
"""


ACCEPTED = "(accepted: auth, depth, each, env, mode, names, quiet, ratio, token, url)"


async def test_arguments_come_checked_with_defaults_in_order_or_by_name() -> None:
    host = await run(
        """
    local function show(...)
      local got, parts = mine.run(...).got, {}
      for name, value in pairs(got) do
        if type(value) == "table" then
          local inner = {}
          for key, item in pairs(value) do inner[#inner + 1] = tostring(key) .. ":" .. tostring(item) end
          table.sort(inner)
          value = "{" .. table.concat(inner, " ") .. "}"
        end
        parts[#parts + 1] = name .. "=" .. tostring(value)
      end
      table.sort(parts)
      log.info(table.concat(parts, " "))
    end
    show("https://x")
    show("https://x", { depth = 3.0, quiet = true })
    show({ url = "https://x", mode = "safe", ratio = 0.5, names = { "a", "b" } })
    show({ url = "https://x", auth = { user = "me" }, env = { A = "1", b = 2 }, names = {} })
    """,
        plugin(init=SPECS, modules=["log"]),
    )
    assert host.lines == [
        "depth=1 quiet=false url=https://x",
        "depth=3 quiet=true url=https://x",
        "depth=1 mode=safe names={1:a 2:b} quiet=false ratio=0.5 url=https://x",
        "auth={port:22 user:me} depth=1 env={A:1 b:2} names={} quiet=false url=https://x",
    ]


async def test_the_examples_of_the_reference_are_a_plugin() -> None:
    by_name = {one.name: one.example for one in authoring.PLUGIN.functions}
    failing = operation(by_name.pop("plugin.fail"))
    init = "\n".join([*by_name.values(), failing])
    host = await run(
        """
    mine.greet("you")
    local ok, problem = pcall(mine.run)
    log.info(problem.code, problem.hint)
    """,
        plugin(init=init, modules=["log", "time"]),
    )
    assert host.lines == ["hello, you", "argument_invalid Name somebody."]


LISTS = """
local function told(value)
  if type(value) ~= "table" or value == json.null then
    return tostring(value)
  end
  local parts = {}
  for key, item in pairs(value) do parts[#parts + 1] = key .. "=" .. told(item) end
  return "{" .. table.concat(parts, ",") .. "}"
end
local function show(name, spec)
  plugin.operation(name, {
    description = "Shows what it is given.", positional = { "what", "more" },
    arguments = { what = spec, more = { type = "string", default = "-" } },
    gives = { got = { type = "string" } },
  }, function(arguments)
    return { got = told(arguments.what) .. arguments.more }
  end)
end
show("all", { type = "list", required = true })
show("some", { type = { "string", "list" } })
show("each", { type = "any", required = true })
"""


async def test_a_list_alone_is_the_first_argument_and_not_named_ones() -> None:
    host = await run(
        """
    local rows = setmetatable({ "a", "b" }, { __index = { what = "x" } })
    log.info(mine.all({ 1, 2 }).got, mine.all({}).got, mine.all({ { what = 1 } }).got, mine.all(rows).got)
    log.info(mine.all({ what = { 3 } }).got, mine.all({ 4 }, "+").got, mine.all({ 5 }, "x").got)
    log.info(mine.some({ "a" }).got, mine.some({}).got, mine.some(json.array({})).got, mine.some({ more = "y" }).got)
    log.info(mine.each({ "a" }).got, mine.each({}).got, mine.each(json.null).got, mine.each({ what = {} }).got)
    """,
        plugin(init=LISTS, modules=["json", "log"]),
    )
    assert host.lines == [
        "{1=1,2=2}- {}- {1={what=1}}- {1=a,2=b}-",
        "{1=3}- {1=4}+ {1=5}x",
        "{1=a}- nil- {}- nily",
        "{1=a}- {}- null- {}-",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "mine.run: `url` is required: where from"),
        ("{}", "mine.run: `url` is required: where from"),
        ("3", "mine.run: `url` must be a string, got 3"),
        ('"https://x", 3', "mine.run takes url and then a table of named arguments, got a number as argument 2"),
        ('{ url = "ftp://x" }', 'mine.run: `url` is "ftp://x", which does not look as it must: where from'),
        ('{ url = "https://x", dept = 1 }', f"mine.run: `dept` is not an argument; did you mean `depth`? {ACCEPTED}"),
        ('"https://x", { depth = 1.5 }', "mine.run: `depth` must be an integer, got 1.5"),
        ('"https://x", { depth = -1 }', "mine.run: `depth` must be at least 0, got -1"),
        ('"https://x", { depth = 11 }', "mine.run: `depth` must be at most 10, got 11"),
        ('"https://x", { depth = "1" }', "mine.run: `depth` must be an integer, got a string"),
        ('"https://x", { ratio = 0 / 0 }', "mine.run: `ratio` must be a number, got -nan"),
        ('"https://x", { quiet = 1 }', "mine.run: `quiet` must be true or false, got 1"),
        ('"https://x", { mode = "slow" }', 'mine.run: `mode` must be one of "fast", "safe", got "slow"'),
        ('"https://x", { names = { "a", 2 } }', "mine.run: `names[2]` must be a string, got 2"),
        ('"https://x", { names = { "a", "b", "c" } }', "mine.run: `names` must have at most 2 entries, got 3"),
        ('"https://x", { names = { x = 1 } }', "mine.run: `names` must be a list, got a table"),
        (
            '"https://x", { auth = { usr = "x" } }',
            "mine.run: `auth.usr` is not an argument; did you mean `auth.user`? (accepted: port, user)",
        ),
        ('"https://x", { auth = {} }', "mine.run: `auth.user` is required"),
        ('"https://x", { env = { A = true } }', "mine.run: `env.A` must be a string or a number, got a boolean"),
        ('"https://x", { env = { [1] = "x" } }', "mine.run: the names in `env` must be strings, got a number"),
        ('"https://x", { each = "x" }', "mine.run: `each` must be a function, got a string"),
        ('"https://x", { token = "x" }', "mine.run: `token` must be a secret, got a string"),
        ('{ "https://x", "https://y" }', "mine.run: `url` must be a string, got a list"),
        ("json.array({})", "mine.run: `url` must be a string, got a table"),
        ('{ url = "https://x", [1] = 2 }', f"mine.run: `1` is not an argument {ACCEPTED}"),
    ],
)  # fmt: skip
async def test_what_does_not_fit_is_refused_in_words(arguments: str, message: str) -> None:
    error = await failure(f"\nmine.run({arguments})", plugin(init=SPECS))
    assert error.code == "argument_invalid"
    assert error.message.replace("got nan", "got -nan") == message
    assert error.where == "try.lua:3"


async def test_a_secret_is_taken_as_one_and_never_shown() -> None:
    source = 'local key = secret.get("KEY") assert(mine.run("https://x", { token = key }).got.token == key)\n'
    host = await run(source, plugin(init=SPECS))
    assert [name for name, _ in host.calls] == ["secret.get"]
    error = await failure('mine.run(secret.get("KEY"))', plugin(init=SPECS))
    assert error.message == "mine.run: `url` must be a string, got a secret"


async def test_a_result_that_is_not_as_declared_is_the_plugins_defect() -> None:
    gives = 'gives = { a = { type = "string", required = true } }'
    for body, words in {
        "return 3": "mine.run gave a number where it declares a table with a",
        "return nil": "mine.run gave nil where it declares",
        "return {}": "`a` is required",
        "return { a = 3 }": "`a` must be a string, got 3",
        "return { a = 'x', b = 1 }": "`b` is not declared",
    }.items():
        error = await failure("mine.run()", plugin(init=operation(body, gives)))
        assert error.code == "plugin_defect"
        assert words in error.message
    host = await run("log.info(tostring(mine.run()))", plugin(init=operation("return 3")))
    assert host.lines == ["nil"]


def argument(spec: str) -> str:
    """Write an ``init.lua`` with an operation that takes ``a``."""
    return f"plugin.operation('run', {{ description = 'x', arguments = {{ a = {spec} }} }}, function() end)"


@pytest.mark.parametrize(
    ("init", "words"),
    [
        ("plugin.operation('Bad', {}, print)", "`Bad` cannot be an operation's name"),
        ("plugin.operation('end', {}, print)", "`end` cannot be an operation's name"),
        ("plugin.operation('run', 3, function() end)", "an operation must be a table, got a number"),
        ("plugin.operation('run', {}, function() end)", "it has no `description`"),
        ("plugin.operation('run', { description = 'x' })", "has no function, got nil"),
        ("plugin.operation('run', { description = 'x', argumens = {} }, print)", "did you mean `arguments`?"),
        (argument("{}"), "`a` in `arguments` has no `type`"),
        (argument("{ type = 'text' }"), 'got "text"'),
        (argument("{ type = 'string', pattern = '[' }"), "`pattern` of `a` in `arguments` is none"),
        (argument("{ type = 'integer', default = 'x' }"), "`default` of `a` in `arguments` does not fit it"),
        (argument("{ type = 'string', required = true, default = 'x' }"), "is required, so it can have no `default`"),
        ("plugin.operation('run', { description = 'x', positional = { 'a' } }, print)", "`positional` names `a`"),
        ("plugin.operation('run', { description = 'x', errors = { 'a' } }, print)", "`errors` has codes"),
        (operation("") + operation(""), "declared twice"),
        ("return {}", "`init.lua` returns a value"),
        ("plugin.setup(3)", "plugin.setup takes a function"),
        ("plugin.setup(error) plugin.setup(error)", "plugin.setup is called twice"),
        ("x(", "cannot be loaded: plugins/mine/init.lua:1: unexpected symbol"),
        ("error('oh')", "oh"),
        ("process.run({})", "does not declare it"),
        ("while true do end", "without coming to its end"),
        ("require('./none')", "there is no file `none.lua`"),
        ("require('./../secret')", "does not name a file of its folder"),
        ("require('/etc/passwd')", "has no module, plugin or file"),
        ("require('other')", "has no module, plugin or file"),
    ],
)  # fmt: skip
async def test_what_is_declared_wrong_is_told_when_the_plugin_is_loaded(init: str, words: str) -> None:
    error = await described(plugin(init=init))
    assert words in error.message, error.message


async def test_a_description_has_all_that_is_declared() -> None:
    init = SPECS + "plugin.setup(function() end)"
    async with WarmParent.start() as parent:
        found = await loading.describe(parent, plugin(init=init, more={"README.md": "# Mine"}, modules=["log"]))
    run_operation = found.operations["run"]
    assert list(found.operations) == ["run"]
    assert (found.has_setup, found.has_teardown, found.readme) == (True, False, "# Mine")
    assert run_operation.positional == ["url"]
    assert [name for name, _ in run_operation.ordered_arguments][:2] == ["url", "auth"]
    assert run_operation.arguments["depth"].default == 1
    assert run_operation.arguments["env"].values is not None
    assert run_operation.arguments["env"].values.types == ["string", "number"]
    assert run_operation.arguments["auth"].fields["user"].required


async def test_what_ships_is_described_in_full() -> None:
    async with WarmParent.start() as parent:
        for one in plugins.shipped().values():
            found = await loading.describe(parent, one, plugins.shipped())
            for name, declared in found.operations.items():
                assert declared.example, f"{one.name}.{name} has no example"
                for argument, spec in [*declared.arguments.items(), *declared.gives.items()]:
                    assert spec.description, f"{one.name}.{name}: `{argument}` is not described"


async def test_a_module_that_there_is_not_is_told_with_the_one_that_was_meant() -> None:
    error = await described(plugin(modules=["proces"]))
    assert "`proces`, which is no core module; did you mean `process`?" in error.message


# --- what each gets, and what it cannot reach


async def test_a_plugin_has_the_modules_that_it_declares_and_no_others() -> None:
    init = operation("return { a = json ~= nil and log ~= nil and print ~= nil and string ~= nil }", ANY)
    host = await run("log.info(mine.run().a)", plugin(init=init, modules=["json", "log"]))
    assert host.lines == ["true"]
    error = await failure("mine.run()", plugin(init=operation("http.get('http://x')"), modules=["log"]))
    assert error.code == "plugin_undeclared"
    assert error.message == "plugin `mine` uses the module `http` and does not declare it"
    assert error.hint == "Add it to `modules` in its plugin.toml."
    error = await failure("mine.run()", plugin(init=operation("require('http')")))
    assert error.code == "plugin_undeclared"
    host = await run("log.info(mine.run().a)", plugin(init=operation("return { a = print == nil }", ANY)))
    assert host.lines == ["true"]


async def test_a_plugins_calls_are_marked_as_its_own_and_a_callbacks_are_not() -> None:
    init = operation(
        "process.run({ command = 'a' }) arguments.a() process.run({ command = 'b' })",
        'arguments = { a = { type = "function" } }',
    )
    body = "mine.run({ a = function() process.run({ command = 'mine' }) end })"
    host = await run(body, plugin(init=init, modules=["process"]))
    assert host.plugins == ["mine", None, "mine"]


async def test_neither_can_change_the_others_globals_modules_or_libraries() -> None:
    init = operation(
        """
    shared = "set by the plugin"
    log.info, string.upper, table.concat, math.max, coroutine.wrap, pairs = nil, nil, nil, nil, nil, nil
    rawset(_G, "rawset", nil)
    """,
        "",
    )
    body = """
    mine.run()
    assert(shared == nil and log.info and string.upper and table.concat and math.max)
    assert(coroutine.wrap and pairs and rawset)
    """
    await run(body, plugin(init=init, modules=["log"]))
    steady = operation(
        "return { a = ('x'):upper() .. table.concat({ 'a', 'b' }) .. math.max(1, 2) .. tostring(mark) }", ANY
    )
    body = """
    mark, string.upper, table.concat, math.max, tostring = 1, nil, nil, nil, nil
    log.info(mine.run().a)
    """
    host = await run(body, plugin(init=steady))
    assert host.lines == ["Xab2nil"]


async def test_a_plugins_job_is_its_own_to_change_and_the_pipelines_stays_as_it_is() -> None:
    init = operation(
        """
    for name, value in pairs(job) do if type(value) == "table" then value.mark = name end end
    job.inputs.mark = "changed"
    local _, facts = pairs(job)
    facts.output = nil
    """,
        "",
    )
    body = "mine.run() log.info(tostring(job.inputs.mark), tostring(job.outputs.mark), type(job.output))"
    host = await run(body, plugin(init=init, modules=["job"]))
    assert host.lines == ["nil nil function"]


async def test_what_is_done_to_the_table_of_operations_is_seen_by_nobody_else() -> None:
    inner = plugin("inner", operation("return { a = 'inner' }", ANY))
    outer = plugin(
        "outer", "local inner = require('inner')\n" + operation("return { a = inner.run().a }", ANY), plugins=["inner"]
    )
    body = """
    rawset(inner, "run", function() return { a = "hijacked" } end)
    inner.more = 1
    assert(require("inner") == inner and inner.run().a == "hijacked")
    assert(not pcall(setmetatable, outer, {}) and getmetatable(outer) == false)
    log.info(outer.run().a)
    """
    host = await run(body, outer, inner, names='"outer", "inner"')
    assert host.lines == ["inner"]


async def test_arguments_and_results_are_copies() -> None:
    init = """
    local kept, state = nil, { list = { "one" } }
    plugin.operation("keep", {
      description = "Keeps.", arguments = { list = { type = "list", default = { "default" } } },
      gives = { list = { type = "list" } },
    }, function(arguments) kept = arguments.list return { list = state.list } end)
    plugin.operation("show", {
      description = "Shows.", gives = { text = { type = "string" } },
    }, function() return { text = table.concat(kept, " ") .. "; " .. table.concat(state.list, " ") } end)
    """
    body = """
    local list = { "a" }
    local result = mine.keep({ list = list })
    list[2], result.list[2] = "changed", "changed"
    log.info(mine.show().text)
    table.insert(mine.keep().list, "changed")
    log.info(mine.show().text)
    """
    host = await run(body, plugin(init=init))
    assert host.lines == ["a; one", "default; one"]


async def test_what_nothing_more_is_declared_of_is_copied_as_well() -> None:
    init = """
    local kept, state = nil, { deep = { word = "mine" } }
    plugin.operation("keep", {
      description = "Keeps.",
      arguments = { any = { type = "any" }, table = { type = "table" }, list = { type = "list" } },
      gives = { any = { type = "any" }, null = { type = "boolean" } },
    }, function(arguments)
      kept = arguments
      return { any = state, null = arguments.table.null == json.null }
    end)
    plugin.operation("show", {
      description = "Shows.", gives = { text = { type = "string" } },
    }, function()
      return { text = kept.any.a.b .. kept.table.a.b .. kept.list[1].b .. state.deep.word }
    end)
    """
    body = """
    local given = { a = { b = "1" }, null = json.null }
    local list = { { b = "2" } }
    local result = mine.keep({ any = given, table = given, list = list })
    given.a.b, list[1].b, result.any.deep.word = "changed", "changed", "changed"
    log.info(mine.show().text, result.null)
    local round = {}
    round.round = round
    log.info(select(2, pcall(mine.keep, { any = round, table = {}, list = {} })).message)
    """
    host = await run(body, plugin(init=init, modules=["json"]))
    assert host.lines == ["112mine true", "mine.keep: `any` is nested too deeply"]


async def test_metamethods_of_what_is_given_do_not_run() -> None:
    body = """
    local evil = setmetatable({}, { __index = function() error("ran") end, __pairs = function() error("ran") end,
      __len = function() error("ran") end, __tostring = function() error("ran") end })
    local url = "https://x"
    for _, given in ipairs({ evil, { url = evil }, { url = url, names = evil }, { url = url, env = evil } }) do
      local ok, problem = pcall(mine.run, given)
      assert(ok or problem.code == "argument_invalid", tostring(problem))
    end
    """
    await run(body, plugin(init=SPECS))


async def test_a_plugin_needs_to_declare_the_plugins_that_it_uses() -> None:
    inner = plugin("inner", operation("return nil"))
    outer = plugin("outer", "require('inner')")
    lines = await problems(pipeline("", '"outer", "inner"'), outer, inner)
    assert lines == ["plugins/outer/init.lua:1: plugin `outer` uses the plugin `inner` and does not declare it"]
    circle = [plugin("a", "require('b')", plugins=["b"]), plugin("b", "require('a')", plugins=["a"])]
    assert "plugins need each other in a circle" in (await problems(pipeline("", '"a"'), *circle))[0]


async def test_a_plugins_files_are_loaded_once_and_only_from_its_folder() -> None:
    more = {
        "parts/one.lua": "count = (count or 0) + 1\n"
        "return { two = require('./two'), count = function() return count end }",
        "two.lua": "return 'two'",
        "loop.lua": "return require('./loop')",
        "tests/x.lua": "return 1",
    }
    init = "local one = require('./parts/one') assert(require('./parts/one.lua') == one)\n" + operation(
        "return { a = one.two .. one.count() }", ANY
    )
    host = await run("log.info(mine.run().a) assert(count == nil)", plugin(init=init, more=more))
    assert host.lines == ["two1"]
    for name, words in {
        "./loop": "require each other in a circle",
        "./tests/x": "there is no file `tests/x.lua`",
        "./parts/../two": "does not name a file",
    }.items():
        assert words in (await described(plugin(init=f"require('{name}')", more=more))).message


async def test_state_lives_as_long_as_the_job() -> None:
    init = operation("plugin.state.count = (plugin.state.count or 0) + 1 return { a = plugin.state.count }", ANY)
    source = """return { name = "p", plugins = { "mine" }, stages = {
      { name = "a", script = function() mine.run() end },
      { name = "b", script = function() log.info(mine.run().a) end } } }"""
    async with loaded(source, plugin(init=init)) as made:
        await made.run("a")
        await made.run("b")
        assert made.host.lines == ["2"]


# --- errors


async def test_a_plugins_own_errors_have_its_name_before_their_code_and_are_declared() -> None:
    init = operation(
        "plugin.fail(arguments.a, 'it is closed', 'Open it.')", ANY + ', errors = { closed = "it is closed" }'
    )
    error = await failure("\n mine.run({ a = 'closed' })", plugin(init=init))
    assert (error.code, error.message, error.hint, error.where) == (
        "mine_closed", "it is closed", "Open it.", "try.lua:3"
    )  # fmt: skip
    assert any("plugins/mine/init.lua:1" in frame for frame in error.trace or [])
    error = await failure("mine.run({ a = 'broken' })", plugin(init=init))
    assert error.code == "plugin_defect"
    assert "raised `broken`, and no operation of it declares that in `errors` (declared: closed)" in error.message
    host = await run("local ok, e = pcall(mine.run, { a = 'closed' }) log.info(e.code, tostring(e))", plugin(init=init))
    assert host.lines == ["mine_closed it is closed"]


async def test_an_operation_that_there_is_not_is_told_with_the_one_that_was_meant() -> None:
    error = await failure("\nmine.rnu()", plugin(init=operation("return nil"), version="1.2.3"))
    assert error.code == "operation_unknown"
    assert error.message == "plugin `mine` 1.2.3 has no operation `rnu`; did you mean `run`? (operations: run)"
    assert error.where == "try.lua:3"


async def test_an_operation_cannot_be_called_while_a_file_is_loaded() -> None:
    one = plugin(init=operation("return nil"))
    for source in (
        pipeline("", before="require('mine').run()"),
        'local mine = require("mine") mine.run() ' + pipeline(""),
    ):
        assert (await problems(source, one)) == [
            "try.lua:1: mine.run cannot be called while the file is loaded: a pipeline is loaded to be checked, too"
        ]
    inner = plugin("inner", operation("return nil"))
    outer = plugin("outer", "require('inner').run()", plugins=["inner"])
    assert (
        "inner.run cannot be called while the file is loaded"
        in (await problems(pipeline("", '"outer"'), outer, inner))[0]
    )


# --- how a pipeline names them


async def load_with(source: str, *given: Plugin) -> loading.LoadedPipeline:
    async with WarmParent.start() as parent:
        return await loading.load(parent, FILENAME, source, Catalogue([Shelf(*given)], NoSources()))


async def test_a_pipeline_is_loaded_with_the_versions_that_it_names() -> None:
    old = plugin("mine", operation("return { a = 'old' }", ANY))
    new = plugin("mine", operation("return { a = 'new' }", ANY), version="2.0.0")
    for names, version in {
        '"mine"': "2.0.0",
        '"mine@1"': "1.0.0",
        '{ name = "mine", version = "1.0" }': "1.0.0",
    }.items():
        found = await load_with(pipeline("", names, 'local mine = require("mine") local run = mine.run'), old, new)
        assert found.definition.plugins == ["mine"]
        assert [locked.version for locked in found.resolved.lock] == [version]


async def test_a_pipeline_without_plugins_has_none() -> None:
    found = await load_with('return { name = "p", stages = { { name = "s", script = print } } }', plugin())
    assert found.definition.plugins == []
    assert found.resolved.lock == []


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ('"yours"', "there is no plugin `yours` (plugins: mine)"),
        ('"mine@2"', "there is no version of plugin `mine` that `mine@2` takes (there are: 1.0.0)"),
        ('"mine@x"', "`x` is no version of plugin `mine`"),
        ('"Mine"', "`Mine` cannot be a plugin's name"),
        ('"mine", "mine@1"', "plugin `mine` is named twice"),
        ("3", "`plugins[1]` must be a plugin's name, or a table, got a number"),
        ("{}", "a plugin has no `name`"),
        ('{ name = "mine", from = "x" }', "`from` is no field of a plugin"),
        ('{ name = "mine", git = "https://x/y.git" }', "plugin `mine` has no `commit`"),
        ('{ name = "mine", git = "https://x/y.git", commit = "main" }', "is no commit's full SHA: `main`"),
        ('{ name = "mine", git = "ext::sh", commit = ("a"):rep(40) }', "is no URL that git takes"),
        ('{ name = "mine", commit = ("a"):rep(40) }', "has a `commit` and no `git`"),
        ('{ name = "mine", git = "https://x", commit = ("a"):rep(40), folder = "../x" }', "no folder of its"),
        ('{ name = "mine", folder = 3 }', "`folder` of a plugin must be text, got a number"),
        ('{ name = "mine", folder = "x" }', "is to come from folder `x`"),
    ],
)  # fmt: skip
async def test_what_is_named_wrong_is_told_with_its_line(names: str, words: str) -> None:
    with pytest.raises(PipelineInvalid) as raised:
        await load_with(pipeline("", f"\n{names}"), plugin(init=operation("return nil")))
    assert [problem.where for problem in raised.value.problems] == ["try.lua:2"]
    assert words in raised.value.problems[0].message


async def test_a_plugin_that_is_required_has_to_be_named() -> None:
    with pytest.raises(PipelineInvalid) as raised:
        await load_with(pipeline("", "", '\nlocal mine = require("mine")'), plugin(init=operation("return nil")))
    assert "mine" in raised.value.problems[0].message
    assert raised.value.problems[0].where == "try.lua:2"


# --- hooks


async def test_setup_and_teardown_are_called_in_the_order_of_who_needs_whom() -> None:
    hooks = 'plugin.setup(function() log.info("{0} up") end) plugin.teardown(function() log.info("{0} down") end)'
    inner = plugin("inner", hooks.format("inner"), modules=["log"])
    outer = plugin("outer", hooks.format("outer"), modules=["log"], plugins=["inner"])
    async with loaded(pipeline("", '"outer"'), outer, inner) as made:
        assert made.sandbox.setup == ["inner", "outer"]
        assert made.sandbox.teardown == ["inner", "outer"]
        for hook in ("setup", "teardown"):
            for name in made.sandbox.setup:
                await made.sandbox.run_hook(f"plugin:{name}", name, hook, made.host)
        assert made.host.lines == ["inner up", "outer up", "inner down", "outer down"]


async def test_a_hook_can_make_calls_and_fail() -> None:
    init = 'plugin.setup(function() local r = process.run({ command = "x" }) error("no " .. r.code) end)'
    async with loaded(pipeline(""), plugin(init=init, modules=["process"])) as made:

        async def answer(_: list[Value]) -> Value:
            return {"code": 7}

        made.host.answers["process.run"] = answer
        with pytest.raises(MoonyardError, match="no 7"):
            await made.sandbox.run_hook("plugin:mine", "mine", "setup", made.host)
        assert made.host.plugins == ["mine"]
