"""Whatever changes something leaves a row in the audit: every route of the API, and every function of `control`.

A route or function that is in no list here fails the test: it gets a row and a line, or a reason.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import msgspec

from orchestrator import app, master_keys, tokens
from orchestrator.access import KEY
from orchestrator.hooks import signatures
from schema.accounts import (
    Account,
    AccountCreate,
    Binding,
    BindingCreate,
    DeviceLogin,
    DeviceLoginAsk,
    DeviceLoginBegun,
    FirstAccount,
    GroupCreate,
    InvitationAccepted,
    Login,
    Member,
    PasswordChange,
    RoleCreate,
    Session,
)
from schema.approvals import ApprovalAnswer, Protection, ProtectionCreate
from schema.client import Client
from schema.hooks import Hook, HookCreate, HookRotate, HookRules, HookTest
from schema.secrets import Grant, GrantCreate, GrantsConfirm, SecretAsk, SecretSet
from schema.shells import ContainersKeep, Shell, ShellOpen
from schema.wire import (
    CachesForget,
    HttpLimitRemove,
    HttpLimitSet,
    JobsCancel,
    JobsSubmit,
    JobSubmit,
    Pause,
    PipelinePush,
    PluginPush,
    ReservationSet,
    RunnerBind,
    RunnerRegister,
    RunnerToken,
    ScheduleCreate,
    Token,
    TokenCreate,
)
from tests.orchestrator.installation import SOURCE, Attempt, Installation
from tests.orchestrator.test_plugins import INIT, files
from tests.postgres import psql

ADDRESS = "127.0.0.1"
PASSWORD = "a horse, a battery and 7 staples"
OTHER_PASSWORD = "8 horses without any battery"
OLD, NEW = master_keys.generate(), master_keys.generate()

CACHE = """
WITH made AS (
    INSERT INTO moonyard.blobs (id, sha256, size_bytes) VALUES (gen_random_uuid(), repeat('a', 64), 1) RETURNING id
)
INSERT INTO moonyard.caches (id, pipeline_id, scope, key, paths, blob_id, size_bytes, job_number)
SELECT gen_random_uuid(), pipeline.id, '', 'k', '{x}', made.id, 1, 1 FROM moonyard.pipelines AS pipeline, made
"""

WITHOUT_A_ROW = {
    "POST /v1/runner/claim": "what a runner does is in the record of its jobs",
    "POST /v1/runner/heartbeat": "the same",
    "POST /v1/runner/jobs/{job}/{attempt}/events": "it is the record",
    "PUT /v1/runner/blobs/{sha256}": "contents that nothing names are swept",
    "POST /v1/runner/jobs/{job}/{attempt}/artifacts": "listed with the job, by its attempt",
    "POST /v1/runner/jobs/{job}/{attempt}/artifacts/find": "it changes nothing",
    "POST /v1/runner/jobs/{job}/{attempt}/tests": "listed with the job, by its attempt",
    "POST /v1/runner/jobs/{job}/{attempt}/workspace": "kept with the job, by its attempt",
    "POST /v1/runner/jobs/{job}/{attempt}/caches/find": "it changes nothing but when a cache was used last",
    "POST /v1/runner/jobs/{job}/{attempt}/caches": "listed with the job that saved it",
    "POST /v1/runner/jobs/{job}/{attempt}/kept": "shown with the job, by its attempt",
    "DELETE /v1/runner/jobs/{job}/{attempt}/kept": "the same",
    "POST /v1/runner/http/permits": "counted with the limit",
    "POST /v1/runner/jobs/{job}/{attempt}/approval": "whoever answers has the row",
    "POST /v1/runner/token": "the row is written when the new token is used first",
    "POST /v1/runner/shells/{shell}/open": "a part of the shell, whose row is there",
    "POST /v1/runner/shells/{shell}/send": "the same",
    "POST /v1/runner/shells/{shell}/receive": "the same",
    "POST /v1/runner/shells/{shell}/end": "the same",
    "POST /v1/shells/{shell}/send": "the same",
    "POST /v1/shells/{shell}/receive": "the same",
    "POST /v1/shells/{shell}/resize": "the same",
    "POST /v1/shells/{shell}/close": "the same",
    "POST /v1/login/device": "nobody is logged in yet: the answer in the browser has the row",
    "POST /v1/login/device/token": "the row is written when it was answered, with the session",
}
CONTROL_WITHOUT_A_ROW = {"audit_verify(text)": "it changes nothing"}


def changing_routes(installation: Installation) -> set[str]:
    """Name all routes that are not for reading."""
    found: set[str] = set()
    for route in app.create().routes:
        for handler in getattr(route, "route_handlers", ()):
            if KEY in handler.opt:
                paths = [plain(path) for path in handler.paths]
                found |= {f"{name} {path}" for name in handler.http_methods - {"GET", "HEAD"} for path in paths}
    return {route for route in found if not route.startswith("OPTIONS ")}


def plain(path: str) -> str:
    for kind in ("str", "int", "path", "uuid"):
        path = path.replace(f":{kind}}}", "}")
    return path


class Walk:
    """Asks one route after the other, and looks what each left."""

    def __init__(self, installation: Installation, admin: Client) -> None:
        self.installation = installation
        self.admin = admin
        self.asked: set[str] = set()

    async def rows(self) -> list[dict[str, Any]]:
        statement = "SELECT id, actor, address, action, subject, result FROM moonyard.audit ORDER BY id"
        return [dict(row) for row in await self.installation.fetch(statement)]

    async def watch(
        self, route: str, done: Callable[[], Awaitable[Any]], action: str, subject: str, actor: str = "token test"
    ) -> Any:
        """Do what is a route's, and see the row of it: by whom, from where."""
        self.asked.add(route)
        before = {row["id"] for row in await self.rows()}
        answer = await done()
        left = [row for row in await self.rows() if row["id"] not in before]
        fitting = [row for row in left if (row["action"], row["subject"], row["actor"]) == (action, subject, actor)]
        assert fitting, (route, left)
        assert {(row["address"], row["result"]) for row in left} == {(ADDRESS, "done")}, (route, left)
        return answer

    async def ask(
        self,
        route: str,
        action: str,
        subject: str,
        body: msgspec.Struct | None = None,
        kind: Any = object,
        *,
        client: Client | None = None,
        actor: str = "token test",
        **parameters: str | int,
    ) -> Any:
        """Ask a route."""
        method, path = route.split(" ")
        for name, value in parameters.items():
            path = path.replace(f"{{{name}}}", str(value))
        asking = client or self.admin
        return await self.watch(
            route,
            lambda: asking.delete(path, kind) if method == "DELETE" else asking.post(path, kind, body),
            action,
            subject,
            actor,
        )


