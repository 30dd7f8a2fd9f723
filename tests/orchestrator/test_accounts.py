from __future__ import annotations

import anyio
import msgspec
import pytest
from argon2 import PasswordHasher

from orchestrator import passwords
from orchestrator.sql import accounts as sql
from schema.accounts import (
    Account,
    AccountCreate,
    AccountList,
    Binding,
    BindingCreate,
    BindingList,
    DeviceLogin,
    DeviceLoginAsk,
    DeviceLoginBegun,
    FirstAccount,
    Group,
    GroupCreate,
    InvitationAccepted,
    LoggedOut,
    Login,
    Member,
    PasswordChange,
    PasswordChanged,
    RoleCreate,
    RoleList,
    RoleShown,
    Session,
    SessionPending,
    WhoAmI,
)
from schema.client import Client, OrchestratorRefused
from schema.ids import uuid7
from schema.wire import Job, JobList, JobSubmit, PipelineList, Token, TokenCreate, TokenList
from tests.orchestrator.installation import DEADLINE_SECONDS, DEFINITION, Installation
from tests.orchestrator.people import PASSWORD, account, session


async def refused(client: Client, path: str, body: object = None, kind: type = object) -> OrchestratorRefused:
    with pytest.raises(OrchestratorRefused) as raised:
        await client.post(path, kind, body)  # pyright: ignore[reportArgumentType]
    return raised.value


async def test_the_first_administrator_comes_by_a_setup_token_that_serves_once(installation: Installation):
    await installation.replica()
    admin = await installation.client()
    token = await admin.post("/v1/tokens", Token, TokenCreate(kind="setup", name="first"))
    assert token.expires_at is not None
    setup = await installation.client(token.secret)
    weak = await refused(setup, "/v1/setup", FirstAccount(name="ada", password="short"))
    assert weak.code == "password_invalid"
    assert "short" not in weak.message
    made = await setup.post("/v1/setup", Session, FirstAccount(name="ada", password=PASSWORD))
    ada = await installation.client(made.token)
    found = await ada.get("/v1/whoami", WhoAmI)
    assert (found.account, found.kind) == ("ada", "session")
    assert [(held.role, held.pipelines) for held in found.roles] == [("admin", "*")]
    assert (await refused(setup, "/v1/setup", FirstAccount(name="eve", password=PASSWORD))).status == 401
    assert [row.name for row in (await ada.get("/v1/accounts", AccountList)).accounts] == ["ada"]


async def test_an_invitation_sets_a_password_once_and_the_next_one_ends_it(installation: Installation):
    await installation.replica()
    admin = await installation.client()
    first = await admin.post("/v1/accounts", Account, AccountCreate(name="ada"))
    second = await admin.post("/v1/accounts/ada/invite", Account)
    accepted = InvitationAccepted(password=PASSWORD)
    assert (await refused(await installation.client(first.invitation), "/v1/invitation/accept", accepted)).status == 401
    invited = await installation.client(second.invitation)
    await invited.post("/v1/invitation/accept", Session, accepted)
    assert (await refused(invited, "/v1/invitation/accept", accepted)).status == 401
    nobody = await installation.client()
    assert (await nobody.post("/v1/login", Session, Login(name="Ada", password=PASSWORD))).account == "ada"


async def test_a_session_ends_with_the_logout_the_password_and_the_account(installation: Installation):
    await installation.replica()
    first = await installation.client((await session(installation, "ada", ("viewer", "*"))).token)
    admin = await installation.client()

    async def log_in() -> Client:
        made = await admin.post("/v1/login", Session, Login(name="ada", password=PASSWORD))
        return await installation.client(made.token)

    second = await log_in()
    assert (await second.post("/v1/logout", LoggedOut)).ended
    assert (await refused(second, "/v1/logout")).status == 401
    third = await log_in()
    wrong = await refused(
        third, "/v1/password", PasswordChange(current="not this one, no", new="another good password")
    )
    assert wrong.code == "login_failed"
    await third.post("/v1/password", PasswordChanged, PasswordChange(current=PASSWORD, new="another good password"))
    await third.get("/v1/jobs", JobList)
    assert (await refused(first, "/v1/logout")).status == 401
    assert (await refused(admin, "/v1/login", Login(name="ada", password=PASSWORD))).code == "login_failed"
    await admin.post("/v1/accounts/ada/disable", Account)
    disabled = await refused(third, "/v1/logout")
    assert "disabled" in disabled.message
    given = Login(name="ada", password="another good password")
    assert (await refused(admin, "/v1/login", given)).code == "account_disabled"
    await admin.post("/v1/accounts/ada/enable", Account)
    await admin.post("/v1/login", Session, given)


