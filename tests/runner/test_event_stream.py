"""The event stream: numbers without gaps, order, bounded memory, and an end that nobody hangs on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import anyio
import pytest

from runner.event_stream import (
    BATCH_BYTES,
    BUFFER_BYTES_MAXIMUM,
    LINE_OVERHEAD_BYTES,
    PIECE_LENGTH,
    EventStream,
    shortened,
)
from runner.lines import Block
from schema.errors import MoonyardError, single_error
from schema.events import AnyEvent, CommandEvent, JobEvent, LogEvent, decode_line

JOB = "01a20f74-ea89-7548-8cfc-03692d59bfa9"


class Collected:
    """A sink that keeps what it gets, and can be held up."""

    def __init__(self, *, held: bool = False, gathering_seconds: float = 0.0) -> None:
        self.gathering_seconds = gathering_seconds
        self.events: list[AnyEvent] = []
        self.batches: list[int] = []
        self.next_seq = 1
        self.asked = anyio.Event()
        self.go_on = anyio.Event()
        if not held:
            self.go_on.set()

    async def deliver(self, first_seq: int, lines: Sequence[bytes]) -> None:
        self.asked.set()
        await self.go_on.wait()
        assert first_seq == self.next_seq
        assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
        self.batches.append(sum(len(line) for line in lines))
        self.events += [decode_line(line) for line in lines]
        self.next_seq += len(lines)


class Refusing:
    gathering_seconds = 0.0

    def __init__(self) -> None:
        self.asked = anyio.Event()
        self.go_on = anyio.Event()

    async def deliver(self, first_seq: int, lines: Sequence[bytes]) -> None:
        del first_seq, lines
        self.asked.set()
        await self.go_on.wait()
        raise MoonyardError("the attempt is not ours", code="attempt_gone")


def stream_to(sink: Collected | Refusing, log_bytes_maximum: int = 1 << 30) -> EventStream:
    return EventStream(job=JOB, number=7, attempt=2, sink=sink, log_bytes_maximum=log_bytes_maximum)


async def test_a_flood_of_lines_is_few_events_and_every_line_is_in_one() -> None:
    sink = Collected()
    stream = stream_to(sink)
    lines = [f"{number}".rjust(number % 100) for number in range(20_000)] + ["y" * 3 * PIECE_LENGTH, "last"]
    await stream.log_block("s", "info", "stdout", Block("\n".join(lines), len(lines)))
    stream.finish()
    await stream.deliver_all()
    texts = [event.text for event in sink.events if isinstance(event, LogEvent)]
    assert "\n".join(texts).split("\n") == lines
    assert len(texts) < 100
    assert max(map(len, texts)) == 3 * PIECE_LENGTH


async def test_a_flood_meets_the_logs_limit_line_by_line() -> None:
    sink = Collected()
    stream = stream_to(sink, log_bytes_maximum=10 * (10 + LINE_OVERHEAD_BYTES))
    await stream.log_block("s", "info", "stdout", Block("\n".join(["x" * 10] * 15), 15))
    await stream.say_what_was_dropped()
    stream.finish()
    await stream.deliver_all()
    texts = [event.text for event in sink.events if isinstance(event, LogEvent)]
    assert texts[:10] == ["x" * 10] * 10
    assert texts[-1] == "the log's limit dropped 5 lines (50 bytes)"


async def test_events_wait_for_company_and_a_final_one_for_nothing() -> None:
    sink = Collected(gathering_seconds=3600.0)
    stream = stream_to(sink)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.deliver_all)
            await stream.job_state("running")
            await anyio.wait_all_tasks_blocked()
            assert not sink.batches
            await stream.stage("only", "running")
            await stream.job_state("succeeded")
            stream.finish()
    assert len(sink.events) == 3
    assert len(sink.batches) == 1


async def test_a_full_batch_waits_for_no_more() -> None:
    sink = Collected(gathering_seconds=3600.0)
    stream = stream_to(sink)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.deliver_all)
            for number in range(3):
                await stream.log("only", "info", "stdout", f"{number}" * BATCH_BYTES)
                while len(sink.batches) <= number:
                    await anyio.lowlevel.checkpoint()
            await stream.log("only", "info", "stdout", "the last one, and no more come")
            await anyio.wait_all_tasks_blocked()
            assert len(sink.batches) == 3
            stream.finish()
    assert len(sink.batches) == 4


async def test_events_of_all_kinds_are_numbered_from_one_and_come_in_the_order_they_were_told() -> None:
    sink = Collected()
    stream = stream_to(sink)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.deliver_all)
        await stream.job_state("running")
        await stream.stage("s", "running", container="image")
        await stream.log_lines("s", "info", "stdout", ["a", 'b\n"ü\x1b'])
        await stream.command("s", ["echo"], "image", code=0, duration=0.5)
        await stream.stage("s", "succeeded", duration=1.0)
        await stream.job_state("succeeded")
        stream.finish()
    assert [event.seq for event in sink.events] == [1, 2, 3, 4, 5, 6, 7]
    assert {(event.job, event.attempt) for event in sink.events} == {(JOB, 2)}
    kinds = [type(event).__name__ for event in sink.events]
    assert kinds == ["JobEvent", "StageEvent", "LogEvent", "LogEvent", "CommandEvent", "StageEvent", "JobEvent"]
    assert [event.text for event in sink.events if isinstance(event, LogEvent)] == ["a", 'b\n"ü\x1b']
    last = sink.events[-1]
    assert isinstance(last, JobEvent)
    assert (last.id, last.number, last.state) == (JOB, 7, "succeeded")
    moments = [datetime.fromisoformat(event.at) for event in sink.events]
    assert moments == sorted(moments)


async def test_what_gathers_during_a_delivery_goes_in_the_next_one_and_in_pieces_of_bounded_size() -> None:
    sink = Collected(held=True)
    stream = stream_to(sink)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.deliver_all)
        await stream.log("s", "info", "stdout", "first")
        await sink.asked.wait()
        for _ in range(30):
            await stream.log("s", "info", "stdout", "x" * 100_000)
        await stream.log("s", "info", "stdout", "y" * (BATCH_BYTES + 1))
        sink.go_on.set()
        stream.finish()
    assert len(sink.events) == 32
    assert len(sink.batches) == 5  # the first, three of less than a mebibyte, the one line that is larger
    assert all(size <= BATCH_BYTES for size in sink.batches[:-1])


async def test_a_full_buffer_holds_up_who_tells_until_some_is_delivered() -> None:
    sink = Collected(held=True)
    stream = stream_to(sink)
    told = 0

    async def tell() -> None:
        nonlocal told
        for _ in range(12):
            await stream.log("s", "info", "stdout", "x" * (BUFFER_BYTES_MAXIMUM // 4))
            told += 1
        stream.finish()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.deliver_all)
        tasks.start_soon(tell)
        await sink.asked.wait()
        await anyio.wait_all_tasks_blocked()
        assert told == 3  # the fourth filled the buffer, and waits
        sink.go_on.set()
    assert told == len(sink.events) == 12


async def test_a_sink_that_gives_up_frees_those_who_wait_for_room_and_takes_what_comes_after() -> None:
    sink = Refusing()
    stream = stream_to(sink)
    cleaned_up = anyio.Event()

    async def tell() -> None:
        try:
            while True:
                await stream.log("s", "info", "stdout", "x" * (BUFFER_BYTES_MAXIMUM // 4))
                await anyio.lowlevel.checkpoint()
        finally:
            with anyio.CancelScope(shield=True), anyio.fail_after(10):
                for _ in range(10):
                    await stream.log("s", "info", "stdout", "x" * BUFFER_BYTES_MAXIMUM)
                await stream.job_state("cancelled")
            cleaned_up.set()

    async def tell_and_deliver() -> None:
        with single_error():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.deliver_all)
                tasks.start_soon(tell)
                await sink.asked.wait()
                await anyio.wait_all_tasks_blocked()
                sink.go_on.set()

    with pytest.raises(MoonyardError, match="not ours"):
        await tell_and_deliver()
    assert cleaned_up.is_set()


async def test_past_its_limit_a_log_drops_output_and_says_so_and_the_rest_goes_on() -> None:
    sink = Collected()
    stream = stream_to(sink, log_bytes_maximum=400)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.deliver_all)
        await stream.log_lines("s", "info", "stdout", ["x" * 100, "y" * 200, "z", "z"])
        await stream.log("s", "info", "system", "still told")
        await stream.log("s", "info", "lua", "dropped too")
        await stream.say_what_was_dropped()
        await stream.job_state("succeeded")
        stream.finish()
    assert [event.seq for event in sink.events] == [1, 2, 3, 4, 5]
    texts = [event.text for event in sink.events if isinstance(event, LogEvent)]
    assert texts[0] == "x" * 100
    assert "reached its limit" in texts[1]
    assert texts[2:] == ["still told", "the log's limit dropped 4 lines (213 bytes)"]


async def test_a_command_line_that_no_event_can_hold_is_cut_and_says_how_much_is_missing() -> None:
    assert shortened(["a", "b" * 1000]) == ["a", "b" * 1000]
    assert shortened(["a", "b" * 70_000, "c", "d"]) == [
        "a", "b" * 65_534 + "... (4466 more characters)", "... (2 more arguments)",
    ]  # fmt: skip
    assert len(shortened([""] * 1_000_000)) == 65_537
    sink = Collected()
    stream = stream_to(sink)
    await stream.command("s", ["x" * 5_000_000], "image", code=0, duration=1)
    stream.finish()
    await stream.deliver_all()
    (event,) = sink.events
    assert isinstance(event, CommandEvent)
    assert sink.batches[0] < 100_000
