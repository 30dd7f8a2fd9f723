"""What a command used: processor time and memory, known where it ran alone in its container."""

from __future__ import annotations

import anyio
import msgspec

from runner.engine.container import ContainerSpec
from runner.engine.engine import Engine
from runner.engine.exec import Command
from runner.engine.usage import Meter, Usage
from tests.engine.conftest import Calling, Said, run

PYTHON = "docker.io/library/python:3.11"
MIB = 1024 * 1024


async def test_each_command_has_its_own_figures(engine: Engine, spec: ContainerSpec) -> None:
    container = await engine.create_container(msgspec.structs.replace(spec, image=PYTHON), Said())
    with container.measuring() as much:
        await run(container, "python3", "-c", f"x = b'x' * (96 * {MIB})\nfor _ in range(3_000_000): pass")
    with container.measuring() as little:
        await run(container, "true")
    assert much.cpu_seconds is not None
    assert little.cpu_seconds is not None
    assert much.cpu_seconds > little.cpu_seconds > 0
    assert much.memory_peak_bytes is not None
    assert much.memory_peak_bytes > 96 * MIB
    # A machine that cannot set the peak back does not tell it.
    assert little.memory_peak_bytes is None or little.memory_peak_bytes < 96 * MIB


async def test_a_command_that_was_not_alone_has_none(engine: Engine, spec: ContainerSpec) -> None:
    container = await engine.create_container(spec, Said())
    both = anyio.Event()

    async def second(_data: bytes) -> None:
        with container.measuring() as usage:
            await run(container, "true")
        assert (usage.cpu_seconds, usage.memory_peak_bytes) == (None, None)
        both.set()

    with container.measuring() as first:
        await container.run(Command(argv=["echo", "go"]), Calling(second))
    assert both.is_set()
    assert (first.cpu_seconds, first.memory_peak_bytes) == (None, None)
    with container.measuring() as third:
        await run(container, "true")
    assert third.cpu_seconds is not None


def test_a_process_without_counters_has_no_figures() -> None:
    usage = Usage()
    Meter.of(1, "no-such-container").start()(usage)
    assert (usage.cpu_seconds, usage.memory_peak_bytes) == (None, None)
