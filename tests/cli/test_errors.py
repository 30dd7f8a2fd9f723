"""What the command line says when something is wrong: what failed, on what, why, and what to do next.

Every error is met by the real command as a process. One orchestrator serves all of these tests; the installation that
is built up part by part is the one of the runner that comes first.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import socket
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
import psycopg
import pytest
from anyio.streams.text import TextReceiveStream
from psycopg import conninfo, sql

from schema import database
from tests.cli.command import SECONDS, Printed, argv, environment, moonyard
from tests.engine.registry import CONFIG, listening
from tests.postgres import Cluster

PASSWORD = "hush-hush"
FINE = """
return { name = "fine", stages = { { name = "s", script = function()
  process.run({ command = "echo", args = { "it works" } })
end } } }
"""
IMAGELESS = """
return { name = "imageless", stages = {
  { name = "first", script = function() process.run({ command = "touch", args = { "made" } }) end },
  { name = "second", container = "localhost/moonyard-test/no-such:1", needs = { "first" }, script = function()
    process.run({ command = "true" })
  end },
  { name = "third", needs = { "second" }, script = function() log.info("never") end },
} }
"""


class Server:
    """A real orchestrator, and the command line that finds it."""

    def __init__(self, folder: Path, url: str, port: int, admin: str) -> None:
        self.folder = folder
        self.url = url
        self.port = port
        self.address = f"http://127.0.0.1:{port}"
        self.admin = admin

    async def __call__(self, *arguments: str, token: str | None = None, **more: str) -> Printed:
        return await moonyard(
            *arguments,
            cwd=self.folder,
            MOONYARD_STATE_FOLDER=str(self.folder / "state"),
            MOONYARD_ORCHESTRATOR=self.address,
            MOONYARD_TOKEN=self.admin if token is None else token,
            **more,
        )

    async def token(self, kind: str, *options: str) -> str:
        made = await self("token", "create", "--kind", kind, "--name", f"some {kind}", *options)
        assert made.code == 0, made.stderr
        return made.stdout.strip()

    def run_sql(self, statement: sql.SQL) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)

    def count(self, table: str) -> int:
        with psycopg.connect(self.url) as connection:
            row = connection.execute(
                sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("moonyard", table))
            ).fetchone()
            assert row is not None
            return row[0]


class Speaking:
    """A process whose stdout and stderr are read together."""

    def __init__(self, process: anyio.abc.Process) -> None:
        assert process.stdout is not None
        self.process = process
        self.said = ""
        self._stream = TextReceiveStream(process.stdout)

    async def until(self, pattern: str) -> re.Match[str]:
        """Read until something is said that was not looked at before."""
        with anyio.fail_after(SECONDS):
            while (found := re.search(pattern, self.said, re.DOTALL)) is None:
                try:
                    self.said += await self._stream.receive()
                except anyio.EndOfStream:
                    raise AssertionError(f"{pattern!r} was never said, only: {self.said}") from None
        self.said = self.said[found.end() :]
        return found

    async def ended(self) -> int:
        with anyio.fail_after(SECONDS):
            with contextlib.suppress(anyio.EndOfStream):
                while True:
                    self.said += await self._stream.receive()
            return await self.process.wait()


@asynccontextmanager
async def speaking(*arguments: str, cwd: Path, **more: str) -> AsyncGenerator[Speaking]:
    async with await anyio.open_process(
        argv(*arguments), cwd=cwd, env=environment(**more), stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT
    ) as process:
        try:
            yield Speaking(process)
        finally:
            if process.returncode is None:
                process.kill()


@asynccontextmanager
async def orchestrator(folder: Path, url: str, port: int) -> AsyncGenerator[Speaking]:
    async with speaking("orchestrator", "--port", str(port), cwd=folder, MOONYARD_DATABASE_URL=url) as started:
        await started.until(r"orchestrator listens on http://127\.0\.0\.1:\d+\n")
        yield started


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
async def server(postgres_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Server]:
    folder = tmp_path_factory.mktemp("server")
    url = postgres_cluster.create_migrated()
    port = free_port()
    made = await moonyard("token", "create", "--name", "tests", cwd=folder, MOONYARD_DATABASE_URL=url)
    assert made.code == 0, made.stderr
    async with orchestrator(folder, url, port):
        yield Server(folder, url, port, made.stdout.strip())
    postgres_cluster.drop(url)


@pytest.fixture(scope="module")
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One state folder for all runs, so that the engine is looked at once."""
    return tmp_path_factory.mktemp("state")


