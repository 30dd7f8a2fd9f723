"""Timeouts and cancels: nothing that the command started is left, and what others started is."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from runner.engine.container import Container
from runner.engine.errors import CommandTimeout
from tests.engine.conftest import run

# Each way that a process gets away from its parent: a session of its own, an orphan, no environment to know it by.
ESCAPES = """
setsid sleep 1001 &
(sleep 1002 &)
(env -i setsid sleep 1003 &)
nohup sleep 1004 >/dev/null 2>&1 &
echo ready
"""


def sleepers() -> list[str]:
    """Look in the host's own list for what the scripts here start."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:1] == [b"sleep"] and words[1][:3] == b"100":
            found.append(words[1].decode())
    return sorted(found)


async def test_a_timeout_kills_all_that_the_command_started(container: Container) -> None:
    with pytest.raises(CommandTimeout, match=r"ran longer than its timeout of 1 s and was killed") as raised:
        await run(container, "sh", "-c", ESCAPES + "sleep 1005", timeout=1)
    assert raised.value.code == "command_timeout"
    assert sleepers() == []
    assert (await run(container, "echo", "usable")).stdout == b"usable\n"


async def test_output_from_before_the_timeout_is_kept(container: Container) -> None:
    from runner.engine.exec import Command
    from tests.engine.conftest import Output

    output = Output()
    with pytest.raises(CommandTimeout):
        await container.run(Command(argv=["sh", "-c", "echo before; sleep 1005"], timeout=0.5), output)
    assert output.stdout == b"before\n"


async def test_a_cancel_kills_all_that_the_command_started(container: Container) -> None:
    from runner.engine.exec import Command

    with anyio.CancelScope() as scope:

        class CancellingWhenReady:
            async def write(self, stream: str, data: bytes) -> None:
                if b"ready" in data:
                    scope.cancel()

        await container.run(Command(argv=["sh", "-c", ESCAPES + "sleep 1005"]), CancellingWhenReady())
    assert scope.cancelled_caught
    assert sleepers() == []


@pytest.mark.parametrize("seconds", [0.0, 0.005, 0.02, 0.05])
async def test_a_cancel_while_the_command_is_being_started_leaves_nothing(container: Container, seconds: float) -> None:
    with anyio.move_on_after(seconds):
        await run(container, "sleep", "1005")
    assert sleepers() == []


async def test_a_timeout_leaves_other_commands_and_their_background_alone(container: Container) -> None:
    await run(container, "sh", "-c", "sleep 1001 >/dev/null 2>&1 &")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, container, "sleep", "1002")
        with pytest.raises(CommandTimeout):
            await run(container, "sh", "-c", "setsid sleep 1003 & sleep 1004", timeout=0.5)
        assert sleepers() == ["1001", "1002"]
        tasks.cancel_scope.cancel()
    assert sleepers() == ["1001"]


async def test_a_fork_bomb_ends_with_its_timeout(container: Container) -> None:
    with pytest.raises(CommandTimeout):
        await run(container, "sh", "-c", "bomb() { bomb | bomb & }; bomb; sleep 1005", timeout=0.5)
    assert (await run(container, "sh", "-c", "ls -d /proc/[0-9]* | wc -l")).result.code == 0
    # Its first process, this shell, ls and wc.
    ran = await run(container, "sh", "-c", "set -- /proc/[0-9]*; echo $#")
    assert ran.stdout == b"2\n"
