"""Writes ``docs/reference.md``: every module and function on one page."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from runner.reference import authoring, lua_types, modules, pipeline
from runner.reference.description import Function, Module
from runner.reference.lua_types import Callback, Field, ListOf, LuaType, Table

ALONE: Final = "Functions that stand alone"
WIDTH: Final = 120
HEAD: Final = """# Reference

Every module and function that a pipeline's scripts can use. [pipelines.md](pipelines.md) explains them in the order in
which people need them; this page is made from the code that checks the arguments (`python -m scripts.reference`). The
tests run each example of a module on it, and have `moonyard check` read those of plugins.

The modules are there as globals, and through `require("fs")`. Every function can raise `argument_invalid`, and those
that ask the runner for something `call_at_top_level` and `call_in_callback`; what else a function raises stands below
it, with the meanings in [errors.md](errors.md). A function that takes its main arguments in order takes the others in a
table after them, or all of them by name in one table.
"""


def text(plugins: Sequence[Module]) -> str:
    """Write the page.

    :param plugins: those that ship.
    """
    parts = [HEAD, _contents(plugins)]
    parts += [_module(module) for module in modules.MODULES]
    parts += [_pipeline(), _authoring(), _plugins(plugins)]
    return "\n".join(parts)


def _contents(plugins: Sequence[Module]) -> str:
    rows = ["| module | functions |", "| --- | --- |"]
    for module in modules.MODULES:
        title = ALONE.lower() if module.is_global else f"`{module.name}`"
        rows.append(f"| [{title}](#{_anchor(title)}) | {_links(module)} |")
    tables = ", ".join(f"[{_title(table).lower()}](#{_anchor(_title(table))})" for table in pipeline.TABLES)
    rows.append(f"| [the pipeline's table](#the-pipelines-table) | {tables} |")
    names = ", ".join(f"[`{module.name}`](#{module.name})" for module in authoring.MODULES)
    rows.append(f"| [for tests and plugins](#for-tests-and-plugins) | {names} |")
    rows += [f"| [plugin `{plugin.name}`](#plugin-{plugin.name}) | {_links(plugin)} |" for plugin in plugins]
    return "\n".join([*rows, ""])


def _links(module: Module) -> str:
    found: list[str] = []
    for one in module.functions:
        names = ", ".join(f"`{name.rpartition('.')[2]}`" for name in (one.name, *one.alike))
        found.append(f"[{names}](#{_anchor(heading(one))})")
    return ", ".join(found)


def _wrapped(words: str) -> str:
    return "\n\n".join(
        textwrap.fill(part, WIDTH, break_long_words=False, break_on_hyphens=False) for part in words.split("\n\n")
    )


def heading(one: Function) -> str:
    return ", ".join((one.name, *(name.rpartition(".")[2] for name in one.alike)))


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _module(module: Module) -> str:
    parts = [f"## {ALONE if module.is_global else module.name}\n", f"{_wrapped(module.words)}\n"]
    parts += [f"`{constant.name}` is {constant.words}.\n" for constant in module.constants]
    parts += [_function(one) for one in module.functions]
    return "\n".join(parts)


def _function(one: Function, rank: str = "###") -> str:
    parts = [f"{rank} {heading(one)}\n", f"`{signature(one)}`\n", f"{_wrapped(one.words)}\n"]
    tables: list[Table] = []
    given: list[Table] = []
    if one.arguments is not None:
        parts.append(_fields("argument", one.arguments, tables))
    elif one.parameters:
        parts.append(_parameters(one, tables))
    if one.gives is not None:
        parts.append(_gives(one, given))
    # Which may grow, while they are written, by those that are in them.
    parts.extend(_fields(f"field of {_short(table)}", table, tables) for table in tables)
    parts.extend(_result(f"field of {_short(table)}", table, given) for table in given)
    if one.errors:
        parts.append(_wrapped(f"Raises {', '.join(f'`{code}`' for code in one.errors)}.") + "\n")
    if one.example:
        parts.append(f"```lua\n{one.example}\n```\n")
    return "\n".join(parts)


def signature(one: Function) -> str:
    """Write how a function is called."""
    if one.arguments is not None:
        if not one.positional:
            return f"{one.name}{{ ... }}"
        written = [name if _is_required(one, name) else f"[{name}]" for name in one.positional]
        return f"{one.name}({', '.join([*written, *(['[options]'] if one.options is not None else [])])})"
    written = [given.name if given.required or given.name == "..." else f"[{given.name}]" for given in one.parameters]
    return f"{one.name}({', '.join(written)})"


def _is_required(one: Function, name: str) -> bool:
    field = None if one.arguments is None else one.arguments.field(name)
    return field is not None and field.required


def _short(table: Table) -> str:
    return f"`{table.name.rpartition('.')[2].lower()}`"


def _fields(title: str, table: Table, tables: list[Table]) -> str:
    """Write what a table takes."""
    rows = [f"| {title} | type | default | meaning |", "| --- | --- | --- | --- |"]
    rows += [_row(field, tables) for field in table.fields]
    return "\n".join([*rows, ""])


def _result(title: str, table: Table, tables: list[Table]) -> str:
    """Write what a table has."""
    rows = [f"| {title} | type | meaning |", "| --- | --- | --- |"]
    for field in table.fields:
        kind = _written(field.type, tables) + ("" if field.required else " or nil")
        rows.append(f"| `{field.name}` | {kind} | {_cell(field.words)} |")
    return "\n".join([*rows, ""])


def _row(field: Field, tables: list[Table]) -> str:
    kind = _written(field.type, tables) + (", required" if field.required else "")
    default = f"`{field.default}`" if field.default is not None else ""
    return f"| `{field.name}` | {kind} | {default} | {_cell(field.words)} |"


def _parameters(one: Function, tables: list[Table]) -> str:
    rows = ["| argument | type | meaning |", "| --- | --- | --- |"]
    for given in one.parameters:
        kind = _written(given.type, tables) + (", required" if given.required else "")
        rows.append(f"| `{given.name}` | {kind} | {_cell(given.words)} |")
    return "\n".join([*rows, ""])


def _gives(one: Function, tables: list[Table]) -> str:
    assert one.gives is not None, "there is something to tell"
    if isinstance(one.gives, Table):
        return _result("gives", one.gives, tables)
    if isinstance(one.gives, ListOf) and isinstance(one.gives.item, Table):
        return "Gives a list of tables:\n\n" + _result("field", one.gives.item, tables)
    inner = one.gives.gives if isinstance(one.gives, Callback) else None
    found = next((table for table in _tables_in(inner) if inner is not None), None)
    if found is not None:
        return f"Gives {one.gives_words}:\n\n" + _result("field", found, tables)
    return f"Gives {one.gives_words or _with_article(_written(one.gives, tables))}.\n"


def _tables_in(kind: LuaType | None) -> Iterator[Table]:
    match kind:
        case Table():
            yield kind
        case lua_types.Either(types=options):
            for option in options:
                yield from _tables_in(option)
        case _:
            pass


def _with_article(written: str) -> str:
    if written == "any value":
        return "the value"
    if written == "boolean":
        return "`true` or `false`"
    return f"{'an' if written[0] in 'aeiou' else 'a'} {written}"


def _written(kind: LuaType, tables: list[Table]) -> str:
    def link(table: Table) -> str:
        if table.fields and table not in tables and table.name.startswith("moonyard.") and table.name.count(".") > 1:
            tables.append(table)
        return "table" if table.name.count(".") > 1 else f"[{_title(table).lower()}](#{_anchor(_title(table))})"

    return lua_types.for_people(kind, link).replace("|", "\\|")


def _cell(words: str) -> str:
    return words.replace("|", "\\|")


TITLES: Final = {
    "moonyard.Pipeline": "Pipeline",
    "moonyard.Stage": "Stage",
    "moonyard.Input": "Input",
    "moonyard.Retries": "Retries table",
    "moonyard.Concurrency": "Concurrency table",
    "moonyard.Service": "Service",
    "moonyard.Ready": "Ready table",
    "moonyard.Registry": "Registry table",
    "moonyard.Cache": "Cache table",
    "moonyard.Approval": "Approval table",
    "moonyard.Job": "Job table",
    "moonyard.Trigger": "Trigger",
    "moonyard.Error": "Error",
}


def _title(table: Table) -> str:
    return TITLES[table.name]


def _pipeline() -> str:
    words = (
        "What a pipeline's file returns, and, as `job`, what its scripts are called with. A duration is "
        f"{lua_types.ALIASES['duration'][1]}. A size is {lua_types.ALIASES['size'][1]}."
    )
    parts = ["## The pipeline's table\n", f"{_wrapped(words)}\n"]
    for table in pipeline.TABLES:
        is_given = table.name in {"moonyard.Job", "moonyard.Trigger", "moonyard.Error"}
        rows = _result("field", table, []) if is_given else _fields("field", table, [])
        parts += [f"### {_title(table)}\n", rows]
    return "\n".join(parts)


def _authoring() -> str:
    """Write what only files of tests, and the code of plugins, have."""
    parts = ["## For tests and plugins\n"]
    for module in authoring.MODULES:
        parts += [f"### {module.name}\n", f"{_wrapped(module.words)}\n"]
        parts += [f"`{constant.name}` is {constant.words}.\n" for constant in module.constants]
        parts += [_function(one, rank="####") for one in module.functions]
    return "\n".join(parts)


def _plugins(plugins: Sequence[Module]) -> str:
    """Write what plugins declare. A pipeline has to name them, so they come last."""
    words = (
        "Those that come with Moonyard. A pipeline names them in `plugins`, and `require` gives them: "
        "[pipelines.md](pipelines.md#plugins)."
    )
    parts = ["## Plugins\n", f"{_wrapped(words)}\n"]
    for module in plugins:
        parts.append(f"### Plugin {module.name}\n")
        parts.append(f"{_wrapped(module.words)}\n")
        parts += [_function(one, rank="####") for one in module.functions]
    return "\n".join(parts)
