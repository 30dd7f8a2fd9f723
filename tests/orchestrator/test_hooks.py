"""Webhooks over a real socket: what starts a job, what does not, and what is told to whom."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import aiohttp
import anyio
import msgspec
import pytest

from orchestrator import master_keys, retention
from orchestrator.hooks import deliveries, signatures
from orchestrator.hooks.throttle import FAILURES_MAXIMUM
from orchestrator.sql import hooks as sql
from schema.client import OrchestratorRefused
from schema.definition import InputDefinition, PipelineDefinition, StageDefinition
from schema.hooks import (
    Hook,
    HookAnswer,
    HookCreate,
    HookDelivery,
    HookDeliveryList,
    HookKind,
    HookList,
    HookRotate,
    HookRules,
    HookTest,
    HookTested,
)
from schema.secrets import SecretsRewrapped
from schema.wire import Job, JobList, ProblemDocument, Trigger
from tests.orchestrator import forge_payloads as payloads
from tests.orchestrator.installation import DEADLINE_SECONDS, Installation
from tests.orchestrator.people import account
from tests.orchestrator.plans import plan
from tests.postgres import psql

FIRST, SECOND = master_keys.generate(), master_keys.generate()
KEYS = master_keys.parse(FIRST, "a test")
PIPELINE = PipelineDefinition(
    name="build",
    inputs={
        "ref": InputDefinition(type="string", default="main"),
        "branch": InputDefinition(type="string", default=""),
        "tag": InputDefinition(type="string", default=""),
        "commit": InputDefinition(type="string", default=""),
        "author": InputDefinition(type="string", default=""),
        "message": InputDefinition(type="string", default=""),
        "repository_url": InputDefinition(type="string", default=""),
        "pull_request": InputDefinition(type="integer", default=0),
        "url": InputDefinition(type="string", default="https://internal.example"),
        "count": InputDefinition(type="integer", default=1),
        "target": InputDefinition(type="string", default="staging", choices=["staging", "production"]),
    },
    stages=[StageDefinition(name="s")],
)
FORKED = payloads.github_fork()


class Sender:
    """A forge that delivers to a hook."""

    def __init__(self, hook: Hook, address: str) -> None:
        assert hook.secret is not None
        self.hook = hook
        self.secret = hook.secret
        self.address = address

    async def send(
        self,
        payload: Any,
        *,
        event: str = "push",
        delivery: str | None = None,
        secret: str | None = None,
        address: str | None = None,
        headers: dict[str, str] | None = None,
        now: float | None = None,
    ) -> tuple[int, HookAnswer | ProblemDocument]:
        """Send a delivery, signed; give the status and what was answered."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        signed = signatures.signed(
            self.hook.kind,
            secret or self.secret,
            body,
            delivery=delivery or str(uuid4()),
            event=event,
            now=now if now is not None else _now(),
        )
        return await send((address or self.address) + self.hook.path, body, signed | (headers or {}))

    async def job(self, payload: Any, **more: Any) -> int:
        """Send a delivery that starts a job; give its number."""
        status, answer = await self.send(payload, **more)
        assert isinstance(answer, HookAnswer), answer
        assert (status, answer.skipped) == (202, None)
        assert answer.job is not None
        return answer.job

    async def skipped(self, payload: Any, **more: Any) -> str:
        status, answer = await self.send(payload, **more)
        assert isinstance(answer, HookAnswer), answer
        assert (status, answer.job) == (202, None)
        assert answer.skipped is not None
        return answer.skipped

    async def refused(self, payload: Any, **more: Any) -> tuple[int, str, str]:
        status, answer = await self.send(payload, **more)
        assert isinstance(answer, ProblemDocument), answer
        return status, answer.code, answer.detail


def _now() -> float:
    return time.time()


async def send(url: str, body: bytes, headers: dict[str, str]) -> tuple[int, HookAnswer | ProblemDocument]:
    given = {"Content-Type": "application/json"} | headers
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=given) as response:
        text = await response.read()
        kind = HookAnswer if response.status < 400 else ProblemDocument
        return response.status, msgspec.json.decode(text, type=kind)


async def begin(
    installation: Installation, kind: HookKind = "github", pipeline: PipelineDefinition = PIPELINE, **fields: Any
) -> Sender:
    """Make a hook."""
    if not installation.replicas:
        await installation.replica(secret_keys=KEYS)
        await installation.push(pipeline, f"-- {pipeline.name}")
    name = fields.pop("name", f"{kind}-hook")
    message = HookCreate(name=name, pipeline=pipeline.name, kind=kind, **fields)
    made = await (await installation.client()).post("/v1/hooks", Hook, message)
    return Sender(made, installation.replicas[0].address)


async def job(installation: Installation, number: int) -> Job:
    return await (await installation.client()).get(f"/v1/jobs/{number}", Job)


async def shown(installation: Installation, sender: Sender) -> tuple[Hook, list[HookDelivery]]:
    client = await installation.client()
    path = f"/v1/hooks/{sender.hook.name}"
    return await client.get(path, Hook), (await client.get(f"{path}/deliveries", HookDeliveryList)).deliveries


# --- what forges send


