"""``container``."""

from __future__ import annotations

from typing import Any, Final

from runner.modules.container import RunOptions
from runner.reference.description import Given, Module, function
from runner.reference.lua_types import ANY, Callback

MODULE: Final = Module(
    name="container",
    words="Chooses the container that commands run in.",
    functions=(
        function(
            "container.run",
            """Makes a container, calls a function, removes the container, and gives what the function gave. Commands
            that run meanwhile run in it. Blocks may stand in each other: a command runs in the innermost.""",
            parameters=(
                Given("image", str, "the image"),
                Given("options", RunOptions, "how it is made", required=False),
                Given("body", Callback(gives=ANY), "what is called"),
            ),
            short=("image", "body"),
            gives=Any,
            gives_words="what the function gave",
            errors=("image_not_found", "image_refused", "rights_refused", "container_start_failed", "container_closed"),
            example="""
local version = container.run("docker.io/library/alpine:latest", { network = "none", memory = "256m" }, function()
  return process.run({ command = "cat", args = { "/etc/os-release" }, stdout = "off" }).stdout:match("ID=([^\\n]+)")
end)
log.info("the block was in a container of " .. version)
""",
        ),
    ),
)
