"""What a job may have goes by what its file was found to describe when it was checked, and not by what it says now."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec
import pytest

from schema.definition import PipelineDefinition, StageDefinition
from schema.events import LogEvent
from tests.attack import jobs
from tests.attack.jobs import ALLOWED_PIPELINE, ALPINE, Attacked, Runner

SYS_ADMIN = 21
SOURCE = f"""
return {{ name = "{ALLOWED_PIPELINE}", stages = {{ {{ name = "s", container = "{ALPINE}", privileged = true,
  script = function(job)
    log.info(job.pipeline)
    process.run({{ command = "grep", args = {{ "CapBnd", "/proc/self/status" }} }})
  end }} }} }}
"""


@pytest.fixture
async def runner() -> AsyncGenerator[Runner]:
    async with jobs.runner() as opened:
        yield opened


def may_do_all(job: Attacked) -> bool:
    [bound] = [int(text.split()[1], 16) for text in job.texts if text.startswith("CapBnd")]
    return bool(bound >> SYS_ADMIN & 1)


def warnings(job: Attacked) -> list[str]:
    return [event.text for event in job.events if isinstance(event, LogEvent) and event.level == "warn"]


async def test_a_file_that_describes_another_pipeline_when_it_runs_gets_no_more_by_it(runner: Runner) -> None:
    checked = PipelineDefinition(name="plain", stages=[StageDefinition(name="s", container=ALPINE)])
    job = await runner.run(SOURCE, definition=checked)
    assert job.final.state == "succeeded", job.outcome
    assert job.texts[0] == "plain"
    assert not may_do_all(job)
    [warning] = warnings(job)
    assert warning.startswith("attack.lua describes another pipeline now than when it was checked")


async def test_what_was_checked_counts_with_all_that_it_may(runner: Runner) -> None:
    job = await runner.run(SOURCE)
    assert job.final.state == "succeeded", job.outcome
    assert may_do_all(job), "so that the other test shows something"
    assert warnings(job) == []


def test_a_definition_that_was_stored_is_the_one_that_was_checked() -> None:
    # A runner compares what it loads with what came by JSON.
    stage = StageDefinition(name="s", container=ALPINE, timeout=1.5, needs=["t"], retries=1)
    checked = PipelineDefinition(name="p", stages=[stage], env={"A": "b"}, finally_=[stage])
    assert msgspec.json.decode(msgspec.json.encode(checked), type=PipelineDefinition) == checked
