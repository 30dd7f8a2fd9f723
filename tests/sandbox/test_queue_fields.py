"""What a pipeline file says about queueing: read whole, and refused with its line."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from sandbox.parent import WarmParent
from schema.definition import Concurrency, PipelineDefinition, PipelineInvalid


@pytest.fixture
async def warm() -> AsyncGenerator[WarmParent]:
    async with WarmParent.start() as parent:
        yield parent


async def load(parent: WarmParent, fields: str, stage: str = "") -> PipelineDefinition:
    source = (
        'return {\nname = "p",\ninputs = { ref = { type = "string", default = "main" } },\n'
        f'{fields}\nstages = {{ {{ name = "s", script = function() end, {stage} }} }} }}'
    )
    async with parent.fork() as sandbox:
        return await sandbox.load("p.lua", source, {})


async def test_all_fields_of_the_queue_are_read(warm: WarmParent):
    definition = await load(
        warm,
        """
        priority = -5, queue_timeout = "10m", tags = { "linux", "gpu", "gpu" },
        retries = { times = 3, delay = "10s", backoff = "exponential" },
        concurrency = { group = "deploy-${ref}", limit = 2, cancel_running = true },
        """,
        "retries = { times = 1, delay = 0.5 }",
    )
    assert (definition.priority, definition.queue_timeout, definition.tags) == (-5, 600.0, ["gpu", "linux"])
    assert (definition.retries, definition.retry_delay, definition.retry_backoff) == (3, 10.0, "exponential")
    assert definition.concurrency == Concurrency(group="deploy-${ref}", limit=2, cancel_running=True)
    [stage] = definition.stages
    assert (stage.retries, stage.retry_delay, stage.retry_backoff) == (1, 0.5, "constant")


async def test_plain_numbers_do_for_retries_and_concurrency(warm: WarmParent):
    definition = await load(warm, "retries = 2, concurrency = 4,", "retries = 1")
    assert (definition.retries, definition.retry_delay, definition.stages[0].retries) == (2, 0.0, 1)
    assert definition.concurrency == Concurrency(group=None, limit=4, cancel_running=False)


async def test_a_pipeline_that_says_nothing_has_no_rules(warm: WarmParent):
    definition = await load(warm, "")
    assert (definition.priority, definition.queue_timeout, definition.retries) == (0, None, 0)
    assert (definition.tags, definition.concurrency) == ([], None)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("priority = 101", "`priority` of the pipeline must be a whole number from -100 to 100, got `101`"),
        ('priority = "high"', "got `high`"),
        ("priority = 1.5", "got `1.5`"),
        ("queue_timeout = 0", "`queue_timeout` is no duration"),
        ("retries = -1", "`retries` of the pipeline must be a whole number from 0 to 100, got `-1`"),
        ("retries = {}", "`times` of the pipeline must be a whole number from 0 to 100, got nil"),
        ("retries = { times = 1, delay = -1 }", "`delay` is no duration"),
        ('retries = { times = 1, backoff = "linear" }', '`backoff` of the pipeline must be one of "constant"'),
        ("retries = { time = 1 }", "did you mean `times`?"),
        ('tags = "gpu"', "`tags` must be a list"),
        ('tags = { "GPU" }', "`tags[1]` must be up to 50 lower-case letters"),
        ("concurrency = 0", "`concurrency` of the pipeline must be a whole number from 1 to 10000, got `0`"),
        ("concurrency = { limit = 0 }", "`limit` of `concurrency` must be a whole number from 1"),
        ("concurrency = { group = 5 }", "`group` must be a name of up to 200 printable characters, got a number"),
        ('concurrency = { group = "" }', "`group` must be a name"),
        ('concurrency = { group = ("x"):rep(10000) }', "`group` must be a name of up to 200"),
        ('concurrency = { group = "d-${reff}" }', "there is none of that name; did you mean `ref`?"),
        ('concurrency = { cancel_running = "yes" }', "`cancel_running` of `concurrency` must be true or false"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_its_line(warm: WarmParent, field: str, said: str):
    with pytest.raises(PipelineInvalid) as refused:
        await load(warm, f"{field},")
    assert any(said in problem.message for problem in refused.value.problems), refused.value.problems
    assert refused.value.problems[0].where == "p.lua:4"
