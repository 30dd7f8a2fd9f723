"""Asking an orchestrator for what one has no right to: without a token, with another's or a runner's, or by trickery.

Who may call which endpoint is a table that another test goes through (docs/permissions.md); here are ways around it.
"""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp

from schema.client import OrchestratorRefused
from schema.definition import PipelineDefinition, StageDefinition
from schema.secrets import SecretAsk
from schema.wire import Artifact, ArtifactSave, ArtifactsFind, BlobState, CacheFind, ReportAdd
from tests.attack.attempts import Attempt, judged
from tests.orchestrator.installation import Attempt as HeldAttempt
from tests.orchestrator.installation import Installation, SpokenRunner
from tests.orchestrator.installation import installation as opened
from tests.orchestrator.test_secrets import LEASE_SECONDS

REFUSED = frozenset({400, 401, 403, 404, 405, 409, 413, 415, 421, 422, 429, 431})
NOT_LET_IN = frozenset({401, 403})
JSON = {"Content-Type": "application/json"}
CONTENT = b"what the victim's job kept, which is its own"
PEOPLES = (
    ("GET", "/v1/jobs"),
    ("POST", "/v1/jobs"),
    ("GET", "/v1/pipelines"),
    ("POST", "/v1/pipelines"),
    ("GET", "/v1/tokens"),
    ("POST", "/v1/tokens"),
    ("GET", "/v1/secrets"),
    ("POST", "/v1/secrets"),
    ("GET", "/v1/grants"),
    ("POST", "/v1/grants"),
    ("GET", "/v1/runners"),
    ("GET", "/v1/accounts"),
    ("GET", "/v1/audit"),
    ("GET", "/v1/jobs/{job}"),
    ("GET", "/v1/jobs/{job}/events"),
    ("GET", "/v1/jobs/{job}/artifacts"),
    ("POST", "/v1/jobs/{job}/cancel"),
    ("POST", "/v1/jobs/{job}/shells"),
)


async def attempts(url: str) -> list[Attempt]:
    """Try all."""
    async with opened(url) as installation:
        await installation.replica(lease_seconds=LEASE_SECONDS)
        return await _attempts(installation)


async def _attempts(installation: Installation) -> list[Attempt]:
    victim = await _begin(installation, "victim")
    thief = await _begin(installation, "thief")
    kept = await _keep(victim[0], victim[1])
    async with aiohttp.ClientSession(auto_decompress=True) as session:
        asked = Asking(session, installation.replicas[0].address)
        return [
            *await _by_tokens(asked, installation, thief[0], victim[1]),
            *await _as_runner(thief, victim, kept),
            *await _by_requests(asked, installation, victim[1]),
            await _smuggled(installation),
        ]


