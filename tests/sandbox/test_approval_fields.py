"""What a pipeline file says about approvals: read whole, and refused with its line."""

from __future__ import annotations

import pytest

from sandbox.parent import WarmParent
from schema.definition import APPROVAL_SECONDS, ApprovalDefinition, PipelineDefinition, PipelineInvalid


async def load(approval: str, where: str = "stages") -> PipelineDefinition:
    plain = '{ name = "t", script = function() end }'
    stage = f'{{ name = "s",\napproval = {approval}, script = function() end }}'
    source = f'return {{ name = "p", stages = {{ {plain} }}, {where} = {{ {stage} }} }}'
    async with WarmParent.start() as parent, parent.fork() as sandbox:
        return await sandbox.load("p.lua", source, {})


@pytest.mark.parametrize(
    ("approval", "expected"),
    [
        ("nil", None),
        ("false", None),
        ("true", ApprovalDefinition()),
        ("{}", ApprovalDefinition()),
        (
            '{ count = 2, message = "Ship?", timeout = "4h" }',
            ApprovalDefinition(count=2, message="Ship?", timeout=14400.0),
        ),
    ],
)
async def test_an_approval_is_read(approval: str, expected: ApprovalDefinition | None):
    definition = await load(approval)
    assert definition.stages[-1].approval == expected
    assert expected is None or expected.timeout in {APPROVAL_SECONDS, 14400.0}


@pytest.mark.parametrize(
    ("approval", "said"),
    [
        ('"yes"', "`approval` of stage `s` must be true or a table, got a string"),
        ("{ count = 0 }", "`count` of stage `s` must be a whole number from 1 to 10, got `0`"),
        ("{ count = 11 }", "`count` of stage `s` must be a whole number from 1 to 10, got `11`"),
        ("{ timeout = -1 }", "`timeout` is no duration"),
        ("{ message = 5 }", "`message` must be a string, got a number"),
        ('{ by = "ops" }', "`by` is no field of a stage's `approval`"),
    ],
)
async def test_what_is_no_approval_is_refused_with_its_line(approval: str, said: str):
    with pytest.raises(PipelineInvalid) as refused:
        await load(approval)
    [problem] = refused.value.problems
    assert said in problem.message
    assert problem.where == "p.lua:2"


@pytest.mark.parametrize("where", ["finally", "on_cancel"])
async def test_what_runs_after_the_others_waits_for_nobody(where: str):
    with pytest.raises(PipelineInvalid) as refused:
        await load("true", where)
    assert "approval" in refused.value.problems[0].message