def assert_told(printed: Printed, code: str, *words: str, exit_code: int = 2) -> None:
    """See that an error is told on stderr, whole, and nothing else is."""
    assert printed.code == exit_code, printed
    assert printed.stdout == ""
    assert f"error[{code}] " in printed.stderr
    for word in words:
        assert word in printed.stderr, printed.stderr
    assert "\nhint: " in printed.stderr
    assert "Traceback" not in printed.stderr
    assert "defect" not in printed.stderr
    assert PASSWORD not in printed.stderr


# --- an orchestrator without its Postgres


async def orchestrator_on(folder: Path, url: str, *options: str) -> Printed:
    return await moonyard("orchestrator", "--port", "0", *options, cwd=folder, MOONYARD_DATABASE_URL=url)


async def test_an_orchestrator_without_a_postgres_says_which_and_why(tmp_path: Path, unused_port: int) -> None:
    printed = await orchestrator_on(tmp_path, f"postgresql://me:{PASSWORD}@127.0.0.1:{unused_port}/yard")
    assert_told(
        printed,
        "database_unavailable",
        f"Postgres at 127.0.0.1:{unused_port}, database `yard` cannot be used (connection refused)",
        "hint: Is it running, and is `database_url` right? `moonyard up` brings a Postgres of its own.",
    )


async def test_an_orchestrator_that_is_told_of_no_postgres_says_how_to_name_one(tmp_path: Path) -> None:
    printed = await moonyard("orchestrator", cwd=tmp_path)
    assert_told(printed, "setting_missing", "--database-url", "MOONYARD_DATABASE_URL", "moonyard.toml", "`moonyard up`")


async def test_an_unknown_host_is_told_by_its_name(tmp_path: Path) -> None:
    printed = await orchestrator_on(tmp_path, f"postgresql://me:{PASSWORD}@nobody.invalid/yard")
    assert_told(
        printed,
        "database_unavailable",
        "Postgres at nobody.invalid:5432, database `yard` cannot be used (host name `nobody.invalid` ",
        "Is the host in `database_url` right?",
    )


async def test_a_url_that_the_password_breaks_is_refused_without_it(tmp_path: Path) -> None:
    printed = await orchestrator_on(tmp_path, f"postgresql://me:at@{PASSWORD}@127.0.0.1/yard")
    assert_told(printed, "settings_invalid", "`database_url` is not the URL of a Postgres", "%40")


async def test_a_database_that_does_not_exist_is_told_with_how_to_make_it(
    tmp_path: Path, postgres_cluster: Cluster
) -> None:
    printed = await orchestrator_on(tmp_path, postgres_cluster.url("no_such_yard"))
    assert_told(
        printed,
        "database_unavailable",
        'database `no_such_yard` cannot be used (database "no_such_yard" does not exist)',
        "hint: Create it (`createdb no_such_yard`) and run: moonyard db upgrade",
    )


