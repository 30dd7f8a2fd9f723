"""Secrets and grants as people handle them: by real commands, before a real orchestrator."""

from __future__ import annotations

import json
import os
import pty
import stat
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from schema.definition import PipelineDefinition, StageDefinition
from schema.secrets import SecretAsk, SecretDelivery
from tests.cli.command import SECONDS, Printed, argv, environment, moonyard
from tests.orchestrator.installation import Installation
from tests.orchestrator.installation import installation as opened
from tests.orchestrator.test_secrets import KEYS, LEASE_SECONDS, Held, begin

VALUE = "correct horse battery staple"


class Speaking:
    """The command line of an admin."""

    def __init__(self, folder: Path, installation: Installation) -> None:
        self.folder = folder
        self.installation = installation

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> Printed:
        more = {
            "MOONYARD_ORCHESTRATOR": self.installation.replicas[0].address,
            "MOONYARD_TOKEN": self.installation.admin_secret,
        }
        with anyio.fail_after(SECONDS):
            done = await anyio.run_process(
                argv(*arguments), input=stdin, cwd=self.folder, env=environment(**more), check=False
            )
        return Printed(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
async def installation(database_url: str) -> AsyncGenerator[Installation]:
    """A database with an admin token and no replica yet."""
    async with opened(database_url) as made:
        yield made


@pytest.fixture
async def speaking(installation: Installation, tmp_path: Path) -> Speaking:
    await installation.replica(lease_seconds=LEASE_SECONDS, secret_keys=KEYS)
    return Speaking(tmp_path, installation)


async def value_of(held: Held, name: str = "TOKEN") -> bytes:
    ask = SecretAsk(name=name, stage="greet", use="environment")
    return (await held.runner.client.post(held.path, SecretDelivery, ask)).value


async def test_a_new_users_way_from_a_value_to_a_job_that_has_it(speaking: Speaking):
    held = await begin(speaking.installation)
    done = await speaking("secret", "set", "TOKEN", stdin=f"{VALUE}\n".encode())
    assert (done.code, done.stdout) == (0, "secret TOKEN  version 1  readable\n")
    assert done.stderr == "hint: no pipeline has it yet: moonyard grant add TOKEN PIPELINE\n"
    done = await speaking(
        "grant", "add", "TOKEN", "hello", "--stage", "greet", "--input", "ref=main", "--input", "ref=r/*"
    )
    assert done.code == 0, done.stderr
    assert done.stdout.startswith(
        "granted TOKEN to hello  stage greet, ref=main, ref=r/*\n"
        "a version that is pushed later has to be confirmed  grant "
    )
    assert await value_of(held) == VALUE.encode()
    listed = await speaking("secret", "list")
    assert "TOKEN" in listed.stdout
    assert KEYS.current.id in listed.stdout
    shown = await speaking("secret", "show", "TOKEN")
    assert "granted to:\n  hello  stage greet, input ref=main, input ref=r/*\n" in shown.stdout
    [as_json] = (await speaking("secret", "show", "TOKEN", "--json")).lines
    assert as_json["granted"][0]["inputs"] == {"ref": ["main", "r/*"]}
    assert [line["number"] for line in (await speaking("secret", "versions", "TOKEN", "--json")).lines] == [1]
    for printed in (listed, shown):
        assert VALUE not in printed.stdout + printed.stderr


async def test_a_pushed_version_waits_and_the_push_says_so(speaking: Speaking):
    source = 'return { name = "hello", stages = { { name = "greet", script = function() %s end } } }'
    path = speaking.folder / "hello.lua"
    path.write_text(source % "", encoding="utf-8")
    assert (await speaking("pipeline", "push", "hello.lua")).code == 0
    await speaking("secret", "set", "TOKEN", stdin=VALUE.encode())
    [made] = (await speaking("grant", "add", "TOKEN", "hello", "--json")).lines
    path.write_text(source % "log.info('more')", encoding="utf-8")
    pushed = await speaking("pipeline", "push", "hello.lua")
    hint = "hint: this version does not have the pipeline's secrets yet (TOKEN): moonyard grant confirm hello\n"
    assert (pushed.code, pushed.stderr) == (0, hint)
    assert "to confirm: hello" in (await speaking("grant", "list")).stdout
    assert "waits for: moonyard grant confirm hello" in (await speaking("secret", "show", "TOKEN")).stdout
    confirmed = await speaking("grant", "confirm", "hello")
    assert confirmed.code == 0
    assert confirmed.stdout.endswith("  TOKEN\n")
    assert (await speaking("pipeline", "push", "hello.lua")).stderr == ""
    assert "are confirmed" in (await speaking("grant", "list", "--pipeline", "hello")).stdout
    again = await speaking("grant", "confirm", "hello")
    assert again.stdout.endswith("  nothing waited for it\n")
    removed = await speaking("grant", "remove", made["id"])
    assert removed.stdout == "TOKEN is granted to hello no longer\n"
    gone = await speaking("grant", "remove", made["id"])
    assert gone.code == 2
    assert "error[grant_unknown]" in gone.stderr


async def test_what_stdin_has_is_kept_but_for_the_end_of_a_single_line(speaking: Speaking):
    held = await begin(speaking.installation)
    for given, options, kept in (
        (b"value of one line\n", [], b"value of one line"),
        (b"\xff spaces stay \r\n", [], b"\xff spaces stay "),
        (b"value of one line\n", ["--exact"], b"value of one line\n"),
        (b"one\ntwo\n", [], b"one\ntwo\n"),
    ):
        assert (await speaking("secret", "set", "TOKEN", *options, stdin=given)).code == 0
        if given == b"value of one line\n" and not options:
            assert (await speaking("grant", "add", "TOKEN", "hello")).code == 0
        assert await value_of(held) == kept


async def test_a_typed_value_is_asked_for_twice_and_not_shown(speaking: Speaking):
    held = await begin(speaking.installation)
    leader, follower = pty.openpty()
    shown = b""
    try:
        more = {
            "MOONYARD_ORCHESTRATOR": speaking.installation.replicas[0].address,
            "MOONYARD_TOKEN": speaking.installation.admin_secret,
        }
        process = await anyio.open_process(
            argv("secret", "set", "TOKEN"),
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
            cwd=speaking.folder,
            env=environment(**more),
        )
        os.close(follower)
        async with process:
            with anyio.fail_after(SECONDS):
                for _ in range(2):
                    before = shown.count(b": ")
                    while shown.count(b": ") == before:
                        await anyio.wait_readable(leader)
                        shown += os.read(leader, 4096)
                    os.write(leader, f"{VALUE}\n".encode())
                assert await process.wait() == 0
                shown += os.read(leader, 4096)
    finally:
        os.close(leader)
    assert b"version 1" in shown
    assert VALUE.encode() not in shown
    assert (await speaking("grant", "add", "TOKEN", "hello")).code == 0
    assert await value_of(held) == VALUE.encode()


async def test_a_value_that_cannot_be_kept_out_of_logs_is_warned_of(speaking: Speaking):
    for value, said in (
        (b"1234", "it is shorter than 6 bytes: it is not taken out of logs\n"),
        (b"password", "it is a word that many logs have: it is not taken out of them\n"),
        (b'{\n  "key": "long enough"\n}', "lines of it that are shorter than 8 bytes"),
    ):
        done = await speaking("secret", "set", "TOKEN", stdin=value)
        assert done.code == 0
        assert done.stderr.startswith(f"warning: of this value, {said}")


async def test_what_cannot_be_done_says_why(speaking: Speaking):
    for arguments, stdin, code in (
        (("secret", "set", "TOKEN"), b"", "secret_value_invalid"),
        (("secret", "set", "TOKEN"), 70000 * b"x", "secret_too_large"),
        (("secret", "set", "not-a-name"), b"x", "secret_name_invalid"),
        (("secret", "show", "hello/NONE"), b"", "secret_unknown"),
        (("grant", "add", "NONE", "hello"), b"", "secret_unknown"),
        (("grant", "remove", "none"), b"", "grant_unknown"),
    ):
        done = await speaking(*arguments, stdin=stdin)
        assert done.code == 2
        assert f"error[{code}]" in done.stderr
        assert done.stdout == ""


async def test_a_value_is_never_an_argument(speaking: Speaking):
    done = await speaking("secret", "set", "TOKEN", VALUE)
    assert done.code == 2
    assert "unexpected extra argument" in done.stderr
    assert (await speaking("secret", "list", "--json")).lines == []


async def test_a_secret_is_removed_by_version_and_whole(speaking: Speaking):
    for value in (b"first value", b"second value"):
        assert (await speaking("secret", "set", "TOKEN", "--environment-only", stdin=value)).code == 0
    assert "environment only" in (await speaking("secret", "versions", "TOKEN")).stdout
    done = await speaking("secret", "remove", "TOKEN", "--version", "2")
    assert done.stdout == "version 2 of secret TOKEN removed\n"
    done = await speaking("secret", "remove", "TOKEN")
    assert done.stdout == "secret TOKEN removed  versions 1  grants 0\n"
    assert (await speaking("secret", "list")).stderr == "no secrets: `moonyard secret set NAME` stores one\n"


# --- master keys


def leave(path: Path) -> None:
    """Change nothing."""


def show_to_all(path: Path) -> None:
    path.chmod(0o644)


def remove(path: Path) -> None:
    path.unlink()


def spoil(path: Path) -> None:
    path.write_text("hush")


async def generate(folder: Path, *arguments: str) -> Printed:
    return await moonyard("secret", "key", *arguments, cwd=folder)


async def test_keys_are_made_listed_and_put_in_order(tmp_path: Path):
    path = tmp_path / "keys"
    made = await generate(tmp_path, "generate", "keys")
    assert made.code == 0, made.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_text()
    again = await generate(tmp_path, "generate", "keys")
    assert (again.code, path.read_text()) == (2, before)
    assert "error[secret_key_unusable]" in again.stderr
    assert (await generate(tmp_path, "generate", "--add", "keys")).code == 0
    listed = await generate(tmp_path, "list", "keys")
    (first, in_use), (second, known) = (line.split("  ") for line in listed.stdout.splitlines())
    assert (in_use, known) == ("in use", "known")
    assert first in made.stdout
    used = await generate(tmp_path, "use", "keys", second)
    assert used.code == 0, used.stderr
    assert (await generate(tmp_path, "list", "keys")).stdout == f"{second}  in use\n{first}  known\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (await generate(tmp_path, "use", "keys", "none")).code == 2
    for printed in (made, again, listed, used):
        assert not any(line[13:77] in printed.stdout + printed.stderr for line in path.read_text().splitlines()[1:])


@pytest.mark.parametrize(
    ("options", "variables", "prepare", "said"),
    [
        (("--secret-key-file", "keys"), {}, show_to_all, "can be read or changed by others"),
        (("--secret-key-file", "keys"), {}, remove, "cannot be read: no such file"),
        (("--secret-key-file", "keys"), {}, spoil, "line 1 of the master keys' file"),
        (("--secret-key-command", "false"), {}, leave, "ended with code 1"),
        ((), {"MOONYARD_SECRET_KEYS": "hush"}, leave, "line 1 of MOONYARD_SECRET_KEYS is no master key"),
        (("--secret-key-file", "keys"), {"MOONYARD_SECRET_KEYS": "hush"}, leave, "are both set"),
    ],
)
async def test_an_orchestrator_with_keys_that_are_none_does_not_start(
    tmp_path: Path,
    database_url: str,
    options: tuple[str, ...],
    variables: dict[str, str],
    prepare: Callable[[Path], None],
    said: str,
):
    assert (await generate(tmp_path, "generate", "keys")).code == 0
    prepare(tmp_path / "keys")
    done = await moonyard(
        "orchestrator", "--port", "0", *options, cwd=tmp_path, MOONYARD_DATABASE_URL=database_url, **variables
    )
    assert done.code == 2
    assert said in done.stderr
    assert "hush" not in done.stderr


@asynccontextmanager
async def orchestrator(folder: Path, url: str, *options: str, **variables: str) -> AsyncGenerator[tuple[str, int]]:
    """Start one; give its address and process."""
    async with await anyio.open_process(
        argv("orchestrator", "--port", "0", *options),
        cwd=folder,
        env=environment(MOONYARD_DATABASE_URL=url, PYTHONUNBUFFERED="1", **variables),
        stderr=None,
    ) as process:
        try:
            assert process.stdout is not None
            with anyio.fail_after(SECONDS):
                said = await process.stdout.receive()
            yield said.decode().split()[-1], process.pid
        finally:
            if process.returncode is None:
                process.terminate()


def environments_of_children(pid: int) -> list[bytes]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return [Path(f"/proc/{child}/environ").read_bytes() for child in children]


@pytest.mark.parametrize("way", ["file", "command", "variable"])
async def test_keys_come_by_file_command_or_variable_and_go_to_no_child(
    tmp_path: Path, installation: Installation, way: str
):
    assert (await generate(tmp_path, "generate", "keys")).code == 0
    key = (tmp_path / "keys").read_text()
    options = {
        "file": ("--secret-key-file", "keys"),
        "command": ("--secret-key-command", "cat keys"),
        "variable": (),
    }[way]
    variables = {"MOONYARD_SECRET_KEYS": key} if way == "variable" else {}
    async with orchestrator(tmp_path, installation.url, *options, **variables) as (address, pid):
        more = {"MOONYARD_ORCHESTRATOR": address, "MOONYARD_TOKEN": installation.admin_secret}
        done = await anyio.run_process(
            argv("secret", "set", "TOKEN", "--json"), input=VALUE.encode(), cwd=tmp_path, env=environment(**more)
        )
        assert json.loads(done.stdout)["version"] == 1
        environments = environments_of_children(pid)
        assert environments
        assert not any(b"MOONYARD_SECRET_KEYS" in environment for environment in environments)


async def test_rotation_by_real_commands_loses_nothing(tmp_path: Path, installation: Installation):
    url, pipeline = installation.url, PipelineDefinition(name="hello", stages=[StageDefinition(name="greet")])
    await installation.push(pipeline)
    assert (await generate(tmp_path, "generate", "keys")).code == 0

    async def say(address: str, *arguments: str, stdin: bytes = b"") -> Printed:
        more = {"MOONYARD_ORCHESTRATOR": address, "MOONYARD_TOKEN": installation.admin_secret}
        done = await anyio.run_process(
            argv(*arguments), input=stdin, cwd=tmp_path, env=environment(**more), check=False
        )
        return Printed(done.returncode, done.stdout.decode(), done.stderr.decode())

    async with orchestrator(tmp_path, url, "--secret-key-file", "keys") as (address, _):
        assert (await say(address, "secret", "set", "TOKEN", stdin=VALUE.encode())).code == 0
    assert (await generate(tmp_path, "generate", "--add", "keys")).code == 0
    old, new = (line.split()[0] for line in (await generate(tmp_path, "list", "keys")).stdout.splitlines())
    assert (await generate(tmp_path, "use", "keys", new)).code == 0
    async with orchestrator(tmp_path, url, "--secret-key-file", "keys") as (address, _):
        done = await say(address, "secret", "rewrap")
        assert (done.code, done.stdout) == (0, f"1 version was put under the master key {new}\n")
    lines = [line for line in (tmp_path / "keys").read_text().splitlines() if not line.startswith("#")]
    (tmp_path / "keys").write_text(lines[0] + "\n")
    async with orchestrator(tmp_path, url, "--secret-key-file", "keys") as (address, _):
        assert (await say(address, "secret", "list", "--json")).lines[0]["key"] == new
        assert (await say(address, "grant", "add", "TOKEN", "hello")).code == 0
    (tmp_path / "keys").write_text(lines[1] + "\n")
    async with orchestrator(tmp_path, url, "--secret-key-file", "keys") as (address, _):
        done = await say(address, "secret", "rewrap")
        assert done.code == 2
        assert done.stdout == f"0 versions were put under the master key {old}\n"
        assert "error[secret_key_unknown]" in done.stderr
