"""Loading a pipeline file: what it may hold, and how everything wrong with it is told at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import plugins
from sandbox import definitions, locations
from sandbox.parent import WarmParent
from schema.definition import InputDefinition, PipelineDefinition, PipelineInvalid, Problem, StageDefinition

EXAMPLES = Path(__file__).parents[2] / "examples"


async def load(source: str, filename: str = "try.lua") -> PipelineDefinition:
    async with WarmParent.start() as parent, parent.fork() as sandbox:
        return await sandbox.load(filename, source, plugins.shipped())


async def problems_of(source: str, filename: str = "try.lua") -> Sequence[Problem]:
    with pytest.raises(PipelineInvalid) as raised:
        await load(source, filename)
    return raised.value.problems


def told(problems: Sequence[Problem]) -> list[str]:
    return [f"{problem.where}: {problem.message}" for problem in problems]


async def test_a_whole_pipeline_loads_with_defaults_filled_in() -> None:
    definition = await load("""local git = require("git")
return {
  name = "build",
  description = "builds",
  plugins = { "git" },
  timeout = "1h30m",
  inputs = {
    ref = { default = "main", description = "branch" },
    count = { type = "integer", choices = { 1, 2 } },
    fast = { type = "boolean", default = false },
    ratio = { type = "number", default = 2 },
  },
  stages = {
    { name = "pack", needs = { "test" }, script = function() end },
    { name = "checkout", script = function() git.clone({}) end },
    { name = "test", container = "docker.io/library/rust:latest", needs = { "checkout" }, timeout = 90, retries = 2,
      script = function() end },
    { name = "lint", needs = {}, script = function() end },
  },
}""")
    assert definition == PipelineDefinition(
        name="build",
        description="builds",
        plugins=["git"],
        timeout=5400.0,
        inputs={
            "ref": InputDefinition(type="string", default="main", description="branch"),
            "count": InputDefinition(type="integer", choices=[1, 2]),
            "fast": InputDefinition(type="boolean", default=False),
            "ratio": InputDefinition(type="number", default=2),
        },
        stages=[
            StageDefinition(name="checkout", line=15),
            StageDefinition(
                name="test",
                container="docker.io/library/rust:latest",
                needs=["checkout"],
                timeout=90.0,
                retries=2,
                line=16,
            ),
            StageDefinition(name="pack", needs=["test"], line=14),
            StageDefinition(name="lint", needs=[], line=18),
        ],
    )


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.lua")), ids=lambda path: path.stem)
async def test_every_example_loads(path: Path) -> None:
    source = await anyio.Path(path).read_text(encoding="utf-8")
    assert (await load(source, path.name)).stages


async def test_everything_that_is_wrong_is_told_at_once_with_its_line() -> None:
    problems = await problems_of("""return {
  name = "bad name",
  requires = { "git" },
  plugins = { "git", "gti", 3 },
  inputs = {
    a = { type = "strnig" },
    b = { type = "integer", default = "three" },
    c = "text",
    d = { choices = { "x" }, default = "y" },
    e = { typ = "string" },
  },
  timeout = "soon",
  stages = {
    { name = "one", scirpt = function() end },
    { name = "two", script = "make", container = "", needs = { "one", "tow" } },
    { name = "two", script = function() end, retries = -1, timeout = 0 },
    { script = function() end, needs = "one" },
    "three",
  },
}""")
    assert told(problems) == [
        "try.lua:2: `bad name` cannot be a name: up to 100 letters, digits, `.`, `_`, `-`, a letter or digit first",
        "try.lua:3: `requires` is no field of a pipeline: plugins are named in `plugins`",
        f"try.lua:4: there is no plugin `gti`; did you mean `git`? (plugins: {', '.join(sorted(plugins.shipped()))})",
        "try.lua:4: `plugins[3]` must be a plugin's name, or a table, got a number",
        'try.lua:6: `type` of input `a` must be one of "string", "number", "integer", "boolean", got `strnig`',
        "try.lua:7: `default` of input `b` must be of type integer, got `three`",
        "try.lua:8: input `c` must be a table, got a string",
        "try.lua:9: `default` of input `d` is none of its `choices`",
        "try.lua:10: `typ` is no field of an input; did you mean `type`? (fields: type, default, description, choices)",
        (
            'try.lua:12: `timeout` is no duration: expected seconds as a number, or text such as "90s", "20m", "1h30m",'
            " got `soon`"
        ),
        (
            "try.lua:14: `scirpt` is no field of a stage; did you mean `script`?"
            f" (fields: {', '.join(definitions.STAGE_FIELDS)})"
        ),
        "try.lua:14: stage `one` has no `script`",
        "try.lua:15: `script` of stage `two` must be a function, got a string",
        "try.lua:15: `container` of stage `two` is no image's name: ``",
        "try.lua:15: stage `two` needs `tow`, and there is no such stage; did you mean `two`?",
        "try.lua:16: `retries` of stage `two` must be a whole number from 0 to 100, got `-1`",
        "try.lua:16: `timeout` is no duration: a duration is more than zero and at most 30 days, got `0`",
        "try.lua:16: stage name `two` is used twice (first in line 15)",
        "try.lua:17: the stage has no `name`",
        "try.lua:17: `needs` of stage 4 must be a list of stages' names, got a string",
        "try.lua:18: `stages[5]` must be a table, got a string",
    ]
    assert problems[1].hint == 'Write `plugins = { "git" }` instead.'


async def test_stages_that_need_each_other_in_a_circle_are_named() -> None:
    problems = await problems_of("""return { name = "p", stages = {
      { name = "a", needs = { "c" }, script = function() end },
      { name = "b", needs = { "a" }, script = function() end },
      { name = "c", needs = { "b" }, script = function() end } } }""")
    assert len(problems) == 1
    assert problems[0].message.startswith("stages need each other in a circle: ")
    assert min(problems[0].message.split(": ")[1].split(" needs ")) == "`a`"


async def test_a_plugin_that_is_required_has_to_be_named() -> None:
    problems = await problems_of(
        '\nlocal git = require("git")\nreturn { name = "p", stages = { { name = "s", script = function() end } } }'
    )
    assert told(problems) == ['try.lua:2: `require("git")` needs the plugin to be named in `plugins`']
    assert problems[0].hint == 'Write `plugins = { "git" }` in the pipeline\'s table.'


@pytest.mark.parametrize(
    ("source", "where", "words"),
    [
        ("this is no Lua", "try.lua:1", "syntax error near 'is'"),
        ("return {\n  name = ,\n}", "try.lua:2", "unexpected symbol near ','"),
        ("", "try.lua", "the file returns nil, and a pipeline is a table"),
        ("return 5", "try.lua", "the file returns a number, and a pipeline is a table"),
        ("return { 1, 2 }", "try.lua:1", "the file returns a list, and a pipeline is a table"),
        ("return {}", "try.lua:1", "the pipeline has no `name`"),
        ("\n\nerror('on purpose')", "try.lua:3", "on purpose"),
        ("local x\nreturn x.y", "try.lua:2", "attempt to index a nil value (local 'x')"),
        ("process.run({ command = 'make' })", "try.lua:1", "process.run cannot be called while the file is loaded"),
        ("local socket = require('socket')", "try.lua:1", "there is no module or plugin `socket`"),
        ("return { name = 'p', stages = setmetatable({}, { __index = error }) }", "try.lua:1",
         "the pipeline has no stages"),
        ("return { name = coroutine.create(print) }", "try.lua", "what the file returns is no pipeline: a thread"),
        ("\x1bLua", "try.lua", "attempt to load a binary chunk"),
        ("return " + "{" * 500, "try.lua", "C stack overflow"),
        ("local t = {} t.t = t return t", "try.lua", "nested deeper than 64 levels"),
    ],
)  # fmt: skip
async def test_a_file_that_is_no_pipeline_is_told_as_such(source: str, where: str, words: str) -> None:
    problems = await problems_of(source)
    assert any(words in problem.message and problem.where == where for problem in problems), told(problems)


async def test_an_endless_loop_at_the_top_level_is_ended_and_its_line_told() -> None:
    problems = await problems_of("local n = 0\nwhile true do\n  n = n + 1\nend")
    assert problems[0].code == "cpu_limit"
    assert "the file's top level ran for more than 2 s" in problems[0].message
    assert problems[0].where in {"try.lua:2", "try.lua:3"}


async def test_a_file_name_of_any_kind_is_only_a_name() -> None:
    for filename in ("ü" * 90 + ".lua", "a b'c\".lua", "%d.lua"):
        problems = await problems_of("\nerror('x')", filename)
        assert problems[0].message == "x"
        assert problems[0].where.endswith(":2")


def test_fields_are_found_where_they_stand() -> None:
    source = """-- return { name = "not this" }
