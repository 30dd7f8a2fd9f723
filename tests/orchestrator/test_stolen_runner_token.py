"""What whoever has a runner's token can do with it, and cannot: a test for each sentence of docs/runners.md."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import aiohttp
import anyio
import msgspec
import pytest
from litestar.routes import HTTPRoute

from orchestrator import app, master_keys
from orchestrator.access import KEY
from schema.approvals import ApprovalAsk
from schema.client import OrchestratorRefused
from schema.definition import CacheDefinition, InputDefinition, PipelineDefinition, StageDefinition
from schema.events import encode_line
from schema.secrets import Grant, GrantCreate, Secret, SecretAsk, SecretDelivery, SecretSet
from schema.shells import ContainersKeep, ContainersKept, Shell, ShellOpen
from schema.wire import (
    Artifact,
    ArtifactSave,
    ArtifactsFind,
    ArtifactsFound,
    BlobState,
    CacheFind,
    CacheFound,
    CacheSave,
    CacheSaved,
    Heartbeat,
    HeartbeatAnswer,
    Holding,
    HttpLimit,
    HttpLimitSet,
    HttpPermits,
    HttpPermitsTake,
    Job,
    JobList,
    JobSubmit,
    Kept,
    PipelinePush,
    PipelineVersion,
    PluginContents,
    PluginPush,
    PluginVersion,
    ProblemDocument,
    ReportAdd,
    ReportedTest,
    ReservationSet,
    RunnerBind,
    RunnersChanged,
    RunnerToken,
    RunnerTokenUsed,
    WorkspaceKeep,
    WorkspaceKept,
)
from tests.orchestrator.installation import DEADLINE_SECONDS, Attempt, Installation, SpokenRunner
from tests.plugins.made import files, operation

VALUE = b"correct horse battery staple"
CONTENT = b"what the victim's job kept: a key, and 300 pages about it"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
KEPT_ROWS = (
    *(
        "jobs",
        "attempts",
        "stages",
        "commands",
        "event_batches",
        "artifacts",
        "blobs",
        "blob_chunks",
        "caches",
        "shells",
    ),
    *("kept_workspaces", "kept_containers", "tests", "secrets", "secret_versions", "grants", "shell_streams", "audit"),
)
UNKNOWN = "00000000-0000-7000-8000-000000000000"


class Robbed:
    """An installation with a job of one runner, of all that a job can have, and a token of another runner."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.victim: SpokenRunner
        self.thief: SpokenRunner
        self.live: Attempt
        """The victim's, as attempt 2 of its job."""
        self.stale: Attempt
        """The thief's own, which it lost: attempt 1 of the same job."""
        self.shell: str
        self.cache: str

    async def start(self) -> None:
        keys = master_keys.parse(master_keys.generate(), "a test")
        await self.installation.replica(lease_seconds=600.0, secret_keys=keys)
        self.victim, self.thief = [await self.installation.runner(name) for name in ("victim", "thief")]
        await self.installation.push(
            PipelineDefinition(
                name="hello",
                inputs={"ref": InputDefinition(type="string", default="main")},
                cache=[CacheDefinition(key="deps", paths=["node_modules"])],
                stages=[StageDefinition(name="greet")],
                keep_workspace=3600.0,
            )
        )
        await self.admin("/v1/secrets", Secret, SecretSet(secret="TOKEN", value=VALUE, readable=True))
        await self.admin("/v1/grants", Grant, GrantCreate(secret="TOKEN", pipeline="hello", follows=True))
        await self.installation.submit()
        self.stale = await self._began(self.thief)
        await self.installation.fetch("UPDATE moonyard.attempts SET lease_expires_at = now() - interval '1 second'")
        self.live = await self._began(self.victim)
        assert self.live.assignment.attempt == 2
        path = self.path(self.live)
        await put(self.victim, CONTENT)
        saved = ArtifactSave(name="key.txt", sha256=SHA256, size_bytes=len(CONTENT))
        await self.victim.client.post(f"{path}/artifacts", Artifact, saved)
        await self.victim.client.post(
            f"{path}/caches", CacheSaved, CacheSave(stage=None, place=0, key="deps", sha256=SHA256)
        )
        await self.victim.client.post(f"{path}/workspace", WorkspaceKept, WorkspaceKeep(sha256=SHA256))
        found = await self.victim.client.post(
            f"{path}/caches/find", CacheFound, CacheFind(stage=None, place=0, key="deps")
        )
        assert found.id is not None
        self.cache = found.id
        await self.victim.client.post(f"{path}/kept", ContainersKept, ContainersKeep(seconds=600.0, images=["alpine"]))
        asked = SecretAsk(name="TOKEN", stage="greet", use="lua")
        assert (await self.victim.client.post(f"{path}/secrets", SecretDelivery, asked)).value == VALUE
        self.shell = (await self.admin(f"/v1/jobs/{self.live.job}/shells", Shell, ShellOpen())).id

    async def _began(self, runner: SpokenRunner) -> Attempt:
        with anyio.fail_after(DEADLINE_SECONDS):
            [assignment] = await runner.claim()
        attempt = Attempt(assignment)
        await runner.send(attempt, attempt.state("running"))
        return attempt

    async def admin(self, path: str, kind: type[Any], message: Any = None) -> Any:
        return await (await self.installation.client()).post(path, kind, message)

    def path(self, attempt: Attempt) -> str:
        return f"/v1/runner/jobs/{attempt.job}/{attempt.assignment.attempt}"

    async def state(self) -> dict[str, Any]:
        """Give all that there is of jobs, and what follows from them."""
        found: dict[str, Any] = {}
        for table in KEPT_ROWS:
            rows = await self.installation.fetch(
                f"SELECT md5(string_agg(row::text, '' ORDER BY row::text)) AS all FROM moonyard.{table} AS row"  # noqa: S608
            )
            found[table] = rows[0]["all"]
        return found


