"""The reference's examples run, results have the fields that it names, functions take the arguments that it tells."""

from __future__ import annotations

import json

from runner.reference import modules
from runner.reference.description import Function
from runner.reference.lua_types import Either, ListOf, Table
from tests.cli.conftest import Runner
from tests.cli.job_lines import succeeded
from tests.cli.test_http import server

SERVER = "https://api.example.org"
OUR_OWN = frozenset({"identity", "offset", "client", "method"})
"""Arguments of host calls that the Lua side sets, and no script."""


def pipeline(stages: dict[str, str]) -> str:
    written = "\n".join(f'{{ name = "{name}", script = function(job)\n{body}\nend }},' for name, body in stages.items())
    return f'return {{ name = "try", stages = {{\n{written}\n}} }}'


async def test_every_example_runs(run: Runner) -> None:
    examples = {function.name: function.example for function in modules.FUNCTIONS.values() if function.example}
    async with server() as url:
        source = pipeline({name: body.replace(SERVER, url) for name, body in examples.items()})
        printed = succeeded(await run(source, "--http-allowed", "127.0.0.1"))
    done = [line["stage"] for line in printed.lines if line["type"] == "stage" and line["state"] == "succeeded"]
    assert done == list(examples)


RESULTS = {
    "process.run": 'process.run({ command = "true" })',
    "fs.stat": 'fs.stat(".")',
    "fs.walk": 'fs.walk(".")()',
    "archive.create": 'archive.create("again.tar", { from = "a" })',
    "archive.list": 'archive.list("a.tar")[1]',
    "archive.extract": 'archive.extract("a.tar", { to = "b" })',
    "artifact.save": 'artifact.save("a/file")',
    "artifact.fetch": 'artifact.fetch("file", { to = "back" })',
    "artifact.list": "artifact.list()[1]",
    "artifact.test_report": 'artifact.test_report("junit.xml")',
    "http.get": "http.get(URL)",
    "http.request": "http.request(URL)",
    "http.client": "http.client({ base_url = URL })",
    "time.parts": "time.parts(0)",
    "regex.match": 'regex.match("a", "a")',
    "regex.find_all": 'regex.find_all("a", "a")[1]',
    "semver.parse": 'semver.parse("1.0.0-rc.1+b")',
}


def table_given(function: Function) -> Table | None:
    kind = function.gives
    if isinstance(kind, Either):
        kind = next((one for one in kind.types if isinstance(one, Table)), None)
    kind = kind.item if isinstance(kind, ListOf) else kind
    return kind if isinstance(kind, Table) else None


async def test_results_have_the_fields_that_are_told(run: Runner) -> None:
    alike = {name for module in modules.MODULES for function in module.functions for name in function.alike}
    told = {name for name, function in modules.FUNCTIONS.items() if table_given(function) is not None} - alike
    assert told <= set(RESULTS), "add how they are had"
    lines = "\n".join(
        f"do local keys = {{}} for key in pairs({call}) do keys[#keys + 1] = key end table.sort(keys) "
        f'log.info("{name} " .. json.encode(json.array(keys))) end'
        for name, call in RESULTS.items()
    )
    async with server() as url:
        before = """
fs.mkdir("a") fs.write("a/file", "") fs.write("junit.xml", "<testsuite/>") archive.create("a.tar", { from = "a" })
"""
        source = pipeline({"s": f'local URL = "{url}"{before}{lines}'})
        printed = succeeded(await run(source, "--http-allowed", "127.0.0.1"))
    found = dict(text.split(" ", 1) for text in printed.texts(source="lua"))
    for name in told:
        table = table_given(modules.FUNCTIONS[name])
        assert table is not None
        given = set(json.loads(found[name]))
        known = {field.name: field.required for field in table.fields}
        optional = {"signal", "target", "stage", "job"}
        assert given <= set(known), name
        assert set(known) - given <= optional, name


async def test_functions_take_the_arguments_that_are_told_and_no_others(run: Runner) -> None:
    by_name = [name for name, function in modules.FUNCTIONS.items() if function.arguments is not None]
    calls = [f'tell("{name}", pcall({name}, {{ ["not an argument"] = 1 }}))' for name in by_name]
    calls += [
        'tell("container.run", pcall(container.run, "x", { ["not an argument"] = 1 }, function() end))',
        'tell("json.encode", pcall(json.encode, 1, { ["not an argument"] = 1 }))',
    ]
    lines = "\n".join(calls)
    tell = "local function tell(name, ok, problem) log.info(name .. ' ' .. problem.message) end"
    printed = succeeded(await run(pipeline({"s": f"{tell}\n{lines}"})))
    accepted: dict[str, set[str]] = {}
    for text in printed.texts(source="lua"):
        name, _, message = text.partition(" ")
        accepted[name] = set(message.rpartition("(accepted: ")[2].removesuffix(")").split(", "))
    for name in by_name:
        arguments = modules.FUNCTIONS[name].arguments
        assert arguments is not None
        told = {field.name for field in arguments.fields}
        assert told <= accepted[name], name
        assert accepted[name] - told <= OUR_OWN, name
    options = modules.FUNCTIONS["container.run"].parameters[1].type
    assert isinstance(options, Table)
    assert {field.name for field in options.fields} == accepted["container.run"]
    assert accepted["json.encode"] == {"value", "pretty"}