local text = [[ return { stages = {} } ]]
local function helper() return { 1 } end
return {
  ["name"] = "p", --[==[ stages = {
  ]==]
  stages = {
    { name = "a", script = function() if x then return { name = "inner" } end for i = 1, 2 do f() end end,
      timeout = 1 };
    build("b"),
    { name = "c",
      container = "x" },
  },
  inputs = { ["a"] = { type = "string" } }
}
"""
    lines = locations.locate(source)
    assert lines[("name",)] == 5
    assert lines["stages", 1, "timeout"] == 9
    assert lines["stages", 3, "container"] == 12
    assert lines["inputs", "a", "type"] == 14
    assert locations.line_of(lines, ("stages", 2, "name")) == 10
    assert locations.locate("return build()") == {}


@pytest.mark.parametrize("declared", ["local p = {", "p = {", "local p <const> = {"])
def test_fields_of_a_table_that_has_a_name_are_found(declared: str) -> None:
    source = (
        f"other.p = {{ name = 1 }}\n{declared}\n  name = 'p',\n  stages = {{\n    {{ name = 'a' }} }} }}\nreturn p;\n"
    )
    lines = locations.locate(source)
    assert lines[("name",)] == 3
    assert lines["stages", 1, "name"] == 5
    assert locations.locate(source.replace("return p", "return q")) == {}


@given(st.text(alphabet="{}[]()=,;\"' \nabreturnend-[[]]", max_size=200))
def test_any_text_can_be_looked_through(text: str) -> None:
    for path, line in locations.locate(text).items():
        assert isinstance(path, tuple)
        assert 1 <= line <= text.count("\n") + 1