@pytest.fixture
async def robbed(installation: Installation) -> Robbed:
    made = Robbed(installation)
    await made.start()
    return made


async def put(runner: SpokenRunner, content: bytes, sha256: str | None = None) -> None:
    named = hashlib.sha256(content).hexdigest() if sha256 is None else sha256
    await runner.client.put(f"/v1/runner/blobs/{named}", object, io.BytesIO(content), seconds=DEADLINE_SECONDS)


def bodies(robbed: Robbed, attempt: Attempt | None) -> dict[str, Any]:
    """Give what is asked by each route that is about an attempt: what would do something, were it the victim."""
    own = Attempt(robbed.live.assignment if attempt is None else attempt.assignment)
    if attempt is None:
        assignment = msgspec.structs.replace(own.assignment, job=UNKNOWN, attempt=1)
        own = Attempt(assignment)
    own.state("running")
    return {
        "POST events": encode_line(own.state("succeeded")),
        "POST artifacts": ArtifactSave(name="own.txt", sha256=SHA256, size_bytes=len(CONTENT)),
        "POST artifacts/find": ArtifactsFind(name="key.txt"),
        "GET artifacts/{source}/{name}": None,
        "POST tests": ReportAdd(
            stage="greet", report="r.xml", position=0, tests=[ReportedTest(suite="s", name="n", state="passed")]
        ),
        "POST workspace": WorkspaceKeep(sha256=SHA256),
        "GET workspace": None,
        "POST caches/find": CacheFind(stage=None, place=0, key="deps"),
        "GET caches/{cache}": None,
        "POST caches": CacheSave(stage=None, place=0, key="other", sha256=SHA256),
        "POST secrets": SecretAsk(name="TOKEN", stage="greet", use="lua"),
        "POST approval": ApprovalAsk(stage="greet", wait=0.0),
        "POST kept": ContainersKeep(seconds=600.0, images=["thief"]),
        "DELETE kept": None,
    }


def routes_of_attempts(installation: Installation) -> set[str]:
    """Name the routes of runners that are about an attempt."""
    prefix = "/v1/runner/jobs/{job:str}/{attempt:int}/"
    found: set[str] = set()
    for route in app.create().routes:
        if isinstance(route, HTTPRoute) and route.path.startswith(prefix):
            rest = route.path.removeprefix(prefix).replace(":str}", "}").replace(":path}", "}")
            assert "runner" in {handler.opt.get(KEY) for handler in route.route_handlers}
            found |= {f"{method} {rest}" for method in route.methods if method != "OPTIONS"}
    return found


