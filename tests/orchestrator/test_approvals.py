from __future__ import annotations

import anyio
import msgspec
import psycopg
import pytest

from schema.approvals import (
    Approval,
    ApprovalAnswer,
    ApprovalAnswered,
    ApprovalAsk,
    ApprovalList,
    Protection,
    ProtectionCreate,
    ProtectionList,
)
from schema.client import Client, OrchestratorRefused
from schema.definition import ApprovalDefinition, PipelineDefinition, StageDefinition
from schema.hooks import Hook, HookCreate, HookRotate
from schema.secrets import Grant, GrantCreate, Secret, SecretAsk, SecretDelivery, SecretSet
from schema.wire import Assignment, Job, JobSubmit, Schedule, ScheduleCreate
from tests.orchestrator.installation import DEADLINE_SECONDS, Attempt, Installation, SpokenRunner
from tests.orchestrator.people import account
from tests.orchestrator.test_secrets import KEYS

GUARDED = PipelineDefinition(
    name="deploy",
    stages=[
        StageDefinition(name="build"),
        StageDefinition(name="ship", approval=ApprovalDefinition(message="To production?")),
    ],
)


class Guarded:
    """A job of a pipeline with a stage that waits, submitted by ada; eve may approve, and so may bob."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation

    async def begin(self, definition: PipelineDefinition = GUARDED) -> None:
        await self.installation.replica(secret_keys=KEYS, lease_seconds=60.0)
        await self.installation.push(definition)
        self.ada, self.eve, self.bob, self.viewer = (
            await account(self.installation, "ada", ("operator", "*")),
            await account(self.installation, "eve", ("operator", "dep*")),
            await account(self.installation, "bob", ("maintainer", "deploy")),
            await account(self.installation, "vic", ("viewer", "deploy")),
        )
        self.job = await self.ada.post("/v1/jobs", Job, JobSubmit(pipeline="deploy"))
        self.runner = await self.installation.runner()
        await self.claim()

    async def claim(self) -> Assignment:
        [self.assignment] = await self.runner.claim()
        return self.assignment

    async def ask(self, stage: str = "ship", wait: float = 0.0, runner: SpokenRunner | None = None) -> ApprovalAnswered:
        path = f"/v1/runner/jobs/{self.assignment.job}/{self.assignment.attempt}/approval"
        return await (runner or self.runner).client.post(path, ApprovalAnswered, ApprovalAsk(stage=stage, wait=wait))

    async def answer(self, who: Client, *, is_yes: bool = True, **fields: str) -> Approval:
        message = ApprovalAnswer(is_yes=is_yes, **fields)
        return await who.post(f"/v1/jobs/{self.job.number}/approvals", Approval, message)


@pytest.fixture
async def guarded(installation: Installation) -> Guarded:
    return Guarded(installation)


async def refused(work: object) -> OrchestratorRefused:
    with pytest.raises(OrchestratorRefused) as raised:
        await work  # pyright: ignore[reportGeneralTypeIssues]
    return raised.value


async def test_a_stage_waits_until_somebody_else_says_yes(guarded: Guarded):
    await guarded.begin()
    assert not (await guarded.ask("build")).is_needed
    waiting = (await guarded.ask()).approval
    assert waiting is not None
    assert (waiting.state, waiting.is_over, waiting.message, waiting.needed) == ("waiting", False, "To production?", 1)
    shown = await guarded.viewer.get(f"/v1/jobs/{guarded.job.number}", Job)
    assert shown.waits_for == f"an approval of stage `ship`: moonyard approve {guarded.job.number}"
    listed = await guarded.viewer.get("/v1/approvals", ApprovalList)
    assert [(row.job, row.stage) for row in listed.approvals] == [(guarded.job.number, "ship")]
    own = await refused(guarded.answer(guarded.ada))
    assert (own.code, own.status) == ("approval_own", 409)
    assert (await refused(guarded.answer(guarded.viewer))).code == "permission_missing"
    outcomes: list[ApprovalAnswered] = []

    async def ask() -> None:
        outcomes.append(await guarded.ask(wait=20.0))

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            assert (await guarded.answer(guarded.eve, comment="looks good")).state == "approved"
    approval = outcomes[0].approval
    assert approval is not None
    assert (approval.state, approval.is_over) == ("approved", True)
    assert [(given.who, given.is_yes, given.comment) for given in approval.answers] == [
        ("account eve", True, "looks good")
    ]
    assert (await refused(guarded.answer(guarded.bob, stage="ship"))).code == "approval_over"
    assert (await guarded.viewer.get(f"/v1/jobs/{guarded.job.number}", Job)).waits_for is None
    noted = await guarded.installation.fetch("SELECT actor, subject FROM moonyard.audit WHERE action = 'approve'")
    assert [(row["actor"], row["subject"]) for row in noted] == [("account eve", f"job {guarded.job.number}")]


async def test_a_no_ends_the_waiting(guarded: Guarded):
    await guarded.begin()
    await guarded.ask()
    assert (await guarded.answer(guarded.eve, is_yes=False, comment="not on a Friday")).state == "refused"
    approval = (await guarded.ask(wait=20.0)).approval
    assert approval is not None
    assert (approval.state, approval.is_over) == ("refused", True)


async def test_two_approvals_are_of_two_people(guarded: Guarded):
    stages = [StageDefinition(name="ship", approval=ApprovalDefinition(count=2))]
    await guarded.begin(PipelineDefinition(name="deploy", stages=stages))
    await guarded.ask()
    assert (await guarded.answer(guarded.eve)).state == "waiting"
    assert (await guarded.answer(guarded.eve)).state == "waiting"
    assert (await guarded.answer(guarded.bob)).state == "approved"


async def test_a_protection_holds_whatever_the_file_says(guarded: Guarded):
    plain = PipelineDefinition(name="deploy", stages=[StageDefinition(name="ship")])
    await guarded.begin(plain)
    assert not guarded.assignment.is_protected
    assert not (await guarded.ask()).is_needed
    missing = await refused(guarded.eve.post("/v1/protections", Protection, ProtectionCreate(pipelines="deploy")))
    assert missing.code == "permission_missing"
    unseen = await refused(guarded.bob.post("/v1/protections", Protection, ProtectionCreate(pipelines="other")))
    assert (unseen.status, unseen.code) == (404, "pipeline_unknown")
    made = await guarded.bob.post(
        "/v1/protections", Protection, ProtectionCreate(pipelines="deploy", stages="sh*", approvals=2)
    )
    job = await guarded.ada.post("/v1/jobs", Job, JobSubmit(pipeline="deploy"))
    guarded.job = job
    assert (await guarded.claim()).is_protected
    waiting = (await guarded.ask()).approval
    assert waiting is not None
    assert waiting.needed == 2
    assert len((await guarded.viewer.get("/v1/protections", ProtectionList)).protections) == 1
    await guarded.bob.delete(f"/v1/protections/{made.id}", Protection)
    assert (await guarded.viewer.get("/v1/protections", ProtectionList)).protections == []


async def test_an_attempt_in_the_place_of_a_lost_one_takes_the_answer_over_and_a_retry_asks_again(guarded: Guarded):
    await guarded.begin()
    await guarded.ask()
    await guarded.answer(guarded.eve)
    await guarded.installation.let_leases_run_out()
    with anyio.fail_after(DEADLINE_SECONDS):
        await guarded.claim()
    assert guarded.assignment.attempt == 2
    taken = (await guarded.ask()).approval
    assert taken is not None
    assert (taken.state, taken.attempt) == ("approved", 2)
    attempt = Attempt(guarded.assignment)
    await guarded.runner.send(attempt, attempt.state("running"), attempt.state("failed"))
    await guarded.bob.post(f"/v1/jobs/{guarded.job.number}/retry", Job)
    await guarded.claim()
    again = (await guarded.ask()).approval
    assert again is not None
    assert (again.state, again.attempt, again.answers) == ("waiting", 3, [])
    assert (await refused(guarded.answer(guarded.bob))).code == "approval_own"  # he had it tried again
    await guarded.answer(guarded.eve)


async def test_a_job_of_ones_own_schedule_or_webhook_is_ones_own_and_who_rotated_its_secret_counts(guarded: Guarded):
    await guarded.begin()
    await guarded.eve.post(
        "/v1/schedules", Schedule, ScheduleCreate(name="nightly", pipeline="deploy", cron="0 3 * * *", time_zone="UTC")
    )
    admin = await guarded.installation.client()
    await admin.post("/v1/hooks", Hook, HookCreate(name="forge", pipeline="deploy", kind="github"))
    await guarded.bob.post("/v1/hooks/forge/rotate", Hook, HookRotate())
    await guarded.ask()
    for kind, by, own, other in (
        ("schedule", "nightly", guarded.eve, guarded.bob),
        ("webhook", "forge", guarded.bob, guarded.eve),
        ("schedule", "another", None, guarded.eve),
    ):
        trigger = msgspec.json.encode({"kind": kind, "by": by}).decode()
        await guarded.installation.fetch("UPDATE moonyard.jobs SET trigger = $1::jsonb", trigger)
        await guarded.installation.fetch("UPDATE moonyard.approvals SET state = 'waiting'")
        if own is not None:
            assert (await refused(guarded.answer(own))).code == "approval_own"
        assert (await guarded.answer(other)).state == "approved"


@pytest.mark.parametrize("gone", ["schedule", "audit"])
async def test_whose_schedule_it_was_is_known_by_the_audit_or_by_itself(guarded: Guarded, gone: str):
    await guarded.begin()
    await guarded.eve.post(
        "/v1/schedules", Schedule, ScheduleCreate(name="nightly", pipeline="deploy", cron="0 3 * * *")
    )
    await guarded.ask()
    trigger = msgspec.json.encode({"kind": "schedule", "by": "nightly"}).decode()
    await guarded.installation.fetch("UPDATE moonyard.jobs SET trigger = $1::jsonb", trigger)
    if gone == "schedule":
        await guarded.eve.delete("/v1/schedules/nightly", Schedule)
    else:
        await guarded.installation.fetch("DELETE FROM moonyard.audit")
    assert (await refused(guarded.answer(guarded.eve))).code == "approval_own"


async def test_a_job_that_nobody_submitted_is_of_who_pushed_it(guarded: Guarded):
    await guarded.begin()
    await guarded.ask()
    await guarded.installation.fetch("UPDATE moonyard.audit SET actor = 'account eve' WHERE action = 'push'")
    assert (await guarded.answer(guarded.eve)).state == "approved"  # ada has submitted it, and eve looked at it
    await guarded.installation.fetch("UPDATE moonyard.approvals SET state = 'waiting'")
    trigger = msgspec.json.encode({"kind": "schedule", "by": "of somebody"}).decode()
    await guarded.installation.fetch("UPDATE moonyard.jobs SET trigger = $1::jsonb", trigger)
    assert (await refused(guarded.answer(guarded.eve))).code == "approval_own"
    assert (await guarded.answer(guarded.bob)).state == "approved"


async def test_what_an_ended_attempt_asked_is_over(guarded: Guarded):
    await guarded.begin()
    await guarded.ask()
    attempt = Attempt(guarded.assignment)
    await guarded.runner.send(attempt, attempt.state("running"), attempt.state("cancelled"))
    over = await refused(guarded.answer(guarded.eve, stage="ship"))
    assert over.code == "approval_over"
    assert "the attempt that asked is over" in over.message
    await guarded.bob.post(f"/v1/jobs/{guarded.job.number}/retry", Job)
    assert (await refused(guarded.answer(guarded.eve, stage="ship"))).code == "approval_over"
    await guarded.claim()
    assert (await refused(guarded.answer(guarded.eve, stage="ship"))).code == "approval_over"
    assert (await guarded.viewer.get("/v1/approvals", ApprovalList)).approvals == []
    await guarded.ask()
    assert (await guarded.answer(guarded.eve)).state == "approved"


async def test_what_was_said_for_a_lost_attempt_counts_and_more_is_asked_where_more_is_needed_by_now(guarded: Guarded):
    await guarded.begin()
    await guarded.ask()
    await guarded.answer(guarded.eve)
    protection = ProtectionCreate(pipelines="deploy", approvals=2)
    await guarded.bob.post("/v1/protections", Protection, protection)
    await guarded.installation.let_leases_run_out()
    with anyio.fail_after(DEADLINE_SECONDS):
        await guarded.claim()
    taken = (await guarded.ask()).approval
    assert taken is not None
    assert (taken.state, taken.needed, [given.who for given in taken.answers]) == ("waiting", 2, ["account eve"])
    assert (await guarded.answer(guarded.bob)).state == "approved"


async def test_a_comment_is_words_on_a_line(guarded: Guarded):
    await guarded.begin()
    await guarded.ask()
    for comment in ("two\nlines", "\x1b[2Jnothing to see", "nul\0", "x" * 1001):
        assert (await refused(guarded.answer(guarded.eve, comment=comment))).code == "request_invalid"


async def test_nobody_says_yes_in_time(guarded: Guarded):
    await guarded.begin()
    await guarded.ask()
    await guarded.installation.fetch("UPDATE moonyard.approvals SET expires_at = now() - interval '1 second'")
    approval = (await guarded.ask(wait=20.0)).approval
    assert approval is not None
    assert (approval.state, approval.is_over) == ("waiting", True)
    assert (await refused(guarded.answer(guarded.eve, stage="ship"))).code == "approval_over"
    assert (await guarded.viewer.get("/v1/approvals", ApprovalList)).approvals == []


async def test_a_secret_waits_for_the_approval_of_its_stage_whatever_the_runner_says(guarded: Guarded):
    await guarded.begin()
    admin = await guarded.installation.client()
    await admin.post("/v1/secrets", Secret, SecretSet(secret="TOKEN", value=b"a value that is long"))
    await admin.post("/v1/grants", Grant, GrantCreate(secret="TOKEN", pipeline="deploy", stages=["ship"]))
    path = f"/v1/runner/jobs/{guarded.assignment.job}/{guarded.assignment.attempt}/secrets"
    ask = SecretAsk(name="TOKEN", stage="ship", use="environment")
    missing = await refused(guarded.runner.client.post(path, SecretDelivery, ask))
    assert (missing.status, missing.code) == (403, "approval_missing")
    await guarded.ask()
    await guarded.answer(guarded.eve)
    assert (await guarded.runner.client.post(path, SecretDelivery, ask)).value == b"a value that is long"


async def test_only_the_runner_that_holds_the_attempt_asks_for_it(guarded: Guarded):
    await guarded.begin()
    other = await guarded.installation.runner("other")
    assert (await refused(guarded.ask(runner=other))).code == "attempt_gone"
    assert (await refused(guarded.ask("no such stage"))).code == "request_invalid"
    assert (await refused(guarded.answer(guarded.eve))).code == "approval_unknown"


async def test_operators_answer_in_psql(guarded: Guarded):
    await guarded.begin()
    await guarded.ask()
    with psycopg.connect(guarded.installation.url, autocommit=True) as connection:
        [(stage, state)] = connection.execute("SELECT stage, state FROM inspect.approvals").fetchall()
        assert (stage, state) == ("ship", "waiting")
        number = str(guarded.job.number)
        assert connection.execute("SELECT control.approve(%s, NULL, 'by hand')", [number]).fetchone() == ("approved",)
        [(answers,)] = connection.execute("SELECT answers FROM inspect.approvals").fetchall()
        assert "yes (by hand)" in answers[0]
    approval = (await guarded.ask(wait=20.0)).approval
    assert approval is not None
    assert approval.state == "approved"


async def test_the_definition_of_an_approval_is_what_the_function_reads(guarded: Guarded):
    stages = [StageDefinition(name="ship (eu)", of="ship", approval=ApprovalDefinition(count=3, timeout=60.0))]
    await guarded.begin(msgspec.structs.replace(GUARDED, stages=stages))
    waiting = (await guarded.ask("ship (eu)")).approval
    assert waiting is not None
    assert waiting.needed == 3
    [row] = await guarded.installation.fetch("SELECT expires_at - asked_at AS waits FROM moonyard.approvals")
    assert row["waits"].total_seconds() == 60