class Asking:
    """Sends requests as they are given."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self.address = address

    async def got(self, method: str, path: str, refused: frozenset[int], **more: object) -> tuple[str | None, str]:
        """Give what a request got that it should not have, and how it was answered.

        :param refused: the statuses that are a refusal.
        """
        timeout = aiohttp.ClientTimeout(total=20)
        try:
            asking: Any = self._session.request  # its options are as many as the tries
            async with asking(method, self.address + path, timeout=timeout, **more) as answer:
                body = await answer.content.read(300)
                told = f"{answer.status} {body.decode(errors='replace')}"
                return (None if answer.status in refused else told), told
        except aiohttp.ClientError as error:
            return None, f"{type(error).__name__}"
        except ValueError as error:
            return None, f"the client does not send it: {error}"


Held = tuple[SpokenRunner, HeldAttempt]


async def _begin(installation: Installation, name: str) -> Held:
    pipeline = PipelineDefinition(name=name, stages=[StageDefinition(name="greet")])
    await installation.push(pipeline, f"-- {name}")
    runner = await installation.runner(name)
    await installation.submit(pipeline=name)
    [assignment] = await runner.claim()
    return runner, HeldAttempt(assignment)


async def _keep(runner: SpokenRunner, attempt: HeldAttempt) -> str:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    await runner.client.put(f"/v1/runner/blobs/{sha256}", object, io.BytesIO(CONTENT), seconds=20)
    message = ArtifactSave(name="kept", sha256=sha256, size_bytes=len(CONTENT), content_type="text/plain")
    await runner.client.post(f"{_path(attempt)}/artifacts", Artifact, message)
    return sha256


def _path(attempt: HeldAttempt) -> str:
    return f"/v1/runner/jobs/{attempt.assignment.job}/{attempt.assignment.attempt}"


async def _by_tokens(
    asked: Asking, installation: Installation, thief: SpokenRunner, held: HeldAttempt
) -> list[Attempt]:
    admin, runner = installation.admin_secret, thief.registered.token
    changed = admin[:-1] + ("A" if admin[-1] != "A" else "B")
    prefix, _, rest = runner.rpartition("_")
    as_admin = admin.rpartition("_")[0] + "_" + rest
    tokens = {
        "no token": {},
        "a runner's token": {"Authorization": f"Bearer {runner}"},
        "a runner's token called an admin's": {"Authorization": f"Bearer {as_admin}"},
        "a token with another last letter": {"Authorization": f"Bearer {changed}"},
        "a token cut off": {"Authorization": f"Bearer {admin[:-1]}"},
        "a token written twice": {"Authorization": f"Bearer {admin} {admin}"},
        "a token with a wildcard": {"Authorization": f"Bearer {prefix}_%"},
        "a token as a password": {"Authorization": "Basic " + base64.b64encode(f"x:{admin}".encode()).decode()},
        "a token by another scheme": {"Authorization": f"Token {admin}"},
        "headers of a proxy": {"X-Forwarded-User": "admin", "X-Remote-User": "admin", "X-Forwarded-For": "127.0.0.1"},
        "a token in a cookie": {"Cookie": f"token={admin}; session={admin}"},
    }
    made: list[Attempt] = []
    for name, headers in tokens.items():
        for method, path in PEOPLES:
            asking = {"headers": headers | JSON, "data": b"{}"}
            got, told = await asked.got(method, path.format(job=held.assignment.job), NOT_LET_IN, **asking)
            made.append(judged(f"{method} {path} with {name}", got, told))
    for query in ("token", "access_token"):
        got, told = await asked.got("GET", f"/v1/jobs?{query}={admin}", NOT_LET_IN)
        made.append(judged(f"ask with a token in the URL, as {query}", got, told))
    return made


async def _as_runner(thief: Held, victim: Held, sha256: str) -> list[Attempt]:
    """Use a runner's token for what another one holds."""
    client, theirs, mine = thief[0].client, _path(victim[1]), _path(thief[1])
    job = victim[1].assignment.job
    wanted = {
        "find its artifacts": client.post(f"{theirs}/artifacts/find", object, ArtifactsFind()),
        "read its artifact": client.get(f"{theirs}/artifacts/{job}/kept", object),
        "read its artifact for a job of one's own": client.get(f"{mine}/artifacts/{job}/kept", object),
        "read an artifact by a path that leads up": client.get(f"{mine}/artifacts/{job}/..%2f..%2fkept", object),
        "fetch its workspace": client.get(f"{theirs}/workspace", object),
        "ask for its secrets": client.post(
            f"{theirs}/secrets", object, SecretAsk(name="TOKEN", stage="greet", use="environment")
        ),
        "look for its caches": client.post(
            f"{theirs}/caches/find", object, CacheFind(stage=None, place=0, key="x", exact=True)
        ),
        "say that it has ended": thief[0].send(victim[1], victim[1].state("succeeded")),
        "keep an artifact for it": client.post(
            f"{theirs}/artifacts",
            Artifact,
            ArtifactSave(name="forged", sha256=sha256, size_bytes=len(CONTENT), content_type="text/plain"),
        ),
        "name its content as one's own": client.post(
            f"{mine}/artifacts",
            Artifact,
            ArtifactSave(name="stolen", sha256=sha256, size_bytes=len(CONTENT), content_type="text/plain"),
        ),
        "tell tests for it": client.post(
            f"{theirs}/tests", object, ReportAdd(stage="greet", report="x", position=0, tests=[])
        ),
        "read a job that there is not": client.get(f"/v1/runner/jobs/{uuid4()}/1/workspace", object),
    }
    made: list[Attempt] = []
    for name, asking in wanted.items():
        try:
            got = repr(await asking)
        except OrchestratorRefused as refused:
            got, told = None, f"{refused.status} {refused.code}"
        else:
            told = got
        made.append(judged(f"as another runner: {name}", got, told))
    try:
        state = await client.get(f"/v1/runner/blobs/{sha256}", BlobState)
        got, told = (repr(state), "") if state.size_bytes else (None, "it is told of its own uploads alone")
    except OrchestratorRefused as refused:
        got, told = None, f"{refused.status} {refused.code}"
    made.append(judged("as another runner: learn which contents there are", got, told))
    return made