async def test_every_route_that_changes_something_leaves_a_row(installation: Installation):
    await installation.replica(secret_keys=master_keys.parse(f"{NEW}\n{OLD}", "a test"))
    walk = Walk(installation, await installation.client())
    await walk_the_queue(walk)
    await walk_secrets_and_plugins(walk)
    await walk_shells_and_runners(walk)
    await walk_accounts(walk)
    await walk_hooks(walk)
    assert not walk.asked & set(WITHOUT_A_ROW)
    assert walk.asked | set(WITHOUT_A_ROW) == changing_routes(installation)


async def walk_the_queue(walk: Walk) -> None:
    push = PipelinePush(filename="hello.lua", source=SOURCE)
    await walk.ask("POST /v1/pipelines", "push", "pipeline hello", push)
    await walk.ask("POST /v1/jobs", "submit", "job 1", JobSubmit(pipeline="hello"))
    batch = JobsSubmit(jobs=[JobSubmit(pipeline="hello") for _ in range(3)])
    await walk.ask("POST /v1/jobs/batch", "submit", "3 jobs, 2 to 4", batch)
    await walk.ask("POST /v1/jobs/{job}/cancel", "cancel", "job 1", job=1)
    await walk.ask("POST /v1/jobs/{job}/retry", "retry", "job 1", job=1)
    queued = JobsCancel(pipeline="hello", state="queued")
    await walk.ask("POST /v1/jobs/cancel", "cancel", "queued jobs of pipeline hello", queued)
    await walk.ask("POST /v1/jobs/cancel", "cancel", "all queued jobs", JobsCancel(state="queued"))
    await walk.ask("POST /v1/queue/pause", "pause", "pipeline hello", Pause(pipeline="hello"))
    await walk.ask("POST /v1/queue/resume", "resume", "pipeline hello", Pause(pipeline="hello"))
    await walk.ask("POST /v1/queue/pause", "pause", "everything", Pause())
    await walk.ask("POST /v1/queue/resume", "resume", "everything", Pause())
    nightly = ScheduleCreate(name="nightly", pipeline="hello", cron="30 2 * * *")
    await walk.ask("POST /v1/schedules", "create", "schedule nightly", nightly)
    await walk.ask("POST /v1/schedules/{name}/pause", "pause", "schedule nightly", name="nightly")
    await walk.ask("POST /v1/schedules/{name}/resume", "resume", "schedule nightly", name="nightly")
    await walk.ask("DELETE /v1/schedules/{name}", "delete", "schedule nightly", name="nightly")
    limit = HttpLimitSet(host="example.org", rate="50/s")
    await walk.ask("POST /v1/http-limits", "set http limit", "host example.org", limit)
    removed = HttpLimitRemove(host="example.org")
    await walk.ask("POST /v1/http-limits/remove", "remove http limit", "host example.org", removed)
    await walk.installation.fetch(CACHE)
    await walk.ask("POST /v1/caches/forget", "forget cache", "pipeline hello", CachesForget(pipeline="hello"))