async def test_who_guesses_passwords_has_to_wait_and_cannot_tell_who_has_an_account(installation: Installation):
    await installation.replica()
    await session(installation, "ada")
    nobody = await installation.client()
    outcomes: list[OrchestratorRefused] = []

    async def guess(name: str) -> None:
        outcomes.append(await refused(nobody, "/v1/login", Login(name=name, password="not this one, no")))

    for _ in range(2):
        await guess("ada")
    # All at the same moment: each is counted before its password is looked at, so that one is looked at.
    await installation.fetch(
        "UPDATE moonyard.login_failures SET failures = 10, last_at = now() - interval '2 minutes' "
        "WHERE key = 'account:ada'"
    )
    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(guess, "ada")
    codes = sorted(outcome.code for outcome in outcomes)
    assert codes == ["login_failed"] * 3 + ["login_throttled"] * 5
    assert (await refused(nobody, "/v1/login", Login(name="ada", password=PASSWORD))).code == "login_throttled"
    known = next(outcome for outcome in outcomes if outcome.code == "login_failed")
    outcomes.clear()
    await guess("eve")
    assert (outcomes[0].code, outcomes[0].message, outcomes[0].hint) == (known.code, known.message, known.hint)
    await installation.fetch("UPDATE moonyard.login_failures SET last_at = now() - interval '2 minutes'")
    await nobody.post("/v1/login", Session, Login(name="ada", password=PASSWORD))
    left = await installation.fetch("SELECT key, failures FROM moonyard.login_failures ORDER BY key")
    assert [row["key"] for row in left] == ["account:eve", "address:127.0.0.1"]


async def test_one_address_that_tries_many_accounts_has_to_wait(installation: Installation):
    await installation.replica()
    nobody = await installation.client()
    await installation.fetch(
        "INSERT INTO moonyard.login_failures (key, failures, last_at) VALUES ('address:127.0.0.1', 30, now())"
    )
    assert (await refused(nobody, "/v1/login", Login(name="any", password=PASSWORD))).code == "login_throttled"


async def test_a_password_is_stored_as_argon2id_and_a_hash_of_old_parameters_is_made_anew(installation: Installation):
    await installation.replica()
    await session(installation, "ada")
    [row] = await installation.fetch("SELECT password_hash FROM moonyard.accounts")
    assert row["password_hash"].startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    await installation.fetch("UPDATE moonyard.accounts SET password_hash = $1", cheap)
    await (await installation.client()).post("/v1/login", Session, Login(name="ada", password=PASSWORD))
    [row] = await installation.fetch("SELECT password_hash FROM moonyard.accounts")
    assert not passwords.is_outdated(row["password_hash"])


async def test_a_group_gives_its_members_what_it_holds_until_they_leave(installation: Installation):
    await installation.replica()
    await installation.push()
    ada, admin = await account(installation, "ada"), await installation.client()
    with pytest.raises(OrchestratorRefused) as nothing:
        await ada.get("/v1/pipelines", PipelineList)
    assert (nothing.value.status, nothing.value.code) == (403, "permission_missing")
    await admin.post("/v1/groups", Group, GroupCreate(name="web"))
    await admin.post("/v1/groups/web/members", Group, Member(account="ada"))
    await admin.post("/v1/role-bindings", Binding, BindingCreate(role="viewer", group="web", pipelines="hel*"))
    assert [row.name for row in (await ada.get("/v1/pipelines", PipelineList)).pipelines] == ["hello"]
    found = await ada.get("/v1/whoami", WhoAmI)
    assert [(held.role, held.pipelines, held.group) for held in found.roles] == [("viewer", "hel*", "web")]
    assert found.permissions == {"hel*": ["view", "read-logs", "read-artifacts"]}
    await admin.delete("/v1/groups/web/members/ada", Group)
    with pytest.raises(OrchestratorRefused):
        await ada.get("/v1/pipelines", PipelineList)


