"""Writes stubs: what a Lua language server needs to know of modules, plugins and pipelines. Nothing in them is run."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from runner.reference import authoring, lua, lua_types, modules, pipeline
from runner.reference.description import Function, Module
from runner.reference.lua_types import Callback, Either, ListOf, LuaType, Table, TableOf
from schema.plugins import LUA_WORDS

FOLDER: Final = ".moonyard/stubs"
"""Where a project has them."""
CORE: Final = "core"
PLUGINS: Final = "plugins"
WIDTH: Final = 118
_OS: Final = {
    "clock": ((), "number", "Gives the processor time that the pipeline's Lua has used, in seconds."),
    "date": (("format?: string", "time?: number"), "string|table", 'Writes a time, such as `os.date("!%Y-%m-%d")`.'),
    "difftime": (("later: number", "earlier: number"), "number", "Gives the seconds between two times."),
    "time": (("table?: table",), "integer", "Gives the seconds since 1970, now or of a table."),
}


def language_server_settings() -> dict[str, object]:
    """Give the settings that a project's ``.luarc.json`` holds."""
    return {
        "runtime.version": "Lua 5.4",
        "runtime.builtin": {"io": "disable", "package": "disable", "debug": "disable", "os": "disable"},
        "workspace.library": [f"{FOLDER}/{CORE}", f"{FOLDER}/{PLUGINS}"],
        "workspace.checkThirdParty": False,
        "diagnostics.globals": sorted(modules.NAMES),
    }


def settings_text() -> str:
    return json.dumps(language_server_settings(), indent=2) + "\n"


def files(plugins: Sequence[Module] = ()) -> dict[str, str]:
    """Write all stubs, by their paths in the folder."""
    written = {
        "moonyard.lua": pipeline_stub(),
        "os.lua": os_stub(),
    }
    written |= {f"{module.name}.lua": module_stub(module) for module in modules.MODULES}
    shared = set[str]()
    written |= {f"{module.name}.lua": module_stub(module, known=shared) for module in authoring.MODULES}
    return {f"{CORE}/{name}": text for name, text in written.items()} | {
        f"{PLUGINS}/{plugin.name}.lua": module_stub(plugin, is_plugin=True) for plugin in plugins
    }


def pipeline_stub() -> str:
    """Write the stub of a pipeline's table and of the types that all share."""
    lines = ["---@meta", "-- What a pipeline's table holds. Nothing here is run; `moonyard stubs` writes it anew.", ""]
    for alias, words in lua_types.ALIASES.values():
        lines += [*_comment(f"{words[0].upper()}{words[1:]}."), f"---@alias moonyard.{alias} string|number", ""]
    for table in pipeline.TABLES:
        lines += _table(table)
    lines += [
        *_comment("A value that a script hands on without seeing it: `***` in logs."),
        "---@class moonyard.Secret",
        "---@operator concat(string|number|moonyard.Secret): moonyard.Secret",
        "---@field reveal fun(self: moonyard.Secret): string # gives the value itself, and the log says so",
        "",
    ]
    return "\n".join(lines)


def os_stub() -> str:
    """Write the stub of what there is of ``os``."""
    assert set(_OS) == lua.LIBRARIES["os"], "the stub names what there is"
    lines = ["---@meta", "", "---@class oslib", "os = {}", ""]
    for name, (parameters, gives, words) in _OS.items():
        lines += _comment(words)
        lines += [f"---@param {one.replace(': ', ' ')}" for one in parameters]
        lines += [f"---@return {gives}"]
        lines += [f"function os.{name}({', '.join(one.partition(':')[0].rstrip('?') for one in parameters)}) end", ""]
    return "\n".join(lines)


