"""Every route that people have, asked by every role, compared with the tables of docs/permissions.md.

Who is asked for: of each role, somebody who holds it for the pipeline that a request is about (`own`), for another one
(`other`), for that other one while only looking on at the own one (`onlooker`), and for all (`all`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Literal

import aiohttp
import msgspec
import pytest

from orchestrator import access, app
from orchestrator.settings import EdgeSettings
from schema.accounts import Account, AccountCreate, Binding, BindingCreate, Group, GroupCreate, RoleCreate, RoleShown
from schema.approvals import Protection, ProtectionCreate
from schema.client import Client
from schema.hooks import Hook, HookCreate
from schema.ids import uuid7
from schema.permissions import MEANINGS, PERMISSIONS, PIPELINE_PERMISSIONS, ROLES
from schema.secrets import Grant, GrantCreate, Secret, SecretSet
from schema.wire import Job, JobSubmit, ProblemDocument, Schedule, ScheduleCreate, Token, TokenCreate
from tests.orchestrator.installation import DEFINITION, SOURCE, Installation
from tests.orchestrator.people import session
from tests.orchestrator.test_secrets import KEYS

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "permissions.md"
Holder = Literal["own", "other", "onlooker", "all"]
Outcome = Literal["let through", "forbidden", "hidden", "without it"]
Route = tuple[str, str]
PARAMETER: Final = re.compile(r"\{(\w+):\w+\}")


def people_routes() -> dict[Route, str | None]:
    """List the routes that people have, each with the permission that it needs."""
    found: dict[Route, str | None] = {}
    for handler in itertools.chain.from_iterable(group.HANDLERS for group in app.ROUTES):
        if handler.opt.get(access.KEY) == "people":
            for path, method in itertools.product(handler.paths, handler.http_methods):
                found[str(method), path] = handler.opt.get(access.PERMISSION)
    return found


def table(heading: str) -> list[list[str]]:
    """Read the first table below a heading of the document, without its head."""
    _, found, after = DOCUMENT.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    assert found, heading
    rows = [line for line in after.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows[2:]]


def documented_roles() -> dict[str, set[str]]:
    """Read which permissions each role has."""
    names = ["viewer", "developer", "operator", "maintainer", "admin"]
    held: dict[str, set[str]] = {name: set() for name in names}
    for permission, _, *marks in table("Roles"):
        for name, mark in zip(names, marks, strict=True):
            assert mark in {"yes", ""}, (permission, mark)
            if mark:
                held[name].add(permission)
    return held


def documented_routes() -> dict[Route, str | None]:
    """Read which permission each route needs."""
    found: dict[Route, str | None] = {}
    for permission, routes in table("Routes"):
        for method, path in re.findall(r"`?([A-Z]+) (/[^\s`]*)`?", routes):
            assert (method, path) not in found, path
            found[method, path] = None if permission.startswith("none") else permission
    return found


def test_the_document_says_what_roles_and_routes_say():
    assert documented_roles() == {name: set(held) for name, held in ROLES.items()}
    assert [row[0] for row in table("Roles")] == list(PERMISSIONS)
    assert {row[0]: row[1] for row in table("Roles")} == MEANINGS
    real = {
        (method, PARAMETER.sub(r"{\1}", path)): permission for (method, path), permission in people_routes().items()
    }
    assert documented_routes() == real


class World:
    """Makes what requests are about, of pipeline `hello`, anew for each."""

    def __init__(self, installation: Installation, admin: Client) -> None:
        self.installation = installation
        self.admin = admin
        self._numbers = itertools.count(1)

    def name(self) -> str:
        return f"n{next(self._numbers)}"

    async def of(self, parameter: str, path: str) -> str:
        """Make what a path's parameter names."""
        makers: dict[str, Callable[[], Awaitable[str]]] = {
            "job": self._job,
            "shell": self._shell,
            "account": self._account,
            "group": self._group,
            "binding": self._binding,
            "secret": self._secret,
            "grant": self._grant,
            "runner": self._runner,
            "hook": self._hook,
            "protection": self._protection,
        }
        if parameter != "name":
            return await makers[parameter]()
        match path.split("/")[2]:
            case "accounts":
                return await self._account()
            case "groups":
                return await self._group()
            case "roles":
                return await self._role()
            case "schedules":
                return await self._schedule()
            case "plugins":
                return "git"
            case "jobs":
                return "report.txt"
            case _:
                return "hello"

    async def _job(self) -> str:
        job = await self.admin.post("/v1/jobs", Job, JobSubmit(pipeline="hello", delay=3600.0))
        [blob] = await self.installation.fetch(
            "INSERT INTO moonyard.blobs (id, sha256, size_bytes) VALUES ($1, $2, 0) "
            "ON CONFLICT (sha256) DO UPDATE SET size_bytes = 0 RETURNING id",
            uuid7(),
            "0" * 64,
        )
        await self.installation.fetch(
            "INSERT INTO moonyard.artifacts (job_id, name, attempt, blob_id, content_type) "
            "VALUES ($1, 'report.txt', 1, $2, 'text/plain')",
            job.id,
            blob["id"],
        )
        return str(job.number)

    async def _shell(self) -> str:
        job, runner, shell = await self._job(), await self._runner(), uuid7()
        await self.installation.fetch(
            "INSERT INTO moonyard.shells "
            "(id, job_id, attempt, runner_id, actor, token_id, state, ended_at, lines, columns) "
            "SELECT $1, id, 1, $2, 'somebody', $1, 'ended', now(), 24, 80 FROM moonyard.jobs WHERE number = $3::bigint",
            shell,
            runner,
            int(job),
        )
        return str(shell)

    async def _account(self) -> str:
        return (await self.admin.post("/v1/accounts", Account, AccountCreate(name=self.name()))).name

    async def _group(self) -> str:
        return (await self.admin.post("/v1/groups", Group, GroupCreate(name=self.name()))).name

    async def _role(self) -> str:
        made = await self.admin.post("/v1/roles", RoleShown, RoleCreate(name=self.name(), permissions=["view"]))
        return made.name

    async def _binding(self) -> str:
        message = BindingCreate(role="viewer", account=await self._account())
        return (await self.admin.post("/v1/role-bindings", Binding, message)).id

    async def _schedule(self) -> str:
        message = ScheduleCreate(name=self.name(), pipeline="hello", cron="0 0 1 1 *")
        return (await self.admin.post("/v1/schedules", Schedule, message)).name

    async def _secret(self) -> str:
        message = SecretSet(secret=f"hello/S_{self.name()}", value=b"a value that is long")
        return (await self.admin.post("/v1/secrets", Secret, message)).secret

    async def _grant(self) -> str:
        message = GrantCreate(secret=await self._secret(), pipeline="hello")
        return (await self.admin.post("/v1/grants", Grant, message)).id

    async def _hook(self) -> str:
        message = HookCreate(name=self.name(), pipeline="hello", kind="generic")
        return (await self.admin.post("/v1/hooks", Hook, message)).name

    async def _protection(self) -> str:
        message = ProtectionCreate(pipelines="hello", stages=self.name())
        return (await self.admin.post("/v1/protections", Protection, message)).id

    async def _runner(self) -> str:
        runner = uuid7()
        await self.installation.fetch(
            "INSERT INTO moonyard.runners (id, name) VALUES ($1, $2)", runner, f"box {self.name()}"
        )
        return str(runner)

    async def body(self, route: Route) -> Any:
        """Give a body by which a route knows which pipeline it is about; what else it lacks is refused after that."""
        bodies: dict[Route, Any] = {
            ("POST", "/v1/pipelines"): {"filename": "hello.lua", "source": SOURCE},
            ("POST", "/v1/jobs"): {"pipeline": "hello"},
            ("POST", "/v1/jobs/batch"): {"jobs": [{"pipeline": "hello"}]},
            ("POST", "/v1/jobs/cancel"): {"pipeline": "hello", "state": "queued"},
            ("POST", "/v1/queue/pause"): {"pipeline": "hello"},
            ("POST", "/v1/queue/resume"): {"pipeline": "hello"},
            ("POST", "/v1/schedules"): {"pipeline": "hello", "name": self.name(), "cron": "0 0 1 1 *"},
            ("POST", "/v1/caches/forget"): {"pipeline": "hello"},
            ("POST", "/v1/secrets"): {"secret": f"hello/S_{self.name()}", "value": "YSB2YWx1ZSB0aGF0IGlzIGxvbmc="},
            ("POST", "/v1/grants/confirm"): {"pipeline": "hello"},
            ("POST", "/v1/hooks"): {"pipeline": "hello", "name": self.name(), "kind": "generic"},
            ("POST", "/v1/protections"): {"pipelines": "hello", "stages": self.name()},
            ("POST", "/v1/jobs/{job:str}/approvals"): {"is_yes": True, "stage": "none"},
            ("POST", "/v1/tokens"): {"kind": "user", "name": "mine"},
            ("POST", "/v1/shells/{shell:str}/send"): {"position": 0},
            ("POST", "/v1/shells/{shell:str}/receive"): {"position": 0, "wait": 0},
            ("POST", "/v1/shells/{shell:str}/resize"): {"lines": 1, "columns": 1},
        }
        if route == ("POST", "/v1/grants"):
            return {"pipeline": "hello", "secret": await self._secret()}
        return bodies.get(route, {})


