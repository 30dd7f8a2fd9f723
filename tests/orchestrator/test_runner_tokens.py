"""Runners' tokens: replaced while they are used, and refused for ever. The way of a real runner is in tests/runner."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from schema.client import Client, OrchestratorRefused
from schema.events import JobEvent, decode_line
from schema.wire import (
    Claim,
    Claimed,
    Heartbeat,
    HeartbeatAnswer,
    Holding,
    Job,
    Runner,
    RunnerList,
    RunnersChanged,
    RunnerToken,
    RunnerTokenUsed,
)
from tests.orchestrator.installation import DEADLINE_SECONDS, Attempt, Installation, SpokenRunner
from tests.postgres import psql

PATH = "/v1/runner/token"
IDLE = Heartbeat(holding=[])


async def new_token(client: Client) -> str:
    return (await client.post(PATH, RunnerToken)).token


async def speaks(installation: Installation, token: str) -> str:
    """Use a token; give the code of its refusal, or nothing."""
    for replica in installation.replicas:
        replica.parts.authentication.forget()
    try:
        await (await installation.client(token)).get(PATH, RunnerTokenUsed)
    except OrchestratorRefused as refused:
        return refused.code if refused.status == 401 else f"{refused.status} {refused.code}"
    return ""


async def a_minute_passes(installation: Installation) -> None:
    await installation.fetch("UPDATE moonyard.tokens SET replaced_at = replaced_at - interval '61 seconds'")


async def listed(installation: Installation, name: str = "runner") -> Runner:
    admin = await installation.client()
    return next(one for one in (await admin.get("/v1/runners", RunnerList)).runners if one.name == name)


async def audited(installation: Installation, action: str) -> list[Any]:
    return await installation.fetch("SELECT actor, subject FROM moonyard.audit WHERE action = $1 ORDER BY id", action)


async def test_a_new_token_replaces_the_old_one_when_it_is_used(installation: Installation):
    await installation.replica()
    runner = await installation.runner()
    old = runner.registered.token
    new = await new_token(runner.client)
    assert new.startswith("moonyard_runner_")
    await a_minute_passes(installation)
    assert await speaks(installation, old) == "", "nobody used the new one: it may have got lost on its way"
    assert await speaks(installation, new) == ""
    assert await speaks(installation, old) == "", "what is under way may end"
    await a_minute_passes(installation)
    assert await speaks(installation, old) == "runner_token_replaced"
    assert await speaks(installation, new) == ""
    [row] = await audited(installation, "rotate token")
    assert tuple(row) == ("runner runner", "runner runner")
    assert (await listed(installation)).token_at is not None


async def test_of_tokens_that_were_asked_for_at_the_same_time_the_first_that_is_used_stays(installation: Installation):
    await installation.replica()
    runner = await installation.runner()
    one, other = await new_token(runner.client), await new_token(runner.client)
    assert await speaks(installation, other) == ""
    assert await speaks(installation, one) == "runner_token_replaced", "it never was in use: there is nothing to end"
    assert await speaks(installation, other) == ""


async def test_a_runner_that_is_killed_before_it_uses_its_new_token_again_and_again_still_speaks(
    installation: Installation,
):
    await installation.replica()
    runner = await installation.runner()
    last = [await new_token(runner.client) for _ in range(20)][-1]
    [row] = await installation.fetch("SELECT count(*) AS count FROM moonyard.tokens WHERE kind = 'runner'")
    assert row["count"] == 9, "what nobody uses does not pile up"
    assert await speaks(installation, runner.registered.token) == ""
    assert await speaks(installation, last) == ""


async def test_two_who_use_different_new_tokens_at_the_same_moment_do_not_both_win(installation: Installation):
    replicas = [await installation.replica() for _ in range(2)]
    runner = await installation.runner()
    tokens = [await new_token(runner.client) for _ in range(6)]
    outcomes: list[str] = []

    async def use(token: str, address: str) -> None:
        client = await installation.client(token, address)
        try:
            await client.get(PATH, RunnerTokenUsed)
            outcomes.append("")
        except OrchestratorRefused as refused:
            outcomes.append(refused.code)

    async with anyio.create_task_group() as tasks:
        for number, token in enumerate(tokens):
            tasks.start_soon(use, token, replicas[number % 2].address)
    assert sorted(outcomes) == ["", *["runner_token_replaced"] * 5]


async def test_the_use_of_a_replaced_token_is_refused_told_and_written_down(installation: Installation):
    await installation.replica()
    runner = await installation.runner()
    old, new = runner.registered.token, await new_token(runner.client)
    await speaks(installation, new)
    await a_minute_passes(installation)
    assert (await listed(installation)).token_reused_at is None
    stolen = await installation.client(old)
    for _ in range(3):
        with pytest.raises(OrchestratorRefused, match="somebody has a copy of it") as refused:
            await stolen.post("/v1/runner/heartbeat", HeartbeatAnswer, IDLE)
        assert (refused.value.status, refused.value.code) == (401, "runner_token_replaced")
        assert refused.value.hint is not None
        assert "moonyard runner revoke runner" in refused.value.hint
    [row] = await audited(installation, "reuse replaced token")
    assert tuple(row) == ("runner runner", "runner runner"), "once a minute, however often it is tried"
    assert (await listed(installation)).token_reused_at is not None
    assert await speaks(installation, new) == "", "the runner itself goes on"
    shown = psql(installation.url, "SELECT state, old_one_used_ago IS NOT NULL FROM inspect.runner_tokens", "-AtF", " ")
    assert shown == "in use t\nreplaced f\n"


async def test_a_replaced_token_gets_no_new_one(installation: Installation):
    await installation.replica()
    runner = await installation.runner()
    old = await installation.client(runner.registered.token)
    assert await speaks(installation, await new_token(runner.client)) == ""
    await old.get(PATH, RunnerTokenUsed)  # within its last minute
    with pytest.raises(OrchestratorRefused) as refused:
        await new_token(old)
    assert (refused.value.status, refused.value.code) == (401, "runner_token_replaced")


async def test_an_operator_has_a_runner_told_once_that_it_is_to_rotate(installation: Installation):
    await installation.replica()
    runner = await installation.runner()
    admin = await installation.client()
    assert not (await runner.client.post("/v1/runner/heartbeat", HeartbeatAnswer, IDLE)).rotate
    answers: list[HeartbeatAnswer] = []

    async def beat() -> None:
        waiting = Heartbeat(holding=[], draining=True, wait=50.0)
        answers.append(await runner.client.post("/v1/runner/heartbeat", HeartbeatAnswer, waiting))

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(beat)
            bells = installation.replicas[0].parts.notifications.runners
            while not bells.heard():
                await anyio.lowlevel.checkpoint()
            told = (await admin.post("/v1/runners/runner/rotate", RunnersChanged)).runners
            assert told == [runner.registered.id]
    assert answers[0].rotate
    heard = Heartbeat(holding=[], rotating=True)
    assert not (await runner.client.post("/v1/runner/heartbeat", HeartbeatAnswer, heard)).rotate
    new = await new_token(runner.client)
    assert (await runner.client.post("/v1/runner/heartbeat", HeartbeatAnswer, IDLE)).rotate, "until it is used"
    assert await speaks(installation, new) == ""
    client = await installation.client(new)
    assert not (await client.post("/v1/runner/heartbeat", HeartbeatAnswer, IDLE)).rotate
    assert [tuple(row) for row in await audited(installation, "ask for rotation")] == [("token test", "runner runner")]


async def test_an_idle_runner_is_called_from_its_claim_to_rotate(installation: Installation):
    await installation.replica()
    runner = await installation.runner()
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.claim, 1, 60.0)
            while not installation.replicas[0].parts.dispatcher.waiting_count:
                await anyio.lowlevel.checkpoint()
            assert psql(installation.url, "SELECT control.rotate_runner('runner')", "-At").strip() == "1"
    assert (await runner.client.post("/v1/runner/heartbeat", HeartbeatAnswer, IDLE)).rotate


# --- revoked


async def started(installation: Installation, runner: SpokenRunner) -> Attempt:
    await installation.submit()
    [assignment] = await runner.claim()
    attempt = Attempt(assignment)
    await runner.send(attempt, attempt.state("running"), attempt.stage("running"))
    return attempt


async def test_a_revoked_runner_is_refused_at_once_on_every_replica_and_its_jobs_are_queued_again(
    installation: Installation,
):
    here, elsewhere = await installation.replica(lease_seconds=600), await installation.replica(lease_seconds=600)
    await installation.push()
    runner, other = await installation.runner(address=here.address), await installation.runner("other")
    attempt = await started(installation, runner)
    far = SpokenRunner(await installation.client(runner.registered.token, elsewhere.address), runner.registered)
    await far.client.post("/v1/runner/heartbeat", HeartbeatAnswer, IDLE)  # remembered there, too
    admin = await installation.client(address=here.address)
    changed = await admin.post("/v1/runners/runner/revoke", RunnersChanged)
    assert changed.runners == [runner.registered.id]
    # What a replica remembers of its token lasts two seconds: what the runner does meanwhile changes nothing.
    refusals: list[str] = []
    late = attempt.log("still here")
    for speaking in (runner, far):
        for action in (
            speaking.claim(wait=0),
            speaking.client.post("/v1/runner/heartbeat", HeartbeatAnswer, IDLE),
            speaking.send(attempt, late),
        ):
            with pytest.raises(OrchestratorRefused) as refused:
                await action
            refusals.append(refused.value.code)
    assert set(refusals) <= {"runner_revoked", "attempt_gone"}
    assert refusals[:2] == ["runner_revoked"] * 2
    assert refusals[3:5] == ["runner_revoked"] * 2
    [again] = await other.claim()
    assert (again.job, again.attempt) == (str(attempt.job), 2)
    [row] = await installation.fetch("SELECT losses FROM moonyard.jobs")
    assert row["losses"] == 0, "it was not the job's fault"
    [stage] = await installation.fetch("SELECT state FROM moonyard.stages WHERE attempt = 1")
    assert stage["state"] == "cancelled"
    lines = await installation.fetch(
        "SELECT lines FROM moonyard.event_batches WHERE job_id = $1 AND attempt = 1 ORDER BY next_seq", attempt.job
    )
    last = decode_line(lines[-1]["lines"].strip().splitlines()[-1].encode())
    assert isinstance(last, JobEvent)
    assert last.error is not None
    assert (last.state, last.error.code) == ("queued", "attempt_lost")
    assert last.error.message == "attempt 1 was lost: runner `runner` was revoked by token test"
    assert "still here" not in "".join(line["lines"] for line in lines)
    assert [tuple(row) for row in await audited(installation, "revoke")] == [("token test", "runner runner")]
    shown = await listed(installation)
    assert (shown.state, shown.revoked_by) == ("revoked", "token test")


async def test_a_revoked_runner_that_waits_is_let_go_at_once(installation: Installation):
    here, elsewhere = await installation.replica(), await installation.replica()
    runner = await installation.runner(address=elsewhere.address)
    refusals: list[str] = []

    async def wait_and_ask(path: str, kind: type[Any], message: Any) -> None:
        try:
            await runner.client.post(path, kind, message, seconds=70.0)
            await runner.client.post(path, kind, message, seconds=70.0)
        except OrchestratorRefused as refused:
            refusals.append(refused.code)

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            claim = Claim(slots=1, wait=60.0, capacity=1, version="test")
            tasks.start_soon(wait_and_ask, "/v1/runner/claim", Claimed, claim)
            beat = Heartbeat(holding=[], draining=True, wait=60.0)
            tasks.start_soon(wait_and_ask, "/v1/runner/heartbeat", HeartbeatAnswer, beat)
            while (
                len(elsewhere.parts.notifications.runners.heard()) < 1 or not elsewhere.parts.dispatcher.waiting_count
            ):
                await anyio.lowlevel.checkpoint()
            admin = await installation.client(address=here.address)
            await admin.post("/v1/runners/runner/revoke", RunnersChanged)
    assert refusals == ["runner_revoked", "runner_revoked"]


async def test_what_a_claim_gives_to_a_runner_in_the_moment_of_its_revocation_is_taken_back(installation: Installation):
    await installation.replica(lease_seconds=600)
    await installation.push()
    runner, other = await installation.runner(), await installation.runner("other")
    job = await installation.submit()
    await installation.fetch(  # as a claim that saw nothing of the revocation
        "UPDATE moonyard.runners SET revoked_at = now(), revoked_by = 'somebody' WHERE id = $1", runner.registered.id
    )
    await installation.fetch(
        "WITH claimed AS (UPDATE moonyard.jobs SET state = 'running', attempt = 1 RETURNING id) "
        "INSERT INTO moonyard.attempts (job_id, number, runner_id, lease_expires_at) "
        "SELECT id, 1, $1, now() + interval '1 hour' FROM claimed",
        runner.registered.id,
    )
    with anyio.fail_after(DEADLINE_SECONDS):
        [assignment] = await other.claim(wait=25.0)
    assert (assignment.job, assignment.attempt) == (job.id, 2)


async def test_a_job_that_was_to_be_cancelled_is_cancelled_when_its_runner_is_revoked(installation: Installation):
    await installation.replica()
    await installation.push()
    runner = await installation.runner()
    attempt = await started(installation, runner)
    admin = await installation.client()
    await admin.post(f"/v1/jobs/{attempt.job}/cancel", Job)
    await admin.post(f"/v1/runners/{runner.registered.id}/revoke", RunnersChanged)
    job = await admin.get(f"/v1/jobs/{attempt.job}", Job)
    assert job.state == "cancelled"
    assert job.error is not None
    assert job.error.code == "attempt_lost"


async def test_an_operator_revokes_and_removes_in_psql(installation: Installation):
    await installation.replica()
    await installation.push()
    runner, other = await installation.runner(), await installation.runner("other")
    attempt = await started(installation, runner)
    assert psql(installation.url, "SELECT control.revoke_runner('runner')", "-At").strip() == "1"
    beat = Heartbeat(holding=[Holding(job=str(attempt.job), attempt=1)])
    with pytest.raises(OrchestratorRefused, match="was revoked by postgres at") as refused:
        await runner.client.post("/v1/runner/heartbeat", HeartbeatAnswer, beat)
    assert refused.value.code == "runner_revoked"
    [again] = await other.claim()
    assert again.attempt == 2
    shown = psql(installation.url, "SELECT runner, state FROM inspect.runners", "-AtF", " ")
    assert shown == "other online\nrunner revoked\n"
    psql(installation.url, "SELECT control.remove_runner('runner')")
    assert psql(installation.url, "SELECT runner FROM inspect.runners", "-At") == "other\n"
    assert [one.name for one in (await (await installation.client()).get("/v1/runners", RunnerList)).runners] == [
        "other"
    ]
    job = await (await installation.client()).get(f"/v1/jobs/{attempt.job}", Job)
    assert job.runner == "other"
    assert await speaks(installation, runner.registered.token) == "runner_revoked"


@pytest.mark.parametrize("act", ["rotate", "revoke", "remove"])
async def test_a_runner_that_is_not_there_is_told(installation: Installation, act: str):
    await installation.replica()
    admin = await installation.client()
    for name in ("nobody", "00000000-0000-0000-0000-000000000000", "a%00b"):
        with pytest.raises(OrchestratorRefused) as refused:
            await admin.post(f"/v1/runners/{name}/{act}", RunnersChanged)
        assert (refused.value.status, refused.value.code) == (404, "runner_unknown")


async def test_a_revoked_runner_gets_no_new_token_and_a_removed_one_is_not_there(installation: Installation):
    await installation.replica()
    runner = await installation.runner()
    pending = await new_token(runner.client)
    admin = await installation.client()
    await admin.post("/v1/runners/runner/revoke", RunnersChanged)
    assert await speaks(installation, pending) == "runner_revoked"
    with pytest.raises(OrchestratorRefused) as refused:
        await admin.post("/v1/runners/runner/rotate", RunnersChanged)
    assert (refused.value.status, refused.value.code) == (409, "runner_revoked")
    await admin.post("/v1/runners/runner/remove", RunnersChanged)
    with pytest.raises(OrchestratorRefused) as refused:
        await admin.post("/v1/runners/runner/revoke", RunnersChanged)
    assert refused.value.code == "runner_unknown"
