"""``log``."""

from __future__ import annotations

from typing import Any, Final

from runner.reference.description import Given, Module, function
from runner.reference.lua_types import ANY, Callback

MODULE: Final = Module(
    name="log",
    words="""Writes lines to the job's log. `print` is `log.info`.""",
    functions=(
        function(
            "log.info",
            """Writes a line at its level. Several values are joined by spaces. Debug lines are kept, and shown by
            `-v`.""",
            parameters=(
                Given(
                    "...",
                    Any,
                    """any values; what is no string is written by `tostring`. A table behind the others holds fields of
                    the line, by name""",
                    required=False,
                ),
            ),
            alike=("log.debug", "log.warn", "log.error"),
            example="""
log.info("built", 3, "files", { target = "release", seconds = 1.5 })
log.debug("only for those who ask")
log.warn("this is old")
log.error("this is wrong")
""",
        ),
        function(
            "log.group",
            "Calls a function, and shows the lines that come meanwhile as a group. Groups may stand in each other.",
            parameters=(
                Given("name", str, "what the group is called, up to 200 characters on one line"),
                Given("body", Callback(gives=ANY), "what is called"),
                Given("...", Any, "what it is given", required=False),
            ),
            gives=Any,
            gives_words="what the function gave",
            example="""
local count = log.group("compile", function()
  log.info("compiling")
  return 3
end)
assert(count == 3)
""",
        ),
    ),
)