LISTS: Final[set[Route]] = {
    ("GET", "/v1/pipelines"),
    ("GET", "/v1/jobs"),
    ("GET", "/v1/schedules"),
    ("GET", "/v1/caches"),
    ("GET", "/v1/secrets"),
    ("GET", "/v1/grants"),
    ("GET", "/v1/hooks"),
    ("GET", "/v1/approvals"),
    ("GET", "/v1/protections"),
}
"""They are for whoever may see something of it, and leave out the rest."""
OF_NO_PIPELINE: Final[set[Route]] = {("GET", "/v1/plugins"), ("GET", "/v1/plugins/{name:str}")}
"""They are for whoever holds the permission for any pipeline."""
OF_THE_ASKER: Final = {"shell_of_another", "session_missing", "approval_unknown"}
"""Codes of what somebody may do, and this one does with what is another's."""


def expected(route: Route, permission: str | None, role: str, holder: Holder) -> Outcome:
    """Say what the tables of the document say."""
    if permission is None:
        return "let through"
    if permission not in documented_roles()[role] or (permission not in PIPELINE_PERMISSIONS and holder != "all"):
        # An onlooker may look.
        looks_on = holder == "onlooker" and permission in documented_roles()["viewer"] & set(PIPELINE_PERMISSIONS)
        return "let through" if looks_on else "forbidden"
    if permission not in PIPELINE_PERMISSIONS or holder in {"own", "all"} or route in OF_NO_PIPELINE:
        return "let through"
    if holder == "onlooker" and permission in documented_roles()["viewer"]:
        return "let through"
    if route in LISTS:
        return "without it"
    if route == ("POST", "/v1/pipelines"):
        return "forbidden"  # whoever pushes names a pipeline that need not be there
    return "forbidden" if holder == "onlooker" else "hidden"


