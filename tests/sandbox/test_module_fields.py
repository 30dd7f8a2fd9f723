"""``env`` and ``artifact_readers`` of a pipeline."""

from __future__ import annotations

import pytest

from schema.definition import PipelineInvalid
from tests.sandbox.conftest import loaded


def source(fields: str) -> str:
    return f'return {{\nname = "p",\n{fields},\nstages = {{ {{ name = "s", script = function() end }} }} }}'


async def test_they_are_read() -> None:
    async with loaded(source('env = { LEVEL = 3, MODE = "fast" }, artifact_readers = { "deploy", "a", "a" }')) as made:
        assert made.definition.env == {"LEVEL": "3", "MODE": "fast"}
        assert made.definition.artifact_readers == ["a", "deploy"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("env = 1", "`env` of the pipeline must be a table of texts by name, got a number"),
        ('env = { ["A=B"] = "x" }', "`A=B` cannot be a variable's name in `env` of the pipeline"),
        ("env = { A = true }", "`A` in `env` of the pipeline must be a string or a number, got a boolean"),
        (
            'artifact_readers = "deploy"',
            "`artifact_readers` must be a list of up to 100 pipelines' names, got a string",
        ),
        ('artifact_readers = { "*" }', "`artifact_readers[1]` must be a pipeline's name, got `*`"),
    ],
)
async def test_what_is_wrong_with_them_is_told_with_its_line(fields: str, message: str) -> None:
    with pytest.raises(PipelineInvalid) as raised:
        async with loaded(source(fields)):
            pass
    [problem] = raised.value.problems
    assert message in problem.message
    assert problem.where == "try.lua:3"
