"""``template``: Mustache, with values that have to be there."""

from __future__ import annotations

import pytest

from tests.sandbox.conftest import failure_of, run_script

# What the specification's own tests ask for (github.com/mustache/spec), as far as it is the same here.
RENDERED = [
    ("Hello, {{subject}}!", '{ subject = "world" }', "Hello, world!"),
    ("{{ n }}|{{{n}}}|{{&n}}|{{b}}", "{ n = 1.5, b = false }", "1.5|1.5|1.5|false"),
    ("{{a.b.c}}", '{ a = { b = { c = "deep" } } }', "deep"),
    ("{{l.2}}", '{ l = { "one", "two" } }', "two"),
    ("{{#a}}{{b.c}}{{/a}}", "{ a = { b = { c = 1 } }, b = { c = 2 } }", "1"),
    ("{{#l}}{{.}},{{/l}}", '{ l = { 1, 2, "c" } }', "1,2,c,"),
    ("{{#l}}{{n}}{{top}} {{/l}}", '{ top = "!", l = { { n = 1 }, { n = 2 } } }', "1! 2! "),
    ("{{#a}}yes{{/a}}{{^a}}no{{/a}}", "{ a = true }", "yes"),
    ("{{#a}}yes{{/a}}{{^a}}no{{/a}}", "{ a = false }", "no"),
    ("{{#a}}yes{{/a}}{{^a}}no{{/a}}", "{}", "no"),
    ("{{#a}}yes{{/a}}{{^a}}no{{/a}}", "{ a = {} }", "no"),
    ("{{#a}}yes{{/a}}{{^a}}no{{/a}}", "{ a = json.null }", "no"),
    ("{{#a}}{{.}}{{/a}}", '{ a = "text" }', "text"),
    ("| This Is\\n{{#b}}\\n|\\n{{/b}}\\n| A Line", "{ b = true }", "| This Is\n|\n| A Line"),
    ("a\\r\\n  {{! words }}  \\r\\nb", "{}", "a\r\nb"),
    ("x {{! in a line }} y", "{}", "x  y"),
    ("{{#b}}\\n/\\n  {{/b}}", "{ b = true }", "/\n"),
    ("{{^b}} one {{/b}} two", "{ b = false }", " one  two"),
    ("}} { {x} {", "{}", "}} { {x} {"),
]


async def test_templates_are_filled_as_the_specification_says() -> None:
    host = await run_script(
        "\n".join(f'log.info(json ~= nil, template.render("{text}", {values}) .. "<")' for text, values, _ in RENDERED)
    )
    told = [line.removeprefix("true ").removesuffix("<") for line in host.lines]
    assert told == [expected for _, _, expected in RENDERED]


async def test_values_are_escaped_as_it_is_asked_for() -> None:
    host = await run_script("""
    local values = { v = [[a'b"<&>\\]] .. "\\n" }
    for _, escape in ipairs({ "none", "html", "json", "shell" }) do
      log.info(template.render("{{v}}|{{{v}}}", values, { escape = escape }) == "x" or
        (template.render("{{v}}", values, { escape = escape }):gsub("\\n", "~")))
    end
    """)
    assert host.lines == [
        "a'b\"<&>\\~",
        "a&#39;b&quot;&lt;&amp;&gt;\\~",
        "a'b\\\"<&>\\\\\\u000a",
        "'a'\\''b\"<&>\\~'",
    ]


EXPLOSION = """
local list = {} for index = 1, 1000 do list[index] = index end
template.render(("{{#l}}"):rep(3) .. "xxxxxxxx" .. ("{{/l}}"):rep(3), { l = list })
"""


@pytest.mark.parametrize(
    ("call", "code", "message"),
    [
        ('template.render("a\\n{{b}}", {})', "template_value_missing", "template:2: there is no value `b`"),
        ('template.render("{{b}}", { b = json.null })', "template_value_missing", "there is no value `b`"),
        ('template.render("{{a.b}}", { a = {} }, { name = "x.conf" })', "template_value_missing", "x.conf:1:"),
        ('template.render("{{b}}", { b = {} })', "template_invalid", "`b` is a table, and texts, numbers and booleans"),
        ('template.render("{{b}}", { b = print })', "template_invalid", "`b` is a function"),
        ('template.render("{{b}}", { b = setmetatable({}, {}) })', "template_invalid", "`b` is no plain value"),
        ('template.render("{{b}}", { b = secret.get("x") })', "template_invalid", "`b` is no plain value"),
        ('template.render("{{#a}}", {})', "template_invalid", "section `a` has no `{{/a}}`"),
        ('template.render("{{#a}}{{/b}}", {})', "template_invalid", "ends a section that is not open: `a` is"),
        ('template.render("{{/b}}", {})', "template_invalid", "ends a section that is not open"),
        ('template.render("x {{b", {})', "template_invalid", "`{{` has no `}}`"),
        ('template.render("{{> b}}", {})', "template_invalid", "is no name of a value"),
        ('template.render("{{a b}}", {})', "template_invalid", "is no name of a value"),
        ("template.render(1)", "argument_invalid", "`text` must be a string, got a number"),
        ('template.render("", 1)', "argument_invalid", "`values` must be a table with names, got a number"),
        ('template.render("", {}, { escape = "xml" })', "argument_invalid", "`escape` must be one of"),
        ('template.render("", {}, { loud = 1 })', "argument_invalid", "`loud` is not an argument"),
        (
            EXPLOSION,
            "template_invalid",
            "the result is larger than 16 MiB",
        ),
        (
            'template.render(("{{#a}}"):rep(60) .. ("{{/a}}"):rep(60), { a = true })',
            "template_invalid",
            "sections stand in each other more than 49 deep",
        ),
    ],
)
async def test_what_cannot_be_filled_is_told_with_its_line(call: str, code: str, message: str) -> None:
    error = await failure_of(call)
    assert error.code == code
    assert message in error.message