async def test_a_role_of_ones_own_gives_what_it_says_and_goes_with_all_that_hold_it(installation: Installation):
    await installation.replica()
    await installation.push()
    admin = await installation.client()
    made = await admin.post("/v1/roles", RoleShown, RoleCreate(name="starter", permissions=["run", "view"]))
    assert made.permissions == ["view", "run"]
    for bad, code in (("starter", "role_exists"), ("admin", "role_exists"), ("Ä", "role_name_invalid")):
        assert (await refused(admin, "/v1/roles", RoleCreate(name=bad, permissions=["run"]))).code == code
    unknown = await refused(admin, "/v1/roles", RoleCreate(name="other", permissions=["fly"]))
    assert unknown.code == "permission_unknown"
    ada = await account(installation, "ada", ("starter", "hello"))
    assert (await ada.get("/v1/whoami", WhoAmI)).permissions == {"hello": ["view", "run"]}
    await admin.delete("/v1/roles/starter", RoleShown)
    assert (await ada.get("/v1/whoami", WhoAmI)).permissions == {}
    assert (await admin.get("/v1/role-bindings", BindingList)).bindings == []
    with pytest.raises(OrchestratorRefused) as fixed:
        await admin.delete("/v1/roles/viewer", RoleShown)
    assert fixed.value.code == "role_fixed"
    assert (await admin.get("/v1/roles", RoleList)).roles[0].name == "admin"


async def test_a_narrowed_token_may_do_less_than_its_account(installation: Installation):
    await installation.replica()
    await installation.push()
    await installation.push(msgspec.structs.replace(DEFINITION, name="other"))
    ada = await account(installation, "ada", ("developer", "*"))
    message = TokenCreate(kind="user", name="ci", permissions=["run", "view"], pipelines=["hel*"])
    token = await ada.post("/v1/tokens", Token, message)
    assert (token.account, token.permissions, token.pipelines) == ("ada", ["view", "run"], ["hel*"])
    ci = await installation.client(token.secret)
    assert (await ci.get("/v1/whoami", WhoAmI)).permissions == {"hel*": ["view", "run"]}
    assert [row.name for row in (await ci.get("/v1/pipelines", PipelineList)).pipelines] == ["hello"]
    hidden = await refused(ci, "/v1/jobs", JobSubmit(pipeline="other"))
    assert (hidden.status, hidden.code) == (404, "pipeline_unknown")
    job = await ci.post("/v1/jobs", Job, JobSubmit(pipeline="hello"))
    missing = await refused(ci, f"/v1/jobs/{job.id}/cancel")
    assert (missing.status, missing.code) == (403, "permission_missing")
    assert missing.hint == "This token is narrowed: it may do less than its account."
    for wrong in (
        TokenCreate(kind="user", name="x", permissions=[]),
        TokenCreate(kind="user", name="x", permissions=["fly"]),
        TokenCreate(kind="user", name="x", pipelines=["a b"]),
        TokenCreate(kind="registration", name="x", permissions=["run"]),
    ):
        assert (await refused(ada, "/v1/tokens", wrong)).status in {403, 422}


async def test_a_token_makes_no_other_one_of_its_account_and_a_narrowed_one_ends_none(installation: Installation):
    await installation.replica()
    ada = await account(installation, "ada", ("developer", "*"))
    narrowed = await ada.post("/v1/tokens", Token, TokenCreate(kind="user", name="ci", permissions=["view"]))
    brief = await ada.post("/v1/tokens", Token, TokenCreate(kind="user", name="brief", expires_in=60.0))
    other = await ada.post("/v1/tokens", Token, TokenCreate(kind="user", name="other"))
    for token in (narrowed, brief):
        client = await installation.client(token.secret)
        assert (await refused(client, "/v1/tokens", TokenCreate(kind="user", name="more"))).status == 403
    client = await installation.client(narrowed.secret)
    assert (await client.get("/v1/tokens", TokenList)).tokens == []
    with pytest.raises(OrchestratorRefused) as hidden:
        await client.delete(f"/v1/tokens/{other.id}", Token)
    assert hidden.value.code == "token_unknown"


