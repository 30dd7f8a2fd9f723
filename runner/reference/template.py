"""``template``."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from runner.reference.description import Given, Module, function


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """As ``sandbox/lua/template.lua`` checks them."""

    escape: Literal["none", "html", "json", "shell"] = "none"
    """How values are written, so that they are text where they stand."""
    name: str = "template"
    """What the template is called in errors."""


MODULE: Final = Module(
    name="template",
    words="""Fills text with values, in the language of Mustache: `{{name}}` is a value, `{{#list}}...{{/list}}` comes
    once for each entry, `{{^list}}...{{/list}}` where there is nothing, `{{{name}}}` is a value as it is.""",
    functions=(
        function(
            "template.render",
            "Fills a template.",
            parameters=(
                Given("text", str, "the template, up to 1 MiB"),
                Given("values", dict[str, Any], "what its names stand for", required=False),
                Given("options", Options, "how", required=False),
            ),
            gives=str,
            errors=("template_invalid",),
            example="""
local page = template.render("Hello, {{name}}!{{#items}} {{.}}{{/items}}", { name = "moon", items = { 1, 2 } })
assert(page == "Hello, moon! 1 2")
local line = template.render("echo {{word}}", { word = "it's" }, { escape = "shell" })
process.run({ command = "sh", args = { "-c", line } })
""",
        ),
    ),
)