async def test_a_push_to_github_starts_a_job_with_its_facts_for_inputs_that_the_pipeline_declares(
    installation: Installation,
):
    sender = await begin(installation)
    made = await job(
        installation, await sender.job(payloads.github_push(), delivery="72d3162e-cc78-11e3-81ab-4c9367dc0958")
    )
    assert made.inputs == {
        "ref": "refs/heads/main",
        "branch": "main",
        "tag": "",
        "commit": payloads.AFTER,
        "author": "Octavia",
        "message": "Say hello\n\nTo the world.",
        "repository_url": "https://forge.example/octavia/hello.git",
        "pull_request": 0,
        "url": "https://internal.example",
        "count": 1,
        "target": "staging",
    }
    assert made.trigger == Trigger(
        kind="webhook",
        by="github-hook",
        delivery="72d3162e-cc78-11e3-81ab-4c9367dc0958",
        event="push",
        sender="octavia",
    )
    runner = await installation.runner()
    [assignment] = await runner.claim()
    assert assignment.trigger == made.trigger
    [entry] = await installation.fetch("SELECT actor, subject FROM moonyard.audit WHERE action = 'submit'")
    assert tuple(entry) == ("hook github-hook", f"job {made.number}")


async def test_a_ping_is_answered_and_remembered(installation: Installation):
    sender = await begin(installation)
    assert await sender.send(payloads.github_ping(), event="ping") == (202, HookAnswer(pong=True))
    _, [delivery] = await shown(installation, sender)
    assert (delivery.event, delivery.result, delivery.job) == ("ping", "answered", None)