@pytest.fixture
def locked_role(postgres_cluster: Cluster) -> Generator[str]:
    """A role that Postgres asks for its password."""
    role = "moonyard_locked"

    def reload() -> None:
        with psycopg.connect(postgres_cluster.url(), autocommit=True) as connection:
            before = connection.execute("SELECT pg_conf_load_time()").fetchone()
            connection.execute("SELECT pg_reload_conf()")
        while True:  # the server reads its files when it gets to it
            with psycopg.connect(postgres_cluster.url(), autocommit=True) as connection:
                if connection.execute("SELECT pg_conf_load_time()").fetchone() != before:
                    return

    with psycopg.connect(postgres_cluster.url(), autocommit=True) as connection:
        row = connection.execute("SHOW hba_file").fetchone()
        assert row is not None
        rules = Path(row[0])
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'another one'").format(sql.Identifier(role)))
    old = rules.read_text(encoding="utf-8")
    rules.write_text(f"local all {role} scram-sha-256\n{old}", encoding="utf-8")
    reload()
    yield role
    rules.write_text(old, encoding="utf-8")
    reload()
    with psycopg.connect(postgres_cluster.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


async def test_a_wrong_password_is_told_and_not_repeated(
    tmp_path: Path, postgres_cluster: Cluster, locked_role: str
) -> None:
    host = conninfo.conninfo_to_dict(postgres_cluster.url())["host"]
    printed = await orchestrator_on(tmp_path, f"postgresql://{locked_role}:{PASSWORD}@/postgres?host={host}")
    assert_told(
        printed,
        "database_unavailable",
        f"Postgres at socket folder {host}, database `postgres` cannot be used "
        f'(password authentication failed for user "{locked_role}")',
        "hint: Are user and password in `database_url` right?",
    )


@pytest.mark.parametrize(
    ("version", "message", "hint"),
    [
        (None, "has no schema of Moonyard's yet, and version {head} is needed", "Run: moonyard db upgrade"),
        ("0000", "has schema version 0000, and this Moonyard needs {head}", "Run: moonyard db upgrade"),
        ("9999", "has schema version 9999, which is newer than {head}", "Run a Moonyard as new as the one"),
    ],
)
async def test_a_schema_of_another_version_is_told_with_the_command_to_run(
    tmp_path: Path, postgres_cluster: Cluster, version: str | None, message: str, hint: str
) -> None:
    url = postgres_cluster.create() if version is None else postgres_cluster.create_migrated()
    if version is not None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("UPDATE moonyard.schema_version SET version_num = %s", [version])
    name = conninfo.conninfo_to_dict(url)["dbname"]
    message = message.format(head=database.head())
    for command in ("orchestrator", "db check", "token create --name x"):
        printed = await moonyard(*command.split(), cwd=tmp_path, MOONYARD_DATABASE_URL=url)
        assert_told(printed, "schema_version_wrong", f"database `{name}` {message}", f"hint: {hint}")
    if version == "9999":
        upgraded = await moonyard("db", "upgrade", cwd=tmp_path, MOONYARD_DATABASE_URL=url)
        assert_told(upgraded, "schema_version_wrong", f"database `{name}` {message}", f"hint: {hint}")
    postgres_cluster.drop(url)


async def test_a_port_that_is_taken_is_told(server: Server) -> None:
    printed = await orchestrator_on(server.folder, server.url, "--port", str(server.port))
    assert_told(
        printed,
        "address_unusable",
        f"the orchestrator cannot listen on 127.0.0.1:{server.port} (address already in use)",
        "`--port` and `--host` choose another address",
    )


async def test_up_does_not_take_another_installations_orchestrator_for_its_own(server: Server, tmp_path: Path) -> None:
    printed = await moonyard("up", "--port", str(server.port), "--state-folder", "state", cwd=tmp_path)
    assert_told(
        printed, "address_unusable", f"127.0.0.1:{server.port} cannot be had (address already in use)", "--port names"
    )


# --- a runner without its orchestrator


async def test_a_runner_waits_for_its_orchestrator_and_takes_up_work_when_it_comes(
    tmp_path: Path, postgres_cluster: Cluster, image_map: dict[str, str]
) -> None:
    assert image_map, "images are there"
    url, port = postgres_cluster.create_migrated(), free_port()
    made = await moonyard("token", "create", "--name", "tests", cwd=tmp_path, MOONYARD_DATABASE_URL=url)
    here = Server(tmp_path, url, port, made.stdout.strip())
    async with orchestrator(tmp_path, url, port) as first:
        registration = await here.token("registration")
        registered = await here("runner", "register", "--name", "early", MOONYARD_REGISTRATION_TOKEN=registration)
        assert registered.code == 0, registered.stderr
        first.process.send_signal(signal.SIGTERM)
        assert await first.ended() == 0
    async with speaking("runner", "start", "--state-folder", "state", cwd=tmp_path) as runner:
        pauses: list[float] = []
        for _ in range(3):
            told = await runner.until(
                rf"polling failed: orchestrator http://127\.0\.0\.1:{port} is unreachable \(connection refused\); "
                r"next try in ([0-9.]+) s\n"
            )
            pauses.append(float(told[1]))
        assert pauses == sorted(pauses), "each pause is longer than the one before"
        async with orchestrator(tmp_path, url, port) as second:
            await runner.until(rf"orchestrator http://127\.0\.0\.1:{port} answers again\n")
            for name, source in {"fine.lua": FINE, "imageless.lua": IMAGELESS}.items():
                (tmp_path / name).write_text(source, encoding="utf-8")
                pushed = await here("pipeline", "push", name)
                assert pushed.code == 0, pushed.stderr
            fine = await here("submit", "fine", "--follow", "--json")
            assert fine.code == 0, fine
            assert fine.texts(source="stdout") == ["it works"]
            assert_image_is_told(await here("submit", "imageless", "--follow", "--json"), tmp_path / "state")
            shown = await here("job", "2")
            assert "error[stage_failed] imageless.lua:5: stage `second` failed" in shown.stdout
            assert "caused by[image_not_found] " in shown.stdout
            assert "hint: " in shown.stdout
            second.process.send_signal(signal.SIGTERM)
            assert await second.ended() == 0
        await runner.until(r"polling failed: orchestrator .*? next try in [0-9.]+ s\n")
        runner.process.send_signal(signal.SIGTERM)
        assert await runner.ended() == 0
        assert "SIGTERM: draining; no new jobs are taken" in runner.said
        assert "Traceback" not in runner.said
    postgres_cluster.drop(url)


def assert_image_is_told(printed: Printed, state_folder: Path) -> None:
    """See that a job whose image does not exist failed for that reason, and that nothing of it is left."""
    assert printed.code == 1, printed
    assert printed.job["state"] == "failed"
    assert [error.code for error in printed.errors] == ["stage_failed", "image_not_found"]
    stage, image = printed.errors
    assert stage.message.startswith("stage `second` failed: image `localhost/moonyard-test/no-such:1` does not exist")
    assert image.hint is not None
    states = [(line["stage"], line["state"]) for line in printed.lines if line["type"] == "stage"]
    assert states == [
        ("first", "running"),
        ("first", "succeeded"),
        ("second", "running"),
        ("second", "failed"),
        ("third", "skipped"),
    ]
    left = subprocess.run(
        ["podman", "ps", "--all", "--quiet", "--filter", f"label=moonyard.job={printed.job['id']}"],
        check=True,
        capture_output=True,
    )
    assert left.stdout == b""
    assert list(state_folder.glob("owners/*/workspaces/*")) == []


async def test_a_runner_that_was_never_registered_says_how_to(tmp_path: Path) -> None:
    printed = await moonyard("runner", "start", "--state-folder", "state", cwd=tmp_path)
    assert_told(
        printed,
        "runner_not_registered",
        f"no runner is registered here ({tmp_path}/state/runner.toml does not exist)",
        "`moonyard runner register --orchestrator URL`",
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [("name = 'x'", "missing required field `id`"), ("no toml", "is not what `moonyard runner register` writes")],
)
async def test_a_damaged_registration_is_told(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "runner.toml").write_text(content, encoding="utf-8")
    printed = await moonyard("runner", "start", "--state-folder", ".", cwd=tmp_path)
    assert_told(printed, "settings_invalid", "runner.toml", said, "`moonyard runner register")


async def test_a_runner_whose_token_was_revoked_ends_and_says_what_to_do(server: Server, tmp_path: Path) -> None:
    registration = await server.token("registration")
    state = str(tmp_path / "state")
    registered = await server(
        "runner", "register", "--name", "fired", "--state-folder", state, MOONYARD_REGISTRATION_TOKEN=registration
    )
    assert registered.code == 0, registered.stderr
    server.run_sql(sql.SQL("UPDATE moonyard.tokens SET revoked_at = now() WHERE name = 'fired'"))
    printed = await server("runner", "start", "--state-folder", state)
    assert_told(
        printed,
        "runner_rejected",
        f"orchestrator {server.address} does not accept this runner's token",
        "caused by[token_invalid] the runner token `fired` was revoked at 20",
        "hint: Register the runner again: `moonyard token create --kind registration --name NAME`, then",
    )
    assert printed.stderr.count("error[") == 1
    credentials = Path(state) / "runner.toml"
    text = credentials.read_text(encoding="utf-8")
    credentials.write_text(re.sub(r'token = ".*"', f'token = "{server.admin}"', text), encoding="utf-8")
    printed = await server("runner", "start", "--state-folder", state)
    assert_told(printed, "runner_rejected", "is for tokens of kind runner, and this one is of kind admin")


# --- tokens


async def test_a_registration_that_is_refused_says_why_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    used = await server.token("registration", "--uses", "1")
    expired = await server.token("registration", "--expires-in", "1000")
    revoked = await server.token("registration")
    state = tmp_path / "state"

    async def register(token: str) -> Printed:
        return await server("runner", "register", "--state-folder", str(state), MOONYARD_REGISTRATION_TOKEN=token)

    assert (await register(used)).code == 0
    (state / "runner.toml").unlink()
    server.run_sql(
        sql.SQL("UPDATE moonyard.tokens SET expires_at = now() - interval '1 hour' WHERE expires_at IS NOT NULL")
    )
    listed = await server("token", "list", "--json")
    newest = next(row["id"] for row in listed.lines if row["kind"] == "registration")
    assert (await server("token", "revoke", newest)).code == 0
    runners = server.count("runners")
    for token, code, said in [
        (used, "token_invalid", "the registration token `some registration` is used up"),
        (expired, "token_invalid", "the registration token `some registration` expired at 20"),
        (revoked, "token_invalid", "the registration token `some registration` was revoked at 20"),
        (server.admin, "token_kind_wrong", "is for tokens of kind registration, and this one is of kind admin"),
        ("moonyard_registration_abc", "token_invalid", "is none of Moonyard's, or only a part of one"),
        ("two\nlines", "token_invalid", "none of Moonyard's"),
    ]:
        assert_told(await register(token), code, said)
        assert not (state / "runner.toml").exists()
    assert_told(
        await register(""),
        "token_missing",
        f"there is no registration token to show to orchestrator {server.address}",
        "MOONYARD_REGISTRATION_TOKEN",
    )
    assert server.count("runners") == runners


async def test_a_refused_token_is_told_with_where_it_came_from(server: Server, tmp_path: Path) -> None:
    expired = await server.token("admin", "--expires-in", "1000")
    server.run_sql(
        sql.SQL("UPDATE moonyard.tokens SET expires_at = now() - interval '1 hour' WHERE expires_at IS NOT NULL")
    )
    registration = await server.token("registration")
    refused = f"orchestrator {server.address} does not accept the token from MOONYARD_TOKEN"
    for token, code, said in [
        (expired, "token_invalid", "the admin token `some admin` expired at 20"),
        (
            registration,
            "token_kind_wrong",
            "/v1/jobs is for tokens of people, and this one is of kind registration",
        ),
        (server.admin[:-1], "token_invalid", "is none of Moonyard's, or only a part of one"),
        ("x" * 40, "token_invalid", "is none of Moonyard's, or only a part of one"),
    ]:
        hint = "`moonyard login`" if code == "token_kind_wrong" else "`moonyard token create`"
        assert_told(await server("jobs", token=token), code, refused, said, hint)
    (tmp_path / "moonyard.toml").write_text(f'token = "{expired}"\n', encoding="utf-8")
    in_file = await moonyard(
        "jobs", "--orchestrator", server.address, cwd=tmp_path, MOONYARD_STATE_FOLDER=str(tmp_path)
    )
    assert_told(in_file, "token_invalid", f"the token from {tmp_path / 'moonyard.toml'}", "expired")


async def test_a_user_without_a_token_is_told_where_one_comes_from(server: Server, tmp_path: Path) -> None:
    for command in (("jobs",), ("submit", "x"), ("runner", "list")):
        printed = await moonyard(
            *command, "--orchestrator", server.address, cwd=tmp_path, MOONYARD_STATE_FOLDER=str(tmp_path)
        )
        assert_told(
            printed,
            "token_missing",
            f"there is no token to show to orchestrator {server.address}",
            "MOONYARD_TOKEN",
            "`moonyard token create`",
        )


# --- addresses


@pytest.mark.parametrize("address", ["127.0.0.1:8400", "http://127.0.0.1:99999", "ftp://127.0.0.1", "", "http://"])
async def test_what_is_no_address_of_an_orchestrator_is_told(tmp_path: Path, address: str) -> None:
    printed = await moonyard("jobs", "--orchestrator", address, cwd=tmp_path, MOONYARD_TOKEN="x")
    assert_told(
        printed, "settings_invalid", f"`{address}` is not the address of an orchestrator", "http://127.0.0.1:8400"
    )


async def test_a_server_that_is_no_orchestrator_is_told_as_one(tmp_path: Path, registry: str) -> None:
    for address in (f"http://{registry}", f"https://{registry}"):
        printed = await moonyard("jobs", "--orchestrator", address, cwd=tmp_path, MOONYARD_TOKEN="x")
        if address.startswith("https"):
            assert_told(printed, "orchestrator_unreachable", address, "it does not speak TLS")
        else:
            assert_told(printed, "orchestrator_refused", f"GET {address}/v1/jobs", "404", "not by an orchestrator")


async def test_a_reference_that_leads_elsewhere_is_refused(server: Server) -> None:
    for command in ("job ..", "job ../tokens", "logs x/y", "cancel -- -1", "artifact list ''", "job 1?x=y"):
        printed = await server(*(word.strip("'") for word in command.split()))
        assert_told(printed, "job_unknown", "is neither a job's number nor a job's id", "`moonyard jobs` lists jobs")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("nonsense", "moonyard.toml cannot be read: Expected '=' after a key"),
        ("prot = 8400", "moonyard.toml has unknown settings: `prot`"),
        ('port = "x"', "`port` in settings file "),
        ("orchestrator = 3", "`orchestrator` in settings file "),
        ("image_map = 3", "`image_map` in "),
    ],
)
async def test_a_wrong_settings_file_is_told_by_its_name(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "moonyard.toml").write_text(content, encoding="utf-8")
    (tmp_path / "fine.lua").write_text(FINE, encoding="utf-8")
    command = {"port": ["orchestrator"], "image_map": ["run", "fine.lua"]}.get(content.split(maxsplit=1)[0], ["jobs"])
    printed = await moonyard(*command, cwd=tmp_path, MOONYARD_TOKEN="x", MOONYARD_STATE_FOLDER=str(tmp_path))
    assert printed.code == 2, printed
    assert printed.stdout == ""
    assert "error[settings_invalid] " in printed.stderr
    assert str(tmp_path / "moonyard.toml") in printed.stderr
    assert said in printed.stderr


