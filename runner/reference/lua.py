"""What of Lua's own library there is (``sandbox/lua/environment.lua``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

BASE: Final = frozenset(
    {
        *("assert", "error", "getmetatable", "ipairs", "load", "next", "pairs", "pcall", "print", "rawequal", "rawget"),
        *("rawlen", "rawset", "require", "select", "setmetatable", "tonumber", "tostring", "type", "xpcall"),
        *("_G", "_VERSION"),
    }
)
LIBRARIES: Final[Mapping[str, frozenset[str]]] = {
    "coroutine": frozenset({"close", "create", "isyieldable", "resume", "running", "status", "wrap", "yield"}),
    "math": frozenset(
        {
            *("abs", "acos", "asin", "atan", "ceil", "cos", "deg", "exp", "floor", "fmod", "huge", "log", "max"),
            *("maxinteger", "min", "mininteger", "modf", "pi", "rad", "random", "randomseed", "sin", "sqrt", "tan"),
            *("tointeger", "type", "ult"),
        }
    ),
    "os": frozenset({"clock", "date", "difftime", "time"}),
    "string": frozenset(
        {
            *("byte", "char", "find", "format", "gmatch", "gsub", "len", "lower", "match", "pack", "packsize", "rep"),
            *("reverse", "sub", "unpack", "upper"),
        }
    ),
    "table": frozenset({"concat", "insert", "move", "pack", "remove", "sort", "unpack"}),
    "utf8": frozenset({"char", "charpattern", "codepoint", "codes", "len", "offset"}),
}
ABSENT: Final[Mapping[str, str]] = {
    "io": "There are no files but those of the workspace: `fs` works on them.",
    "package": "A pipeline is one file: `require` gives core modules and plugins only.",
    "debug": "There is no debug library.",
    "dofile": "A pipeline is one file.",
    "loadfile": "A pipeline is one file.",
    "collectgarbage": "Lua's memory is the sandbox's to see to.",
    "warn": "`log.warn` writes a line.",
    "os.execute": "`process.run` runs commands, in a container.",
    "os.exit": "A script ends by returning, or fails by `error`.",
    "os.getenv": "Inputs and `process.run`'s `env` bring values in.",
    "os.remove": "`fs.remove` removes a file of the workspace.",
    "os.rename": "`fs.move` moves a file of the workspace.",
    "os.tmpname": "`fs.temp` makes a file in the workspace.",
    "string.dump": "There is no bytecode.",
}
"""What Lua has elsewhere and scripts here have not, with what there is instead."""