async def test_a_form_as_github_sends_it_unless_it_is_told_otherwise(installation: Installation):
    sender = await begin(installation)
    body = urlencode({"payload": json.dumps(payloads.github_push())}).encode()
    number = await sender.job(body, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert (await job(installation, number)).inputs["commit"] == payloads.AFTER
    for wrong in (b"", b"payload", b"payload=%ff", b"other=1", b"payload=1&payload=2"):
        status, code, _ = await sender.refused(wrong, headers={"Content-Type": "application/x-www-form-urlencoded"})
        assert (status, code) == (422, "hook_delivery_invalid")


async def test_gitlab_with_a_signing_token_and_with_the_older_one(installation: Installation):
    sender = await begin(installation, "gitlab", tags=["v*"], branches=["main"])
    made = await job(installation, await sender.job(payloads.gitlab_push(), event="Push Hook", delivery="one"))
    assert made.inputs["commit"] == payloads.AFTER
    assert made.inputs["message"] == "fixed readme"
    assert made.inputs["repository_url"] == "https://gitlab.example/mike/diaspora.git"
    assert made.trigger is not None
    assert (made.trigger.event, made.trigger.sender, made.trigger.delivery) == ("push", "jsmith", "one")
    tag = payloads.gitlab_push("refs/tags/v1.0", kind="tag_push")
    made = await job(installation, await sender.job(tag, event="Tag Push Hook"))
    assert (made.inputs["tag"], made.inputs["branch"]) == ("v1.0", "")
    url = sender.address + sender.hook.path
    body = json.dumps(payloads.gitlab_push()).encode()
    older = {"X-Gitlab-Token": sender.secret, "X-Gitlab-Event": "Push Hook", "X-Gitlab-Event-UUID": "two"}
    _, first = await send(url, body, older)
    _, again = await send(url, body, older)
    assert isinstance(first, HookAnswer)
    assert isinstance(again, HookAnswer)
    assert (first.job, first.again) == (made.number + 1, False)
    assert (again.job, again.again) == (made.number + 1, True)
    status, _ = await send(url, body, older | {"X-Gitlab-Token": "another"})
    assert status == 401
    deleted = payloads.gitlab_push(after=payloads.NOTHING)
    assert await sender.skipped(deleted, event="Push Hook") == "main was deleted"


async def test_gitea_and_forgejo(installation: Installation):
    sender = await begin(installation, "gitea", events=["push", "pull_request"])
    made = await job(installation, await sender.job(payloads.gitea_push()))
    assert (made.inputs["branch"], made.inputs["author"], made.inputs["message"]) == (
        "develop",
        "Gitea",
        "Webhooks Yay!",
    )
    made = await job(installation, await sender.job(payloads.gitea_pull_request(), event="pull_request"))
    assert (made.inputs["pull_request"], made.inputs["ref"]) == (7, "refs/pull/7/head")
    draft = payloads.gitea_pull_request("WIP: Add a page")
    assert await sender.skipped(draft, event="pull_request") == "the pull request is a draft"
    body = json.dumps(payloads.gitea_push("refs/heads/other")).encode()
    digest = signatures.signed("gitea", sender.secret, body, delivery="x", event="push", now=0)["x-gitea-signature"]
    forgejo = {"X-Forgejo-Signature": digest, "X-Forgejo-Event": "push", "X-Forgejo-Delivery": "x"}
    status, answer = await send(sender.address + sender.hook.path, body, forgejo)
    assert (status, isinstance(answer, HookAnswer) and answer.job) == (202, made.number + 1)


async def test_anything_else_says_facts_by_their_names_and_the_rest_by_paths(installation: Installation):
    sender = await begin(
        installation,
        "generic",
        inputs={"count": "$.build.number", "url": "links[0].href", "author": "nobody || moonyard.sender"},
        constants={"target": "production"},
    )
    told = {
        "type": "release",
        "ref": "refs/tags/v2",
        "commit": "abc",
        "sender": "me",
        "build": {"number": 7},
        "links": [{"href": "https://elsewhere.example"}],
        "target": "staging",
    }
    made = await job(installation, await sender.job(told))
    wanted = {"tag": "v2", "commit": "abc", "count": 7, "author": "me", "target": "production"}
    assert {name: made.inputs[name] for name in wanted} == wanted
    assert made.inputs["url"] == "https://elsewhere.example"
    assert made.trigger is not None
    assert (made.trigger.event, made.trigger.sender) == ("release", "me")


# --- which start a job


CASES: list[tuple[dict[str, Any], dict[str, Any], str, str | None]] = [
    ({}, payloads.github_push("refs/tags/v1"), "push", "tag v1 is not of this hook's"),
    ({"tags": ["v*"]}, payloads.github_push("refs/tags/v1"), "push", None),
    ({"tags": ["v*"]}, payloads.github_push(), "push", "branch main is not of this hook's"),
    ({"tags": ["v*"], "branches": ["main"]}, payloads.github_push(), "push", None),
    ({"branches": ["release/*"]}, payloads.github_push(), "push", "branch main is not of this hook's"),
    ({"branches": ["main", "release/*"]}, payloads.github_push("refs/heads/release/1/x"), "push", None),
    ({"branches": ["mai"]}, payloads.github_push(), "push", "branch main is not of this hook's"),
    ({}, payloads.github_push(after=payloads.NOTHING), "push", "main was deleted"),
    ({}, payloads.github_push(message="x [skip ci]"), "push", "its message says to skip it"),
    ({}, payloads.github_push(message="[CI Skip]"), "push", "its message says to skip it"),
    ({}, {"action": "created"}, "issues", "event issues is not of this hook's"),
    ({}, payloads.github_pull_request(), "pull_request", "event pull_request is not of this hook's"),
    ({"events": ["issues"]}, {"action": "created"}, "issues", None),
    ({"events": ["issues"], "branches": ["main"]}, {}, "issues", "it says no branch, and this hook is for some"),
    ({"events": ["pull_request"]}, payloads.github_pull_request(), "pull_request", None),
    ({"events": ["pull_request"]}, payloads.github_pull_request("synchronize"), "pull_request", None),
    (
        {"events": ["pull_request"]},
        payloads.github_pull_request("labeled"),
        "pull_request",
        "the pull request was labeled, which changes nothing to be built",
    ),
    (
        {"events": ["pull_request"]},
        payloads.github_pull_request(draft=True),
        "pull_request",
        "the pull request is a draft",
    ),
    ({"events": ["pull_request"], "drafts": True}, payloads.github_pull_request(draft=True), "pull_request", None),
    (
        {"events": ["pull_request"], "branches": ["main"]},
        payloads.github_pull_request(base="old"),
        "pull_request",
        "branch old is not of this hook's",
    ),
    ({"events": ["pull_request"], "branches": ["main"]}, payloads.github_pull_request(), "pull_request", None),
    (
        {"events": ["pull_request"]},
        payloads.github_pull_request(title="[skip ci] x"),
        "pull_request",
        "its message says to skip it",
    ),
    (
        {"events": ["pull_request"]},
        payloads.github_pull_request(head=FORKED),
        "pull_request",
        "the pull request comes from another repository, and this hook refuses those",
    ),
    (
        {"events": ["pull_request"]},
        # Its fork was removed: nobody knows whose commits these are.
        payloads.github_pull_request(head={}),
        "pull_request",
        "the pull request comes from another repository, and this hook refuses those",
    ),
    (
        {"events": ["pull_request"], "forks": "allow"},
        payloads.github_pull_request(head=FORKED),
        "pull_request",
        None,
    ),
]


@pytest.mark.parametrize(("rules", "payload", "event", "reason"), CASES)
async def test_rules_say_what_starts_a_job(
    installation: Installation, rules: dict[str, Any], payload: dict[str, Any], event: str, reason: str | None
):
    sender = await begin(installation, **rules)
    if reason is None:
        await sender.job(payload, event=event)
    else:
        assert await sender.skipped(payload, event=event) == reason
    _, [delivery] = await shown(installation, sender)
    assert (delivery.result, delivery.reason) == ("submitted" if reason is None else "skipped", reason)


async def test_merge_requests_of_gitlab(installation: Installation):
    sender = await begin(installation, "gitlab", events=["pull_request"])
    event = "Merge Request Hook"
    made = await job(installation, await sender.job(payloads.gitlab_merge_request(), event=event))
    assert made.inputs["ref"] == "refs/merge-requests/1/head"
    assert (made.inputs["branch"], made.inputs["pull_request"], made.inputs["commit"]) == (
        "ms-viewport",
        1,
        payloads.AFTER,
    )
    pushed = payloads.gitlab_merge_request("update", oldrev=payloads.BEFORE)
    assert await sender.job(pushed, event=event) == made.number + 1
    assert "was update" in await sender.skipped(payloads.gitlab_merge_request("update"), event=event)
    assert "was merge" in await sender.skipped(payloads.gitlab_merge_request("merge"), event=event)
    assert "another repository" in await sender.skipped(payloads.gitlab_merge_request(source_project=99), event=event)
    assert "draft" in await sender.skipped(payloads.gitlab_merge_request(draft=True), event=event)


async def test_a_hook_that_allows_forks_is_warned_of_where_its_pipeline_has_secrets(installation: Installation):
    sender = await begin(installation, events=["pull_request"], forks="allow")
    assert sender.hook.warning is None
    psql(
        installation.url,
        "INSERT INTO moonyard.secrets (id, name, created_by) VALUES (gen_random_uuid(), 'TOKEN', 'me');"
        "SELECT control.grant('TOKEN', 'build')",
    )
    warned = await begin(installation, events=["pull_request"], forks="allow", name="warned")
    assert warned.hook.warning is not None
    assert "pull requests of forks" in warned.hook.warning
    assert (await begin(installation, events=["pull_request"], name="refusing")).hook.warning is None


# --- once


async def test_the_same_delivery_has_one_job_however_often_it_comes(installation: Installation):
    sender = await begin(installation)
    payload = payloads.github_push()
    first = await sender.job(payload, delivery="d")
    for delivery in ("d", "d", "another id, which nobody signed"):
        status, answer = await sender.send(payload, delivery=delivery)
        assert isinstance(answer, HookAnswer)
        assert (status, answer.job, answer.again) == (202, first, True)
    _, [remembered] = await shown(installation, sender)
    assert (remembered.received, remembered.job, remembered.delivery) == (4, first, "d")
    # It is remembered by the job as well, when nothing else of it is any more.
    await installation.fetch("DELETE FROM moonyard.hook_deliveries")
    status, answer = await sender.send(payload, delivery="d")
    assert isinstance(answer, HookAnswer)
    assert (answer.job, answer.again) == (first, True)
    assert len((await (await installation.client()).get("/v1/jobs", JobList)).jobs) == 1


async def test_a_signed_id_is_what_a_delivery_is_known_by(installation: Installation):
    sender = await begin(installation, "generic")
    payload = {"ref": "refs/heads/main"}
    first = await sender.job(payload, delivery="one")
    assert await sender.job(payload, delivery="two") == first + 1
    status, answer = await sender.send(payload | {"commit": "changed"}, delivery="one")
    assert isinstance(answer, HookAnswer)
    assert (status, answer.job, answer.again) == (202, first, True)
    # Taken from one request and put on another: id, time and body are signed together.
    body = json.dumps(payload).encode()
    headers = signatures.signed("generic", sender.secret, body, delivery="three", event="", now=_now())
    status, _ = await send(sender.address + sender.hook.path, body, headers | {"webhook-id": "four"})
    assert status == 401


async def test_what_started_no_job_is_looked_at_anew_when_it_comes_again(installation: Installation):
    sender = await begin(installation, branches=["main"])
    payload = payloads.github_push("refs/heads/later")
    assert "later" in await sender.skipped(payload, delivery="d")
    client = await installation.client()
    changed = await client.post("/v1/hooks/github-hook/change", Hook, HookRules(branches=["*"], forks="allow"))
    assert (changed.branches, changed.forks, changed.path, changed.secret) == (["*"], "allow", sender.hook.path, None)
    number = await sender.job(payload, delivery="d")
    _, [delivery] = await shown(installation, sender)
    assert (delivery.result, delivery.reason, delivery.job, delivery.received) == ("submitted", None, number, 2)


async def test_two_replicas_that_get_the_same_delivery_at_once_start_one_job(installation: Installation):
    sender = await begin(installation)
    await installation.replica(secret_keys=KEYS)
    answers: list[HookAnswer | ProblemDocument] = []

    async def deliver(address: str, payload: dict[str, Any]) -> None:
        answers.append((await sender.send(payload, delivery="d", address=address))[1])

    for commit in range(1, 6):
        payload = payloads.github_push(after=f"{commit:040x}")
        async with anyio.create_task_group() as tasks:
            for replica in installation.replicas * 3:
                tasks.start_soon(deliver, replica.address, payload)
        told = [answer for answer in answers if isinstance(answer, HookAnswer)]
        assert len(told) == 6, answers
        assert {answer.job for answer in told} == {commit}
        assert sum(not answer.again for answer in told) == 1
        answers.clear()
    [row] = await installation.fetch("SELECT count(*) AS jobs FROM moonyard.jobs")
    assert row["jobs"] == 5


async def test_many_deliveries_at_once_need_no_more_connections_than_there_are(installation: Installation):
    sender = await begin(installation)

    async def deliver(number: int) -> None:
        await sender.job(payloads.github_push(after=f"{number + 1:040x}"))

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(deliver, number)


# --- who is not the sender


async def test_no_hook_and_no_signature_look_alike(installation: Installation):
    sender = await begin(installation)
    body = json.dumps(payloads.github_push()).encode()
    unsigned = {"X-GitHub-Event": "push", "X-GitHub-Delivery": "d", "X-Hub-Signature-256": "sha256=" + "0" * 64}
    told: list[tuple[int, Any]] = []
    for path in (sender.hook.path, f"/v1/hooks/{uuid4()}", "/v1/hooks/github-hook", "/v1/hooks/x"):
        status, problem = await send(sender.address + path, body, unsigned)
        assert isinstance(problem, ProblemDocument)
        assert problem.instance == path
        told.append((status, msgspec.structs.replace(problem, instance=None, request_id=None)))
    assert told[0][0] == 401
    assert told[0][1].code == "hook_unverified"
    assert all(one == told[0] for one in told)
    hook, listed = await shown(installation, sender)
    assert listed == []
    assert hook.refused == 1
    assert hook.refused_why == "header X-Hub-Signature-256 is not that of this body under a secret of the hook"


async def test_a_body_that_is_no_json_is_told_of_to_the_sender_alone(installation: Installation):
    sender = await begin(installation)
    for body in (b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"a":"\\ud800"}'):
        assert (await sender.refused(body))[:2] == (422, "hook_delivery_invalid")
        status, problem = await send(sender.address + sender.hook.path, body, {"X-Hub-Signature-256": "sha256=0"})
        assert isinstance(problem, ProblemDocument)
        assert (status, problem.code) == (401, "hook_unverified")


async def test_an_address_that_guesses_has_to_wait_and_does_not_learn_which_hooks_there_are(
    installation: Installation,
):
    sender = await begin(installation)
    other = f"/v1/hooks/{uuid4()}"
    for path in (sender.hook.path, other):
        statuses = [(await send(sender.address + path, b"{}", {}))[0] for _ in range(FAILURES_MAXIMUM + 2)]
        assert statuses == [401] * FAILURES_MAXIMUM + [429] * 2
    assert (await sender.refused(payloads.github_push()))[:2] == (429, "hook_refused_too_often")
    hook, _ = await shown(installation, sender)
    assert hook.refused == FAILURES_MAXIMUM
    async with aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {installation.admin_secret}"}
        async with session.get(f"{sender.address}/metrics", headers=headers) as response:
            text = await response.text()
    assert f'moonyard_hook_deliveries_total{{result="refused"}} {2 * FAILURES_MAXIMUM:.1f}' in text


async def test_a_delivery_that_is_too_large_or_too_slow_is_refused(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
):
    await installation.replica(secret_keys=KEYS, hook_body_size=10_000)
    await installation.push(PIPELINE, "--")
    sender = await begin(installation)
    large = payloads.github_push() | {"filling": "x" * 10_000}
    status, code, detail = await sender.refused(large)
    assert (status, code) == (413, "body_too_large")
    assert "9.8 KiB" in detail or "10" in detail
    monkeypatch.setattr(deliveries, "BODY_SECONDS", 0.2)

    async def slow() -> Any:
        yield b"{"
        await anyio.sleep_forever()

    async with (
        aiohttp.ClientSession() as session,
        session.post(sender.address + sender.hook.path, data=slow()) as response,
    ):
        assert response.status == 408


async def test_a_delivery_of_another_time_is_refused(installation: Installation):
    sender = await begin(installation, "generic")
    for seconds in (-400, 400):
        assert (await sender.refused({}, now=_now() + seconds))[:2] == (401, "hook_delivery_expired")


async def test_a_name_chosen_outside_cannot_write_over_a_terminal(installation: Installation):
    sender = await begin(installation, "generic", branches=["main"])
    await sender.skipped({"ref": "refs/heads/\x1b[2J", "sender": "\x1b]0;me\x07" + "x" * 900, "event": "a\nb"})
    _, [delivery] = await shown(installation, sender)
    for text in (delivery.event, delivery.sender, delivery.reason):
        assert text is not None
        assert text.isprintable()
        assert len(text) < 200


@pytest.mark.parametrize(
    ("payload", "inputs", "code"),
    [
        ({"x": "a\0b"}, {}, "hook_delivery_invalid"),
        ({"deep": [{"x": "a\0b"}]}, {}, "hook_delivery_invalid"),
        ({"ref": ["list"], "x": [1]}, {"author": "x"}, "hook_delivery_invalid"),
        ({"x": {"y": 1}}, {"author": "x"}, "hook_delivery_invalid"),
        ({"x": "y" * 20_000}, {"author": "x"}, "hook_delivery_invalid"),
        ({"x": "many"}, {"count": "x"}, "inputs_invalid"),
        ({"x": 2**63}, {"count": "x"}, "inputs_invalid"),
        ({"x": "elsewhere"}, {"target": "x"}, "inputs_invalid"),
    ],
)
async def test_what_makes_no_input_is_refused_whole_and_remembered(
    installation: Installation, payload: dict[str, Any], inputs: dict[str, str], code: str
):
    sender = await begin(installation, "generic", inputs=inputs)
    status, told, _ = await sender.refused(payload)
    assert (status, told) == (422, code)
    assert (await (await installation.client()).get("/v1/jobs", JobList)).jobs == []


async def test_values_of_json_become_inputs_of_their_type(installation: Installation):
    sender = await begin(
        installation, "generic", inputs={"author": "number", "message": "flag", "count": "text", "branch": "none"}
    )
    made = await job(installation, await sender.job({"number": 7, "flag": True, "text": "12", "none": None}))
    assert made.inputs["author"] == "7"
    assert made.inputs["message"] == "true"
    assert made.inputs["count"] == 12
    assert made.inputs["branch"] == ""


async def test_why_a_job_could_not_be_submitted_is_remembered(installation: Installation):
    sender = await begin(installation, inputs={"target": "repository.name"})
    status, code, detail = await sender.refused(payloads.github_push())
    assert (status, code) == (422, "inputs_invalid")
    assert "hello" in detail
    hook, [delivery] = await shown(installation, sender)
    assert (delivery.result, delivery.job) == ("failed", None)
    assert delivery.error is not None
    assert delivery.error.code == "inputs_invalid"
    assert hook.last == delivery


# --- people


async def test_who_manages_hooks_of_one_pipeline_does_not_learn_of_those_of_another(installation: Installation):
    await begin(installation)
    ours = PipelineDefinition(name="ours", stages=[StageDefinition(name="s")])
    await installation.push(ours, "-- ours")
    maintainer = await account(installation, "mia", ("maintainer", "ours"))
    own = HookCreate(name="own", pipeline="ours", kind="generic")
    assert (await maintainer.post("/v1/hooks", Hook, own)).created_by == "account mia"
    assert [hook.name for hook in (await maintainer.get("/v1/hooks", HookList)).hooks] == ["own"]
    told: set[tuple[str, str]] = set()
    for name in ("github-hook", "nosuch"):
        with pytest.raises(OrchestratorRefused) as refused:
            await maintainer.get(f"/v1/hooks/{name}/deliveries", HookDeliveryList)
        told.add((refused.value.code, refused.value.message.replace(name, "NAME")))
    assert told == {("hook_unknown", "there is no hook `NAME`")}
    with pytest.raises(OrchestratorRefused) as refused:
        await maintainer.post("/v1/hooks", Hook, HookCreate(name="x", pipeline="build", kind="generic"))
    assert refused.value.code == "pipeline_unknown"
    developer = await account(installation, "dev", ("developer", "ours"))
    with pytest.raises(OrchestratorRefused) as refused:
        await developer.post("/v1/hooks/own/rotate", Hook, HookRotate())
    assert (refused.value.status, refused.value.code) == (403, "permission_missing")


async def test_a_hook_is_made_listed_shown_and_removed_and_its_secret_is_told_once(installation: Installation):
    sender = await begin(installation, branches=["main"], constants={"target": "production"})
    client = await installation.client()
    assert sender.hook.path == f"/v1/hooks/{sender.hook.id}"
    hook = await client.get("/v1/hooks/github-hook", Hook)
    assert (hook.secret, hook.branches, hook.constants) == (None, ["main"], {"target": "production"})
    assert [held.number for held in hook.secrets] == [1]
    [listed] = (await client.get("/v1/hooks", HookList)).hooks
    assert (listed.name, listed.secret, listed.last) == ("github-hook", None, None)
    removed = await client.delete("/v1/hooks/github-hook", Hook)
    assert removed.secret is None
    assert (await sender.refused(payloads.github_push()))[0] == 401
    with pytest.raises(OrchestratorRefused) as refused:
        await client.get("/v1/hooks/github-hook", Hook)
    assert (refused.value.status, refused.value.code) == (404, "hook_unknown")
    with pytest.raises(OrchestratorRefused) as refused:
        await client.post("/v1/hooks/github-hook/change", Hook, HookRules())
    assert refused.value.code == "hook_unknown"
    done = await installation.fetch("SELECT action FROM moonyard.audit WHERE result = 'done' ORDER BY id")
    assert [row["action"] for row in done if "hook" in row["action"]] == ["create hook", "remove hook"]


async def test_a_secret_that_was_rotated_holds_on_for_its_overlap(installation: Installation):
    sender = await begin(installation)
    client = await installation.client()
    rotated = await client.post("/v1/hooks/github-hook/rotate", Hook, HookRotate(overlap=3600.0))
    assert rotated.secret not in {None, sender.secret}
    assert [(held.number, held.expires_at is None) for held in rotated.secrets] == [(2, True), (1, False)]
    await sender.job(payloads.github_push(after=f"{1:040x}"))
    await sender.job(payloads.github_push(after=f"{2:040x}"), secret=rotated.secret)
    assert psql(installation.url, "SELECT secrets FROM inspect.hooks", "-At").strip() == "2"
    again = await client.post("/v1/hooks/github-hook/rotate", Hook, HookRotate(overlap=0.0))
    assert [held.number for held in again.secrets] == [3]
    for secret in (sender.secret, rotated.secret):
        assert (await sender.refused(payloads.github_push(), secret=secret))[0] == 401
    await sender.job(payloads.github_push(), secret=again.secret)


async def test_a_paused_hook_starts_nothing_until_it_goes_on(installation: Installation):
    sender = await begin(installation)
    client = await installation.client()
    assert (await client.post("/v1/hooks/github-hook/pause", Hook)).paused_by == "token test"
    assert await sender.skipped(payloads.github_push(), delivery="d") == "hook is paused"
    assert (await client.post("/v1/hooks/github-hook/resume", Hook)).paused_by is None
    await sender.job(payloads.github_push(), delivery="d")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"name": "a/b"}, "request_invalid"),
        ({"name": ""}, "request_invalid"),
        ({"inputs": {"nosuch": "ref"}}, "hook_invalid"),
        ({"constants": {"nosuch": "x"}}, "hook_invalid"),
        ({"constants": {"target": "elsewhere"}}, "hook_invalid"),
        ({"constants": {"count": "many"}}, "hook_invalid"),
        ({"constants": {"author": "a\0"}}, "hook_invalid"),
        ({"constants": {"author": "x"}, "inputs": {"author": "x"}}, "hook_invalid"),
        ({"inputs": {"author": ""}}, "hook_invalid"),
        ({"inputs": {"author": "a."}}, "hook_invalid"),
        ({"inputs": {"author": "commits[*].id"}}, "hook_invalid"),
        ({"inputs": {"author": "commits[?id]"}}, "hook_invalid"),
        ({"inputs": {"author": "join('', a)"}}, "hook_invalid"),
        ({"inputs": {"author": "`1`"}}, "hook_invalid"),
        ({"inputs": {"author": "a" * 201}}, "hook_invalid"),
        ({"inputs": {"author": "!" * 199 + "a"}}, "hook_invalid"),
        ({"inputs": {"author": "(" * 200}}, "hook_invalid"),
        ({"branches": [""]}, "hook_invalid"),
        ({"branches": ["x"] * 51}, "hook_invalid"),
        ({"branches": ["\x1b"]}, "hook_invalid"),
        ({"events": ["*"]}, "hook_invalid"),
        ({"kind": "cvs"}, "request_invalid"),
        ({"pipeline": "nosuch"}, "pipeline_unknown"),
    ],
)
async def test_a_hook_that_could_do_nothing_is_refused(installation: Installation, fields: dict[str, Any], code: str):
    await installation.replica(secret_keys=KEYS)
    await installation.push(PIPELINE, "--")
    body = json.dumps({"name": "h", "pipeline": "build", "kind": "github"} | fields).encode()
    headers = {"Authorization": f"Bearer {installation.admin_secret}"}
    _, problem = await send(installation.replicas[0].address + "/v1/hooks", body, headers)
    assert isinstance(problem, ProblemDocument)
    assert problem.code == code, problem
    assert (await installation.fetch("SELECT count(*) AS hooks FROM moonyard.hooks"))[0]["hooks"] == 0


