"""``fs``."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from runner.modules import documents, fs
from runner.reference.description import Module, function
from runner.reference.lua_types import NIL, STRING, Callback, Either, lua_type

Type = Literal["file", "folder", "link", "other"]
PATH: Final = ("path_not_found", "path_refused")
FILE: Final = ("path_not_found", "path_is_folder", "path_refused")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    type: Type
    """What it is; what is neither of the first three is `"other"`: a pipe, a socket, a device."""
    size: int
    """In bytes."""
    mode: str
    """In octal digits, such as `"0644"`."""
    modified: float
    """Seconds since 1970."""
    target: str | None = None
    """Where a link leads that was not followed."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """Relative to the workspace."""
    name: str
    """The last part of it."""
    type: Type
    """What it is."""
    size: int
    """In bytes."""
    mode: str
    """In octal digits."""
    modified: float
    """Seconds since 1970."""


_ENTRY: Final = Either((lua_type(Entry, "moonyard.fs"), NIL))

MODULE: Final = Module(
    name="fs",
    words="""Works on the files of the workspace, without a container. Paths are relative to the workspace, or begin
    with `/workspace/`, as containers see it. Nothing outside can be reached, whatever links there are.

    The main arguments come in order and the others in a table, or all of them by name:
    `fs.write("a", "text", { mode = "0600" })`, `fs.write{ path = "a", data = "text" }`.""",
    functions=(
        function(
            "fs.read",
            "Gives a file's content, or a piece of it.",
            arguments=fs.ReadArguments,
            positional=("path",),
            gives=str,
            errors=(*FILE, "file_too_large"),
            example="""
fs.write("notes.txt", "first\\nsecond\\n")
assert(fs.read("notes.txt") == "first\\nsecond\\n")
assert(fs.read("notes.txt", { offset = 6, size = 6 }) == "second")
""",
        ),
        function(
            "fs.write",
            "Writes a file: it is made, or what it held is gone.",
            arguments=fs.WriteArguments,
            positional=("path", "data"),
            errors=(*FILE, "disk_full"),
            example="""
fs.write("greeting", "hello\\n")
fs.write("key", "not for all", { mode = "0600" })
""",
        ),
        function(
            "fs.append",
            "Writes at the end of a file, which is made where there is none.",
            arguments=fs.WriteArguments,
            positional=("path", "data"),
            errors=(*FILE, "disk_full"),
            example="""
fs.append("journal", "one more line\\n")
""",
        ),
        function(
            "fs.lines",
            "Goes over the lines of a file of any size, without their ends.",
            arguments=fs.LinesArguments,
            positional=("path",),
            without=("offset", "identity"),
            gives=Callback(gives=Either((STRING, NIL))),
            gives_words="an iterator",
            errors=(*FILE, "file_too_large"),
            example="""
fs.write("list", "a\\nb\\n")
for line in fs.lines("list") do
  log.info(line)
end
""",
        ),
        function(
            "fs.list",
            "Gives the names in a folder, in order.",
            arguments=fs.ListArguments,
            positional=("path",),
            gives=list[str],
            errors=(*PATH, "too_many_files"),
            example="""
