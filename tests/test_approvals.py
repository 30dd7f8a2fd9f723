"""A stage that waits for a yes, the whole way: a file that says so, a real runner that waits, people who answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from runner.engine.settings import EngineSettings
from schema.approvals import Approval, ApprovalAnswer, ApprovalList, Protection, ProtectionCreate
from schema.client import Client
from schema.errors import chain
from schema.events import LogEvent
from schema.wire import Job, JobSubmit, PipelinePush, PipelineVersion
from tests.orchestrator.installation import installation as opened
from tests.orchestrator.people import account
from tests.postgres import Cluster
from tests.shells.conftest import Debugged

SOURCE = """
local said = {}
return { name = "deploy", stages = {
  { name = "build", script = function() said[#said + 1] = "built" end },
  { name = "ship", APPROVAL script = function() log.info("shipped after " .. said[1]) end },
} }
"""


class Waiting(Debugged):
    """An installation with a runner, and people: ada submits, eve may approve."""

    async def start(self) -> None:
        await super().start()
        self.ada = await account(self.installation, "ada", ("developer", "*"))
        self.eve = await account(self.installation, "eve", ("maintainer", "*"))

    async def begin(self, approval: str = 'approval = { message = "Now?" },') -> Job:
        pushed = PipelinePush(filename="deploy.lua", source=SOURCE.replace("APPROVAL", approval))
        await self.admin.post("/v1/pipelines", PipelineVersion, pushed)
        return await self.ada.post("/v1/jobs", Job, JobSubmit(pipeline="deploy"))

    async def until_asked(self, job: Job) -> Approval:
        """Wait until a stage of the job waits for an answer."""
        await self.log_until(job, " waits for ")
        [found] = (await self.admin.get(f"/v1/jobs/{job.id}/approvals", ApprovalList)).approvals
        return found

    async def said(self, job: Job) -> list[str]:
        return [event.text async for event in self.events(job) if isinstance(event, LogEvent)]

    async def answer(self, who: Client, job: Job, *, is_yes: bool, comment: str) -> None:
        await who.post(f"/v1/jobs/{job.id}/approvals", Approval, ApprovalAnswer(is_yes=is_yes, comment=comment))

    async def end(self, job: Job) -> Job:
        await self.ended(job)
        return await self.admin.get(f"/v1/jobs/{job.id}", Job)


@pytest.fixture(scope="module")
async def waiting(
    postgres_cluster: Cluster, engine_settings: EngineSettings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Waiting]:
    url = postgres_cluster.create_migrated()
    async with opened(url) as installation:
        made = Waiting(installation, engine_settings, tmp_path_factory.mktemp("waiting"))
        await made.start()
        async with made.runner():
            yield made
    postgres_cluster.drop(url)


async def test_a_yes_lets_the_stage_begin_with_all_that_lua_knew(waiting: Waiting):
    job = await waiting.begin()
    asked = await waiting.until_asked(job)
    assert (asked.stage, asked.message) == ("ship", "Now?")
    await waiting.answer(waiting.eve, job, is_yes=True, comment="go")
    done = await waiting.end(job)
    assert done.state == "succeeded"
    waited, approved, shipped = await waiting.said(job)
    assert waited.startswith("stage `ship` waits for an approval until ")
    assert waited.endswith(f": Now? (moonyard approve {job.number})")
    assert approved == "stage `ship` was approved by account eve (go)"
    assert shipped == "shipped after built"


async def test_a_no_fails_the_stage_and_says_who_and_why(waiting: Waiting):
    job = await waiting.begin()
    await waiting.until_asked(job)
    await waiting.answer(waiting.eve, job, is_yes=False, comment="not on a Friday")
    done = await waiting.end(job)
    assert done.state == "failed"
    assert done.error is not None
    causes = chain(done.error)
    assert [cause.code for cause in causes] == ["stage_failed", "approval_refused"]
    assert causes[-1].message == "stage `ship` was refused by account eve: not on a Friday"


async def test_a_cancel_ends_the_waiting(waiting: Waiting):
    job = await waiting.begin()
    await waiting.until_asked(job)
    await waiting.ada.post(f"/v1/jobs/{job.id}/cancel", Job)
    done = await waiting.end(job)
    assert done.state == "cancelled"
    assert {stage.name: stage.state for stage in done.stages or []} == {"build": "succeeded", "ship": "skipped"}
    assert (await waiting.eve.get("/v1/approvals", ApprovalList)).approvals == []


async def test_a_protection_makes_a_stage_wait_that_says_nothing_of_it(waiting: Waiting):
    made = await waiting.eve.post("/v1/protections", Protection, ProtectionCreate(pipelines="dep*", stages="ship"))
    for replica in waiting.installation.replicas:  # each does so every two seconds
        await replica.parts.protections.look()
    job = await waiting.begin("")
    asked = await waiting.until_asked(job)
    assert (asked.stage, asked.needed) == ("ship", 1)
    await waiting.answer(waiting.eve, job, is_yes=True, comment="go")
    assert (await waiting.end(job)).state == "succeeded"
    await waiting.eve.delete(f"/v1/protections/{made.id}", Protection)
    assert (await waiting.end(await waiting.begin(""))).state == "succeeded"
