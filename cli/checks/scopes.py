"""Which variable each name in a file stands for, by Lua's rules of scope."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Final, Literal

from tree_sitter import Node

from cli.checks.tree import Source

_IGNORED: Final = frozenset({"comment", "label_statement", "goto_statement", "break_statement", "attribute"})


class Variable:
    """A local variable, a parameter, or a loop's variable."""

    def __init__(self, name: str, node: Node, kind: Literal["local", "parameter", "loop"], value: Node | None) -> None:
        self.name = name
        self.node = node
        self.kind = kind
        self.value = value
        """The expression that it is declared with."""
        self.reads: list[Node] = []
        self.is_written = False
        """After it was declared."""
        self.is_closed = False
        """Declared ``<close>``, so it is of use though nothing reads it."""
        self.fields_set: set[str] = set()


class Scopes:
    """Reads a file's names: ``variables`` has all that are declared, ``globals_read`` what no declaration covers."""

    def __init__(self, source: Source) -> None:
        self.variables: list[Variable] = []
        self.globals_read: list[Node] = []
        self.globals_written: list[Node] = []
        self.fields_written: list[Node] = []
        """Index expressions that are assigned to."""
        self._source = source
        self._by_node: dict[int, Variable] = {}
        self._scopes: list[dict[str, Variable]] = []
        with self._scope():
            self._block(source.root.named_children)

    def variable(self, node: Node) -> Variable | None:
        """Give the variable that a name stands for; None for a global."""
        return self._by_node.get(node.id)

    @contextmanager
    def _scope(self) -> Generator[None]:
        self._scopes.append({})
        yield
        self._scopes.pop()

    def _declare(self, node: Node, kind: Literal["local", "parameter", "loop"], value: Node | None = None) -> Variable:
        variable = Variable(self._source.text(node), node, kind, value)
        self._scopes[-1][variable.name] = variable
        self.variables.append(variable)
        self._by_node[node.id] = variable
        return variable

    def _find(self, node: Node) -> Variable | None:
        name = self._source.text(node)
        found = next((scope[name] for scope in reversed(self._scopes) if name in scope), None)
        if found is not None:
            self._by_node[node.id] = found
        return found

    def _block(self, statements: Iterable[Node]) -> None:
        for statement in statements:
            self._statement(statement)

    def _statement(self, node: Node) -> None:
        match node.type:
            case "variable_declaration":
                self._declaration(node)
            case "function_declaration":
                self._function_declaration(node)
            case "assignment_statement":
                self._assignment(node)
            case "for_statement":
                self._loop(node)
            case "repeat_statement":
                body = node.child_by_field_name("body")
                with self._scope():  # the condition sees what the body declares
                    self._block(() if body is None else body.named_children)
                    self._expression(node.child_by_field_name("condition"))
            case "do_statement" | "while_statement" | "if_statement" | "elseif_statement" | "else_statement":
                self._nested(node)
            case "block":
                with self._scope():
                    self._block(node.named_children)
            case _:
                self._expression(node)

    def _nested(self, node: Node) -> None:
        for child in node.named_children:
            if child.type in {"block", "elseif_statement", "else_statement"}:
                self._statement(child)
            else:
                self._expression(child)

    def _declaration(self, node: Node) -> None:
        assignment = next((child for child in node.named_children if child.type == "assignment_statement"), None)
        values = _values(assignment)
        for value in values:
            self._expression(value)
        names = _list(assignment or node, "variable_list")
        attributes = {id_.prev_named_sibling.id for id_ in names if id_.type == "attribute" and id_.prev_named_sibling}
        places = [name for name in names if name.type == "identifier"]
        for index, name in enumerate(places):
            variable = self._declare(name, "local", values[index] if index < len(values) else None)
            if name.id in attributes and "close" in self._source.text(name.next_named_sibling or name):
                variable.is_closed = True

    def _function_declaration(self, node: Node) -> None:
        name = node.child_by_field_name("name")
        is_local = any(child.type == "local" for child in node.children)
        if name is not None and is_local:
            self._declare(name, "local", None)
        elif name is not None and name.type == "identifier":
            self._write(name)
        elif name is not None:
            self.fields_written.append(name)
            self._expression(name.child_by_field_name("table"))
        self._function(node, has_self=name is not None and name.type == "method_index_expression")

    def _function(self, node: Node, *, has_self: bool = False) -> None:
        with self._scope():
            if has_self:
                variable = Variable("self", node, "parameter", None)
                self._scopes[-1]["self"] = variable
            parameters = node.child_by_field_name("parameters")
            for child in () if parameters is None else parameters.named_children:
                if child.type == "identifier":
                    self._declare(child, "parameter")
            body = node.child_by_field_name("body")
            with self._scope():
                self._block(() if body is None else body.named_children)

    def _assignment(self, node: Node) -> None:
        for value in _values(node):
            self._expression(value)
        for target in _list(node, "variable_list"):
            if target.type == "identifier":
                self._write(target)
            elif target.type != "comment":
                self.fields_written.append(target)
                is_bracketed = target.type == "bracket_index_expression"
                for child in target.named_children:
                    if is_bracketed or child == target.child_by_field_name("table"):
                        self._expression(child)

    def _write(self, node: Node) -> None:
        variable = self._find(node)
        if variable is None:
            self.globals_written.append(node)
        else:
            variable.is_written = True

    def _loop(self, node: Node) -> None:
        clause = node.child_by_field_name("clause")
        body = node.child_by_field_name("body")
        names: list[Node] = []
        for child in () if clause is None else clause.named_children:
            if child.type == "variable_list":
                names += [name for name in child.named_children if name.type == "identifier"]
            elif clause is not None and child == clause.child_by_field_name("name"):
                names.append(child)
            else:
                self._expression(child)
        with self._scope():
            for name in names:
                self._declare(name, "loop")
            with self._scope():
                self._block(() if body is None else body.named_children)

    def _expression(self, node: Node | None) -> None:
        """Read what an expression names. Nothing is declared in one, so the order is of no matter."""
        left = [] if node is None else [node]
        while left:
            one = left.pop()
            match one.type:
                case "identifier":
                    self._read(one)
                case "function_definition":
                    self._function(one)
                case "dot_index_expression" | "method_index_expression":
                    left += [child for child in (one.child_by_field_name("table"),) if child is not None]
                case "field":
                    left += _field_parts(one)
                case kind if kind in _IGNORED:
                    pass
                case _:
                    left += one.named_children

    def _read(self, node: Node) -> None:
        variable = self._find(node)
        if variable is None:
            self.globals_read.append(node)
        else:
            variable.reads.append(node)


def _list(node: Node, kind: str) -> list[Node]:
    found = next((child for child in node.named_children if child.type == kind), None)
    return [] if found is None else found.named_children


def _values(assignment: Node | None) -> list[Node]:
    values = [] if assignment is None else _list(assignment, "expression_list")
    return [value for value in values if value.type != "comment"]


def _field_parts(field: Node) -> list[Node]:
    """Give the expressions of a table's field: a name that stands for itself is none."""
    name = field.child_by_field_name("name")
    is_expression = field.children[0].type == "["
    return [child for child in field.named_children if is_expression or child != name]