async def walk_secrets_and_plugins(walk: Walk) -> None:
    secret = SecretSet(secret="TOKEN", value=b"not to be seen 1234")
    behind = await walk.installation.replica(secret_keys=master_keys.parse(OLD, "a test"))
    client = await walk.installation.client(address=behind.address)
    await walk.ask("POST /v1/secrets", "set secret", "secret TOKEN", secret, client=client)
    await walk.ask("POST /v1/secret-keys/rewrap", "rewrap secrets", "secrets")
    wanted = GrantCreate(secret="TOKEN", pipeline="hello")
    grant = await walk.ask("POST /v1/grants", "grant", "secret TOKEN", wanted, Grant)
    await walk.admin.post(
        "/v1/pipelines", object, PipelinePush(filename="hello.lua", source=SOURCE + "-- another version\n")
    )
    await walk.ask("POST /v1/grants/confirm", "confirm grants", "pipeline hello", GrantsConfirm(pipeline="hello"))
    await deliver(walk)
    await walk.ask("DELETE /v1/grants/{grant}", "revoke", "secret TOKEN", grant=grant.id)
    await walk.ask("DELETE /v1/secrets/{secret}", "remove secret", "secret TOKEN", secret="TOKEN")
    plugin = PluginPush(files=files(init=INIT))
    await walk.ask("POST /v1/plugins", "push plugin", "plugin mine 1.0.0", plugin)


async def deliver(walk: Walk) -> None:
    runner = await walk.installation.runner("courier")
    await walk.installation.submit()
    [assignment] = await runner.claim()
    await walk.ask(
        "POST /v1/runner/jobs/{job}/{attempt}/secrets",
        "deliver secret",
        "secret TOKEN",
        SecretAsk(name="TOKEN", stage="greet", use="environment"),
        client=runner.client,
        actor="runner courier",
        job=assignment.job,
        attempt=assignment.attempt,
    )
    attempt = Attempt(assignment)
    await runner.send(attempt, attempt.state("running"), attempt.state("succeeded"))


