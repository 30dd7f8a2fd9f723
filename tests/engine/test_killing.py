"""Timeouts and cancels: nothing that the command started is left, and what others started is."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from runner.engine.container import Container
from runner.engine.errors import CommandTimeout, ContainerGone
from runner.engine.exec import Command
from tests.engine.conftest import Calling, Output, run

# Each way that a process gets away from its parent: a session of its own, an orphan, no environment to know it by.
ESCAPES = """
setsid sleep 1001 &
(sleep 1002 &)
(env -i setsid sleep 1003 &)
nohup sleep 1004 >/dev/null 2>&1 &
echo ready
"""


def sleepers(container: Container) -> list[str]:
    """Look in the host's own list for what the scripts here start in a container."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[0].rpartition(b"/")[2] == b"sleep" and container.id in (process / "cgroup").read_text():
                found.append(words[1].decode())
    return sorted(found)


async def test_a_timeout_kills_all_that_the_command_started(container: Container) -> None:
    with pytest.raises(CommandTimeout, match=r"ran longer than its timeout of 1 s and was ended") as raised:
        await run(container, "sh", "-c", ESCAPES + "sleep 1005", timeout=1)
    assert raised.value.code == "command_timeout"
    assert sleepers(container) == []
    assert (await run(container, "echo", "usable")).stdout == b"usable\n"


async def test_output_from_before_the_timeout_is_kept(container: Container) -> None:
    output = Output()
    with pytest.raises(CommandTimeout):
        await container.run(Command(argv=["sh", "-c", "echo before; sleep 1005"], timeout=0.5), output)
    assert output.stdout == b"before\n"


async def test_a_cancel_kills_all_that_the_command_started(container: Container) -> None:
    with anyio.CancelScope() as scope:

        async def cancel_when_ready(data: bytes) -> None:
            if b"ready" in data:
                scope.cancel()

        await container.run(Command(argv=["sh", "-c", ESCAPES + "sleep 1005"]), Calling(cancel_when_ready))
    assert scope.cancelled_caught
    assert sleepers(container) == []


async def test_a_cancel_leaves_the_shell_alone_that_was_started_for_the_command(container: Container) -> None:
    first_begun, first_ended, second_begun = anyio.Event(), anyio.Event(), anyio.Event()

    async def first() -> None:
        async def begin(_: bytes) -> None:
            first_begun.set()

        await container.run(Command(argv=["sh", "-c", "echo begun; sleep 1"]), Calling(begin))
        first_ended.set()

    async def second() -> None:
        async def begin(_: bytes) -> None:
            second_begun.set()

        await container.run(Command(argv=["sh", "-c", "echo begun; exec sleep 1006"]), Calling(begin))

    # While one runs the other needs a shell of its own; when it is cancelled, it is the only one.
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await first_begun.wait()
        tasks.start_soon(second)
        await second_begun.wait()
        await first_ended.wait()
        tasks.cancel_scope.cancel()
    assert sleepers(container) == []
    assert (await run(container, "echo", "usable")).stdout == b"usable\n"


@pytest.mark.parametrize("seconds", [0.0, 0.005, 0.02, 0.05])
async def test_a_cancel_while_the_command_is_being_started_leaves_nothing(container: Container, seconds: float) -> None:
    with anyio.move_on_after(seconds):
        await run(container, "sleep", "1005")
    assert sleepers(container) == []


async def test_a_timeout_leaves_other_commands_and_their_background_alone(container: Container) -> None:
    await run(container, "sh", "-c", "sleep 1001 >/dev/null 2>&1 &")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, container, "sleep", "1002")
        with pytest.raises(CommandTimeout):
            await run(container, "sh", "-c", "setsid sleep 1003 & sleep 1004", timeout=0.5)
        assert sleepers(container) == ["1001", "1002"]
        tasks.cancel_scope.cancel()
    assert sleepers(container) == ["1001"]


async def test_a_fork_bomb_ends_with_its_timeout(container: Container) -> None:
    with pytest.raises(CommandTimeout):
        await run(container, "sh", "-c", "bomb() { bomb | bomb & }; (bomb) & exec sleep 1005", timeout=0.5)
    # What is left is its first process, and this shell.
    ran = await run(container, "sh", "-c", "set -- /proc/[0-9]*; echo $#")
    assert ran.stdout == b"2\n"


async def test_where_the_host_does_not_see_the_processes_the_whole_container_is_killed(container: Container) -> None:
    container._surroundings.namespace = None  # as with an engine in a virtual machine
    with pytest.raises(CommandTimeout):
        await run(container, "sleep", "1001", timeout=0.3)
    assert sleepers(container) == []
    with pytest.raises(ContainerGone, match="it is not running any more"):
        await run(container, "true")