async def test_a_name_is_taken_once_and_an_input_without_a_default_has_to_come_from_somewhere(
    installation: Installation,
):
    await begin(installation)
    with pytest.raises(OrchestratorRefused) as refused:
        await begin(installation)
    assert (refused.value.status, refused.value.code) == (409, "hook_exists")
    needy = PipelineDefinition(
        name="needy",
        inputs={"commit": InputDefinition(type="string"), "place": InputDefinition(type="string")},
        stages=[StageDefinition(name="s")],
    )
    await installation.push(needy, "-- needy")
    with pytest.raises(OrchestratorRefused) as refused:
        await begin(installation, pipeline=needy, name="needy")
    assert (refused.value.code, "`place`" in refused.value.message) == ("hook_invalid", True)
    await begin(installation, pipeline=needy, name="needy", constants={"place": "here"})


async def test_without_a_master_key_there_are_no_hooks_and_none_is_taken_for_wrong(installation: Installation):
    sender = await begin(installation)
    bare = await installation.replica()
    client = await installation.client(address=bare.address)
    with pytest.raises(OrchestratorRefused) as refused:
        await client.post("/v1/hooks", Hook, HookCreate(name="other", pipeline="build", kind="github"))
    assert refused.value.code == "secrets_unavailable"
    assert len((await client.get("/v1/hooks", HookList)).hooks) == 1
    assert (await sender.refused(payloads.github_push(), address=bare.address))[:2] == (503, "hook_unavailable")


