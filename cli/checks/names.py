"""Checks what a file's names stand for: modules, their functions, what those are given and give, and variables."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence

import msgspec
from tree_sitter import Node

from cli.checks import calls
from cli.checks.findings import Finding, Severity
from cli.checks.literals import key_of
from cli.checks.scopes import Scopes, Variable
from cli.checks.tree import Source, arguments_of, bare, every
from runner.reference import lua, modules, pipeline
from runner.reference.description import Function, Module
from runner.reference.lua_types import Callback, LuaType, Table

REQUIRED = "require:"
"""Before the name of what ``require`` gives, where that is a plugin."""
_SCRIPTS = frozenset({"script", "when"})
_ALONE = tuple(name for name in modules.FUNCTIONS if "." not in name)
"""Functions that stand in no module."""
_CALLERS = {"pcall": 1, "xpcall": 2}
"""Functions of Lua that call one they are given, with all that comes after so many arguments."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What a file can use, and what is known of it."""

    modules: Mapping[str, Module]
    plugins: Mapping[str, Module | None]
    """None for a plugin of which nothing more is known."""
    inputs: Collection[str] | None = None
    """Of the pipeline, where it could be loaded."""
    functions: Mapping[str, Function]
    """Those of modules, and those that stand alone, by their names."""
    globals: frozenset[str] = frozenset()
    """Names that are there besides."""
    has_files: bool = False
    """Whether `require("./other")` gives a file beside."""

    @staticmethod
    def here(plugins: Mapping[str, Module | None], inputs: Collection[str] | None = None) -> Known:
        """Take what the core modules are, with these plugins."""
        core = {module.name: module for module in modules.MODULES if not module.is_global}
        return Known(modules=core, plugins=plugins, inputs=inputs, functions=modules.FUNCTIONS)

    def with_modules(self, more: Sequence[Module]) -> Known:
        """Add what only some files have."""
        named = {module.name: module for module in more if not module.is_global}
        alone = [module for module in more if module.is_global]
        return msgspec.structs.replace(
            self,
            modules={**self.modules, **named},
            functions={**self.functions, **{name: one for module in more for name, one in module.every.items()}},
            globals=self.globals | {name for module in alone for name in module.every},
        )


def check(filename: str, text: str, known: Known) -> list[Finding]:
    """Find mistakes in a file that Lua can read."""
    source = Source(text)
    checker = _Checker(filename, source, known)
    checker.run()
    return sorted(checker.findings)


def required(text: str) -> list[str]:
    """List what a file gives to ``require`` in so many words."""
    source = Source(text)
    found: list[str] = []
    for node in every(source.root):
        name = node.child_by_field_name("name") if node.type == "function_call" else None
        if name is not None and source.text(name) == "require" and (given := arguments_of(node)):
            found += [word for word in (source.string(bare(given[0])),) if word is not None]
    return list(dict.fromkeys(found))


