"""What a pipeline says about its end: ``finally``, ``on_cancel``, their time, and the grace of its commands."""

from __future__ import annotations

import pytest

import plugins
from sandbox.parent import WarmParent
from schema.definition import PipelineDefinition, PipelineInvalid


async def load(fields: str) -> PipelineDefinition:
    source = f'return {{ name = "p",\n{fields},\nstages = {{ {{ name = "s", script = print }} }} }}'
    async with WarmParent.start() as parent, parent.fork() as sandbox:
        return await sandbox.load("p.lua", source, plugins.shipped())


async def test_stages_that_run_afterwards_are_read_like_others() -> None:
    read = await load(
        """on_cancel = { { name = "a", script = print, timeout = "5s" } },
        finally = { { name = "b", script = print, container = "x" }, { name = "c", script = print, retries = 1 } },
        finally_timeout = "90s", cancel_grace = "1m" """
    )
    assert [(stage.name, stage.timeout, stage.line) for stage in read.on_cancel] == [("a", 5.0, 2)]
    assert [(stage.name, stage.container, stage.retries) for stage in read.finally_] == [("b", "x", 0), ("c", None, 1)]
    assert (read.finally_timeout, read.cancel_grace) == (90.0, 60.0)


async def test_without_them_there_are_none() -> None:
    read = await load('description = "plain"')
    assert (read.on_cancel, read.finally_, read.finally_timeout, read.cancel_grace) == ([], [], None, None)
    assert (await load("finally = {}, cancel_grace = 0")).cancel_grace == 0.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("finally = 5", "p.lua:2: `finally` must be a list, got a number"),
        ('finally = { name = "x", script = print }', "p.lua:2: `finally` must be a list, got a table"),
        ("on_cancel = { 5 }", "p.lua:2: `on_cancel[1]` must be a table, got a number"),
        ('finally = { { name = "x" } }', "p.lua:2: stage `x` has no `script`"),
        ('finally = { { name = "s", script = print } }', "stage name `s` is used twice (first in line 3)"),
        ('finally = { { name = "x", script = print, needs = { "s" } } }', "it has no `needs`"),
        ("finally_timeout = 0", "p.lua:2: `finally_timeout` is no duration"),
        ("cancel_grace = '1h'", "p.lua:2: `cancel_grace` is at most 10 minutes, got `1h`"),
        ("cancel_grace = false", "p.lua:2: `cancel_grace` is no duration"),
        ("on_cancelled = {}", "did you mean `on_cancel`?"),
    ],
)
async def test_what_is_wrong_is_told_with_its_line(fields: str, message: str) -> None:
    with pytest.raises(PipelineInvalid) as raised:
        await load(fields)
    assert message in str(raised.value)