async def test_secrets_of_hooks_are_sealed_and_go_with_the_others_under_a_new_master_key(installation: Installation):
    sender = await begin(installation)
    dump = psql(installation.url, "SELECT row_to_json(t) FROM moonyard.hook_secrets AS t", "-At")
    assert sender.secret not in dump
    assert sender.secret.encode().hex() not in dump
    both = await installation.replica(secret_keys=master_keys.parse(f"{SECOND}\n{FIRST}", "a test"))
    client = await installation.client(address=both.address)
    done = await client.post("/v1/secret-keys/rewrap", SecretsRewrapped)
    assert (done.rewrapped, done.left) == (1, 0)
    alone = await installation.replica(secret_keys=master_keys.parse(SECOND, "a test"))
    await sender.job(payloads.github_push(), address=alone.address)
    # A row that stands in another's place opens nothing.
    other = await begin(installation, name="other")
    await installation.fetch(
        """
        UPDATE moonyard.hook_secrets AS secret
        SET nonce = found.nonce, ciphertext = found.ciphertext, key_id = found.key_id,
            wrapped_nonce = found.wrapped_nonce, wrapped_key = found.wrapped_key
        FROM moonyard.hook_secrets AS found JOIN moonyard.hooks AS hook ON hook.id = found.hook_id
        WHERE hook.name = 'github-hook' AND secret.hook_id <> found.hook_id
        """
    )
    for secret in (sender.secret, other.secret):
        assert (await other.refused(payloads.github_push(), secret=secret, address=both.address))[0] == 503


