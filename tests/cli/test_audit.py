"""`moonyard audit` as people and programs use it, and logins of the database that may no more than they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest

from schema import database
from tests.cli.command import moonyard, started
from tests.orchestrator.installation import DEADLINE_SECONDS, Installation
from tests.orchestrator.installation import installation as opened
from tests.postgres import as_replica

LOGIN = "moonyard_test_login"


@pytest.fixture
async def installation(database_url: str):
    async with opened(database_url) as made:
        await made.replica()
        await made.push()
        yield made


def environment(installation: Installation) -> dict[str, str]:
    return {"MOONYARD_TOKEN": installation.admin_secret, "MOONYARD_ORCHESTRATOR": installation.replicas[0].address}


async def test_the_audit_is_shown_as_a_table_and_exported_as_json_lines(installation: Installation, tmp_path: Path):
    for _ in range(3):
        await installation.submit()
    given: dict[str, Any] = {"cwd": tmp_path, **environment(installation)}
    table = await moonyard("audit", "list", "--limit", "2", **given)
    assert table.code == 0, table.stderr
    lines = table.stdout.splitlines()
    assert [word in lines[0] for word in ("at (UTC)", "actor", "from", "action", "subject", "result")] == [True] * 6
    assert [("job 2" in lines[-2]), ("job 3" in lines[-1]), "127.0.0.1" in lines[-1]] == [True] * 3
    exported = await moonyard("audit", "list", "--json", "--action", "sub*", **given)
    assert [line["subject"] for line in exported.lines] == ["job 1", "job 2", "job 3"]
    assert set(exported.lines[0]) == {
        "id", "at", "actor", "address", "action", "subject", "result", "detail", "block"
    }  # fmt: skip
    nothing = await moonyard("audit", "list", "--refused", "--since", "2026-01-01T00:00:00Z", **given)
    assert (nothing.code, nothing.stdout) == (0, "")
    wrong = await moonyard("audit", "list", "--since", "yesterday", **given)
    assert wrong.code == 2
    assert "has to be a time with its zone" in wrong.stderr


async def test_the_audit_is_followed(installation: Installation, tmp_path: Path):
    arguments = ("audit", "list", "--follow", "--json", "--action", "submit", "--since", "2026-01-01T00:00:00Z")
    with anyio.fail_after(DEADLINE_SECONDS):
        async with started(*arguments, cwd=tmp_path, **environment(installation)) as running:
            for number in (1, 2, 3):
                await installation.submit()
                assert (await running.next_line())["subject"] == f"job {number}"


async def test_the_audit_is_verified_also_against_a_head_of_before(installation: Installation, tmp_path: Path):
    given: dict[str, Any] = {"cwd": tmp_path, **environment(installation)}
    await installation.submit()
    with anyio.fail_after(DEADLINE_SECONDS):
        while await installation.fetch("SELECT FROM moonyard.audit_unsealed"):
            pass
    whole = await moonyard("audit", "verify", **given)
    assert whole.code == 0, whole.stderr
    first, second = whole.stdout.splitlines()
    assert first.startswith("the audit is whole: ")
    head = second.removeprefix("head ")
    assert (await moonyard("audit", "verify", "--head", head, **given)).code == 0
    await installation.fetch("UPDATE moonyard.audit SET subject = 'job 99' WHERE action = 'submit'")
    broken = await moonyard("audit", "verify", "--json", **given)
    assert (broken.code, broken.lines[0]["state"]) == (1, "broken")
    said = await moonyard("audit", "verify", **given)
    assert said.code == 1
    assert said.stderr.startswith("the audit is broken: block ")


async def test_a_login_is_made_that_may_what_an_orchestrator_needs(installation: Installation, tmp_path: Path):
    given: dict[str, Any] = {"cwd": tmp_path, "MOONYARD_DATABASE_URL": installation.url}
    try:
        missing = await moonyard("db", "add-login", LOGIN, **given)
        assert missing.code == 2
        assert "a login needs a password" in missing.stderr
        made = await moonyard("db", "add-login", LOGIN, MOONYARD_LOGIN_PASSWORD="hush hush", **given)
        assert (made.code, made.stdout) == (0, f"login `{LOGIN}` is made: it has role moonyard_orchestrator\n")
        again = await moonyard("db", "add-login", LOGIN, "--no-password", **given)
        assert again.stdout == f"login `{LOGIN}` was there: it has role moonyard_orchestrator\n"
        with psycopg.connect(installation.url.replace("//postgres:@", f"//{LOGIN}@", 1)) as connection:
            assert connection.execute("SELECT count(*) FROM moonyard.jobs").fetchone() == (0,)
        own: dict[str, Any] = {**given, "MOONYARD_DATABASE_URL": as_replica(installation.url)}
        token = await moonyard("token", "create", "--name", "me", "--kind", "admin", **own)
        assert token.code == 0, token.stderr
        stored = await installation.database.value("SELECT rolpassword FROM pg_authid WHERE rolname = $1", LOGIN)
        assert stored.startswith("SCRAM-SHA-256$")
        for name, said in (("postgres", "is a superuser"), ('x"; DROP', "cannot be the name of a login")):
            wrong = await moonyard("db", "add-login", name, "--no-password", **given)
            assert (wrong.code, said in wrong.stderr) == (2, True)
        with pytest.raises(Exception, match="may not make logins"):
            database.add_login(as_replica(installation.url), "another", "orchestrator", None)
    finally:
        await installation.fetch(f"DROP ROLE IF EXISTS {LOGIN}")


async def test_a_replica_that_may_more_than_it_needs_says_so(
    database_url: str, caplog: pytest.LogCaptureFixture, unused_port: int
):
    from orchestrator import serve
    from orchestrator.settings import OrchestratorSettings

    for url, warned in ((database_url, 1), (as_replica(database_url), 0)):
        caplog.clear()
        stop, listens = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            settings = OrchestratorSettings(database_url=url, port=unused_port)
            tasks.start_soon(
                lambda settings=settings, stop=stop, listens=listens: serve.run(
                    settings, stop=stop, started=lambda _: listens.set()
                )
            )
            with anyio.fail_after(DEADLINE_SECONDS):
                await listens.wait()
            stop.set()
        assert len([one for one in caplog.messages if "`moonyard db add-login`" in one]) == warned