async def test_people_see_and_revoke_their_own_tokens_and_those_that_they_may_manage(installation: Installation):
    await installation.replica()
    ada, eve = (
        await account(installation, "ada", ("viewer", "*")),
        await account(installation, "eve", ("operator", "*")),
    )
    admin = await installation.client()
    own = await ada.post("/v1/tokens", Token, TokenCreate(kind="user", name="mine"))
    registration = await eve.post("/v1/tokens", Token, TokenCreate(kind="registration", name="box", uses=1))

    async def names(client: Client) -> set[str]:
        return {row.name for row in (await client.get("/v1/tokens", TokenList)).tokens}

    assert await names(ada) == {"test", "mine"}  # her session and her token
    assert await names(eve) == {"test", "box"}
    assert {"mine", "box", "test"} <= await names(admin)
    assert (await refused(ada, "/v1/tokens", TokenCreate(kind="registration", name="x", uses=1))).status == 403
    assert (await refused(eve, "/v1/tokens", TokenCreate(kind="admin", name="x"))).status == 403
    assert (await refused(admin, "/v1/tokens", TokenCreate(kind="user", name="x"))).status == 422
    with pytest.raises(OrchestratorRefused) as hidden:
        await eve.delete(f"/v1/tokens/{own.id}", Token)
    with pytest.raises(OrchestratorRefused) as unknown:
        await eve.delete(f"/v1/tokens/{uuid7()}", Token)
    assert (
        (hidden.value.status, hidden.value.code) == (unknown.value.status, unknown.value.code) == (404, "token_unknown")
    )
    await ada.delete(f"/v1/tokens/{own.id}", Token)
    await eve.delete(f"/v1/tokens/{registration.id}", Token)


async def test_what_is_taken_away_counts_at_once_here_and_soon_elsewhere(installation: Installation):
    await installation.replica()
    elsewhere = await installation.replica()
    made = await session(installation, "ada", ("viewer", "*"))
    admin, far = await installation.client(), await installation.client(made.token, elsewhere.address)
    await far.get("/v1/jobs", JobList)
    [held] = (await admin.get("/v1/role-bindings", BindingList, query={"account": "ada"})).bindings
    await admin.delete(f"/v1/role-bindings/{held.id}", Binding)
    with pytest.raises(OrchestratorRefused):
        await (await installation.client(made.token)).get("/v1/jobs", JobList)

    async def ask_until_refused() -> None:
        while True:
            await far.get("/v1/jobs", JobList)

    with anyio.fail_after(DEADLINE_SECONDS), pytest.raises(OrchestratorRefused):
        await ask_until_refused()


async def test_a_login_by_a_browser_gives_one_session_once_somebody_said_yes(installation: Installation):
    await installation.replica()
    await session(installation, "ada")
    nobody = await installation.client()
    begun = await nobody.post("/v1/login/device", DeviceLoginBegun, DeviceLogin(client="a terminal"))
    ask = DeviceLoginAsk(device_code=begun.device_code)
    await nobody.post("/v1/login/device/token", SessionPending, ask)
    [ada] = await installation.fetch("SELECT id FROM moonyard.accounts")
    await installation.fetch(sql.DEVICE_ANSWER, begun.user_code, ada["id"], "account ada")
    assert (await nobody.post("/v1/login/device/token", Session, ask)).account == "ada"
    assert (await refused(nobody, "/v1/login/device/token", ask)).code == "login_expired"
    second = await nobody.post("/v1/login/device", DeviceLoginBegun, DeviceLogin())
    await installation.fetch(sql.DEVICE_ANSWER, second.user_code, None, "account ada")
    no = await refused(nobody, "/v1/login/device/token", DeviceLoginAsk(device_code=second.device_code))
    assert no.code == "login_refused"


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/accounts", AccountCreate(name="No Spaces"), "account_name_invalid"),
        ("/v1/groups", GroupCreate(name=""), "group_name_invalid"),
        ("/v1/role-bindings", BindingCreate(role="viewer"), "binding_invalid"),
        ("/v1/role-bindings", BindingCreate(role="viewer", account="ada", group="web"), "binding_invalid"),
        ("/v1/role-bindings", BindingCreate(role="viewer", account="nobody"), "account_unknown"),
        ("/v1/role-bindings", BindingCreate(role="viewer", group="nobody"), "group_unknown"),
        ("/v1/role-bindings", BindingCreate(role="king", account="ada"), "role_unknown"),
        ("/v1/role-bindings", BindingCreate(role="viewer", account="ada", pipelines=""), "pattern_invalid"),
        ("/v1/accounts/nobody/disable", None, "account_unknown"),
        ("/v1/groups/nobody/members", Member(account="ada"), "group_unknown"),
    ],
)
async def test_what_makes_no_sense_is_refused(installation: Installation, path: str, body: object, code: str):
    await installation.replica()
    admin = await installation.client()
    await admin.post("/v1/accounts", Account, AccountCreate(name="ada"))
    assert (await refused(admin, path, body)).code == code
