"""Logins under attack: races with a change of the password, floods, many addresses."""

from __future__ import annotations

import pytest

from orchestrator import addresses, logins, passwords
from orchestrator.authentication import Authentication
from orchestrator.problems import TooMany, Unauthenticated
from orchestrator.sql import accounts as sql
from schema.accounts import (
    Account,
    DeviceLogin,
    DeviceLoginAsk,
    DeviceLoginBegun,
    Login,
    PasswordChange,
    PasswordChanged,
    Session,
    WhoAmI,
)
from schema.client import Client, OrchestratorRefused
from tests.orchestrator.installation import Installation
from tests.orchestrator.people import PASSWORD, session

OTHER = "another good password"


async def refused(client: Client, path: str, body: object = None) -> OrchestratorRefused:
    with pytest.raises(OrchestratorRefused) as raised:
        await client.post(path, object, body)  # pyright: ignore[reportArgumentType]
    return raised.value


async def yes_to(installation: Installation) -> DeviceLoginAsk:
    """Begin a login by a browser and say yes to it; its session is not taken yet."""
    nobody = await installation.client()
    begun = await nobody.post("/v1/login/device", DeviceLoginBegun, DeviceLogin())
    [ada] = await installation.fetch("SELECT id FROM moonyard.accounts WHERE name = 'ada'")
    await installation.fetch(sql.DEVICE_ANSWER, begun.user_code, ada["id"], "account ada")
    return DeviceLoginAsk(device_code=begun.device_code)


async def test_what_a_thief_said_yes_to_ends_with_the_password(installation: Installation):
    await installation.replica()
    ada = await installation.client((await session(installation, "ada")).token)
    ask = await yes_to(installation)
    await ada.post("/v1/password", PasswordChanged, PasswordChange(current=PASSWORD, new=OTHER))
    assert (await refused(await installation.client(), "/v1/login/device/token", ask)).code == "login_expired"


async def test_an_account_that_is_enabled_again_begins_anew(installation: Installation):
    await installation.replica()
    ada = await installation.client((await session(installation, "ada")).token)
    ask = await yes_to(installation)
    admin = await installation.client()
    await admin.post("/v1/accounts/ada/disable", Account)
    await admin.post("/v1/accounts/ada/enable", Account)
    with pytest.raises(OrchestratorRefused) as ended:
        await ada.get("/v1/whoami", WhoAmI)
    assert ended.value.status == 401
    assert (await refused(admin, "/v1/login/device/token", ask)).code == "login_expired"
    await admin.post("/v1/login", Session, Login(name="ada", password=PASSWORD))


async def test_a_login_with_a_password_that_was_changed_meanwhile_gives_no_session(installation: Installation):
    await installation.replica()
    ada = await installation.client((await session(installation, "ada")).token)
    row, looked_at = await logins.checked(installation.database, "ada", PASSWORD, "192.0.2.1")
    await ada.post("/v1/password", PasswordChanged, PasswordChange(current=PASSWORD, new=OTHER))
    with pytest.raises(Unauthenticated) as late:
        await logins.session(installation.database, row["id"], "a thief", 60.0, looked_at)
    assert late.value.code == "login_failed"
    # Nor does the old password come back, when its hash was about to be made anew.
    [stored] = await installation.fetch("SELECT password_hash FROM moonyard.accounts")
    await installation.fetch(sql.HASH_RENEW, row["id"], await passwords.hashed(PASSWORD), looked_at)
    [left] = await installation.fetch("SELECT password_hash FROM moonyard.accounts")
    assert left == stored


async def test_an_address_that_has_to_wait_makes_no_account_wait(installation: Installation):
    await installation.replica()
    await session(installation, "ada")
    nobody = await installation.client()
    await installation.fetch(
        "INSERT INTO moonyard.login_failures (key, failures, last_at) VALUES ('address:127.0.0.1', 30, now())"
    )
    for _ in range(8):
        assert (await refused(nobody, "/v1/login", Login(name="ada", password=OTHER))).code == "login_throttled"
    row, _ = await logins.checked(installation.database, "ada", PASSWORD, "192.0.2.1")
    assert row["name"] == "ada"


async def test_addresses_of_one_network_of_ipv6_wait_together(installation: Installation):
    await installation.replica()
    for host in range(20):
        with pytest.raises(Unauthenticated):
            await logins.checked(installation.database, f"nobody{host}", OTHER, f"2001:db8::{host:x}")
    for address in ("2001:db8::ffff:1:2", "2001:db8:0:1::1"):
        with pytest.raises((TooMany, Unauthenticated)) as outcome:
            await logins.checked(installation.database, "nobody", OTHER, address)
        assert isinstance(outcome.value, TooMany) == address.startswith("2001:db8::")


@pytest.mark.parametrize(
    ("address", "share"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_who_shares_an_address(address: str, share: str):
    assert addresses.share(address) == share


async def test_one_address_does_not_take_all_places_of_logins_by_a_browser(installation: Installation):
    await installation.replica()
    for place in range(logins.DEVICES_MAXIMUM_EACH):
        await installation.fetch(
            sql.DEVICE_BEGIN, *(await ids(installation)), f"CODE-{place}", 600.0, "192.0.2.7", "flood", "192.0.2.7"
        )
    with pytest.raises(TooMany) as full:
        await logins.device_begin(installation.database, DeviceLogin(), "192.0.2.7")
    assert full.value.code == "login_throttled"
    await logins.device_begin(installation.database, DeviceLogin(), "192.0.2.8")


async def ids(installation: Installation) -> tuple[object, bytes]:
    [row] = await installation.fetch("SELECT gen_random_uuid() AS id")
    return row["id"], row["id"].bytes


async def test_a_name_writes_no_lines_of_its_own(installation: Installation, caplog: pytest.LogCaptureFixture):
    await installation.replica()
    nobody = await installation.client()
    for name in ("eve\nWARNING all is well", "eve\x1b[2J", "eve\0"):
        assert (await refused(nobody, "/v1/login", Login(name=name, password=OTHER))).code == "login_failed"
    said = [record.getMessage() for record in caplog.records if record.name == "orchestrator.logins"]
    assert said == [
        "a login as `eve?warning all is well` from 127.0.0.1 failed",
        "a login as `eve?[2j` from 127.0.0.1 failed",
        "a login as `eve?` from 127.0.0.1 failed",
    ]


async def test_of_two_answers_to_a_command_line_the_first_counts(installation: Installation):
    await installation.replica()
    made = await session(installation, "ada")
    begun = await logins.device_begin(installation.database, DeviceLogin(), "192.0.2.7")
    ada = await Authentication(installation.database).verify(f"Bearer {made.token}")
    assert await logins.device_answer(installation.database, begun.user_code, ada, is_yes=False)
    assert not await logins.device_answer(installation.database, begun.user_code, ada, is_yes=True)
    with pytest.raises(Unauthenticated) as no:
        await logins.device_take(installation.database, begun.device_code, 60.0)
    assert no.value.code == "login_refused"


async def test_a_password_that_gets_no_turn_is_told_so(installation: Installation, monkeypatch: pytest.MonkeyPatch):
    await installation.replica()
    monkeypatch.setattr(passwords, "WAIT_SECONDS", 0.0)
    busy = await refused(await installation.client(), "/v1/login", Login(name="ada", password=PASSWORD))
    assert (busy.status, busy.code) == (429, "login_throttled")


def test_a_short_name_is_in_many_a_good_password():
    passwords.check("armada before jotunheim", "ada")
    with pytest.raises(Exception, match="holds the account's name"):
        passwords.check("adalovelace 1815", "adalovelace")
