"""``process``."""

from __future__ import annotations

from typing import Final

import msgspec

from runner.modules.process import RunArguments
from runner.reference.description import Module, function


class Result(msgspec.Struct, frozen=True, kw_only=True):
    code: int
    """The exit code."""
    ok: bool
    """Whether it is 0."""
    signal: str | None
    """What killed it, such as `"SIGKILL"`."""
    stdout: str
    """The output, byte by byte, up to `capture`."""
    stderr: str
    """What it wrote to stderr, in the same way."""
    duration: float
    """How many seconds it took."""


MODULE: Final = Module(
    name="process",
    words="Runs commands in containers.",
    functions=(
        function(
            "process.run",
            """Runs one command in the container that the caller is in, and gives its result. No shell reads the
            command.""",
            arguments=RunArguments,
            gives=Result,
            errors=(
                "command_failed",
                "command_timeout",
                "command_not_found",
                "command_not_executable",
                "cwd_not_found",
                "user_not_found",
                "secret_not_granted",
            ),
            example="""
local r = process.run({ command = "grep", args = { "-c", "moon" }, stdin = "moon\\nsun\\nmoon\\n", stdout = "off" })
log.info("found " .. r.stdout:match("%d+") .. " lines in " .. r.duration .. " s")

local found = process.run({ command = "test", args = { "-e", "no-such-file" }, check = false })
if not found.ok then
  process.run({ command = "sh", args = { "-c", "echo made by $WHO > file" }, env = { WHO = "an example" } })
end
""",
        ),
    ),
)