async def walk_shells_and_runners(walk: Walk) -> None:
    made = await walk.ask(
        "POST /v1/tokens",
        "create",
        "registration token rack",
        TokenCreate(kind="registration", name="rack", uses=1),
        Token,
    )
    registrar = await walk.installation.client(made.secret)
    await walk.ask(
        "POST /v1/runners/register",
        "register",
        "runner seven",
        RunnerRegister(name="seven"),
        client=registrar,
        actor="token rack",
    )
    other = await walk.admin.post("/v1/tokens", Token, TokenCreate(kind="admin", name="other"))
    await walk.ask("DELETE /v1/tokens/{token}", "revoke", "admin token other", token=other.id)
    runner = await walk.installation.runner("builder")
    job = await walk.installation.submit(keep_on_failure=60.0)
    [assignment] = await runner.claim()
    path = "POST /v1/jobs/{job}/shells"
    await walk.ask(path, "shell", f"job {job.number}", ShellOpen(), Shell, job=job.number)
    await runner.client.post(
        f"/v1/runner/jobs/{assignment.job}/{assignment.attempt}/kept",
        object,
        ContainersKeep(seconds=60.0, images=["alpine"]),
    )
    await walk.ask("POST /v1/jobs/{job}/release", "release", f"job {job.number}", job=job.number)
    await walk.ask("POST /v1/runners/{runner}/drain", "drain", "runner builder", runner="builder")
    await walk.ask("POST /v1/runners/{runner}/undrain", "undrain", "runner builder", runner="builder")
    await walk.ask("POST /v1/runners/{runner}/rotate", "ask for rotation", "runner builder", runner="builder")
    rotated = await runner.client.post("/v1/runner/token", RunnerToken)
    renewed = await walk.installation.client(rotated.token)
    await renewed.get("/v1/runner/token", object)
    assert (await walk.rows())[-1]["action"] == "rotate token"
    bound = RunnerBind(pipelines=["deploy-*"])
    await walk.ask("POST /v1/runners/{runner}/bind", "bind", "runner builder", bound, runner="builder")
    reserved = ReservationSet(pipelines="deploy-*", reserved=True)
    await walk.ask("POST /v1/reservations", "reserve", "pipelines deploy-*", reserved)
    await walk.ask("POST /v1/runners/{runner}/revoke", "revoke", "runner builder", runner="builder")
    await walk.ask("POST /v1/runners/{runner}/remove", "remove", "runner builder", runner="builder")


async def walk_accounts(walk: Walk) -> None:
    setup = await tokens.create(walk.installation.database, TokenCreate(kind="setup", name="first"), "test")
    beginning = await walk.installation.client(setup.secret)
    first = FirstAccount(name="root", password=PASSWORD)
    await walk.ask("POST /v1/setup", "create", "account root", first, client=beginning, actor="token first")
    account = await walk.ask("POST /v1/accounts", "create", "account ada", AccountCreate(name="ada"), Account)
    invited = await walk.ask(
        "POST /v1/accounts/{name}/invite", "invite", "account ada", None, Account, name=account.name
    )
    accepting = await walk.installation.client(invited.invitation)
    await walk.ask(
        "POST /v1/invitation/accept",
        "set password",
        "account ada",
        InvitationAccepted(password=PASSWORD),
        client=accepting,
        actor="account ada",
    )
    stranger = await walk.installation.stranger()
    login = Login(name="ada", password=PASSWORD, client="a test")
    session = await walk.ask(
        "POST /v1/login", "login", "account ada", login, Session, client=stranger, actor="account ada"
    )
    ada = await walk.installation.client(session.token)
    change = PasswordChange(current=PASSWORD, new=OTHER_PASSWORD)
    await walk.ask("POST /v1/password", "set password", "account ada", change, client=ada, actor="account ada")
    await walk.ask("POST /v1/logout", "revoke", "session token a test", client=ada, actor="account ada")
    await walk.ask("POST /v1/accounts/{name}/disable", "disable", "account ada", name="ada")
    await walk.ask("POST /v1/accounts/{name}/enable", "enable", "account ada", name="ada")
    await walk.ask("POST /v1/groups", "create", "group crew", GroupCreate(name="crew"))
    member = Member(account="ada")
    await walk.ask("POST /v1/groups/{name}/members", "add member", "group crew", member, name="crew")
    path = "DELETE /v1/groups/{name}/members/{account}"
    await walk.ask(path, "remove member", "group crew", name="crew", account="ada")
    role = RoleCreate(name="tester", permissions=["view"])
    await walk.ask("POST /v1/roles", "create", "role tester", role)
    bind = BindingCreate(role="tester", group="crew")
    binding = await walk.ask("POST /v1/role-bindings", "grant role", "group crew", bind, Binding)
    await walk.ask("DELETE /v1/role-bindings/{binding}", "revoke role", "group crew", binding=binding.id)
    await walk.ask("DELETE /v1/roles/{name}", "delete", "role tester", name="tester")
    await walk.ask("DELETE /v1/groups/{name}", "delete", "group crew", name="crew")
    await walk_pages(walk, stranger)