async def test_every_route_of_an_attempt_refuses_another_runner_alike_whether_it_is_there_or_not(robbed: Robbed):
    """Cannot: read or change anything of a job that its runner holds no lease for, or holds no more."""
    # It may have any content, and knows all names: only the lease is missing.
    await put(robbed.thief, CONTENT)
    before = await robbed.state()
    address = robbed.installation.replicas[0].address
    answers: dict[str, dict[str, tuple[int, str, str]]] = {}
    headers = {"Authorization": f"Bearer {robbed.thief.registered.token}"}
    targets = {"live": robbed.live, "stale": robbed.stale, "unknown": None}
    async with aiohttp.ClientSession(headers=headers) as session:
        for target, attempt in targets.items():
            job, number = (UNKNOWN, 1) if attempt is None else (str(attempt.job), attempt.assignment.attempt)
            asked = bodies(robbed, attempt)
            assert set(asked) == routes_of_attempts(robbed.installation), "each route has its question here"
            for route, body in asked.items():
                method, _, rest = route.partition(" ")
                path = rest.replace("{source}", job).replace("{name}", "key.txt").replace("{cache}", robbed.cache)
                url = f"{address}/v1/runner/jobs/{job}/{number}/{path}"
                params, data, kind = {}, None, {}
                if isinstance(body, bytes):
                    params, data = {"first_seq": "2"}, body
                elif body is not None:
                    data, kind = msgspec.json.encode(body), {"Content-Type": "application/json"}
                async with session.request(method, url, params=params, data=data, headers=kind) as response:
                    read = await response.read()
                    assert CONTENT not in read
                    assert VALUE not in read
                    if response.status == 200:
                        answers.setdefault(route, {})[target] = (200, "", "")
                        continue
                    problem = msgspec.json.decode(read, type=ProblemDocument)
                    told = problem.detail.replace(job, "JOB").replace(f"attempt {number}", "attempt N")
                    answers.setdefault(route, {})[target] = (response.status, problem.code, told)
    for route, told in answers.items():
        assert len(set(told.values())) == 1, (route, told)
        expected = {"DELETE kept": (200, ""), "GET workspace": (404, "workspace_not_kept")}
        assert told["live"][:2] == expected.get(route, (409, "attempt_gone")), (route, told)
    assert await robbed.state() == before


async def test_it_renews_and_ends_nothing_of_others_by_a_heartbeat(robbed: Robbed):
    """Cannot: renew another runner's lease, or learn by a heartbeat what there is."""
    before = await robbed.state()
    answers: list[HeartbeatAnswer] = []
    for job, number in ((str(robbed.live.job), 2), (str(robbed.live.job), 1), (UNKNOWN, 1)):
        message = Heartbeat(holding=[Holding(job=job, attempt=number)], kept=[Kept(job=job, attempt=number)])
        answer = await robbed.thief.client.post("/v1/runner/heartbeat", HeartbeatAnswer, message)
        assert (answer.gone, answer.release) == ([job], [Kept(job=job, attempt=number)])
        answers.append(msgspec.structs.replace(answer, gone=[], release=[]))
    assert answers[0] == answers[1] == answers[2]
    assert (answers[0].cancel, answers[0].shells) == ([], [])
    assert await robbed.state() == before


async def test_it_finds_no_artifacts_of_pipelines_that_do_not_let_its_job_and_learns_no_numbers(robbed: Robbed):
    """Cannot: read artifacts, through a job of its own, of a pipeline that does not let that job's pipeline."""
    await robbed.installation.push(PipelineDefinition(name="mine", stages=[StageDefinition(name="greet")]))
    await robbed.installation.submit(pipeline="mine")
    [assignment] = await robbed.thief.claim()
    path = robbed.path(Attempt(assignment))
    told: set[str] = set()
    live = robbed.live.assignment
    for reference in (str(live.number), str(robbed.live.job), "999999", UNKNOWN, "nonsense"):
        with pytest.raises(OrchestratorRefused) as refused:
            await robbed.thief.client.post(f"{path}/artifacts/find", ArtifactsFound, ArtifactsFind(job=reference))
        assert (refused.value.status, refused.value.code) == (404, "artifact_unknown")
        told.add(refused.value.message.replace(reference, "JOB"))
    assert len(told) == 1
    for source in (str(robbed.live.job), UNKNOWN):
        with pytest.raises(OrchestratorRefused) as refused:
            async with robbed.thief.client.stream(f"{path}/artifacts/{source}/key.txt"):
                pass
        assert (refused.value.status, refused.value.code) == (404, "artifact_unknown")


