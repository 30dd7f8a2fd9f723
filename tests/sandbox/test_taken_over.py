"""A Lua process that was taken over: what stands around it, and what becomes of it when its runner dies."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any

import anyio
import pytest

from sandbox import values, wall
from sandbox.frames import encoder
from sandbox.parent import WarmParent
from sandbox.process import JobFacts, SandboxFailed
from sandbox.wall import Limits
from tests.attack import taken_over
from tests.sandbox.conftest import RecordingHost, failure_of, loaded, script

ROOT = Path(__file__).parents[2]
FACTS = JobFacts(id="j", number=1, attempt=1, pipeline="hostile", inputs={})


async def test_a_lua_process_has_no_descriptor_but_its_socket() -> None:
    async with WarmParent.start() as parent:
        connection = await parent.connect()
        process = await connection.fork()
        try:
            await process.wait_until_ready()
            [warm_parent] = _children(os.getpid(), "warm_parent")
            [child] = _children(warm_parent)
            found = _descriptors(child)
        finally:
            await process.end()
    sockets = {name for name in found if name.startswith("socket:")}
    assert len(sockets) == 1
    assert found - sockets == {"/dev/null"}


async def test_a_process_that_hears_nothing_ends_when_its_runner_is_killed() -> None:
    code = textwrap.dedent("""
        import anyio
        from sandbox.parent import WarmParent
        from tests.attack import taken_over
        async def main():
            async with WarmParent.start(program=taken_over.program()) as parent, parent.fork() as sandbox:
                print("there", flush=True)
                await sandbox.load("hostile.lua", taken_over.pipeline("never load"), {})
        anyio.run(main)
    """)
    async with await anyio.open_process([sys.executable, "-c", code], cwd=ROOT, stderr=None) as runner:
        assert runner.stdout is not None
        assert b"there" in await runner.stdout.receive()
        [warm_parent] = _children(runner.pid)
        [child] = _children(warm_parent)
        handles = [os.pidfd_open(pid) for pid in (warm_parent, child)]
        runner.send_signal(signal.SIGKILL)
        with anyio.fail_after(20):
            for handle in handles:
                await anyio.wait_readable(handle)
                os.close(handle)


async def test_a_breach_is_told_without_what_was_sent(caplog: pytest.LogCaptureFixture) -> None:
    async with WarmParent.start(program=taken_over.program()) as parent, parent.fork() as sandbox:
        await sandbox.load("hostile.lua", taken_over.pipeline("say again that it has loaded"), {})
        with pytest.raises(SandboxFailed) as raised:
            await sandbox.run_stage("s", FACTS, RecordingHost())
    assert raised.value.code == "sandbox_breach"
    assert caplog.messages[-1] == "a Lua process broke the protocol and was ended: Loaded"


async def test_a_missing_wall_that_is_required_keeps_lua_from_running() -> None:
    bare = "import sys; sys.modules['pyseccomp'] = None; from sandbox.warm_parent import main; main()"
    async with WarmParent.start(program=bare) as parent, parent.fork():
        assert parent.layers is not None
        assert parent.layers.missing == {"seccomp": "libseccomp is not installed"}
    async with WarmParent.start(required=["landlock", "seccomp"], program=bare) as parent:
        with pytest.raises(SandboxFailed, match="`seccomp` is missing") as raised:
            async with parent.fork():
                raise AssertionError("nothing is to run")
    assert raised.value.code == "sandbox_wall_missing"
    async with WarmParent.start(required=wall.LAYERS) as parent, parent.fork():
        pass


async def test_limits_are_told_with_how_much_it_was() -> None:
    limits = Limits(lua_bytes=64 * 1024**2, cpu_seconds=1, load_cpu_seconds=1)
    endless = "while true do pcall(function() while true do end end) end"
    for body, text in (
        ("local t = {} while true do t[#t + 1] = ('x'):rep(100000) .. #t end", "used more than 64 MiB of memory"),
        (endless, "used more than 1 s of processor time"),
    ):
        async with loaded(script(body), limits) as pipeline:
            with pytest.raises(SandboxFailed if body == endless else Exception, match=text):
                await pipeline.run()


async def test_many_numbers_for_keys_are_refused_in_lua() -> None:
    error = await failure_of("local t = {} for i = 1, 20000 do t[i * 3] = 0 end json.encode(t)")
    assert error.code == "too_large"
    assert await failure_of("local t = {} for i = 1, 9000 do t[i * 3] = 0 end json.encode(t) error('went')")


COUNTED: list[tuple[Any, int]] = [
    (None, 1), ("x" * 70_000, 1), (b"x" * 300, 1), (2**40, 1), (-1.5, 1), ([], 1), ([[], {}], 3), ({"a": [1, 2]}, 5),
    (["x"] * 20, 21), ({str(n): n for n in range(70_000)}, 140_001),
]  # fmt: skip


@pytest.mark.parametrize(("value", "count"), COUNTED)
def test_values_are_counted_without_being_made(value: Any, count: int) -> None:
    data = encoder.encode(value)
    assert values.excess(data, count) is None
    if count > 1:
        assert values.excess(data, count - 1) == f"more than {count - 1} values"


def test_numbers_for_keys_and_levels_are_counted() -> None:
    maximum = values.NUMBER_KEYS_MAXIMUM
    assert values.excess(encoder.encode({n: n for n in range(maximum)})) is None
    for number in (1, 1 << 40, 0.5):
        many = [{n * number: n for n in range(maximum // 2)}, {"a": {n * number: 0 for n in range(maximum)}}]
        assert "for keys" in str(values.excess(encoder.encode(many)))
    assert "nested deeper" in str(values.excess(b"\x91" * 1000 + b"\xc0"))
    assert values.excess(b"\xdd\xff\xff\xff\xff") == f"more than {values.VALUES_MAXIMUM} values"
    assert values.excess(b"") is None


def _descriptors(pid: int) -> set[str]:
    return {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}


def _children(pid: int, words: str = "") -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [child for child in map(int, text.split()) if words.encode() in Path(f"/proc/{child}/cmdline").read_bytes()]