async def test_a_hook_can_be_tried_without_its_forge(installation: Installation):
    sender = await begin(installation, branches=["main"], events=["push", "pull_request"])
    client = await installation.client()

    async def attempt(**fields: Any) -> HookTested:
        return await client.post("/v1/hooks/github-hook/test", HookTested, HookTest(**fields))

    tested = await attempt()
    assert (tested.event, tested.skipped, tested.job) == ("push", None, None)
    assert tested.inputs["branch"] == "main"
    assert tested.facts["commit"] == tested.inputs["commit"]
    assert (await attempt(branch="other")).skipped == "branch other is not of this hook's"
    assert (await attempt(event="pull_request")).inputs["pull_request"] == 1
    own = await attempt(payload=json.dumps(payloads.github_push()))
    assert own.inputs["commit"] == payloads.AFTER
    assert (await client.get("/v1/jobs", JobList)).jobs == []
    numbers = [(await attempt(submit=True)).job for _ in range(2)]
    assert numbers == [1, 2]
    assert (await job(installation, 1)).trigger == Trigger(
        kind="webhook",
        by=sender.hook.name,
        delivery=f"{(await shown(installation, sender))[1][1].delivery}",
        event="push",
        sender="sample",
    )
    for fields, code in (({"event": "nosuch"}, "request_invalid"), ({"payload": "{"}, "hook_delivery_invalid")):
        with pytest.raises(OrchestratorRefused) as refused:
            await attempt(**fields)
        assert refused.value.code == code