async def walk_pages(walk: Walk, stranger: Client) -> None:
    """Log in by a browser, let a command line in there, and log out."""
    address = walk.installation.replicas[0].address
    await walk.admin.post("/v1/accounts/ada/enable", object)
    begun = await stranger.post("/v1/login/device", DeviceLoginBegun, DeviceLogin(client="a terminal"))
    async with aiohttp.ClientSession(headers={"Origin": address}, cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:

        async def send(path: str, **fields: str) -> None:
            async with browser.post(address + path, data=fields, allow_redirects=False) as said:
                assert said.status in {200, 303}, await said.text()

        async def log_in() -> None:
            await send("/login", name="ada", password=OTHER_PASSWORD)

        await walk.watch("POST /login", log_in, "login", "account ada", "account ada")
        [session] = [cookie.value for cookie in browser.cookie_jar if cookie.key == "moonyard_session"]
        form = {"form_token": hashlib.sha256(f"form {session}".encode()).hexdigest()}

        async def answer() -> None:
            await send("/login/device", code=begun.user_code, answer="yes", **form)

        await walk.watch("POST /login/device", answer, "allow login", "command line a terminal", "account ada")
        await stranger.post("/v1/login/device/token", Session, DeviceLoginAsk(device_code=begun.device_code))
        last = (await walk.rows())[-1]
        assert (last["action"], last["subject"], last["address"]) == ("login", "account ada", ADDRESS)

        async def log_out() -> None:
            await send("/logout", **form)

        await walk.watch("POST /logout", log_out, "revoke", "session token a browser", "account ada")


async def walk_hooks(walk: Walk) -> None:
    wanted = HookCreate(name="pushes", pipeline="hello", kind="generic")
    hook: Hook = await walk.ask("POST /v1/hooks", "create hook", "hook pushes", wanted, Hook)
    changed = HookRules(branches=["main"])
    await walk.ask("POST /v1/hooks/{hook}/change", "change hook", "hook pushes", changed, hook="pushes")
    await walk.ask("POST /v1/hooks/{hook}/change", "change hook", "hook pushes", HookRules(), hook="pushes")
    await walk.ask("POST /v1/hooks/{hook}/pause", "pause", "hook pushes", hook="pushes")
    await walk.ask("POST /v1/hooks/{hook}/resume", "resume", "hook pushes", hook="pushes")
    await walk.ask("POST /v1/hooks/{hook}/rotate", "rotate hook", "hook pushes", HookRotate(), hook="pushes")
    number = await walk.installation.database.value("SELECT max(number) + 1 FROM moonyard.jobs")
    assert hook.secret is not None
    body = json.dumps({"event": "push"}).encode()
    headers = signatures.signed("generic", hook.secret, body, delivery="1", event="push", now=time.time())

    async def deliver_one() -> None:
        address = walk.installation.replicas[0].address
        async with (
            aiohttp.ClientSession() as session,
            session.post(address + hook.path, data=body, headers=headers) as said,
        ):
            assert said.status == 202, await said.text()

    await walk.watch("POST /v1/hooks/{hook}", deliver_one, "submit", f"job {number}", "hook pushes")
    test = HookTest(submit=True)
    path = "POST /v1/hooks/{hook}/test"
    await walk.ask(path, "submit", f"job {number + 1}", test, hook="pushes", actor="hook pushes")
    await walk_approvals(walk, number)
    await walk.ask("DELETE /v1/hooks/{hook}", "remove hook", "hook pushes", hook="pushes")


async def walk_approvals(walk: Walk, job: int) -> None:
    """Answer for a job of one's own webhook: a no is anybody's."""
    protect = ProtectionCreate(pipelines="deploy-*")
    made = await walk.ask("POST /v1/protections", "protect", "pipeline deploy-*", protect, Protection)
    path = "DELETE /v1/protections/{protection}"
    await walk.ask(path, "unprotect", "pipeline deploy-*", protection=made.id)
    await walk.installation.fetch(WAIT, job)
    answer = ApprovalAnswer(is_yes=False, stage="greet")
    await walk.ask("POST /v1/jobs/{job}/approvals", "refuse", f"job {job}", answer, job=job)


WAIT = """
WITH lost AS (UPDATE moonyard.jobs SET losses = losses + 1 WHERE number = $1 RETURNING id, attempt)
INSERT INTO moonyard.approvals (job_id, stage, attempt, needed, expires_at)
SELECT id, 'greet', attempt, 1, now() + interval '1 hour' FROM lost
ON CONFLICT (job_id, stage) DO UPDATE SET state = 'waiting'
"""
CONTROL = {
    "submit(text, json, text, integer, interval, timestamp with time zone, interval, text, interval)": (
        "control.submit('hello')",
        "submit",
    ),
    "cancel(text, boolean)": ("control.cancel('2')", "cancel"),
    "cancel(bigint, boolean)": ("control.cancel(3)", "cancel"),
    "retry(text, text, boolean)": ("control.retry('2')", "retry"),
    "retry(bigint, text, boolean)": ("control.retry(3)", "retry"),
    "release(text)": ("control.release('1')", "release"),
    "release(bigint)": ("control.release(1)", "release"),
    "pause(text)": ("control.pause('hello')", "pause"),
    "resume(text)": ("control.resume('hello')", "resume"),
    "drain(text)": ("control.drain('builder')", "drain"),
    "undrain(text)": ("control.undrain('builder')", "undrain"),
    "forget_cache(text, text, text)": ("control.forget_cache('hello')", "forget cache"),
    "set_http_limit(text, text, integer)": ("control.set_http_limit('example.org', '50/s')", "set http limit"),
    "remove_http_limit(text)": ("control.remove_http_limit('example.org')", "remove http limit"),
    "grant(text, text, text[], jsonb, text[], boolean)": ("control.grant('TOKEN', 'hello')", "grant"),
    "confirm_grants(text, text)": ("control.confirm_grants('hello')", "confirm grants"),
    "revoke(uuid)": ("control.revoke((SELECT id FROM moonyard.grants))", "revoke"),
    "remove_secret(text, integer)": ("control.remove_secret('TOKEN')", "remove secret"),
    "approve(text, text, text)": ("control.approve('1')", "approve"),
    "refuse(text, text, text)": ("control.refuse('1')", "refuse"),
    "bind_runner(text, text[])": ("control.bind_runner('builder', '{deploy-*}')", "bind"),
    "reserve(text)": ("control.reserve('deploy-*')", "reserve"),
    "unreserve(text)": ("control.unreserve('deploy-*')", "unreserve"),
    "rotate_runner(text)": ("control.rotate_runner('builder')", "ask for rotation"),
    "revoke_runner(text)": ("control.revoke_runner('builder')", "revoke"),
    "remove_runner(text)": ("control.remove_runner('builder')", "remove"),
}
"""Each function of `control`, in an order in which all have something to do, and what its row says."""
KEEP = """
INSERT INTO moonyard.kept_containers (job_id, attempt, runner_id, images, expires_at)
SELECT job.id, 1, runner.id, '{alpine}', now() + interval '1 hour' FROM moonyard.jobs AS job, moonyard.runners AS runner
WHERE job.number = 1
ON CONFLICT (job_id, attempt) DO UPDATE SET released_at = NULL
"""


async def test_every_function_of_control_leaves_a_row(installation: Installation):
    await installation.replica(secret_keys=master_keys.parse(NEW, "a test"))
    await installation.push()
    runner = await installation.runner("builder")
    for _ in range(3):
        await installation.submit()
    assert [assignment.number for assignment in await runner.claim()] == [1]
    admin = await installation.client()
    await admin.post("/v1/secrets", object, SecretSet(secret="TOKEN", value=b"not to be seen 1234"))
    await installation.fetch(CACHE)
    statement = """
    SELECT p.proname || '(' || oidvectortypes(p.proargtypes) || ')' AS name
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = 'control'
    """
    known = {row["name"] for row in await installation.fetch(statement)}
    assert known == set(CONTROL) | set(CONTROL_WITHOUT_A_ROW)
    for name, (call, action) in CONTROL.items():
        if name.startswith("release"):
            await installation.fetch(KEEP)
        if name.startswith(("approve", "refuse")):
            await installation.fetch(WAIT, 1)
        if name.startswith("confirm"):
            await installation.push(source=SOURCE + "-- another version\n")
        newest = await installation.database.value("SELECT max(id) FROM moonyard.audit")
        psql(installation.url, f"SELECT {call}")
        rows = await installation.fetch(
            "SELECT actor, address, action, result FROM moonyard.audit WHERE id > $1", newest
        )
        assert [tuple(row) for row in rows] == [("postgres", "local (psql)", action, "done")], name