async def test_a_hash_alone_gives_no_content_and_does_not_tell_whether_it_is_there(robbed: Robbed):
    """Cannot: read a content whose hash and size it knows, by naming it as its own; nor learn that it is stored."""
    await robbed.installation.push(PipelineDefinition(name="mine", stages=[StageDefinition(name="greet")]))
    await robbed.installation.submit(pipeline="mine")
    [assignment] = await robbed.thief.claim()
    path = robbed.path(Attempt(assignment))
    absent = hashlib.sha256(b"nothing").hexdigest()
    for sha256 in (SHA256, absent):
        state = await robbed.thief.client.get(f"/v1/runner/blobs/{sha256}", BlobState)
        assert state == BlobState(is_whole=False, size_bytes=0)
        with pytest.raises(OrchestratorRefused) as refused:
            await robbed.thief.client.post(
                f"{path}/artifacts", Artifact, ArtifactSave(name="x", sha256=sha256, size_bytes=len(CONTENT))
            )
        assert (refused.value.status, refused.value.code) == (404, "blob_unknown")
        # All but a few bytes of it do not do.
        with pytest.raises(OrchestratorRefused) as refused:
            await put(robbed.thief, CONTENT[:-1] + b"?", sha256)
        assert (refused.value.status, refused.value.code) == (422, "blob_damaged")
        with pytest.raises(OrchestratorRefused) as refused:
            await put(robbed.thief, b"", sha256)
        assert refused.value.code == "blob_damaged"
    message = ArtifactSave(name="x", sha256=SHA256, size_bytes=len(CONTENT))
    with pytest.raises(OrchestratorRefused):
        await robbed.thief.client.post(f"{path}/artifacts", Artifact, message)
    # Whoever has all of it may say so: it is stored once, and need be sent once.
    chunks = await robbed.installation.fetch("SELECT count(*) AS count FROM moonyard.blob_chunks")
    await put(robbed.thief, CONTENT)
    assert (await robbed.thief.client.get(f"/v1/runner/blobs/{SHA256}", BlobState)).is_whole
    assert (await robbed.thief.client.post(f"{path}/artifacts", Artifact, message)).sha256 == SHA256
    assert chunks == await robbed.installation.fetch("SELECT count(*) AS count FROM moonyard.blob_chunks")


async def test_the_rest_of_a_broken_upload_proves_nothing_of_anothers_content(robbed: Robbed):
    """Cannot: pass for one who has a content by sending its end alone."""
    with pytest.raises(OrchestratorRefused) as refused:
        await robbed.thief.client.put(
            f"/v1/runner/blobs/{SHA256}?offset={len(CONTENT)}", object, io.BytesIO(b""), seconds=DEADLINE_SECONDS
        )
    assert (refused.value.status, refused.value.code) == (409, "upload_moved")
    assert not (await robbed.thief.client.get(f"/v1/runner/blobs/{SHA256}", BlobState)).is_whole


async def test_shells_of_other_runners_are_not_there_for_it(robbed: Robbed):
    """Cannot: read, write or end a shell in another runner's container."""
    before = await robbed.state()
    questions: dict[str, Any] = {
        "open": {"image": "alpine"},
        "send": {"position": 0, "data": "", "is_over": True},
        "receive": {"position": 0, "wait": 0},
        "end": {},
    }
    headers = {"Authorization": f"Bearer {robbed.thief.registered.token}"}
    address = robbed.installation.replicas[0].address
    async with aiohttp.ClientSession(headers=headers) as session:
        for question, body in questions.items():
            told: set[tuple[int, str, str]] = set()
            for shell in (robbed.shell, UNKNOWN):
                url = f"{address}/v1/runner/shells/{shell}/{question}"
                async with session.post(url, json=body) as response:
                    problem = msgspec.json.decode(await response.read(), type=ProblemDocument)
                    told.add((response.status, problem.code, problem.detail.replace(shell, "SHELL")))
            [(status, code, _)] = told
            assert (status, code) in {(404, "shell_unknown"), (409, "shell_not_wanted")}
    assert await robbed.state() == before


