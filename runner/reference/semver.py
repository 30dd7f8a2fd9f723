"""``semver``."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from runner.reference.description import Given, Module, function
from runner.reference.lua_types import NIL, STRING, Either


class Version(msgspec.Struct, frozen=True, kw_only=True):
    major: int
    """The first number."""
    minor: int
    """The second."""
    patch: int
    """The third."""
    prerelease: str | None
    """What stands behind `-`, such as `rc.1`."""
    build: str | None
    """What stands behind `+`."""
    text: str
    """All of it, without a `v` before it; also what `tostring` gives."""


_VERSION: Final = Given("version", str, "such as `1.4.2`, `v2.0.0-rc.1`")
_RANGE_WORDS: Final = "as npm writes them: `^1.4`, `>=1.2 <2`, `1.x || 3.x`"

MODULE: Final = Module(
    name="semver",
    words="""Versions as Semantic Versioning 2.0.0 has them, and ranges of them. It asks the runner for nothing, so it
    works everywhere, also at the file's top level.""",
    functions=(
        function(
            "semver.valid",
            "Tells whether a text is a version.",
            parameters=(Given("text", Any, "anything"),),
            gives=bool,
            example="""
assert(semver.valid("1.4.2") and not semver.valid("1.4"))
""",
        ),
        function(
            "semver.parse",
            "Takes a version apart.",
            parameters=(_VERSION,),
            gives=Version,
            example="""
local version = semver.parse("v2.0.0-rc.1")
assert(version.major == 2 and version.prerelease == "rc.1" and tostring(version) == "2.0.0-rc.1")
""",
        ),
        function(
            "semver.compare",
            "Tells which of two versions comes first.",
            parameters=(Given("left", str, "a version"), Given("right", str, "another")),
            gives=int,
            gives_words="-1, 0 or 1",
            example="""
assert(semver.compare("1.9.0", "1.10.0") == -1)
""",
        ),
        function(
            "semver.satisfies",
            "Tells whether a version is within a range.",
            parameters=(_VERSION, Given("range", str, _RANGE_WORDS)),
            gives=bool,
            example="""
assert(semver.satisfies("1.5.0", "^1.4") and not semver.satisfies("2.0.0-rc.1", ">=1"))
""",
        ),
        function(
            "semver.bump",
            "Gives the version that comes next.",
            parameters=(
                _VERSION,
                Given("part", Literal["major", "minor", "patch", "prerelease"], "what changes"),
                Given("identifier", str, "of a prerelease; by default `rc`", required=False),
            ),
            gives=str,
            example="""
assert(semver.bump("1.4.2", "minor") == "1.5.0")
assert(semver.bump("1.4.2", "prerelease") == "1.4.3-rc.1")
""",
        ),
        function(
            "semver.sort",
            "Puts versions in order, the oldest first.",
            parameters=(Given("versions", list[str], "up to 10,000"),),
            gives=list[str],
            gives_words="a new list",
            example="""
assert(semver.sort({ "1.10.0", "1.9.0" })[1] == "1.9.0")
""",
        ),
        function(
            "semver.max",
            "Gives the newest version, or the newest within a range.",
            parameters=(
                Given("versions", list[str], "up to 10,000"),
                Given("range", str, _RANGE_WORDS, required=False),
            ),
            gives=Either((STRING, NIL)),
            gives_words="the version, or nil where none is within the range",
            example="""
assert(semver.max({ "1.4.2", "2.1.0", "1.9.0" }, "1.x") == "1.9.0")
""",
        ),
    ),
)