@pytest.mark.parametrize("role", list(ROLES))
async def test_every_route_does_for_every_role_what_the_document_says(installation: Installation, role: str):
    await installation.replica(secret_keys=KEYS, edge=EdgeSettings(request_rate=0.0))
    for name in ("hello", "other"):
        await installation.push(msgspec.structs.replace(DEFINITION, name=name))
    admin = await installation.client()
    world = World(installation, admin)
    # So that lists have something to leave out.
    for parameter in ("job", "grant", "hook"):
        await world.of(parameter, "")
    await world.of("name", "/v1/schedules")
    holders: dict[Holder, list[tuple[str, str]]] = {
        "own": [(role, "hello")],
        "other": [(role, "other")],
        "onlooker": [(role, "other"), ("viewer", "hello")],
        "all": [(role, "*")],
    }
    wrong: list[object] = []
    tried = 0
    async with aiohttp.ClientSession(base_url=installation.replicas[0].address) as asking:
        for holder, held in holders.items():
            speaker = await session(installation, f"{role}-{holder}", *held)
            own = await (await installation.client(speaker.token)).post(
                "/v1/tokens", Token, TokenCreate(kind="user", name="own")
            )
            for route, permission in sorted(
                people_routes().items(), key=lambda item: item[0] == ("POST", "/v1/logout")
            ):
                method, path = route
                for match in PARAMETER.finditer(path):
                    made = own.id if match[1] == "token" else await world.of(match[1], path)
                    path = path.replace(match.group(), made)
                body = await world.body(route)
                async with asking.request(
                    method,
                    path,
                    headers={"Authorization": f"Bearer {speaker.token}"},
                    json=None if method in {"GET", "DELETE"} else body,
                ) as response:
                    said = await response.read()
                wanted = expected(route, permission, role, holder)
                tried += 1
                if outcome(response.status, said, wanted) != wanted:
                    wrong.append((holder, method, path, wanted, response.status, said[:200]))
    assert not wrong, "\n".join(map(str, wrong))
    assert tried > 4 * 70