async def test_one_orchestrator_may_stand_alone_in_the_settings_file(server: Server, tmp_path: Path) -> None:
    text = f'orchestrator = "{server.address}"\ntoken = "{server.admin}"\n'
    (tmp_path / "moonyard.toml").write_text(text, encoding="utf-8")
    listed = await moonyard("jobs", "--json", cwd=tmp_path, MOONYARD_STATE_FOLDER=str(tmp_path))
    assert listed.code == 0, listed


# --- files that cannot be pushed


async def test_a_file_that_cannot_be_pushed_is_told_and_nothing_of_it_is_stored(server: Server) -> None:
    folder = server.folder
    (folder / "folder.lua").mkdir()
    contents = {
        "syntax.lua": b"return {\n  name = = 1\n}",
        "latin.lua": b'return {\n  name = "caf\xe9"\n}',
        "large.lua": b"-- " + b"x" * 10_000_000,
        "endless.lua": b"while true do end",
        "fields.lua": b'return {\n  name = "p",\n  colour = "red",\n  stages = { { name = "s" } }\n}',
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    for name, code, said in [
        ("syntax.lua", "lua_syntax", "syntax.lua:2: unexpected symbol near '='"),
        ("latin.lua", "pipeline_invalid", "`latin.lua` is not UTF-8 text"),
        ("large.lua", "pipeline_too_large", "`large.lua` is larger than 1024 KiB"),
        ("endless.lua", "cpu_limit", "endless.lua"),
        ("fields.lua", "pipeline_invalid", "`colour`"),
        ("folder.lua", "file_unreadable", "`folder.lua` cannot be read: is a directory"),
        ("missing.lua", "file_not_found", "`missing.lua` does not exist"),
    ]:
        printed = await server("pipeline", "push", name)
        assert printed.code == 2, printed
        assert printed.stdout == ""
        assert f"error[{code}] " in printed.stderr, printed.stderr
        assert said in printed.stderr, printed.stderr
        assert "Traceback" not in printed.stderr
    assert server.count("pipelines") == server.count("pipeline_versions") == 0


# --- no engine


async def run(folder: Path, state_folder: Path, source: str, *options: str, **more: str) -> Printed:
    (folder / "try.lua").write_text(source, encoding="utf-8")
    return await moonyard("run", "try.lua", "--json", "--state-folder", str(state_folder), *options, cwd=folder, **more)


def assert_no_engine(printed: Printed, *words: str) -> None:
    assert printed.code == 2, printed
    assert [line["type"] for line in printed.lines] == ["job"]
    assert printed.job["state"] == "failed"
    error = printed.errors[0]
    assert error.code == "engine_unavailable"
    assert error.hint is not None
    for word in words:
        assert word in f"{error.message}\n{error.hint}"
    assert f"error[engine_unavailable] {error.message}" in printed.stderr
    assert "Traceback" not in printed.stderr


async def test_a_machine_without_podman_is_told_what_to_install(tmp_path: Path, state_folder: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    printed = await run(tmp_path, state_folder, FINE, PATH=str(empty))
    assert_no_engine(
        printed,
        "there is no container engine: nothing listens at /",
        "podman.sock, and there is no `podman` in PATH to start",
        "Install Podman (Debian: apt-get install podman",
        "`engine_socket`",
    )


async def test_an_engine_that_does_not_answer_is_told_with_who_named_it(
    tmp_path: Path, state_folder: Path, unused_port: int
) -> None:
    for address, name, why in [
        ("/nonexistent", "unix:///nonexistent", "no such file or directory"),
        (f"tcp://127.0.0.1:{unused_port}", f"tcp://127.0.0.1:{unused_port}", "connection refused"),
    ]:
        assert_no_engine(
            await run(tmp_path, state_folder, FINE, "--engine-socket", address),
            f"no container engine answers at {name}, which the setting `engine_socket` names ({why})",
            "Without the setting `engine_socket`, Moonyard starts an engine of its own.",
        )
    assert_no_engine(
        await run(tmp_path, state_folder, FINE, CONTAINER_HOST="unix:///nonexistent"),
        "no container engine answers at unix:///nonexistent, which CONTAINER_HOST names (no such file or directory)",
    )
    assert_no_engine(
        await run(tmp_path, state_folder, FINE, "--engine-socket", "podman"), "`podman`", "unix:// or tcp://"
    )


async def test_a_socket_that_is_no_engines_is_told(server: Server, tmp_path: Path, state_folder: Path) -> None:
    address = server.address.replace("http", "tcp")
    assert_no_engine(
        await run(tmp_path, state_folder, FINE, "--engine-socket", address),
        f"no container engine answers at {address}",
        "it answers a ping with status 404",
    )


async def test_a_runner_without_podman_does_not_start(server: Server, tmp_path: Path) -> None:
    registration = await server.token("registration")
    state = str(tmp_path / "state")
    await server("runner", "register", "--state-folder", state, MOONYARD_REGISTRATION_TOKEN=registration)
    printed = await server("runner", "start", "--state-folder", state, "--engine-socket", "/nonexistent")
    assert_told(printed, "engine_unavailable", "no container engine answers at unix:///nonexistent")


# --- images and commands


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncGenerator[str]:
    """A real image registry with nothing in it; gives its address."""
    port = free_port()
    config = tmp_path / "registry.yml"
    config.write_text(CONFIG.format(root=tmp_path / "registry", port=port), encoding="utf-8")
    async with await anyio.open_process(
        ["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        await listening(port)
        yield f"127.0.0.1:{port}"
        process.terminate()


async def test_an_image_that_its_registry_does_not_have_fails_the_job(
    tmp_path: Path, state_folder: Path, registry: str
) -> None:
    trusting = tmp_path / "registries.conf"
    trusting.write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n', encoding="utf-8")
    source = FINE.replace('name = "s"', f'name = "s", container = "{registry}/team/app:7"')
    printed = await run(tmp_path, state_folder, source, CONTAINERS_REGISTRIES_CONF=str(trusting))
    assert printed.code == 1, printed
    assert [error.code for error in printed.errors] == ["stage_failed", "image_not_found"]
    image = printed.errors[1]
    assert image.message.startswith(f"image `{registry}/team/app:7` does not exist in {registry}: ")
    assert "manifest unknown" in image.message
    assert image.hint == "Check the name and the tag."
    assert printed.texts(source="system") == [f"pulling image `{registry}/team/app:7` from {registry}"]


async def test_what_cannot_be_run_in_a_container_is_told_with_the_container(
    tmp_path: Path, state_folder: Path, image_map: dict[str, str]
) -> None:
    assert image_map, "images are there"
    printed = await run(
        tmp_path,
        state_folder,
        """
        return { name = "p", stages = { { name = "s", script = function()
          local function try(call, ...)
            local ok, err = pcall(call, ...)
            assert(not ok)
            log.info(err.code .. " | " .. tostring(err) .. " | " .. tostring(err.hint))
          end
          process.run({ command = "sh", args = { "-c", "echo text > file; mkdir folder" } })
          try(process.run, { command = "no-such", args = { "x" } })
          try(process.run, { command = "./file" })
          try(process.run, { command = "./folder" })
          try(process.run, { command = "true", cwd = "missing" })
          try(process.run, { command = "true", cwd = "file" })
          try(process.run, { command = "true", user = "nobody-here" })
          for _, image in ipairs({ "Upper/case", "two words", "a:b:c", "x@sha256:12", "" }) do
            try(container.run, image, function() process.run({ command = "true" }) end)
          end
          process.run({ command = "no-such" })
        end } } }""",
    )
    assert printed.code == 1, printed
    told = [text.split(" | ") for text in printed.texts(source="lua")]
    alpine = "in container docker.io/library/alpine:latest"
    for (code, message, hint), (wanted, words) in zip(
        told,
        [
            ("command_not_found", f"command `no-such` not found {alpine} (looked in PATH: /"),
            ("command_not_executable", f"command `./file` {alpine} cannot be executed: permission denied"),
            ("command_not_executable", f"command `./folder` {alpine} cannot be executed"),
            ("cwd_not_found", "its folder `/workspace/missing` does not exist"),
            ("cwd_not_found", "its folder `/workspace/file` is not a folder"),
            ("user_not_found", f"user `nobody-here` does not exist {alpine}"),
            ("image_not_found", "`Upper/case` is no name that an image can have"),
            ("image_not_found", "`two words` is no name that an image can have"),
            ("image_not_found", "`a:b:c` is no name that an image can have"),
            ("image_not_found", "`x@sha256:12` is no name that an image can have"),
            ("argument_invalid", "container.run: the image must be a string such as"),
        ],
        strict=True,
    ):
        assert code == wanted, (code, message)
        assert words in message
        assert hint != "nil"
    assert [error.code for error in printed.errors] == ["stage_failed", "command_not_found"]
    assert printed.errors[0].where == "try.lua:18"
    assert printed.errors[0].message.startswith("stage `s` failed: command `no-such` not found in container")


# --- colour


async def test_colour_is_for_terminals_alone(tmp_path: Path) -> None:
    (tmp_path / "syntax.lua").write_text("return {", encoding="utf-8")
    plain = {name: value for name, value in environment().items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
    command = argv("run", "syntax.lua", "--state-folder", "state")
    piped = await anyio.run_process(command, cwd=tmp_path, env=plain, check=False)
    assert piped.returncode == 2
    assert piped.stderr.startswith(b"error[lua_syntax] ")
    assert b"\x1b" not in piped.stderr
    shown = await anyio.to_thread.run_sync(lambda: on_terminal(command, tmp_path, plain))
    assert b"\x1b[31m" in shown
    assert b"lua_syntax" in shown


def on_terminal(command: list[str], cwd: Path, env: dict[str, str]) -> bytes:
    """Run a command on a terminal of its own, and give what it showed there."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, cwd=cwd, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # Linux tells the end of a terminal so
            while data := os.read(ours, 4096):
                shown += data
        process.wait(SECONDS)
    os.close(ours)
    return shown
