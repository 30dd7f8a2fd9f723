"""What a pipeline says about the order of its stages: ``needs``, ``matrix``, ``when``, ``allow_failure``, ..."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

import plugins
from sandbox.parent import WarmParent
from schema.definition import PipelineDefinition, PipelineInvalid


@pytest.fixture(scope="module")
async def warm() -> AsyncGenerator[WarmParent]:
    async with WarmParent.start() as parent:
        yield parent


async def load(parent: WarmParent, stages: str, fields: str = "") -> PipelineDefinition:
    async with parent.fork() as sandbox:
        source = f'return {{ name = "p", {fields}\nstages = {{\n{stages}\n}} }}'
        return await sandbox.load("p.lua", source, plugins.shipped())


async def problems(parent: WarmParent, stages: str, fields: str = "") -> list[str]:
    with pytest.raises(PipelineInvalid) as raised:
        await load(parent, stages, fields)
    return [f"{problem.where}: {problem.message}" for problem in raised.value.problems]


async def test_without_any_of_it_stages_wait_for_all_before_them_and_the_first_failure_ends_them(warm: WarmParent):
    read = await load(warm, '{ name = "a", script = print },')
    assert (read.parallel, read.fail_fast) == (None, True)
    [stage] = read.stages
    assert (stage.needs, stage.of, stage.matrix) == (None, None, None)
    assert (stage.when, stage.allow_failure, stage.name_in_file) == ("on_success", False, "a")


async def test_what_stages_wait_for_and_when_they_run_is_read(warm: WarmParent):
    read = await load(
        warm,
        """{ name = "a", needs = {}, script = print, allow_failure = true },
        { name = "b", needs = { "a" }, script = print, when = "always" },
        { name = "c", script = print, when = "on_failure" },
        { name = "d", script = print, when = function(job) return job.inputs.x end },
        { name = "e", script = print, when = "on_success" },""",
        "parallel = 3, fail_fast = false,",
    )
    assert (read.parallel, read.fail_fast) == (3, False)
    assert [(stage.needs, stage.when, stage.allow_failure) for stage in read.stages] == [
        ([], "on_success", True),
        (["a"], "always", False),
        (None, "on_failure", False),
        (None, "function", False),
        (None, "on_success", False),
    ]


async def test_a_matrix_makes_a_stage_of_each_combination_in_the_order_of_the_file(warm: WarmParent):
    read = await load(
        warm,
        """{ name = "pack", needs = { "test" }, script = print },
        { name = "test", script = print, container = "docker.io/library/${os}:${version}", timeout = 5,
          matrix = { version = { 1, 2.5 }, os = { "debian", "alpine" }, fast = { true } } },
        { name = "one", needs = { "test (version=1, os=alpine, fast=true)" }, script = print },""",
    )
    assert [stage.name for stage in read.stages] == [
        "test (version=1, os=debian, fast=true)",
        "test (version=1, os=alpine, fast=true)",
        "test (version=2.5, os=debian, fast=true)",
        "test (version=2.5, os=alpine, fast=true)",
        "pack",
        "one",
    ]
    last = read.stages[3]
    assert last.matrix == {"version": 2.5, "os": "alpine", "fast": True}
    assert (last.of, last.name_in_file, last.timeout, last.line) == ("test", "test", 5.0, 4)
    assert last.container == "docker.io/library/alpine:2.5"


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("matrix = {}", "`matrix` of stage `s` must be a table of lists by name, got an empty one"),
        ('matrix = { { "a" } }', "`matrix` of stage `s` must be a table of lists by name, got a list"),
        ('matrix = { os = "debian" }', "`os` in the `matrix` of stage `s` must be a list of values, got a string"),
        ("matrix = { os = {} }", "`os` in the `matrix` of stage `s` must be a list of values, got an empty one"),
        ("matrix = { os = { {} } }", "`os` in the `matrix` of stage `s` holds a table"),
        ('matrix = { os = { "a", "a" } }', "`os` in the `matrix` of stage `s` holds `a` twice"),
        ('matrix = { os = { 1, "1" } }', "`os` in the `matrix` of stage `s` holds `1` twice"),
        ('matrix = { os = { "a=b" } }', "which cannot stand in a stage's name"),
        ('matrix = { os = { "" } }', "which cannot stand in a stage's name"),
        ('matrix = { os = { ("x"):rep(51) } }', "which cannot stand in a stage's name"),
        ('matrix = { os = { "\\n" } }', "which cannot stand in a stage's name"),
        ('matrix = { os = { "\\xff" } }', "`os` in the `matrix` of stage `s` holds a string"),
        ('matrix = { ["a b"] = { 1 } }', "`a b` in the `matrix` of stage `s` cannot be a name"),
        (
            "matrix = { a = { 1,2,3,4,5,6,7 }, b = { 1,2,3,4,5,6,7 }, c = { 1,2,3,4,5,6,7 } }",
            "`matrix` of stage `s` has 343 combinations, and at most 256 are taken",
        ),
        (
            "matrix = { " + "".join(f'{axis} = {{ ("x"):rep(50) }}, ' for axis in "abcde") + "}",
            "makes a stage's name of 272 characters, and at most 250 are taken",
        ),
        ('container = "image:${v}"', "`container` of stage `s` holds `${v}`, and its `matrix` has no values"),
        (
            'matrix = { v = { 1 } }, container = "${v}:${w}"',
            "`container` of stage `s` holds `${w}`, and its `matrix` has no values",
        ),
        (
            'when = "sometimes"',
            '`when` of stage `s` must be one of "on_success", "on_failure", "always", or a function',
        ),
        ("when = true", '`when` of stage `s` must be one of "on_success", "on_failure", "always", or a function'),
        ('allow_failure = "yes"', "`allow_failure` of stage `s` must be true or false, got `yes`"),
        ('needs = { "s" }', "stages need each other in a circle: `s` needs `s`"),
        ('needs = { "t (v=1)" }', "stage `s` needs `t (v=1)`, and there is no such stage"),
    ],
)
async def test_what_makes_no_sense_in_a_stage_is_told_with_its_line(warm: WarmParent, stage: str, message: str):
    told = await problems(warm, f'{{ name = "s", script = print,\n{stage} }},')
    assert len(told) == 1, told
    assert message in told[0]
    assert told[0].startswith(("p.lua:3: ", "p.lua:4: "))


async def test_all_that_makes_no_sense_is_told_at_once(warm: WarmParent):
    told = await problems(
        warm,
        """{ name = "a", script = print,
          when = 5, allow_failure = 1 },
        { name = "b", script = print,
          matrix = { v = 5, w = 6 } }, """,
        "parallel = 0, fail_fast = 1,",
    )
    assert told == [
        "p.lua:1: `parallel` of the pipeline must be a whole number from 1 to 64, got `0`",
        "p.lua:1: `fail_fast` of the pipeline must be true or false, got `1`",
        'p.lua:4: `when` of stage `a` must be one of "on_success", "on_failure", "always", or a function, got `5`',
        "p.lua:4: `allow_failure` of stage `a` must be true or false, got `1`",
        "p.lua:6: `v` in the `matrix` of stage `b` must be a list of values, got a number",
        "p.lua:6: `w` in the `matrix` of stage `b` must be a list of values, got a number",
    ]


async def test_too_many_stages_with_their_combinations_are_refused(warm: WarmParent):
    stage = "matrix = { a = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, b = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 } }, script = print"
    told = await problems(warm, "\n".join(f'{{ name = "s{number}", {stage} }},' for number in range(6)))
    assert told == ["p.lua:2: a pipeline has at most 500 stages, each combination of a `matrix` counted, got 600"]


async def test_stages_that_run_after_the_others_have_none_of_it(warm: WarmParent):
    told = await problems(
        warm,
        '{ name = "s", script = print }',
        'finally = { { name = "f", script = print, when = "always", matrix = { v = { 1 } }, allow_failure = true } },',
    )
    assert len(told) == 3
    assert all("it has no `" in message for message in told)