def outcome(status: int, said: bytes, wanted: Outcome) -> Outcome | int:
    """Say what an answer means; its status, where it means none of these."""
    if status == 200 and wanted == "without it":
        return "let through" if b'"hello"' in said else "without it"
    if status in {401, 403, 404} or status >= 500:
        problem = msgspec.json.decode(said, type=ProblemDocument)
        if problem.code in OF_THE_ASKER:
            return "let through"
        if status == 403 and problem.code == "permission_missing":
            return "forbidden"
        return "hidden" if status == 404 else status
    return "let through"


async def test_what_is_hidden_looks_as_what_is_not_there(installation: Installation):
    await installation.replica(secret_keys=KEYS)
    for name in ("hello", "other"):
        await installation.push(msgspec.structs.replace(DEFINITION, name=name))
    admin = await installation.client()
    world = World(installation, admin)
    token = (await session(installation, "ada", ("maintainer", "other"))).token
    missing = {
        "job": str(uuid7()),
        "shell": str(uuid7()),
        "name": "no-such",
        "secret": "hello/NO_SUCH",
        "grant": str(uuid7()),
        "hook": "no-such",
        "protection": str(uuid7()),
    }
    compared = 0
    async with aiohttp.ClientSession(base_url=installation.replicas[0].address) as asking:

        async def ask(method: str, path: str, body: Any) -> tuple[int, ProblemDocument]:
            async with asking.request(
                method,
                path,
                headers={"Authorization": f"Bearer {token}"},
                json=None if method in {"GET", "DELETE"} else body,
            ) as response:
                return response.status, msgspec.json.decode(await response.read(), type=ProblemDocument)

        for route in people_routes():
            method, path = route
            parameters = [match[1] for match in PARAMETER.finditer(path)]
            if expected(route, people_routes()[route], "maintainer", "other") != "hidden" or not parameters:
                continue
            parameter = parameters[0]
            there = path.replace(f"{{{parameter}:str}}", "{}").replace(f"{{{parameter}:path}}", "{}")
            there = PARAMETER.sub("report.txt", there)
            real, body = await world.of(parameter, path), await world.body(route)
            if parameter == "job":
                [row] = await installation.fetch("SELECT id FROM moonyard.jobs WHERE number = $1", int(real))
                real = str(row["id"])
            hidden = await ask(method, there.format(real), body)
            unknown = await ask(method, there.format(missing[parameter]), body)

            def plain(answer: tuple[int, ProblemDocument], name: str) -> tuple[object, ...]:
                status, problem = answer
                texts = (problem.detail, problem.hint or "", problem.instance or "")
                return (status, problem.code, *(text.replace(name, "IT") for text in texts))

            assert plain(hidden, real) == plain(unknown, missing[parameter]), route
            compared += 1
    assert compared > 20