@pytest.mark.parametrize("kind", ["github", "gitlab", "gitea", "generic"])
async def test_samples_are_what_each_kind_reads(installation: Installation, kind: HookKind):
    sender = await begin(installation, kind, events=["push", "pull_request"])
    client = await installation.client()
    for event in ("push", "pull_request"):
        path = f"/v1/hooks/{sender.hook.name}/test"
        tested = await client.post(path, HookTested, HookTest(event=event))
        assert (tested.event, tested.skipped) == (event, None)
        assert tested.facts["commit"] == "0123456789abcdef0123456789abcdef01234567"
        assert tested.facts["repository_url"] == "https://forge.example/moonyard/sample.git"


async def test_psql_shows_hooks_and_deliveries(installation: Installation):
    sender = await begin(installation, branches=["main"])
    await sender.job(payloads.github_push())
    await sender.skipped(payloads.github_push("refs/heads/x"))
    await send(sender.address + sender.hook.path, b"{}", {})
    hooks = "SELECT hook, pipeline, kind, state, last_result, secrets, refused FROM inspect.hooks"
    shown_hooks = psql(installation.url, hooks, "-At", role="moonyard_reader")
    assert shown_hooks == "github-hook|build|github|active|skipped|1|1\n"
    deliveries_told = "SELECT hook, event, result, job, came, sender, why FROM inspect.hook_deliveries"
    told = psql(installation.url, deliveries_told, "-At", role="moonyard_reader")
    assert told == (
        "github-hook|push|skipped||1|octavia|branch x is not of this hook's\ngithub-hook|push|submitted|1|1|octavia|\n"
    )


