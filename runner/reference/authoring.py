"""What test files have besides the modules (``describe``, ``expect``, ``mock``, ...), and plugins' code: ``plugin``."""

from __future__ import annotations

from typing import Final, get_args

import msgspec

from runner.reference import lua_types, pipeline
from runner.reference.description import Constant, Function, Given, Module, function
from runner.reference.lua_types import ANY, NIL, STRING, Callback, Choice, Field, ListOf, LuaType, Table, TableOf
from runner.testing import mocks, told
from runner.testing.rehearsal import LoadArguments, RunArguments, RunOptions
from schema.plugins import Operation, ValueSpec, ValueType

ERROR: Final = next(table for table in pipeline.TABLES if table.name == "moonyard.Error")

# --- what plugins declare themselves by

_VALUE: Final = Table("moonyard.plugin.Value", ())
_KINDS: Final = Choice(get_args(ValueType))


def _spec(kind: type[msgspec.Struct], name: str, types: dict[str, LuaType]) -> Table:
    """Read a struct in which a value's declaration stands, which may hold others of itself."""
    words = lua_types.field_words(kind)
    return Table(
        name,
        tuple(
            Field(
                name=field.name,
                type=types[field.name],
                words=words[field.name],
                required=field.required,
                default="false" if field.default is False else None,
            )
            for field in msgspec.structs.fields(kind)
        ),
    )


_SPEC: Final = _spec(
    ValueSpec,
    _VALUE.name,
    {
        "type": lua_types.either([_KINDS, ListOf(_KINDS)]),
        "description": STRING,
        "required": lua_types.BOOLEAN,
        "default": ANY,
        "choices": ListOf(lua_types.either([STRING, lua_types.NUMBER])),
        "minimum": lua_types.NUMBER,
        "maximum": lua_types.NUMBER,
        "pattern": STRING,
        "length_minimum": lua_types.INTEGER,
        "length_maximum": lua_types.INTEGER,
        "fields": TableOf(_VALUE),
        "values": _VALUE,
        "items": _VALUE,
    },
)
_OPERATION: Final = _spec(
    Operation,
    "moonyard.plugin.Operation",
    {
        "description": STRING,
        "arguments": TableOf(_SPEC),
        "positional": ListOf(STRING),
        "gives": TableOf(_VALUE),
        "errors": TableOf(STRING),
        "example": STRING,
    },
)

PLUGIN: Final = Module(
    name="plugin",
    words="""What a plugin's code declares itself by, at the top level of its `init.lua`:
    [plugins.md](plugins.md#write-one) tells how.""",
    is_required=False,
    constants=(
        Constant(name="plugin.name", type=STRING, words="the plugin's name, of its `plugin.toml`"),
        Constant(name="plugin.version", type=STRING, words="its version, of its `plugin.toml`"),
        Constant(name="plugin.state", type=TableOf(ANY), words="a table that it keeps for the job"),
    ),
    functions=(
        function(
            "plugin.operation",
            "Declares an operation: a function that pipelines get.",
            parameters=(
                Given("name", str, "small letters, digits and `_`"),
                Given("spec", _OPERATION, "what it takes and gives"),
                Given(
                    "body", Callback((("arguments", TableOf(ANY)),), ANY), "does it, with arguments that were checked"
                ),
            ),
            example="""
plugin.operation("greet", {
  description = "Says hello.",
  positional = { "name" },
  arguments = { name = { type = "string", required = true, description = "whom" } },
}, function(arguments)
  log.info("hello, " .. arguments.name)
end)
""",
        ),
        function(
            "plugin.setup",
            "Declares what is run in a job before its first stage.",
            parameters=(Given("body", Callback(), "runs once"),),
            example="""
plugin.setup(function()
  plugin.state.began = time.now()
end)
""",
        ),
        function(
            "plugin.teardown",
            "Declares what is run at the end of a job, whatever became of it.",
            parameters=(Given("body", Callback(), "runs once"),),
            example="""
plugin.teardown(function()
  log.info("in use for " .. time.duration(time.now() - plugin.state.began))
end)
""",
        ),
        function(
            "plugin.fail",
            "Raises one of the errors that the plugin's operations declare, or `argument_invalid`.",
            parameters=(
                Given("code", str, "without the plugin's name before it"),
                Given("message", str, "what failed, on what and why"),
                Given("hint", str, "what to do next", required=False),
            ),
            example="""
plugin.fail("argument_invalid", "hello.greet: nobody is there to be greeted", "Name somebody.")
""",
        ),
    ),
)

# --- what tests have