async def test_it_gets_only_the_plugins_of_jobs_that_it_holds(robbed: Robbed):
    """Cannot: fetch a plugin by its hash that no job of its runner is locked with."""
    plugin = await robbed.admin("/v1/plugins", PluginVersion, PluginPush(files=files(init=operation("return nil"))))
    source = 'return { name = "p", plugins = { "mine" }, stages = { { name = "s", script = function() end } } }'
    await robbed.admin("/v1/pipelines", PipelineVersion, PipelinePush(filename="p.lua", source=source))
    path = f"/v1/runner/plugins/{plugin.sha256}"

    async def fetched(runner: SpokenRunner) -> bool | str:
        try:
            return bool((await runner.client.get(path, PluginContents)).files)
        except OrchestratorRefused as refused:
            return refused.code

    assert await fetched(robbed.victim) == "plugin_unknown"
    await robbed.admin("/v1/jobs", Job, JobSubmit(pipeline="p"))
    [assignment] = await robbed.victim.claim()
    assert (await fetched(robbed.victim), await fetched(robbed.thief)) == (True, "plugin_unknown")
    attempt = Attempt(assignment)
    await robbed.victim.send(attempt, attempt.state("succeeded"))
    assert await fetched(robbed.victim) == "plugin_unknown"


async def test_guesses_at_anothers_secret_are_not_compared(robbed: Robbed):
    """Cannot: find out what another attempt was delivered by sending events with guesses."""
    for first_seq in (2, 2):
        guess = Attempt(robbed.live.assignment)
        guess.state("running")
        lines = [guess.log(VALUE.decode()), guess.state("failed")]
        with pytest.raises(OrchestratorRefused) as refused:
            await robbed.thief.send(guess, *lines, first_seq=first_seq)
        assert (refused.value.status, refused.value.code) == (409, "attempt_gone")
    assert await robbed.installation.fetch("SELECT FROM moonyard.audit WHERE action = 'send secret in plain'") == []


async def test_secrets_are_those_of_jobs_it_holds_and_not_what_is_granted_for_other_runners(robbed: Robbed):
    """Can: have what is granted to pipelines of jobs that it gets. Cannot: have what is granted at other runners."""
    for name, runners in (("PUBLIC", []), ("GUARDED", ["victim"])):
        await robbed.admin("/v1/secrets", Secret, SecretSet(secret=name, value=VALUE, readable=True))
        grant = GrantCreate(secret=name, pipeline="mine", follows=True, runners=list(runners))
        await robbed.installation.push(PipelineDefinition(name="mine", stages=[StageDefinition(name="greet")]))
        await robbed.admin("/v1/grants", Grant, grant)
    await robbed.installation.submit(pipeline="mine")
    [assignment] = await robbed.thief.claim()
    path = f"{robbed.path(Attempt(assignment))}/secrets"
    given = await robbed.thief.client.post(path, SecretDelivery, SecretAsk(name="PUBLIC", stage="greet", use="lua"))
    assert given.value == VALUE
    for name in ("GUARDED", "TOKEN", "NONE"):
        with pytest.raises(OrchestratorRefused) as refused:
            await robbed.thief.client.post(path, SecretDelivery, SecretAsk(name=name, stage="greet", use="lua"))
        assert refused.value.code == "secret_not_granted"
    rows = await robbed.installation.fetch(
        "SELECT actor, action FROM moonyard.audit WHERE action IN ('deliver secret', 'refuse secret') "
        "AND subject LIKE '%PUBLIC' OR subject LIKE '%GUARDED' AND action = 'refuse secret'"
    )
    assert {tuple(row) for row in rows} == {("runner thief", "deliver secret"), ("runner thief", "refuse secret")}


