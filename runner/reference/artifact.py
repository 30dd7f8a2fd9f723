"""``artifact``."""

from __future__ import annotations

from typing import Final

import msgspec

from runner.modules import artifact
from runner.reference import lua_types
from runner.reference.description import Module, function
from runner.reference.lua_types import Either, ListOf


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    """What it is kept as."""
    sha256: str
    """The hash of its content, in hexadecimal."""
    size: int
    """How many bytes it has."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    """What it is kept as."""
    sha256: str
    """The hash of its content, in hexadecimal."""
    size: int
    """How many bytes it has."""
    content_type: str
    """What it holds, such as `"text/plain"`."""
    stage: str | None
    """The stage that kept it."""
    job: int | None
    """The number of the job that kept it; nil in `moonyard run`."""


class Fetched(Kept, frozen=True, kw_only=True):
    to: str
    """Where it is now."""
    files: int
    """How many files were written."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    tests: int
    """How many there are."""
    passed: int
    """How many of them passed."""
    failed: int
    """How many failed."""
    errors: int
    """How many met an error."""
    skipped: int
    """How many were skipped."""
    duration: float
    """The seconds that they took together."""
    ok: bool
    """Whether none failed or met an error."""


_SAVED: Final = lua_types.table(Saved, "moonyard.artifact")
_PATHS: Final = ("path_not_found", "path_refused")

MODULE: Final = Module(
    name="artifact",
    words="""Keeps files beyond the end of the job, brings back what jobs kept, and reads test reports. Contents never
    pass through Lua.""",
    functions=(
        function(
            "artifact.save",
            """Keeps a file of the workspace, a folder, or what a pattern names. A `glob` without a `name` keeps each
            file on its own, and a list is given.""",
            arguments=artifact.SaveArguments,
            positional=("path",),
            gives=Either((_SAVED, ListOf(_SAVED))),
            errors=("artifact_exists", *_PATHS),
            example="""
fs.write("report.txt", "all is well\\n")
local saved = artifact.save("report.txt")
log.info(saved.name, saved.size, saved.sha256)
artifact.save({ path = "report.txt", name = "reports/today.txt", content_type = "text/plain", retention = "30d" })
""",
        ),
        function(
            "artifact.fetch",
            """Brings an artifact into the workspace: of this job, of another, or of a pipeline's newest job that
            succeeded.""",
            arguments=artifact.FetchArguments,
            positional=("name",),
            gives=Fetched,
            errors=("artifact_unknown", *_PATHS),
            example="""
fs.write("program", "any bytes")
artifact.save("program")
local fetched = artifact.fetch("program", { to = "copy/program" })
assert(fs.read("copy/program") == "any bytes" and fetched.size == 9)
""",
        ),
        function(
            "artifact.list",
            "Lists the artifacts of this job, of another, or of a pipeline's newest job that succeeded.",
            arguments=artifact.ListArguments,
            gives=list[Kept],
            example="""
fs.write("listed", "")
artifact.save("listed")
for _, kept in ipairs(artifact.list()) do
  log.info(kept.name, kept.size)
end
""",
        ),
        function(
            "artifact.test_report",
            "Reads test reports (JUnit's XML), and stores their tests: `inspect.tests` has them.",
            arguments=artifact.ReportArguments,
            positional=("path",),
            gives=Report,
            errors=("report_invalid", *_PATHS),
            example="""
fs.write("junit.xml", '<testsuite name="unit"><testcase name="adds" time="0.1"/></testsuite>')
local report = artifact.test_report("junit.xml")
assert(report.ok and report.tests == 1)
""",
        ),
    ),
)