_MATCHERS: Final[tuple[tuple[str, tuple[tuple[str, LuaType], ...], str], ...]] = (
    ("equals", (("other", ANY),), "the values are equal; tables where all that is in them is"),
    ("is_true", (), "it is `true`"),
    ("is_false", (), "it is `false`"),
    ("is_nil", (), "it is nil"),
    ("is_a", (("kind", STRING),), 'its type is this: `"string"`, `"table"`, ...'),
    ("has_length", (("length", lua_types.INTEGER),), "the list, or text, is so long"),
    (
        "contains",
        (("part", ANY),),
        "the text has the part in it; the list has an entry that has at least its fields; the table has at least these",
    ),
    ("matches", (("pattern", STRING),), "the text has a match of the Lua pattern"),
    (
        "raises",
        (("part?", STRING),),
        "the function raises an error with this code, or with this in its message or in that of a cause",
    ),
    ("succeeded", (), "the job that `pipeline.run` gave did"),
    ("failed", (("part?", STRING),), "it failed, as with `raises`"),
)
_EXPECTATION: Final = "moonyard.tests.Expectation"
EXPECTATION: Final = Table(
    _EXPECTATION,
    (
        Field(name="never", type=Table(_EXPECTATION, ()), words="the same for the opposite"),
        *(Field(name=name, type=Callback(given), words=words) for name, given, words in _MATCHERS),
    ),
)


def _test(name: str, words: str, example: str) -> Function:
    return function(
        name,
        words,
        parameters=(Given("title", str, "what it is about"), Given("body", Callback(), "tells it")),
        example=example,
    )


def _hook(name: str, words: str, example: str) -> Function:
    return function(name, words, parameters=(Given("body", Callback(), "runs"),), example=example)


TESTS: Final = Module(
    name="tests",
    words="""Functions that stand alone in the files of [tests](testing.md): what `moonyard test` runs.""",
    is_global=True,
    functions=(
        _test(
            "describe",
            "Tells a group of tests; groups may stand in each other.",
            """
describe("numbers", function()
  it("are equal to themselves", function()
    expect(1 + 1).equals(2)
  end)
end)
""",
        ),
        _test(
            "it",
            "Tells a test, which fails where it raises.",
            """
it("finds what is there", function()
  fs.write("a", "moon")
  expect(fs.read("a")).equals("moon")
end)
""",
        ),
        _hook(
            "before_each",
            "Runs before each test of the group, and of those in it; the outermost first.",
            """
describe("a file", function()
  before_each(function()
    fs.write("a", "moon")
  end)
  it("is there", function()
    expect(fs.exists("a")).is_true()
  end)
end)
""",
        ),
        _hook(
            "after_each",
            "Runs after each test of the group, whatever became of it; the innermost first.",
            """
describe("a count", function()
  local count = 0
  after_each(function()
    count = count + 1
  end)
  it("begins with nothing", function()
    expect(count).equals(0)
  end)
  it("goes on", function()
    expect(count).equals(1)
  end)
end)
""",
        ),
        function(
            "expect",
            """Asks something of a value, and raises `expectation_failed`, with what it was instead, where it does not
            hold.""",
            parameters=(Given("value", ANY, "what is looked at", required=False),),
            gives=EXPECTATION,
            errors=("expectation_failed",),
            example="""
it("says what it expects", function()
  expect({ 1, 2, { name = "app" } }).contains({ name = "app" })
  expect("moon").never.matches("^sun")
  expect(function() process.run({}) end).raises("argument_invalid")
end)
""",
        ),
    ),
)


def _answered(kind: type[msgspec.Struct], name: str, argument: str, asked: Table) -> LuaType:
    """Give what a mock answers: a table, or a function that gives one, or nil for what it leaves to others."""
    answer = lua_types.table(kind, "moonyard.mock", name=f"moonyard.mock.{name}")
    return lua_types.either([answer, Callback(((argument, asked),), lua_types.either([answer, NIL]))])


_COMMAND: Final = lua_types.table(told.Command, "moonyard.tests")
_REQUEST: Final = lua_types.table(told.Request, "moonyard.tests")
_COMMAND_ANSWER: Final = _answered(mocks.ProcessAnswer, "CommandAnswer", "command", _COMMAND)
_REQUEST_ANSWER: Final = _answered(mocks.HttpAnswer, "RequestAnswer", "request", _REQUEST)


def _function_of(kind: LuaType) -> LuaType:
    """Give the function that stands in for any of its kind."""
    assert isinstance(kind, lua_types.Either), "it is a table or a function"
    return next(one for one in kind.types if isinstance(one, Callback))