async def test_it_gets_no_job_that_is_reserved_for_other_runners_and_can_take_all_others(robbed: Robbed):
    """Can: take jobs that wait for any runner, and say how they ended. Cannot: take those of reserved pipelines."""
    for name in ("deploy", "build"):
        await robbed.installation.push(PipelineDefinition(name=name, stages=[StageDefinition(name="greet")]))
    await robbed.admin("/v1/reservations", ReservationSet, ReservationSet(pipelines="deploy", reserved=True))
    await robbed.admin("/v1/runners/victim/bind", RunnersChanged, RunnerBind(pipelines=["deploy"]))
    await robbed.installation.submit(pipeline="deploy")
    build = await robbed.installation.submit(pipeline="build")
    [assignment] = await robbed.thief.claim(slots=1000)
    assert assignment.job == build.id
    attempt = Attempt(assignment)
    await robbed.thief.send(attempt, attempt.state("running"), attempt.log("a lie"), attempt.state("succeeded"))
    told = await (await robbed.installation.client()).get(f"/v1/jobs/{build.id}", Job)
    assert (told.state, told.runner) == ("succeeded", "thief")


async def test_it_takes_no_more_than_its_turn_of_permits(robbed: Robbed):
    """Cannot: keep other runners from asking a host with a limit, by taking permits that it does not use."""
    await robbed.admin("/v1/http-limits", HttpLimit, HttpLimitSet(host="api.example.org", rate="20/s", burst=1))

    async def take(runner: SpokenRunner, wanted: int = 1000) -> HttpPermits:
        message = HttpPermitsTake(host="api.example.org", wanted=wanted)
        return await runner.client.post("/v1/runner/http/permits", HttpPermits, message)

    first = await take(robbed.thief)
    assert first.granted == 20
    async with anyio.create_task_group() as tasks:
        for _ in range(40):
            tasks.start_soon(take, robbed.thief)
    again = await take(robbed.thief)
    assert again.granted <= 20
    assert again.delay <= first.delay + 1.0
    honest = await take(robbed.victim, 1)
    assert honest.delay <= 1.0 + 0.05, "it waits behind one batch of the thief's, however often that one asked"
    [row] = await robbed.installation.fetch("SELECT permits FROM moonyard.http_limits")
    assert row["permits"] <= 20 + 1 + 20, "what was told again is counted once"


async def test_it_is_for_nothing_that_people_do(robbed: Robbed):
    """Cannot: do anything that people do: list, submit, cancel, read logs, make tokens, or register runners."""
    for path in ("/v1/jobs", "/v1/tokens", "/v1/runners", "/v1/secrets", "/v1/pipelines", f"/v1/jobs/{UNKNOWN}"):
        with pytest.raises(OrchestratorRefused) as refused:
            await robbed.thief.client.get(path, JobList)
        assert (refused.value.status, refused.value.code) == (403, "token_kind_wrong")
    with pytest.raises(OrchestratorRefused) as refused:
        await robbed.thief.client.post("/v1/runners/register", RunnersChanged, RunnerBind(pipelines=[]))
    assert (refused.value.status, refused.value.code) == (403, "token_kind_wrong")


async def test_who_has_it_can_replace_it_and_the_runner_notices(robbed: Robbed):
    """Can: get a new token with it, which puts the runner out. Cannot: do so unnoticed, or once it was replaced."""
    taken = await robbed.thief.client.post("/v1/runner/token", RunnerToken)
    copy = await robbed.installation.client(taken.token)
    await copy.get("/v1/runner/token", RunnerTokenUsed)
    await robbed.installation.fetch("UPDATE moonyard.tokens SET replaced_at = replaced_at - interval '61 seconds'")
    robbed.installation.replicas[0].parts.authentication.forget()
    with pytest.raises(OrchestratorRefused) as refused:
        await robbed.thief.client.get("/v1/runner/token", RunnerTokenUsed)
    assert refused.value.code == "runner_token_replaced"
    actions = await robbed.installation.fetch("SELECT action FROM moonyard.audit WHERE actor = 'runner thief'")
    assert {row["action"] for row in actions} >= {"rotate token", "reuse replaced token"}


async def test_it_ends_when_its_runner_is_revoked(robbed: Robbed):
    """Cannot: go on once the runner was revoked, with this token or any that it was replaced by."""
    copy = await robbed.thief.client.post("/v1/runner/token", RunnerToken)
    await robbed.admin("/v1/runners/thief/revoke", RunnersChanged)
    for token in (robbed.thief.registered.token, copy.token):
        client = await robbed.installation.client(token)
        with pytest.raises(OrchestratorRefused) as refused:
            await client.get("/v1/runner/token", RunnerTokenUsed)
        assert (refused.value.status, refused.value.code) == (401, "runner_revoked")
