"""Commands in a real container: what goes in, what comes out, and how they end."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
from pathlib import Path

import anyio
import msgspec
import pytest

from runner.engine.container import Container, ContainerSpec
from runner.engine.engine import Engine
from runner.engine.errors import (
    CommandNotExecutable,
    CommandNotFound,
    CommandStartFailed,
    ContainerGone,
    UserNotFound,
    WorkingFolderNotFound,
)
from runner.engine.exec import Command
from tests.engine.conftest import Calling, Said, run

ODD_ARGUMENTS = [
    "", " ", "a b", "'", '"', "\\", "$HOME", "`id`", "$(id)", "*", "~", "-n", "--", "new\nline", "tab\t", ";", "&", "|",
    "ü → 💡", "\x01\x7f", "%s", "!x", "a" * 10_000,
]  # fmt: skip


async def test_arguments_arrive_as_they_are_given(container: Container) -> None:
    ran = await run(container, "sh", "-c", r'for word; do printf "%s\0" "$word"; done', "sh", *ODD_ARGUMENTS)
    assert ran.stdout.decode().split("\0")[:-1] == ODD_ARGUMENTS


async def test_both_streams_and_the_code_are_kept_apart(container: Container) -> None:
    ran = await run(container, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (ran.stdout, ran.stderr, ran.result.code, ran.result.signal) == (b"out\n", b"err\n", 7, None)
    assert 0 < ran.result.duration < 60


async def test_the_environment_of_a_command_goes_over_that_of_the_container(
    engine: Engine, spec: ContainerSpec
) -> None:
    given = {"A": "container", "B": "kept", "ODD": "x=y\nz '\" $A ü"}
    container = await engine.create_container(spec_with(spec, env=given), Said())
    ran = await run(container, "sh", "-c", 'printf "%s|" "$A" "$B" "$ODD" "$HOME"', env={"A": "command"})
    assert ran.stdout.decode() == f"command|kept|{given['ODD']}|/root|"


async def test_stdin_of_ten_megabytes_arrives_whole_and_ends(container: Container) -> None:
    data = os.urandom(10_000_000)
    ran = await run(container, "sha256sum", stdin=data)
    assert ran.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


async def test_bytes_pass_both_ways_unchanged(container: Container) -> None:
    # The two in the middle are what a terminal user leaves an attached container with.
    data = bytes(range(256)) * 300 + b"\x10\x11" + b"\x00\xff"
    ran = await run(container, "cat", stdin=data)
    assert (ran.stdout, ran.stderr) == (data, b"")


async def test_a_command_that_reads_no_stdin_is_not_held_up_by_it(container: Container) -> None:
    ran = await run(container, "true", stdin=b"x" * 10_000_000)
    assert (ran.result.code, ran.stdout, ran.stderr) == (0, b"", b"")


async def test_without_stdin_a_command_reads_an_empty_one(container: Container) -> None:
    ran = await run(container, "wc", "-c")
    assert ran.stdout == b"0\n"


async def test_commands_start_in_the_workspace_or_below(container: Container, workspace: Path) -> None:
    (workspace / "a folder").mkdir()
    assert (await run(container, "pwd")).stdout == b"/workspace\n"
    assert (await run(container, "pwd", cwd="a folder")).stdout == b"/workspace/a folder\n"
    assert (await run(container, "pwd", cwd="/tmp")).stdout == b"/tmp\n"  # noqa: S108  # of the container
    await run(container, "sh", "-c", "echo kept > note")
    assert (workspace / "note").read_text() == "kept\n"


async def test_a_folder_that_does_not_exist_is_named(container: Container) -> None:
    with pytest.raises(WorkingFolderNotFound, match="`/workspace/no/such` does not exist"):
        await run(container, "pwd", cwd="no/such")
    with pytest.raises(WorkingFolderNotFound, match="`/etc/passwd` is not a folder"):
        await run(container, "pwd", cwd="/etc/passwd")


async def test_a_user_is_taken_by_name_or_number(container: Container) -> None:
    assert (await run(container, "id", "-u", user="nobody")).stdout == b"65534\n"
    assert (await run(container, "sh", "-c", "id -u; id -g", user="1234:99")).stdout == b"1234\n99\n"
    with pytest.raises(UserNotFound, match=r"user `fred` does not exist in container docker\.io/library/alpine:latest"):
        await run(container, "id", user="fred")


async def test_a_missing_command_is_named_with_the_path_that_was_searched(container: Container) -> None:
    with pytest.raises(CommandNotFound, match=r"`cargo` not found in container .*alpine.* \(looked in PATH: /usr"):
        await run(container, "cargo", "build")
    with pytest.raises(CommandNotFound, match="`/no/such` not found"):
        await run(container, "/no/such")


async def test_a_file_that_is_no_program_is_told_as_such(container: Container) -> None:
    with pytest.raises(CommandNotExecutable, match=r"`/etc/passwd` in container .* permission denied"):
        await run(container, "/etc/passwd")
    with pytest.raises(CommandNotExecutable):
        await run(container, "/etc")


async def test_a_script_whose_interpreter_is_missing_is_told_as_such(container: Container, workspace: Path) -> None:
    for name, text in (("script", "#! /no/such/ruby -w\nputs 1\n"), ("windows", "#!/bin/sh\r\nexit 3\r\n")):
        (workspace / name).write_text(text, newline="")
        (workspace / name).chmod(0o755)
    with pytest.raises(CommandNotFound, match=r"`\./script` .* interpreter.*missing") as raised:
        await run(container, "./script")
    with pytest.raises(CommandNotFound, match=r"`windows`|`/workspace/windows`") as of_windows:
        await run(container, "/workspace/windows")
    if container.is_alive and container._servers is not None:
        assert "interpreter `/no/such/ruby` is missing" in raised.value.message
        assert "interpreter `/bin/sh\\r` is missing" in of_windows.value.message
        assert "Windows" in str(of_windows.value.hint)


async def test_a_program_whose_loader_is_missing_is_told_as_such(engine: Engine, spec: ContainerSpec) -> None:
    # The machine's own, which is no busybox: it is linked with a C library that the image does not have.
    container = await engine.create_container(spec, Said())
    shutil.copy("/usr/bin/env", spec.workspace / "linked")
    for user in (None, "nobody"):  # the one by the command server, the other by the engine's exec
        with pytest.raises(CommandNotFound, match=r"`\./linked` .*, .*the dynamic loader that it needs,? is"):
            await run(container, "./linked", user=user)


@pytest.mark.parametrize("code", [125, 126, 127])
async def test_a_command_may_itself_end_with_a_code_of_the_engine(container: Container, code: int) -> None:
    ran = await run(container, "sh", "-c", f"echo 'Error: not OCI at all' >&2; exit {code}")
    assert (ran.result.code, ran.stderr) == (code, b"Error: not OCI at all\n")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGSEGV"])
async def test_death_by_a_signal_is_told_by_its_name(container: Container, name: str) -> None:
    ran = await run(container, "sh", "-c", f"kill -{name.removeprefix('SIG')} $$")
    assert ran.result.signal == name
    assert ran.result.code > 128


async def test_running_out_of_memory_is_told(engine: Engine, spec: ContainerSpec) -> None:
    container = await engine.create_container(spec_with(spec, memory=32 * 1024 * 1024), Said())
    ran = await run(container, "tail", "/dev/zero")
    assert (ran.result.oom, ran.result.signal) == (True, "SIGKILL")
    assert not (await run(container, "false")).result.oom


async def test_a_hundred_megabytes_do_not_grow_memory(container: Container) -> None:
    size = 0

    async def count(data: bytes) -> None:
        nonlocal size
        size += len(data)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = await container.run(Command(argv=["head", "-c", "100000000", "/dev/zero"]), Calling(count))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (result.code, size) == (0, 100_000_000)
    assert after - before < 20 * 1024, "KiB"


async def test_a_sink_that_takes_nothing_holds_the_command_up(container: Container, workspace: Path) -> None:
    released = anyio.Event()

    async def hold(_data: bytes) -> None:
        await released.wait()

    # The command says in a file that it got past what all the buffers on its way hold together.
    command = Command(argv=["sh", "-c", "head -c 60000000 /dev/zero; touch past"])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(container.run, command, Calling(hold))
        # Other commands are not held up with it; these also give it the time to run away.
        for _ in range(5):
            assert (await run(container, "true")).result.code == 0
        assert not (workspace / "past").exists()
        released.set()
    assert (workspace / "past").exists()


async def test_many_short_commands_at_once_lose_and_mix_nothing(container: Container) -> None:
    limit = anyio.CapacityLimiter(8)

    async def one(number: int) -> None:
        async with limit:
            script = f"echo out{number}; echo err{number} >&2; head -c 100000 /dev/zero; exit {number}"
            ran = await run(container, "sh", "-c", script)
        assert ran.stdout == f"out{number}\n".encode() + bytes(100_000)
        assert (ran.stderr, ran.result.code) == (f"err{number}\n".encode(), number)

    async with anyio.create_task_group() as tasks:
        for number in range(60):
            tasks.start_soon(one, number)


async def test_a_command_that_closes_its_output_is_still_waited_for(container: Container) -> None:
    ran = await run(container, "sh", "-c", "exec >&- 2>&-; sleep 0.3; exit 5")
    assert ran.result.code == 5


async def test_nothing_of_a_command_is_left_to_the_next_or_to_whoever_looks_for_it(
    container: Container, engine: Engine
) -> None:
    for size in (10_000, 10, 100_000, 10):
        secret = f"secret-{size}-" + "x" * size
        assert (await run(container, "sh", "-c", "echo ${#1}; exit 7", "sh", secret)).result.code == 7
        held = [path.read_bytes() for path in engine.settings.state_folder.glob("owners/*/servers/*/*/request")]
        assert not any(b"secret" in text for text in held)


async def test_what_runs_on_in_the_background_does_not_hold_its_command_open(container: Container) -> None:
    ran = await run(container, "sh", "-c", "sleep 1000 & echo started", timeout=60)
    assert ran.stdout == b"started\n"
    assert (await run(container, "pidof", "sleep")).result.code == 0


async def test_a_container_that_is_gone_says_so(container: Container) -> None:
    await container.remove()
    with pytest.raises(ContainerGone, match="is gone: it was removed"):
        await run(container, "true")


def spec_with(spec: ContainerSpec, **changes: object) -> ContainerSpec:
    return msgspec.structs.replace(spec, **changes)


async def test_arguments_that_no_kernel_takes_are_refused_with_their_size(container: Container) -> None:
    assert (await run(container, "sh", "-c", "echo ${#1}", "sh", "x" * 131_000)).stdout == b"131000\n"
    for argv in (["echo", "x" * 131_072], ["echo", *["x" * 100_000] * 25]):
        with pytest.raises(CommandStartFailed, match="its arguments and environment are too long"):
            await run(container, *argv)
