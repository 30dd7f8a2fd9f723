"""``regex``."""

from __future__ import annotations

from typing import Final

import msgspec

from runner.modules import regex
from runner.reference import lua_types
from runner.reference.description import Module, arguments_of, function
from runner.reference.lua_types import NIL, STRING, Callback, Either, Table

TEXT_AND_PATTERN: Final = ("text", "pattern")


class Match(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    """What was matched."""
    first: int
    """Where it begins, in bytes from 1."""
    last: int
    """Where it ends."""
    groups: dict[str, str]
    """What its groups matched, by their numbers and names; one that took no part is not there."""


_MATCH: Final = lua_types.table(Match, "moonyard.regex")


def _replace() -> Table:
    read = arguments_of("regex.replace", regex.ReplaceArguments)
    by = Callback((("match", _MATCH),), STRING)
    widened = lua_types.widened(read, ("replacement",), by)
    assert isinstance(widened, Table), "a table stays one"
    return widened


MODULE: Final = Module(
    name="regex",
    words="""Regular expressions in the syntax of RE2, without back references and look-around: the time that they take
    grows with the text alone, whatever the pattern. Lua's own patterns (`string.match`) are enough for much.""",
    functions=(
        function(
            "regex.match",
            "Gives the first match.",
            arguments=regex.RegexArguments,
            positional=TEXT_AND_PATTERN,
            gives=Either((_MATCH, NIL)),
            gives_words="a table, or nil where nothing matches",
            errors=("regex_timeout",),
            example="""
local found = regex.match("app-1.4.2.tar.gz", [[(?P<name>\\w+)-(\\d+\\.\\d+)]])
assert(found.groups.name == "app" and found.groups[2] == "1.4")
""",
        ),
        function(
            "regex.find",
            "Tells where the first match is.",
            arguments=regex.RegexArguments,
            positional=TEXT_AND_PATTERN,
            gives=Either((lua_types.INTEGER, NIL)),
            gives_words="where it begins, and as a second value where it ends; nil where nothing matches",
            errors=("regex_timeout",),
            example="""
local first, last = regex.find("the moon", "mo+")
assert(first == 5 and last == 7)
""",
        ),
        function(
            "regex.find_all",
            "Gives all matches.",
            arguments=regex.FindAllArguments,
            positional=TEXT_AND_PATTERN,
            gives=list[Match],
            errors=("regex_timeout",),
            example="""
for _, found in ipairs(regex.find_all("a=1 b=2", [[(\\w)=(\\d)]])) do
  log.info(found.groups[1], found.groups[2])
end
""",
        ),
        function(
            "regex.split",
            "Splits a text where a pattern matches.",
            arguments=regex.SplitArguments,
            positional=TEXT_AND_PATTERN,
            gives=list[str],
            errors=("regex_timeout",),
            example="""
assert(regex.split("a, b;c", "[,;] *")[3] == "c")
""",
        ),
        function(
            "regex.replace",
            "Puts something in the place of matches.",
            arguments=_replace(),
            positional=(*TEXT_AND_PATTERN, "replacement"),
            gives=str,
            gives_words="the new text, and as a second value how many matches were replaced",
            errors=("regex_timeout",),
            example="""
assert(regex.replace("2026-11-24", "(\\\\d+)-(\\\\d+)-(\\\\d+)", "$3.$2.$1") == "24.11.2026")
local loud = regex.replace("the moon", "\\\\w+", function(match) return match.text:upper() end)
assert(loud == "THE MOON")
""",
        ),
        function(
            "regex.escape",
            "Writes a text as a pattern that matches that text alone.",
            arguments=regex.EscapeArguments,
            positional=("text",),
            gives=str,
            example="""
assert(regex.match("1+1=2", regex.escape("1+1")) ~= nil)
""",
        ),
    ),
)