fs.mkdir("folder")
log.info(table.concat(fs.list(), " "), #fs.list("folder"))
""",
        ),
        function(
            "fs.glob",
            "Gives the paths of the files and links that a pattern names, in order.",
            arguments=fs.GlobArguments,
            positional=("pattern",),
            gives=list[str],
            errors=("path_refused", "too_many_files"),
            example="""
fs.mkdir("src/deep")
fs.write("src/deep/main.c", "")
for _, path in ipairs(fs.glob("src/**/*.c", { exclude = { "**/test_*" } })) do
  log.info(path)
end
""",
        ),
        function(
            "fs.walk",
            "Goes over all that is below a folder, each folder before what is in it.",
            arguments=fs.WalkArguments,
            positional=("path",),
            gives=Callback(gives=_ENTRY),
            gives_words="an iterator over tables",
            errors=(*PATH, "too_many_files"),
            example="""
fs.mkdir("tree/branch")
fs.write("tree/branch/leaf", "green")
for entry in fs.walk("tree") do
  log.info(entry.type, entry.path, entry.size)
end
""",
        ),
        function(
            "fs.stat",
            "Tells what is at a path.",
            arguments=fs.StatArguments,
            positional=("path",),
            gives=Facts,
            errors=PATH,
            example="""
fs.write("tool", "#!/bin/sh\\n", { mode = "0755" })
local facts = fs.stat("tool")
assert(facts.type == "file" and facts.size == 10)
""",
        ),
        function(
            "fs.exists",
            "Tells whether there is something at a path. A link to nothing is nothing.",
            arguments=fs.PathArguments,
            positional=("path",),
            gives=bool,
            errors=("path_refused",),
            example="""
assert(not fs.exists("nothing"))
""",
        ),
        function(
            "fs.mkdir",
            "Makes a folder, and those above it.",
            arguments=fs.PathArguments,
            positional=("path",),
            gives=bool,
            gives_words="whether there was none",
            errors=("path_exists", "path_refused"),
            example="""
assert(fs.mkdir("out/bin"))
assert(not fs.mkdir("out/bin"))
""",
        ),
        function(
            "fs.move",
            "Moves a file, link or folder. A file or link in its place is replaced, and by a folder an empty folder.",
            arguments=fs.TwoPathsArguments,
            positional=("from", "to"),
            errors=(*PATH, "path_exists"),
            example="""
fs.write("draft", "text")
fs.move("draft", "final")
""",
        ),
        function(
            "fs.copy",
            "Copies a file over another, or a folder with all in it to a place where nothing is.",
            arguments=fs.TwoPathsArguments,
            positional=("from", "to"),
            gives=int,
            gives_words="how many files were copied",
            errors=(*PATH, "path_exists", "disk_full"),
            example="""
fs.mkdir("original")
fs.write("original/a", "1")
assert(fs.copy("original", "double") == 1)
""",
        ),
        function(
            "fs.remove",
            "Removes a file, link or folder.",
            arguments=fs.RemoveArguments,
            positional=("path",),
            gives=bool,
            gives_words="whether there was something",
            errors=("path_refused", "path_not_empty"),
            example="""
fs.mkdir("old/things")
assert(fs.remove("old", { recursive = true }))
assert(not fs.remove("old"))
""",
        ),
        function(
            "fs.temp",
            "Makes an empty file, or a folder, in the workspace under a name that nothing has.",
            arguments=fs.TempArguments,
            gives=str,
            gives_words="its path",
            example="""
local path = fs.temp({ suffix = ".txt" })
fs.write(path, "for a while")
""",
        ),
        function(
            "fs.hash",
            "Gives the hash of a file's content in hexadecimal.",
            arguments=fs.HashArguments,
            positional=("path",),
            gives=str,
            errors=FILE,
            example="""
fs.write("data", "moon")
assert(fs.hash("data") == hash.sha256("moon"))
log.info(fs.hash("data", { algorithm = "md5" }))
""",
        ),
        function(
            "fs.size",
            "Gives how many bytes a file has, or all files below a folder.",
            arguments=fs.PathArguments,
            positional=("path",),
            gives=int,
            errors=PATH,
            example="""
fs.write("four", "1234")
assert(fs.size("four") == 4)
""",
        ),
        function(
            "fs.chmod",
            "Sets who may read, write and run a file.",
            arguments=fs.ChmodArguments,
            positional=("path", "mode"),
            errors=PATH,
            example="""
fs.write("script", "#!/bin/sh\\n")
fs.chmod("script", "0755")
""",
        ),
        function(
            "fs.read_json",
            "Gives a JSON file's data.",
            arguments=documents.ReadJsonArguments,
            positional=("path",),
            gives=Any,
            errors=(*FILE, "data_invalid"),
            example="""
fs.write("package.json", '{"name": "app", "private": null}')
local package = fs.read_json("package.json", { nulls = false })
assert(package.name == "app" and package.private == nil)
""",
        ),
        function(
            "fs.read_yaml",
            "Gives a YAML file's data.",
            arguments=documents.ReadYamlArguments,
            positional=("path",),
            gives=Any,
            errors=(*FILE, "data_invalid"),
            example="""
fs.write("config.yaml", "image: alpine\\n")
assert(fs.read_yaml("config.yaml").image == "alpine")
""",
        ),
        function(
            "fs.read_toml",
            "Gives a TOML file's data.",
            arguments=documents.ReadTomlArguments,
            positional=("path",),
            gives=dict[str, Any],
            errors=(*FILE, "data_invalid"),
            example="""
fs.write("Cargo.toml", '[package]\\nname = "app"\\n')
assert(fs.read_toml("Cargo.toml").package.name == "app")
""",
        ),
        function(
            "fs.write_json",
            "Writes a value to a file as JSON.",
            arguments=documents.WriteJsonArguments,
            positional=("path", "value"),
            errors=(*FILE, "data_invalid", "disk_full"),
            example="""
fs.write_json("result.json", { passed = 12, failed = 0 })
""",
        ),
        function(
            "fs.write_yaml",
            "Writes a value to a file as YAML or TOML.",
            arguments=documents.WriteArguments,
            positional=("path", "value"),
            errors=(*FILE, "data_invalid", "disk_full"),
            alike=("fs.write_toml",),
            example="""
fs.write_yaml("values.yaml", { replicas = 2, ports = { 80, 443 } })
fs.write_toml("settings.toml", { server = { port = 8080 } })
""",
        ),
    ),
)
