"""``archive``."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from runner.modules import archive
from runner.reference.description import Module, function


class Done(msgspec.Struct, frozen=True, kw_only=True):
    files: int
    """How many files and links."""
    size: int
    """How many bytes they have together."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """In the archive."""
    type: Literal["file", "folder", "link"]
    """What it is."""
    size: int
    """In bytes."""
    mode: str
    """In octal digits, such as `"0644"`."""
    target: str | None = None
    """Where a link leads."""


HOSTILE: Final = ("archive_refused", "archive_too_large", "archive_damaged")

MODULE: Final = Module(
    name="archive",
    words="Packs and unpacks files of the workspace, without a container and without the tools.",
    functions=(
        function(
            "archive.create",
            """Makes an archive. The same files give the same bytes. An archive that is there is replaced when the new
            one is whole.""",
            arguments=archive.CreateArguments,
            positional=("path",),
            gives=Done,
            errors=("path_not_found", "path_refused", "too_many_files", "disk_full"),
            example="""
fs.mkdir("app/bin")
fs.write("app/bin/run", "#!/bin/sh\\n", { mode = "0755" })
local made = archive.create("app.tar.gz", { from = "app", exclude = { "**/*.tmp" } })
log.info(made.files, "files in", made.size, "bytes")
""",
        ),
        function(
            "archive.list",
            "Gives what is in an archive, and looks at all of it as `archive.extract` does.",
            arguments=archive.ListArguments,
            positional=("path",),
            gives=list[Entry],
            errors=("path_not_found", "path_refused", *HOSTILE),
            example="""
fs.mkdir("pages")
fs.write("pages/index.html", "<p>moon</p>")
archive.create("pages.zip", { from = "pages" })
for _, entry in ipairs(archive.list("pages.zip")) do
  log.info(entry.type, entry.mode, entry.path)
end
""",
        ),
        function(
            "archive.extract",
            """Makes files of an archive. Files and links that are there already are replaced. An archive that could do
            harm is refused before anything is written.""",
            arguments=archive.ExtractArguments,
            positional=("path",),
            gives=Done,
            errors=("path_not_found", "path_refused", *HOSTILE, "disk_full"),
            example="""
fs.mkdir("app-1.0")
fs.write("app-1.0/readme", "read me")
archive.create("app-1.0.tar.xz", { include = { "app-1.0/**" } })
archive.extract("app-1.0.tar.xz", { to = "unpacked", strip = 1, max_size = "1g" })
assert(fs.read("unpacked/readme") == "read me")
""",
        ),
    ),
)