def module_stub(module: Module, *, is_plugin: bool = False, known: set[str] | None = None) -> str:
    """Write the stub of a module, or of a plugin, which is no global and comes by ``require``.

    :param known: the classes that other stubs have declared, which this one adds its own to.
    """
    lines = [f"---@meta {module.name}" if module.is_required and not module.is_global else "---@meta", ""]
    known = set[str]() if known is None else known
    functions = list(module.every.values())
    for one in functions:
        for table in _tables_of(one):
            if table.name not in known and table.name not in {shared.name for shared in pipeline.TABLES}:
                known.add(table.name)
                lines += _table(table)
    for words in module.words.split("\n\n"):
        lines += [*_comment(words), "---"]
    if module.kind is not None:
        return "\n".join(
            [*lines, f"---@type {module.kind.name}", f"{module.name} = {{}}", "", f"return {module.name}", ""]
        )
    if module.is_global:
        return "\n".join([*lines, "", *(line for one in functions for line in _function(one))])
    lines += [f"---@class moonyard.modules.{module.name}"]
    for constant in module.constants:
        kind = lua_types.for_editors(constant.type)
        lines += [f"---@field {constant.name.rpartition('.')[2]} {kind} # {constant.words}"]
    lines += [f"local {module.name} = {{}}" if is_plugin else f"{module.name} = {{}}", ""]
    for one in functions:
        lines += _function(one)
    return "\n".join([*lines, *([f"return {module.name}", ""] if module.is_required else [])])


def _comment(words: str) -> list[str]:
    lines: list[str] = []
    for part in words.split("\n\n"):
        lines += [*(["---"] if lines else []), *(f"---{line}" for line in textwrap.wrap(part, WIDTH - 3))]
    return lines


def _table(table: Table) -> list[str]:
    lines = [f"---@class {table.name}"]
    for field in table.fields:
        words = field.words + (f" (default: `{field.default}`)" if field.default is not None else "")
        mark = "" if field.required else "?"
        lines.append(f"---@field {field.name}{mark} {lua_types.for_editors(field.type)} # {words}")
    return [*lines, ""]


def _tables_of(one: Function) -> Iterator[Table]:
    """Find the tables that a function's annotations name."""
    kinds: list[LuaType] = [given.type for given in one.parameters]
    if one.arguments is not None:
        kinds += [one.arguments, *([one.options] if one.positional and one.options is not None else [])]
    if one.gives is not None:
        kinds.append(one.gives)
    for kind in kinds:
        yield from _inside(kind)


def _inside(kind: LuaType) -> Iterator[Table]:
    match kind:
        case Table():
            for field in kind.fields:
                yield from _inside(field.type)
            if kind.fields:
                yield kind
        case ListOf(item=inner) | TableOf(value=inner):
            yield from _inside(inner)
        case Either(types=options):
            for option in options:
                yield from _inside(option)
        case Callback(parameters=parameters, gives=gives):
            for _, of in parameters:
                yield from _inside(of)
            if gives is not None:
                yield from _inside(gives)
        case _:
            pass


def _function(one: Function) -> list[str]:
    lines = _comment(one.words)
    if one.errors:
        lines += ["---", *_comment(f"Raises {', '.join(f'`{code}`' for code in one.errors)}.")]
    names: list[str] = []
    gives = None if one.gives is None else lua_types.for_editors(one.gives)
    told = "" if gives is None else f": {gives}"
    if one.arguments is not None and not one.positional:
        mark = "" if any(field.required for field in one.arguments.fields) else "?"
        lines.append(f"---@param arguments{mark} {one.arguments.name}")
        names = ["arguments"]
    elif one.arguments is not None:
        for name in one.positional:
            field = one.arguments.field(name)
            assert field is not None, f"{one.name} has no argument `{name}`"
            mark = "" if field.required else "?"
            lines.append(f"---@param {_safe(name)}{mark} {lua_types.for_editors(field.type)} # {field.words}")
            names.append(_safe(name))
        if one.options is not None:
            lines.append(f"---@param options? {one.options.name}")
            names.append("options")
    for given in one.parameters:
        mark = "" if given.required or given.name == "..." else "?"
        lines.append(f"---@param {given.name}{mark} {lua_types.for_editors(given.type)} # {given.words}")
        names.append(given.name)
    if gives is not None:
        lines.append(f"---@return {gives} # {one.gives_words}" if one.gives_words else f"---@return {gives}")
    if one.arguments is not None and one.positional:
        lines.append(f"---@overload fun(arguments: {one.arguments.name}){told}")
    if one.short is not None:
        by_name = {given.name: given for given in one.parameters}
        inside = ", ".join(f"{name}: {lua_types.for_editors(by_name[name].type)}" for name in one.short)
        lines.append(f"---@overload fun({inside}){told}")
    return [*lines, f"function {one.name}({', '.join(names)}) end", ""]


def _safe(name: str) -> str:
    """Give a parameter's name that Lua takes."""
    return f"{name}_" if name in LUA_WORDS else name