class _Checker:
    def __init__(self, filename: str, source: Source, known: Known) -> None:
        self.findings: list[Finding] = []
        self._filename = filename
        self._source = source
        self._known = known
        self._scopes = Scopes(source)
        self._globals = {source.text(node) for node in self._scopes.globals_written}
        self._jobs: set[int] = set()
        """The nodes of parameters that scripts get the job by."""
        self._changed = {path for node in self._scopes.fields_written if (path := self._path(node)) is not None}
        self._written = {node.id for node in self._scopes.fields_written}
        for node in self._scopes.fields_written:
            self._note_field(node)

    def run(self) -> None:
        for node in every(self._source.root):
            match node.type:
                case "field":
                    self._note_script(node)
                case _:
                    pass
        for node in every(self._source.root):
            match node.type:
                case "function_call":
                    self._call(node)
                case "dot_index_expression":
                    self._index(node)
                case _:
                    pass
        self._variables()

    def _tell(self, node: Node, code: str, message: str, hint: str | None = None, severity: Severity = "error") -> None:
        place = self._source.place(node)
        self.findings.append(
            Finding(
                file=self._filename,
                line=place.line,
                column=place.column,
                end_line=place.end_line,
                end_column=place.end_column,
                severity=severity,
                code=code,
                message=message,
                hint=hint,
            )
        )

    # --- what a name stands for

    def _constant(self, node: Node) -> Node | None:
        """Give the expression that a variable's name stands for, where it never stands for another."""
        variable = self._scopes.variable(node)
        if variable is None or variable.is_written or variable.kind != "local":
            return None
        return variable.value

    def _path(self, node: Node, depth: int = 0) -> str | None:
        """Name what an expression stands for in words such as ``process.run``; None for what is not known."""
        node = bare(node)
        if depth > 20:
            return None
        match node.type:
            case "identifier":
                if self._scopes.variable(node) is None:
                    name = self._source.text(node)
                    return None if name in self._globals else name
                value = self._constant(node)
                return None if value is None else self._path(value, depth + 1)
            case "dot_index_expression" | "bracket_index_expression":
                table, field = node.child_by_field_name("table"), node.child_by_field_name("field")
                path = None if table is None else self._path(table, depth + 1)
                if path is None or field is None:
                    return None
                name = self._source.text(field) if node.type[0] == "d" else self._source.string(field)
                path = path.removeprefix("_G.") if path != "_G" else ""
                return name if path == "" else f"{path}.{name}"
            case "function_call":
                return self._required(node)
            case _:
                return None

    def _required(self, call: Node) -> str | None:
        function, given = call.child_by_field_name("name"), arguments_of(call)
        if function is None or function.type != "identifier" or self._source.text(function) != "require" or not given:
            return None
        if self._scopes.variable(function) is not None:
            return None
        name = self._source.string(bare(given[0]))
        if name is None:
            return None
        module = self._known.modules.get(name)
        return name if module is not None and module.is_required else f"{REQUIRED}{name}"

    def _module(self, path: str) -> Module | None:
        if path.startswith(REQUIRED):
            return self._known.plugins.get(path.removeprefix(REQUIRED))
        return self._known.modules.get(path)

    def _function(self, path: str | None) -> Function | None:
        if path is None or path in self._changed:
            return None
        if path in self._known.functions:
            return self._known.functions[path]
        module = self._module(path.rpartition(".")[0])
        return None if module is None else module.every.get(f"{module.name}.{path.rpartition('.')[2]}")

    def _kind(self, node: Node, depth: int = 0) -> LuaType | None:
        """Give the type of an expression, where it follows from what modules give."""
        node = bare(node)
        if depth > 20:
            return None
        match node.type:
            case "identifier":
                variable = self._scopes.variable(node)
                if variable is None:
                    module = self._module(self._path(node) or "")
                    return None if module is None else module.kind
                if variable.is_written:
                    return None
                if variable.node.id in self._jobs:
                    return pipeline.JOB
                return None if variable.value is None else self._kind(variable.value, depth + 1)
            case "function_call":
                name = node.child_by_field_name("name")
                if name is None:
                    return None
                function = self._function(self._path(name))
                if function is not None:
                    return function.gives
                called = self._kind(name, depth + 1)
                return called.gives if isinstance(called, Callback) else None
            case "dot_index_expression":
                table, field = node.child_by_field_name("table"), node.child_by_field_name("field")
                kind = None if table is None else self._kind(table, depth + 1)
                found = kind.field(self._source.text(field)) if isinstance(kind, Table) and field is not None else None
                return None if found is None else found.type
            case _:
                return None

    def _note_script(self, field: Node) -> None:
        value = field.child_by_field_name("value")
        if key_of(self._source, field) not in _SCRIPTS or value is None or value.type != "function_definition":
            return
        parameters = value.child_by_field_name("parameters")
        first = None if parameters is None else next(iter(parameters.named_children), None)
        if first is not None and first.type == "identifier":
            self._jobs.add(first.id)

    def _note_field(self, node: Node) -> None:
        table, field = node.child_by_field_name("table"), node.child_by_field_name("field")
        variable = None if table is None or table.type != "identifier" else self._scopes.variable(table)
        if variable is not None and field is not None:
            variable.fields_set.add(self._source.text(field).strip("\"'"))

    # --- fields

    def _index(self, node: Node) -> None:
        table, field = node.child_by_field_name("table"), node.child_by_field_name("field")
        if table is None or field is None or node.id in self._written:
            return
        name = self._source.text(field)
        path = self._path(table)
        if path is not None:
            self._module_field(path, name, field)
        kind = self._kind(table)
        if isinstance(kind, Table) and kind.fields and kind.field(name) is None and not self._is_set(table, name):
            known = [one.name for one in kind.fields]
            label = self._source.text(table)[:40]
            what = "the job" if kind == pipeline.JOB else f"`{label}`"
            self._tell(field, "field_unknown", f"{what} has no field `{name}`{_near(name, known)}{_list(known)}")
        self._input(table, name, field)

    def _is_set(self, table: Node, name: str) -> bool:
        variable = self._scopes.variable(table) if table.type == "identifier" else None
        return variable is not None and name in variable.fields_set

    def _module_field(self, path: str, name: str, field: Node) -> None:
        if (library := lua.LIBRARIES.get(path)) is not None:
            if name in library:
                return
            hint = lua.ABSENT.get(f"{path}.{name}")
            if hint is not None:
                self._tell(field, "name_absent", f"there is no `{path}.{name}` here", hint)
            elif f"{path}.{name}" not in self._changed:
                self._tell(field, "function_unknown", f"`{path}` has no `{name}`{_near(name, library)}")
            return
        module = self._module(path)
        if module is None or module.kind is not None or f"{path}.{name}" in self._changed:
            return
        known = [*module.every, *(constant.name for constant in module.constants)]
        if f"{module.name}.{name}" not in known:
            names = [one.rpartition(".")[2] for one in known]
            self._tell(
                field,
                "function_unknown",
                f"there is no `{module.name}.{name}`{_near(name, names, f'{module.name}.')}{_list(names)}",
            )

    def _input(self, table: Node, name: str, field: Node) -> None:
        if self._known.inputs is None or table.type != "dot_index_expression" or self._path(table) is not None:
            return
        job, inputs = table.child_by_field_name("table"), table.child_by_field_name("field")
        if job is None or inputs is None or self._source.text(inputs) != "inputs" or self._kind(job) != pipeline.JOB:
            return
        if name not in self._known.inputs:
            known = sorted(self._known.inputs)
            listed = _list(known) if known else " (it has none)"
            self._tell(field, "input_unknown", f"the pipeline has no input `{name}`{_near(name, known)}{listed}")

    # --- calls

    def _call(self, node: Node) -> None:
        name, given = node.child_by_field_name("name"), arguments_of(node)
        if name is None:
            return
        if name.type == "method_index_expression":
            self._colon(name)
            return
        path = self._path(name)
        if path == "require":
            self._require(given)
        if path in _CALLERS and given:
            path, given = self._path(given[0]), given[_CALLERS[path or ""] :]
        function = self._function(path)
        if function is not None and not self._is_tried(node):
            for mistake in calls.mistakes(self._source, function, node, given):
                self._tell(mistake.node, mistake.code, mistake.message)

    def _is_tried(self, node: Node) -> bool:
        """Whether a test expects something of what the call does: it may be meant to be wrong."""
        while "expect" in self._known.globals and node.parent is not None:
            node = node.parent
            name = node.child_by_field_name("name") if node.type == "function_call" else None
            if name is not None and self._source.text(name) == "expect":
                return True
        return False

    def _colon(self, name: Node) -> None:
        table, method = name.child_by_field_name("table"), name.child_by_field_name("method")
        path = None if table is None else self._path(table)
        module = None if path is None else self._module(path)
        if module is not None and method is not None:
            called = f"{module.name}.{self._source.text(method)}"
            self._tell(
                method,
                "colon_call",
                f"`{called}` is called with a colon, which gives it the module as its first argument",
                f"Write {called}(...).",
            )

    def _require(self, given: list[Node]) -> None:
        name = self._source.string(bare(given[0])) if given else None
        core = [module.name for module in self._known.modules.values() if module.is_required]
        known = [*core, *self._known.plugins, *_ALONE]
        if name is not None and name not in known and not (self._known.has_files and name.startswith("./")):
            self._tell(
                given[0],
                "module_unknown",
                f"there is no module or plugin `{name}`{_near(name, known)}{_list(sorted(known))}",
                "A pipeline is one file: `require` gives core modules and plugins only.",
            )

    # --- variables

    def _variables(self) -> None:
        names = [*lua.BASE, *lua.LIBRARIES, *self._known.modules, *_ALONE, *self._known.globals, *self._globals]
        for node in self._scopes.globals_read:
            name = self._source.text(node)
            if name in names:
                continue
            if name in lua.ABSENT:
                self._tell(node, "name_absent", f"there is no `{name}` here", lua.ABSENT[name])
            elif name in self._known.plugins:
                self._tell(
                    node, "name_undefined", f"nothing is called `{name}` here", f'local {name} = require("{name}")'
                )
            else:
                near = _near(name, [*names, *{variable.name for variable in self._scopes.variables}])
                self._tell(node, "name_undefined", f"nothing is called `{name}` here{near}")
        told: set[str] = set()
        for node in self._scopes.globals_written:
            name = self._source.text(node)
            if name not in told:
                told.add(name)
                self._tell(
                    node,
                    "global_assigned",
                    f"`{name}` is no local variable, so all of the file shares it",
                    f"Write `local {name}` where it begins.",
                    severity="warning",
                )
        for variable in self._scopes.variables:
            self._unused(variable)

    def _unused(self, variable: Variable) -> None:
        if variable.kind != "local" or variable.reads or variable.is_closed or variable.name.startswith("_"):
            return
        what = "is assigned to and never read" if variable.is_written else "is never read"
        self._tell(
            variable.node,
            "variable_unused",
            f"`{variable.name}` {what}",
            "A name that begins with `_` says that this is meant.",
            severity="warning",
        )


def _near(name: str, known: Collection[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean `{prefix}{near[0]}`?" if near else ""


def _list(known: Collection[str]) -> str:
    return f" (there are: {', '.join(known)})"
