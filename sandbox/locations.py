"""Finds where in a pipeline's source its fields stand, so that a problem can be told with its line.

Most pipelines end in ``return { ... }``, written out, or return the name of such a table. That table constructor is
walked token by token; each field's path, such as ``("stages", 2, "container")``, gets the line it starts on. What is
put together by code has no line here, and whoever asks falls back to the nearest thing around it that has one.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Protocol

Path = tuple[str | int, ...]


class Telling(Protocol):
    """Takes a problem, with the path of the field that it is about."""

    def __call__(self, path: Path, message: str, hint: str | None = None) -> None: ...


_TOKEN: Final = re.compile(
    r"""
    (?P<skip>\s+ | --\[(?P<c>=*)\[.*?\](?P=c)\] | --[^\n]*)
  | (?P<text>"(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*')
  | (?P<long>\[(?P<l>=*)\[.*?\](?P=l)\])
  | (?P<name>[A-Za-z_]\w*)
  | (?P<symbol>==|~=|<=|>=|::|\.\.\.?|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENS: Final = frozenset({"(", "{", "[", "function", "do", "if", "repeat"})
_CLOSES: Final = frozenset({")", "}", "]", "end", "until"})
_DEPTH_MAXIMUM: Final = 50


class Token(NamedTuple):
    kind: str
    text: str
    line: int


def locate(source: str) -> dict[Path, int]:
    """Map the paths of the returned table's fields to lines; empty where the file returns no written-out table."""
    tokens = _tokens(source)
    for start in range(len(tokens) - 2, -1, -1):
        if tokens[start].text == "return" and tokens[start + 1].text == "{":
            walk = _Walk(tokens, start + 1)
            walk.table((), 0)
            if walk.ends_file():
                return walk.lines
    return _locate_by_name(tokens)


def _locate_by_name(tokens: list[Token]) -> dict[Path, int]:
    """Map the fields of a table that has a name: ``local pipeline = { ... } return pipeline``."""
    end = len(tokens)
    while end and tokens[end - 1].text == ";":
        end -= 1
    if end < 2 or tokens[end - 2].text != "return" or tokens[end - 1].kind != "name":
        return {}
    name = tokens[end - 1].text
    for at in range(end - 3, -1, -1):
        if tokens[at].text != name or (at and tokens[at - 1].text in {".", ":"}):
            continue
        behind = at + (4 if at + 4 < end and tokens[at + 1].text == "<" else 1)  # `<const>`
        if behind + 1 < end and tokens[behind].text == "=" and tokens[behind + 1].text == "{":
            walk = _Walk(tokens, behind + 1)
            walk.table((), 0)
            return walk.lines
    return {}


def line_of(lines: dict[Path, int], path: Path) -> int | None:
    """Give the line of a field, or of the nearest field around it that has one."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return lines.get(())


def _tokens(source: str) -> list[Token]:
    tokens: list[Token] = []
    line = 1
    for match in _TOKEN.finditer(source):
        text = match[0]
        if match["skip"] is None:
            kind = "text" if match["text"] else "name" if match["name"] else "symbol"
            tokens.append(Token(kind, text, line))
        line += text.count("\n")
    return tokens


class _Walk:
    def __init__(self, tokens: list[Token], at: int) -> None:
        self._tokens = tokens
        self._at = at
        self.lines: dict[Path, int] = {}

    def ends_file(self) -> bool:
        return all(token.text == ";" for token in self._tokens[self._at :])

    def _text(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self._tokens[at].text if at < len(self._tokens) else ""

    def table(self, path: Path, depth: int) -> None:
        """Walk a table constructor; the walk stands on its brace, and afterwards behind the closing one."""
        self.lines.setdefault(path, self._tokens[self._at].line)
        self._at += 1
        position = 0
        while self._text() not in {"}", ""}:
            if self._text() in {",", ";"}:
                self._at += 1
                continue
            line = self._tokens[self._at].line
            key = self._key()
            if key is None:
                position += 1
                key = position
            self.lines.setdefault((*path, key), line)
            if self._text() == "{" and depth < _DEPTH_MAXIMUM:
                self.table((*path, key), depth + 1)
            self._rest_of_value()
        self._at += 1

    def _key(self) -> str | int | None:
        """Take ``name =`` or ``["name"] =`` where that comes next."""
        if self._at + 1 < len(self._tokens) and self._tokens[self._at].kind == "name" and self._text(1) == "=":
            name = self._text()
            self._at += 2
            return name
        if self._text() == "[" and self._text(2) == "]" and self._text(3) == "=":
            name = self._text(1)
            self._at += 4
            return int(name) if name.isdigit() else name.strip("\"'")
        return None

    def _rest_of_value(self) -> None:
        """Go to the comma or brace that ends a field's value."""
        depth = 0
        while text := self._text():
            if depth == 0 and text in {",", ";", "}"}:
                return
            if self._tokens[self._at].kind != "text":
                depth += (text in _OPENS) - (text in _CLOSES)
            self._at += 1
