"""Accounts as people handle them: by real commands, each person with a folder of their own."""

from __future__ import annotations

import json
import os
import pty
import stat
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import pytest

from cli import settings
from orchestrator.sql import accounts as sql
from tests.cli.command import SECONDS, Printed, argv, environment, moonyard
from tests.orchestrator.installation import Installation
from tests.orchestrator.installation import installation as opened
from tests.orchestrator.people import PASSWORD


class Person:
    """Somebody at a machine of their own."""

    def __init__(self, folder: Path, installation: Installation) -> None:
        self.folder = folder
        self.installation = installation
        folder.mkdir()

    @property
    def environment(self) -> dict[str, str]:
        address = self.installation.replicas[0].address
        return environment(MOONYARD_ORCHESTRATOR=address, XDG_CONFIG_HOME=str(self.folder), HOME=str(self.folder))

    @property
    def login_file(self) -> Path:
        return self.folder / "moonyard" / "login.toml"

    async def __call__(self, *arguments: str, stdin: str = "") -> Printed:
        with anyio.fail_after(SECONDS):
            done = await anyio.run_process(
                argv(*arguments), input=stdin.encode(), cwd=self.folder, env=self.environment, check=False
            )
        return Printed(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
async def installation(database_url: str) -> AsyncGenerator[Installation]:
    async with opened(database_url) as made:
        await made.replica()
        yield made


@pytest.fixture
async def ada(installation: Installation, tmp_path: Path) -> Person:
    """The first administrator, who came by a setup token."""
    person = Person(tmp_path / "ada", installation)
    made = await moonyard(
        "token", "create", "--kind", "setup", "--name", "first", cwd=tmp_path, MOONYARD_DATABASE_URL=installation.url
    )
    done = await person("login", "--setup", "--name", "ada", stdin=f"{made.stdout.strip()}\n{PASSWORD}\n")
    assert done.code == 0, done.stderr
    return person


async def invited(ada: Person, name: str, *roles: tuple[str, str]) -> Person:
    """Make an account that holds roles, whose owner takes up the invitation."""
    person = Person(ada.folder.parent / name, ada.installation)
    made = await ada("account", "create", name)
    assert made.code == 0, made.stderr
    for role, pipelines in roles:
        assert (await ada("role", "grant", role, "--account", name, "--pipeline", pipelines)).code == 0
    done = await person("login", "--invitation", stdin=f"{made.stdout}{PASSWORD}\n")
    assert done.code == 0, done.stderr
    return person


async def test_a_second_account_does_what_it_was_given_and_is_told_what_it_may_not(ada: Person):
    await ada.installation.push()
    eve = await invited(ada, "eve", ("viewer", "hel*"))
    seen = await eve("pipeline", "list", "--json")
    assert [line["name"] for line in seen.lines] == ["hello"]
    refused = await eve("submit", "hello")
    assert refused.code == 2
    assert "error[permission_missing]" in refused.stderr
    assert "account `eve` does not hold permission `run`" in refused.stderr
    assert (await ada("role", "grant", "developer", "--account", "eve", "--pipeline", "hello")).code == 0
    submitted = await eve("submit", "hello", "--json")
    assert submitted.lines[-1]["state"] == "queued"
    shown = json.loads((await eve("whoami", "--json")).stdout)
    assert shown["account"] == "eve"
    assert "run" in shown["permissions"]["hello"]
    assert (await ada("role", "revoke", "developer", "--account", "eve")).stdout == (
        "eve no longer holds role developer for hello\n"
    )
    assert (await eve("submit", "hello")).code == 2
    holders = (await ada("role", "holders", "--json")).lines
    assert [(held["account"], held["role"], held["pipelines"]) for held in holders] == [
        ("ada", "admin", "*"),
        ("eve", "viewer", "hel*"),
    ]


async def test_the_session_is_in_a_file_of_ones_own_and_ends_with_the_logout(ada: Person):
    assert stat.S_IMODE(ada.login_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(ada.login_file.parent.stat().st_mode) == 0o700
    saved = ada.login_file.read_text(encoding="utf-8")
    assert "moonyard_session_" in saved
    assert (await ada("logout")).stdout == "ada is logged out\n"
    assert not ada.login_file.exists()
    assert "error[token_missing]" in (await ada("jobs")).stderr
    ada.login_file.write_text(saved, encoding="utf-8")
    assert "error[token_invalid]" in (await ada("jobs")).stderr
    done = await ada("login", "--name", "ada", stdin="not the password\n")
    assert "error[login_failed]" in done.stderr
    assert "not the password" not in done.stderr
    done = await ada("login", "--name", "ada", stdin=f"{PASSWORD}\n")
    assert done.code == 0
    assert PASSWORD not in done.stdout + done.stderr
    assert (await ada("password", stdin=f"{PASSWORD}\na whole new password\n")).code == 0
    assert (await ada("whoami")).code == 0


async def test_a_session_is_shown_to_the_installation_that_it_is_for_and_to_no_other(ada: Person, unused_port: int):
    foreign = f"http://127.0.0.1:{unused_port}"
    own = ada.environment["MOONYARD_ORCHESTRATOR"]
    for given in (["--orchestrator", foreign], ["--orchestrator", own, "--orchestrator", foreign]):
        done = await ada("jobs", *given)
        assert "error[token_missing]" in done.stderr
    assert (await ada("jobs", "--orchestrator", f"{own}/")).code == 0


async def test_what_up_left_is_shown_to_its_own_addresses_alone(ada: Person, unused_port: int):
    own = ada.environment["MOONYARD_ORCHESTRATOR"]
    admin = await ada("token", "create", "--kind", "admin", "--name", "up", "--json")
    ada.login_file.unlink()
    state = ada.folder / "state"
    settings.Credentials([own], admin.lines[0]["secret"], "postgresql://").save(state)
    # As a checkout of somebody else's could have it: all commands in its folder would go there.
    (ada.folder / "moonyard.toml").write_text(f'orchestrator = ["http://127.0.0.1:{unused_port}", "{own}"]\n')
    environment = {name: value for name, value in ada.environment.items() if name != "MOONYARD_ORCHESTRATOR"}
    environment["MOONYARD_STATE_FOLDER"] = str(state)
    for arguments, expected in ((["jobs"], "error[token_missing]"), (["jobs", "--orchestrator", own], "no such jobs")):
        done = await anyio.run_process(argv(*arguments), cwd=ada.folder, env=environment, check=False)
        assert expected in done.stderr.decode()


async def test_a_login_beside_a_token_that_goes_before_it_is_warned_of(ada: Person):
    environment = ada.environment | {"MOONYARD_TOKEN": "moonyard_user_something"}
    given = f"{PASSWORD}\n".encode()
    done = await anyio.run_process(argv("login", "--name", "ada"), input=given, cwd=ada.folder, env=environment)
    assert "warning: commands go on with the token from MOONYARD_TOKEN" in done.stderr.decode()


async def test_a_token_for_programs_is_narrowed(ada: Person):
    await ada.installation.push()
    made = await ada("token", "create", "--name", "ci", "--permission", "view", "--pipeline", "hel*", "--json")
    token = made.lines[0]
    listed = (await ada("token", "list")).stdout
    assert "narrowed: view for hel*" in listed
    assert "used up" in listed  # the setup token is nobody's, and seen by who manages accounts
    assert (token["kind"], token["account"], token["permissions"]) == ("user", "ada", ["view"])
    environment = ada.environment | {"MOONYARD_TOKEN": token["secret"]}
    done = await anyio.run_process(argv("submit", "hello"), cwd=ada.folder, env=environment, check=False)
    assert "This token is narrowed" in done.stderr.decode()


async def test_passwords_typed_at_a_terminal_are_not_shown(ada: Person):
    assert (await ada("logout")).code == 0
    outer, inner = pty.openpty()
    process = await anyio.open_process(
        argv("login", "--name", "ada"), stdin=inner, stdout=inner, stderr=inner, cwd=ada.folder, env=ada.environment
    )
    os.close(inner)
    said = b""
    with anyio.fail_after(SECONDS):
        while b"password" not in said:
            said += await anyio.to_thread.run_sync(os.read, outer, 4096)
        os.write(outer, PASSWORD.encode() + b"\n")
        assert await process.wait() == 0
        said += await anyio.to_thread.run_sync(os.read, outer, 4096)
    os.close(outer)
    await process.aclose()
    assert PASSWORD.encode() not in said
    assert b"logged in as ada" in said


async def test_a_login_by_a_browser_waits_for_its_answer(ada: Person):
    assert (await ada("logout")).code == 0
    async with await anyio.open_process(argv("login", "--browser"), cwd=ada.folder, env=ada.environment) as process:
        assert process.stdout is not None
        with anyio.fail_after(SECONDS):
            code = (await process.stdout.receive()).decode().split()[0]
            [row] = await ada.installation.fetch("SELECT id FROM moonyard.accounts")
            await ada.installation.fetch(sql.DEVICE_ANSWER, code, row["id"], "account ada")
            assert await process.wait() == 0
    assert json.loads((await ada("whoami", "--json")).stdout)["account"] == "ada"


async def test_groups_hold_roles_for_their_members(ada: Person):
    await ada.installation.push()
    eve = await invited(ada, "eve")
    for arguments in (
        ("group", "create", "web"),
        ("group", "add", "web", "eve"),
        ("role", "create", "starter", "--permission", "run", "--permission", "view"),
        ("role", "grant", "starter", "--group", "web", "--pipeline", "hello"),
    ):
        done = await ada(*arguments)
        assert done.code == 0, done.stderr
    assert (await eve("submit", "hello")).code == 0
    assert "web" in (await ada("group", "list")).stdout
    assert "starter" in (await ada("role", "list")).stdout
    assert "eve" in (await ada("account", "list")).stdout
    assert "groups: web" in (await ada("account", "show", "eve")).stdout
    assert (await ada("account", "disable", "eve")).code == 0
    assert "account `eve` is disabled" in (await eve("submit", "hello")).stderr
    assert (await ada("account", "enable", "eve")).code == 0
    assert (await ada("group", "remove", "web", "eve")).code == 0
    assert (await eve("submit", "hello")).code == 2
    assert (await ada("role", "delete", "starter")).code == 0
    assert (await ada("group", "delete", "web")).code == 0
