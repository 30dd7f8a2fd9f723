"""What is told of modules and pipelines is what scripts can use, all of it and no more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from lupa import lua54

from runner.host_calls import HANDLERS
from runner.reference import authoring, lua, lua_types, modules, pipeline, stubs
from runner.reference.description import Function, Module
from runner.reference.lua_types import Callback, Either, Field, ListOf, LuaType, Table, TableOf
from runner.testing import mocks, told
from sandbox import caches, definitions, registries, services
from sandbox.process import JobFacts
from scripts import reference
from tests.sandbox.conftest import run_script

ROOT = Path(__file__).parents[2]
REACHABLE = ROOT / "tests" / "sandbox" / "reachable.txt"
OUR_OWN = frozenset({"identity", "offset", "client", "method"})
"""Arguments of host calls that the Lua side sets, and no script."""


def reachable() -> set[str]:
    """List the functions that scripts can reach, as they call them."""
    lines = REACHABLE.read_text(encoding="utf-8").splitlines()
    # `job` stands for whichever job its script has, so its fields are not seen from outside.
    return {"job.output"} | {line.split()[0].removeprefix("_G.") for line in lines if line.endswith(" function")}


def of_lua() -> set[str]:
    names = {f"{library}.{name}" for library, names in lua.LIBRARIES.items() for name in names}
    return names | set(lua.BASE)


def test_every_function_of_modules_is_described() -> None:
    missing = sorted(reachable() - of_lua() - set(modules.FUNCTIONS))
    assert not missing, (
        f"scripts can reach {', '.join(missing)}: describe them in runner/reference/MODULE.py, as its neighbours are "
        "(`function(...)` with the struct of its arguments, what it gives, errors and an example), name a new file's "
        "MODULE in runner/reference/modules.py, and run `python -m scripts.reference`"
    )


def test_every_described_function_exists() -> None:
    gone = sorted(set(modules.FUNCTIONS) - reachable())
    assert not gone, f"runner/reference describes {', '.join(gone)}, which no script can reach"


def test_what_is_listed_of_luas_own_is_what_there_is() -> None:
    values = {"_G", "_VERSION", "math.huge", "math.pi", "math.maxinteger", "math.mininteger", "utf8.charpattern"}
    names = {module.name for module in modules.MODULES}
    found = {name for name in reachable() if name.partition(".")[0] not in names or name in lua.BASE}
    assert of_lua() - values == found - set(modules.FUNCTIONS)


def described_tables() -> Iterator[tuple[str, Table]]:
    for name, function in modules.FUNCTIONS.items():
        kinds: list[LuaType | None] = [function.arguments, function.gives]
        kinds += [given.type for given in function.parameters]
        for kind in kinds:
            for table in tables_in(kind):
                yield name, table
    for table in pipeline.TABLES:
        yield "a pipeline", table


def tables_in(kind: LuaType | None) -> Iterator[Table]:
    match kind:
        case Table(fields=fields):
            yield kind
            for field in fields:
                yield from tables_in(field.type)
        case ListOf(item=inner) | TableOf(value=inner):
            yield from tables_in(inner)
        case Either(types=options):
            for option in options:
                yield from tables_in(option)
        case Callback(gives=inner):
            yield from tables_in(inner)
        case _:
            pass


def test_every_argument_and_field_has_words() -> None:
    silent = {
        f"`{field.name}` of {table.name} ({name})"
        for name, table in described_tables()
        for field in table.fields
        if not field.words
    }
    assert not silent, f"write a docstring below {', '.join(sorted(silent))} in its struct"


def test_every_function_says_what_it_does_and_shows_it() -> None:
    for module in modules.MODULES:
        assert module.words
        for function in module.functions:
            assert re.match(r"[A-Z`].*\.", function.words, re.DOTALL), function.name
            assert function.example, f"{function.name} has no example"
            assert function.name.rpartition(".")[2] in function.example, function.name


def test_codes_of_errors_are_those_that_are_documented() -> None:
    errors = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    for name, function in modules.FUNCTIONS.items():
        for code in function.errors:
            assert f"`{code}`" in errors, f"{name} raises `{code}`, and docs/errors.md has none"


def test_a_functions_arguments_are_those_of_the_struct_that_its_call_reads() -> None:
    for name, handler in HANDLERS.items():
        kind: type[msgspec.Struct] | None = getattr(handler, "arguments", None)
        function = modules.FUNCTIONS.get(name)
        if kind is None or function is None:
            continue
        read = set(kind.__struct_encode_fields__) - OUR_OWN
        told = {field.name for field in fields_of(function)}
        assert told - OUR_OWN == read, name


def fields_of(function: Function) -> list[Field]:
    """List all that a function takes, by name."""
    if function.arguments is not None:
        return list(function.arguments.fields)
    fields: list[Field] = []
    for given in function.parameters:
        inner = list(given.type.fields) if isinstance(given.type, Table) and given.name == "options" else []
        fields += inner or [Field(name=given.name, type=given.type, words=given.words)]
    return fields


IN_ORDER = [name for name, function in modules.FUNCTIONS.items() if function.positional]


async def test_arguments_come_in_the_order_that_is_told() -> None:
    lines: list[str] = []
    for name in IN_ORDER:
        words = [f'"{name} {index}"' for index in range(len(modules.FUNCTIONS[name].positional))]
        lines.append(f"pcall({name}, {', '.join(words)})")
    calls = "\n".join(lines)
    host = await run_script(calls)
    given = [next(one for one in arguments if isinstance(one, dict)) for _, arguments in host.calls]
    assert len(given) == len(IN_ORDER)
    for name, arguments in zip(IN_ORDER, given, strict=True):
        wanted = {argument: f"{name} {index}" for index, argument in enumerate(modules.FUNCTIONS[name].positional)}
        assert {key: value for key, value in arguments.items() if key != "method"} == wanted


async def test_no_more_arguments_are_taken_than_are_told() -> None:
    lines: list[str] = []
    for name in IN_ORDER:
        words = ", ".join(["'x'"] * len(modules.FUNCTIONS[name].positional))
        lines.append(f"log.info(select(2, pcall({name}, {words}, {{}}, 1)).code)")
    host = await run_script("\n".join(lines))
    assert host.lines == ["argument_invalid"] * len(IN_ORDER)


@pytest.mark.parametrize(
    ("table", "names"),
    [
        ("Pipeline", definitions.PIPELINE_FIELDS),
        ("Stage", definitions.STAGE_FIELDS),
        ("Input", definitions.INPUT_FIELDS),
        ("Retries", definitions.RETRIES_FIELDS),
        ("Concurrency", definitions.CONCURRENCY_FIELDS),
        ("Service", services.SERVICE_FIELDS),
        ("Ready", services.READY_FIELDS),
        ("Registry", registries.REGISTRY_FIELDS),
        ("Cache", caches.CACHE_FIELDS),
    ],
)
def test_the_fields_of_a_pipelines_tables_are_those_that_are_checked(table: str, names: tuple[str, ...]) -> None:
    [found] = [one for one in pipeline.TABLES if one.name == f"moonyard.{table}"]
    told = {field.name for field in found.fields}
    assert told == set(names), f"tell of the field in {pipeline.__file__}, in `{table}`"


def test_the_fields_of_the_job_are_those_that_scripts_get() -> None:
    told = {field.name for field in pipeline.JOB.fields}
    assert told == {*JobFacts.__struct_fields__, "output"}, f"tell of it in {pipeline.__file__}, in `Job`"


async def test_the_page_is_the_one_that_is_made_from_the_code() -> None:
    written = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert written == await reference.text(), "docs/reference.md is old: run `python -m scripts.reference`"


@pytest.mark.parametrize("name", stubs.files())
def test_every_stub_is_lua(name: str) -> None:
    load: Any = lua54.LuaRuntime(unpack_returned_tuples=True).eval("load")
    compiled = load(stubs.files()[name], name, "t")
    assert not isinstance(compiled, tuple), compiled


def test_every_function_has_its_stub_with_its_words() -> None:
    written = "\n".join(stubs.files().values())
    of_authors = {name: one for module in authoring.MODULES for name, one in module.every.items()}
    for name, function in {**modules.FUNCTIONS, **of_authors}.items():
        if name == "job.output":
            assert "---@field output fun(name: string, value: any)" in written
            continue
        found = re.search(rf"((?:^---.*\n)+)^function {re.escape(name)}\((.*)\) end$", written, re.MULTILINE)
        assert found is not None, name
        assert function.words.split(". ")[0][:60] in found[1].replace("\n---", " "), name
        assert all(f"---@param {given.strip()}" in found[1] for given in found[2].split(",") if given), name


def test_every_class_that_a_stub_names_is_declared_once() -> None:
    written = "\n".join(stubs.files().values())
    declared = re.findall(r"^---@(?:class|alias) (moonyard\.[\w.]+)", written, re.MULTILINE)
    assert len(declared) == len(set(declared))
    used = set(re.findall(r"moonyard\.[\w.]+", re.sub(r"`[^`]*`", "", written)))
    assert {name for name in used if name[9:10].isupper() or name.count(".") > 1} <= {*declared}


def test_the_language_servers_settings_name_the_stubs_and_what_lua_lacks() -> None:
    settings = stubs.language_server_settings()
    assert settings["runtime.version"] == "Lua 5.4"
    assert settings["workspace.library"] == [f"{stubs.FOLDER}/core", f"{stubs.FOLDER}/plugins"]
    assert {"io", "package", "debug"} <= set(lua.ABSENT)


def test_what_plugins_and_tests_have_besides_is_what_is_told_of_it() -> None:
    lua_side = ROOT / "sandbox" / "lua"
    api = (lua_side / "plugins.lua").read_text(encoding="utf-8")
    table = re.search(r"function build_plugin_table.*?\n(.*?)^end", api, re.MULTILINE | re.DOTALL)
    assert table is not None
    of_plugins = set(re.findall(r"^    (\w+) = ", table[1], re.MULTILINE))
    assert names_of(authoring.PLUGIN) == {f"plugin.{name}" for name in of_plugins}
    testing = (lua_side / "testing.lua").read_text(encoding="utf-8")
    installed = testing[testing.index("install = function") :]
    assert names_of(authoring.TESTS) == set(re.findall(r"environment\.(\w+) = [^{]", installed))
    tables = dict(re.findall(r"environment\.(\w+) = \{(.*?)\}\n", installed, re.DOTALL))
    assert tables.keys() == {"mock", "pipeline"}
    for module in (authoring.MOCK, authoring.PIPELINE):
        given = set(re.findall(r"(\w+) = ", tables[module.name]))
        assert names_of(module) == {f"{module.name}.{name}" for name in given}
    matchers = testing[testing.index("local MATCHERS") : testing.index("local function unknown_matcher")]
    asked = set(re.findall(r"^  (\w+) = function", matchers, re.MULTILINE))
    assert {field.name for field in authoring.EXPECTATION.fields} == asked | {"never"}


def names_of(module: Module) -> set[str]:
    return {*module.every, *(constant.name for constant in module.constants)}


def test_all_that_plugins_and_tests_have_is_explained() -> None:
    for module in authoring.MODULES:
        for function in module.functions:
            assert function.name.rpartition(".")[2] in function.example, function.name
            for table in [found for kind in kinds_of(function) for found in tables_in(kind)]:
                assert all(field.words for field in table.fields), table.name
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    told_of = [field.name for field in authoring.EXPECTATION.fields if field.name != "never"]
    answers = [*mocks.ProcessAnswer.__struct_encode_fields__, *mocks.HttpAnswer.__struct_encode_fields__]
    results = [*told.Result.__struct_fields__, *told.Command.__struct_fields__, *told.Request.__struct_fields__]
    missing = [name for name in [*told_of, *answers, *results] if f"`{name}" not in page]
    assert not missing, f"docs/testing.md says nothing of {', '.join(missing)}"


def kinds_of(function: Function) -> list[LuaType]:
    gives = [] if function.gives is None else [function.gives]
    return [*(given.type for given in function.parameters), *gives]


def test_types_are_written_for_editors_and_for_people() -> None:
    kind = lua_types.lua_type(dict[str, str | int | float], "x")
    assert lua_types.for_editors(kind) == "table<string, string|number>"
    assert lua_types.for_people(kind) == "table of strings or numbers"
    assert lua_types.for_people(lua_types.lua_type(list[str], "x")) == "list of strings"
    assert lua_types.for_editors(lua_types.lua_type(bool | str, "x")) == "boolean|string"
