"""A Lua file's syntax tree, by tree-sitter, and where in the file its parts stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import tree_sitter_lua
from tree_sitter import Language, Node, Parser

_LANGUAGE: Final = Language(tree_sitter_lua.language())
_SIMPLE_ESCAPES: Final = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
    "\\": "\\", '"': '"', "'": "'", "\n": "\n",
}  # fmt: skip
_ESCAPE: Final = re.compile(
    r"\\(?:(?P<simple>[abfnrtv\\\"'\n])|z(?P<z>\s*)|x(?P<x>[0-9a-fA-F]{2})|u\{(?P<u>[0-9a-fA-F]+)\}|(?P<d>\d{1,3}))"
)


class Place(NamedTuple):
    """From where to where something stands: lines and columns from 1, columns in characters, the end not included."""

    line: int
    column: int
    end_line: int
    end_column: int


class Source:
    """A file's text with its tree."""

    def __init__(self, text: str) -> None:
        self._bytes = text.encode()
        self._lines = self._bytes.split(b"\n")
        self.root: Node = Parser(_LANGUAGE).parse(self._bytes).root_node

    def text(self, node: Node) -> str:
        return self._bytes[node.start_byte : node.end_byte].decode()

    def place(self, node: Node) -> Place:
        start, end = node.start_point, node.end_point
        return Place(
            start.row + 1, self._column(start.row, start.column), end.row + 1, self._column(end.row, end.column)
        )

    def line(self, number: int) -> Place:
        """Give the place of what stands in a line, without the space before and behind it."""
        if not 0 < number <= len(self._lines):
            return Place(max(number, 1), 1, max(number, 1), 1)
        text = self._lines[number - 1].decode(errors="replace")
        first = len(text) - len(text.lstrip())
        return Place(number, first + 1, number, max(len(text.rstrip()), first) + 1)

    def damage(self, line: int) -> Place:
        """Give the place in a line where the syntax is wrong, or the whole line where the tree does not tell."""
        wrong = self.root
        while True:
            inner = next((child for child in wrong.children if child.has_error or child.is_missing), None)
            if inner is None:
                break
            wrong = inner
        if wrong.start_point.row + 1 == line and (wrong.is_error or wrong.is_missing):
            place = self.place(wrong)
            return place if place.end_line == line else Place(line, place.column, line, self.line(line).end_column)
        return self.line(line)

    def string(self, node: Node) -> str | None:
        """Read a string literal; None for what is none, or holds bytes that are no text."""
        if node.type != "string":
            return None
        content = node.child_by_field_name("content")
        if content is None:
            return ""
        written = self.text(content)
        if self.text(node)[0] == "[":
            return written.removeprefix("\n")
        return (
            None if re.search(r"\\(?:x[89a-fA-F]|1[3-9]\d|12[89]|2\d\d)", written) else _ESCAPE.sub(_unescaped, written)
        )

    def _column(self, row: int, byte: int) -> int:
        return len(self._lines[row][:byte].decode(errors="replace")) + 1


def _unescaped(found: re.Match[str]) -> str:
    if (simple := found["simple"]) is not None:
        return _SIMPLE_ESCAPES[simple]
    if found["z"] is not None:
        return ""
    if (digits := found["x"] or found["u"]) is not None:
        return chr(min(int(digits, 16), 0x10FFFF))
    return chr(int(found["d"]))


def every(node: Node) -> Iterator[Node]:
    """Give a node and all below it; a chain of calls or sums may be thousands deep, so nothing here recurses."""
    left = [node]
    while left:
        one = left.pop()
        yield one
        left += reversed(one.named_children)


def arguments_of(call: Node) -> list[Node]:
    """Give the expressions that a call is given."""
    given = call.child_by_field_name("arguments")
    return [] if given is None else [child for child in given.named_children if child.type != "comment"]


def bare(node: Node) -> Node:
    """Take an expression out of its brackets."""
    while node.type == "parenthesized_expression":
        inner = next((child for child in node.named_children if child.type != "comment"), None)
        if inner is None:
            return node
        node = inner
    return node