MOCK: Final = Module(
    name="mock",
    words="""What stands in for what would leave the sandbox of a test: the rule that was told last is asked first, and
    what no rule answers fails the test.""",
    is_required=False,
    functions=(
        function(
            "mock.process",
            "Stands in for commands that begin with some words, or for any, where it is given a function alone.",
            parameters=(
                Given(
                    "words",
                    lua_types.either([STRING, ListOf(STRING), _function_of(_COMMAND_ANSWER)]),
                    'such as `"git clone"`, or a list of them; `*` is any one word',
                ),
                Given("answer", _COMMAND_ANSWER, "what becomes of it; by default it succeeds", required=False),
            ),
            errors=("mock_invalid",),
            example="""
it("fails with its compiler", function()
  mock.process("cargo build", { code = 101, stderr = "error: expected `;`" })
  mock.process(function(command) return { stdout = command.text } end)
  mock.process({ "git", "*" }, {})
  expect(process.run({ command = "make", args = { "all" } }).stdout).equals("make all")
end)
""",
        ),
        function(
            "mock.http",
            "Stands in for requests to a place, or for any, where it is given a function alone.",
            parameters=(
                Given(
                    "place",
                    lua_types.either([STRING, _function_of(_REQUEST_ANSWER)]),
                    "a URL, or one with a method before it; `*` is any text",
                ),
                Given("answer", _REQUEST_ANSWER, "what is answered; by default 200, and nothing", required=False),
            ),
            errors=("mock_invalid",),
            example="""
it("asks for the newest release", function()
  mock.http("GET https://api.example.org/*", { json = { tag = "v1" } })
  expect(http.get("https://api.example.org/latest").json().tag).equals("v1")
end)
""",
        ),
        function(
            "mock.secret",
            "Stands in for a secret.",
            parameters=(Given("name", str, "its name"), Given("value", str, "its value, which need not be a real one")),
            example="""
it("signs with its key", function()
  mock.secret("KEY", "the key of a test")
  expect(hash.hmac(secret.get("KEY"), "body")).has_length(64)
end)
""",
        ),
        function(
            "mock.artifact",
            "Stands in for an artifact of another job.",
            parameters=(Given("name", str, "its name"), Given("data", str, "its content")),
            example="""
it("takes what was built", function()
  mock.artifact("app", "the binary")
  artifact.fetch("app")
  expect(fs.read("app")).equals("the binary")
end)
""",
        ),
    ),
)


def _words(kind: type[msgspec.Struct], name: str) -> str:
    return lua_types.field_words(kind)[name]


def _result() -> Table:
    """Read what a test sees of a job, errors with the fields that all have."""
    read = lua_types.table(told.Result, "moonyard.tests")
    stage = lua_types.table(told.Stage, "moonyard.tests")
    stages = TableOf(Table(stage.name, tuple(_with_error(field) for field in stage.fields)))
    return Table(
        read.name,
        tuple(
            msgspec.structs.replace(field, type=stages) if field.name == "stages" else _with_error(field)
            for field in read.fields
        ),
    )


def _with_error(field: Field) -> Field:
    return msgspec.structs.replace(field, type=ERROR, required=False) if field.name == "error" else field


PIPELINE: Final = Module(
    name="pipeline",
    words="Runs pipelines in tests, in the sandbox that jobs run in, without anything leaving it.",
    is_required=False,
    functions=(
        function(
            "pipeline.run",
            "Runs a job of a pipeline to its end, and gives what became of it; where the job fails, it raises nothing.",
            parameters=(
                Given("file", str, _words(RunArguments, "file")),
                Given("options", RunOptions, "what is run", required=False),
            ),
            gives=_result(),
            errors=("file_not_found", "mock_missing", "stage_unknown"),
            example="""
it("builds the branch that it is given", function()
  mock.process("cargo build", { stdout = "Finished" })
  local result = pipeline.run("build.lua", { inputs = { ref = "next" } })
  expect(result).succeeded()
  expect(result.commands[1].argv).contains("next")
end)
""",
        ),
        function(
            "pipeline.load",
            "Gives a pipeline as it is checked when it is pushed, or raises all that is wrong with it.",
            parameters=(Given("file", str, _words(LoadArguments, "file")),),
            gives=TableOf(ANY),
            gives_words="the pipeline's table, as it was checked",
            errors=("file_not_found", "pipeline_invalid"),
            example="""
it("builds before it deploys", function()
  expect(pipeline.load("build.lua").stages[1].name).equals("build")
end)
""",
        ),
    ),
)

OF_TESTS: Final[tuple[Module, ...]] = (TESTS, MOCK, PIPELINE)
MODULES: Final[tuple[Module, ...]] = (*OF_TESTS, PLUGIN)
