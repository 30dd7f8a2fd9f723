"""Stops: a command is asked to end, has its time to, and is killed after it; who waits for it goes on no more."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from runner.engine.container import Container
from runner.engine.errors import CommandStopped, CommandTimeout
from runner.engine.exec import Command
from runner.engine.stopping import Stop, limited
from tests.engine.conftest import Output, run
from tests.engine.test_killing import ESCAPES, sleepers

LONG_SECONDS = 600.0
"""A grace that no test waits for: what needs it fails by the test's own time limit."""


class Watched(Output):
    """Keeps what a command says, and tells when it said that it is ready."""

    def __init__(self) -> None:
        super().__init__()
        self.is_ready = anyio.Event()

    async def write(self, stream: object, data: bytes) -> None:
        del stream
        self.stdout += data
        if b"ready" in self.stdout:
            self.is_ready.set()


@asynccontextmanager
async def running(container: Container, text: str, stop: Stop) -> AsyncGenerator[Watched]:
    """Run a shell's text until it is stopped."""
    output = Watched()

    async def go() -> None:
        with stop.command(), pytest.raises(CommandStopped, match="was stopped"):
            await container.run(Command(argv=["sh", "-c", text]), output, stop)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(go)
        await output.is_ready.wait()
        yield output


async def test_a_command_that_is_stopped_has_time_to_clean_up_and_what_it_says_is_read(container: Container) -> None:
    stop = Stop()
    text = "trap 'echo cleaning; sleep 0.2; echo clean; exit 0' TERM; echo ready; sleep 1001 & wait"
    async with running(container, text, stop) as output:
        stop.ask(LONG_SECONDS)
        assert not stop.scope.cancel_called
    assert output.stdout == b"ready\ncleaning\nclean\n"
    assert stop.scope.cancel_called
    assert sleepers(container) == []


async def test_all_that_a_command_started_is_asked_to_end(container: Container) -> None:
    stop = Stop()
    async with running(container, f"trap 'exit 0' TERM; {ESCAPES} sleep 1005 & wait", stop):
        stop.ask(LONG_SECONDS)
    assert sleepers(container) == []


async def test_a_command_that_does_not_listen_is_killed_when_its_time_is_over(container: Container) -> None:
    stop = Stop()
    # A child does not listen either: it is born with what its parent ignores.
    text = "trap '' TERM; setsid sleep 1001 & sleep 1002 & echo ready; while :; do wait; done"
    async with running(container, text, stop):
        stop.ask(0.3)
    assert sleepers(container) == []
    assert (await run(container, "echo", "usable")).stdout == b"usable\n"


async def test_what_is_left_in_the_background_has_the_same_time(container: Container) -> None:
    stop = Stop()
    text = "(trap 'sleep 0.3; echo last; exit 0' TERM; sleep 1001 & wait) & trap 'exit 0' TERM; echo ready; wait"
    async with running(container, text, stop):
        stop.ask(LONG_SECONDS)
    assert sleepers(container) == []


async def test_a_cancel_while_a_command_is_asked_to_end_kills_it_at_once(container: Container) -> None:
    stop, output = Stop(), Watched()
    text = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done"
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: container.run(Command(argv=["sh", "-c", text]), output, stop))
            await output.is_ready.wait()
            stop.ask(LONG_SECONDS)
            while b"asked" not in output.stdout:
                await anyio.lowlevel.checkpoint()
            scope.cancel()
    assert scope.cancelled_caught
    assert (await run(container, "sh", "-c", "set -- /proc/[0-9]*; echo $#")).stdout == b"2\n"


async def test_a_command_that_starts_when_its_stop_was_asked_for_is_stopped(container: Container) -> None:
    stop = Stop()
    with stop.command():
        stop.ask(LONG_SECONDS)
        with pytest.raises(CommandStopped):
            await container.run(Command(argv=["sleep", "1001"]), Output(), stop)
    assert sleepers(container) == []


async def test_a_timeout_asks_before_it_kills(container: Container) -> None:
    output = Output()
    with pytest.raises(CommandTimeout):
        await container.run(
            Command(argv=["sh", "-c", "trap 'echo clean; exit 3' TERM; sleep 1001 & wait"], timeout=0.5), output
        )
    assert output.stdout == b"clean\n"
    assert sleepers(container) == []


async def test_a_part_is_stopped_with_its_whole_and_not_the_other_way_round() -> None:
    whole = Stop()
    first, second = Stop(whole), Stop(whole)
    with first.command(), second.command():
        first.ask(3.0)
        assert (whole.grace, first.grace, second.grace) == (None, 3.0, None)
        whole.ask(1.0)
        assert (whole.grace, first.grace, second.grace) == (1.0, 1.0, 1.0)
        assert not whole.scope.cancel_called
    assert first.scope.cancel_called
    assert whole.scope.cancel_called


async def test_where_no_command_runs_a_stop_cancels_at_once_and_the_first_to_ask_is_heard() -> None:
    stop = Stop()
    with stop.scope:
        stop.ask(5.0)
        stop.ask(1.0)
        assert stop.grace == 5.0
        await anyio.sleep_forever()
    assert stop.scope.cancelled_caught


async def test_whoever_ran_a_command_goes_on_no_more_when_another_still_ends() -> None:
    stop, went_on = Stop(), False
    with stop.scope:
        async with anyio.create_task_group() as tasks:

            async def first() -> None:
                nonlocal went_on
                with stop.command():
                    stop.ask(LONG_SECONDS)
                await stop.settle()
                went_on = True

            async def second() -> None:
                with stop.command():
                    while stop.grace is None:
                        await anyio.lowlevel.checkpoint()
                    assert not stop.scope.cancel_called

            tasks.start_soon(second)
            await anyio.lowlevel.checkpoint()
            tasks.start_soon(first)
    assert stop.scope.cancelled_caught
    assert not went_on


async def test_a_block_with_a_limit_ends_by_itself_by_its_limit_or_by_its_error() -> None:
    by_itself, by_limit, by_error = Stop(), Stop(), Stop()
    async with limited(by_itself, 60.0):
        pass
    async with limited(by_limit, 0.01):
        await anyio.sleep_forever()
    with pytest.raises(ValueError, match="of its own"):
        async with limited(by_error, 60.0):
            raise ValueError("of its own")
    assert [stop.scope.cancelled_caught for stop in (by_itself, by_limit, by_error)] == [False, True, False]