async def test_a_delivery_is_found_by_indexes_however_many_there_are(installation: Installation):
    sender = await begin(installation)
    await installation.fetch(
        "INSERT INTO moonyard.hooks (id, name, pipeline_id, kind, rules, created_by) "
        "SELECT gen_random_uuid(), number::text, pipeline_id, kind, rules, created_by "
        "FROM moonyard.hooks CROSS JOIN generate_series(1, 50) AS number"
    )
    await installation.fetch(
        "INSERT INTO moonyard.hook_deliveries (hook_id, key, delivery, event, result) "
        "SELECT id, number::text, 'd', 'push', 'skipped' FROM generate_series(1, 400) AS number, moonyard.hooks"
    )
    await installation.fetch("ANALYZE moonyard.hook_deliveries, moonyard.hooks")
    hook = f"'{sender.hook.id}'"
    for statement, values, index in (
        (sql.DELIVERY_AGAIN, (hook, "'7'"), "delivery_is_remembered_once"),
        (sql.DELIVERIES, (hook, "100"), "hook_deliveries_pkey"),
        (sql.LIST, ("NULL", "ARRAY['*']", "NULL"), "hook_deliveries_pkey"),
    ):
        found = await plan(installation, statement, *values)
        assert index in found, found
        assert "Seq Scan on hook_deliveries" not in found, found


async def test_old_and_many_deliveries_go_and_so_do_secrets_that_hold_no_more(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
):
    sender = await begin(installation)
    numbers = [await sender.job(payloads.github_push(after=f"{number:040x}")) for number in range(1, 6)]
    await (await installation.client()).post("/v1/hooks/github-hook/rotate", Hook, HookRotate(overlap=0.0))
    await installation.fetch(
        "UPDATE moonyard.hook_deliveries SET received_at = now() - interval '31 days' WHERE id = ("
        "SELECT min(id) FROM moonyard.hook_deliveries)"
    )
    monkeypatch.setattr(retention, "DELIVERIES_MAXIMUM", 3)
    assert await retention.remove_old_deliveries(installation.database) == 2
    _, left = await shown(installation, sender)
    assert [delivery.job for delivery in left] == numbers[:1:-1]
    assert len(await installation.fetch("SELECT FROM moonyard.hook_secrets")) == 1
    assert await retention.remove_old_deliveries(installation.database) == 0