async def _by_requests(asked: Asking, installation: Installation, held: HeldAttempt) -> list[Attempt]:
    """Send what a lenient server would take amiss, with a right to ask."""
    headers = {"Authorization": f"Bearer {installation.admin_secret}"}
    job = held.assignment.job
    tries: dict[str, tuple[str, str, dict[str, object]]] = {
        "read a file by an artifact's name": ("GET", f"/v1/jobs/{job}/artifacts/..%2f..%2f..%2fetc%2fpasswd", {}),
        "read a file by an artifact's name with dots": ("GET", f"/v1/jobs/{job}/artifacts/%2e%2e/%2e%2e/passwd", {}),
        "read a file by an absolute name": ("GET", f"/v1/jobs/{job}/artifacts//etc/passwd", {}),
        "name a job by SQL": ("GET", "/v1/jobs/1%20OR%201=1", {}),
        "name a pipeline by SQL": ("GET", "/v1/pipelines/x'%20OR%20'1'='1", {}),
        "name a job by a number beyond all": ("GET", f"/v1/jobs/{2**70}", {}),
        "submit with a field that there is not": ("POST", "/v1/jobs", {"json": {"pipeline": "victim", "admin": True}}),
        "submit with a field twice": ("POST", "/v1/jobs", {"data": b'{"pipeline":"none","pipeline":"nil"}'}),
        "submit deep JSON": ("POST", "/v1/jobs", {"data": b"[" * 100_000}),
        "submit a text that is no UTF-8": ("POST", "/v1/jobs", {"data": b'{"pipeline":"\xff"}'}),
        "push a file of bytecode": ("POST", "/v1/pipelines", {"json": {"filename": "x.lua", "source": "\x1bLuaT\x00"}}),
        "push a file with a path for a name": (
            "POST",
            "/v1/pipelines",
            {"json": {"filename": "../../x.lua", "source": "error('loaded')"}},
        ),
        "delete by another method's header": (
            "GET",
            f"/v1/tokens/{uuid4()}",
            {"headers": headers | {"X-HTTP-Method-Override": "DELETE"}},
        ),
    }  # fmt: skip
    made: list[Attempt] = []
    for name, (method, path, more) in tries.items():
        got, told = await asked.got(method, path, REFUSED, **({"headers": headers | JSON} | more))
        made.append(judged(name, got, told))
    async with aiohttp.ClientSession() as session:
        foreign = {"Origin": "https://attacker.example", "Access-Control-Request-Method": "POST"}
        async with session.options(f"{asked.address}/v1/jobs", headers=foreign) as answer:
            allowed = answer.headers.get("Access-Control-Allow-Origin")
            made.append(judged("ask from another site's page", allowed, f"{answer.status}, and no origin is allowed"))
    return made


async def _smuggled(installation: Installation) -> Attempt:
    """Hide a request in another's body, by two lengths of it."""
    name = "smuggle a request by two lengths"
    address = urlsplit(installation.replicas[0].address)
    hidden = f"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {installation.admin_secret}\r\n\r\n"
    request = (
        f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: {len(hidden) + 5}\r\nTransfer-Encoding: chunked\r\n\r\n"
        f"0\r\n\r\n{hidden}"
    )
    import anyio

    said = b""
    async with await anyio.connect_tcp(str(address.hostname), int(address.port or 80)) as stream:
        await stream.send(request.encode())
        with anyio.move_on_after(3):
            try:
                while part := await stream.receive(65536):
                    said += part
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass
    answers = said.count(b"HTTP/1.1 ")
    is_answered = b'"jobs"' in said
    return judged(name, said[:200].decode(errors="replace") if is_answered else None, f"{answers} answer, none to it")
