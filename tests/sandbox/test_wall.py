"""The walls around a Lua process: what is within reach of Lua, and of native code in the process."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from pathlib import Path

import anyio
import pytest

import plugins
from sandbox.parent import WarmParent
from sandbox.process import JobFacts, SandboxFailed, SandboxLost
from sandbox.wall import Limits
from schema.definition import PipelineInvalid
from tests.sandbox.conftest import RecordingHost, failure_of, loaded, run_script, script

REACHABLE = Path(__file__).parent / "reachable.txt"

WALK = """
local seen, names = {}, {}
local function walk(value, name)
  local kind = type(value)
  if kind == "userdata" or kind == "function" then names[#names + 1] = name .. " " .. kind end
  if kind == "table" and not seen[value] then
    seen[value] = true
    for key, item in next, value do walk(item, name .. "." .. tostring(key)) end
    local meta = getmetatable(value)
    if meta then walk(meta, name .. ".<meta>") end
  end
end
walk(_G, "_G")
log.info("string metatable", getmetatable(""))
table.sort(names)
for _, name in ipairs(names) do log.info(name) end
"""


async def test_only_what_is_listed_can_be_reached_from_lua() -> None:
    host = await run_script(WALK)
    assert host.lines[0] == "string metatable false"
    expected = REACHABLE.read_text(encoding="utf-8").splitlines()
    assert host.lines[1:] == expected


@pytest.mark.parametrize(
    "name",
    ["io", "package", "dofile", "loadfile", "python", "debug", "collectgarbage", "warn", "os.execute", "os.exit",
     "os.getenv", "os.remove", "os.tmpname", "string.dump", "job.__gc"],
)  # fmt: skip
async def test_dangerous_parts_of_the_standard_library_are_not_there(name: str) -> None:
    host = await run_script(f"log.info({name})")
    assert host.lines == ["nil"]


async def test_bytecode_is_not_loaded() -> None:
    host = await run_script("""
    log.info(load("\\27Lua"))
    log.info(load("return 1", "name", "b"))
    log.info(load("return 1 + 1")())
    log.info(load("return x", "name", "t", { x = 5 })())
    """)
    assert host.lines == [
        "nil attempt to load a binary chunk (mode is 't')",
        "nil only Lua source can be loaded, not bytecode",
        "2",
        "5",
    ]


async def test_a_finalizer_is_refused() -> None:
    error = await failure_of("setmetatable({}, { __gc = function() while true do end end })")
    assert error.code == "sandbox_refused"


async def test_running_out_of_memory_is_an_error_of_the_pipeline_and_not_of_the_runner() -> None:
    for body in ("local t = {} while true do t[#t + 1] = ('x'):rep(100000) .. #t end", "local s = ('x'):rep(1e9)"):
        error = await failure_of(body)
        assert error.code == "memory_limit"
    host = await run_script("log.info(pcall(string.rep, 'x', 1e9)) local t = {} for i = 1, 10 do t[i] = i end")
    assert "not enough memory" in host.lines[0]


async def test_an_answer_that_does_not_fit_is_an_error_and_the_process_goes_on() -> None:
    limits = Limits(lua_bytes=8 * 1024 * 1024)
    async with loaded(script('log.info(pcall(process.run, {})) log.info("alive")'), limits) as pipeline:

        async def answer(_arguments: object) -> str:
            return "x" * (10 * 1024 * 1024)

        pipeline.host.answers["process.run"] = answer
        await pipeline.run()
        assert pipeline.host.lines == [
            "false the answer is larger than the memory that is left for the pipeline's Lua",
            "alive",
        ]


async def test_a_loop_that_catches_every_error_meets_the_limit_of_processor_time() -> None:
    limits = Limits(cpu_seconds=1, load_cpu_seconds=1)
    async with loaded(script("while true do pcall(function() while true do end end) end"), limits) as pipeline:
        with pytest.raises(SandboxFailed) as raised:
            await pipeline.run()
    assert raised.value.code == "cpu_limit"
    assert not isinstance(raised.value, SandboxLost)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_process_that_somebody_kills_is_lost_and_says_so(number: signal.Signals) -> None:
    async with loaded(script('process.run({ command = "first" })')) as pipeline:

        async def kill(_arguments: object) -> None:
            [parent] = _warm_parents()
            [child] = _children(parent)
            os.kill(child, number)
            await anyio.sleep_forever()  # nobody waits for an answer any more, so neither does the host

        pipeline.host.answers["process.run"] = kill
        with pytest.raises(SandboxLost, match=f"was killed by {number.name}, which came from outside") as raised:
            await pipeline.run()
    assert raised.value.code == "sandbox_lost"


async def test_a_file_larger_than_the_memory_is_refused() -> None:
    async with WarmParent.start(Limits(lua_bytes=4 * 1024 * 1024)) as parent, parent.fork() as sandbox:
        with pytest.raises(PipelineInvalid, match="larger than the memory of a sandbox"):
            await sandbox.load("large.lua", "-- " + "x" * 10_000_000, {})


async def test_the_warm_parent_is_started_again_after_its_death_and_running_jobs_go_on() -> None:
    source = script('process.run({ command = "first" }) process.run({ command = "second" })')
    async with WarmParent.start() as parent, parent.fork() as sandbox:
        definition = await sandbox.load("try.lua", source, plugins.shipped())
        host = RecordingHost()

        async def kill_the_parent(_arguments: object) -> None:
            os.kill(_warm_parents()[0], signal.SIGKILL)
            connection = await parent.connect()
            while not connection.dead:
                await anyio.lowlevel.checkpoint()

        host.answers["process.run"] = kill_the_parent
        facts = JobFacts(id="j", number=1, attempt=1, pipeline=definition.name, inputs={})
        first = _warm_parents()

        async def only_once(_arguments: object) -> None:
            await kill_the_parent(_arguments)
            del host.answers["process.run"]

        host.answers["process.run"] = only_once
        await sandbox.run_stage("s", facts, host)
        assert len(host.calls) == 2
        async with parent.fork() as another:
            await another.load("try.lua", source, plugins.shipped())
        assert _warm_parents() != first


def _warm_parents() -> list[int]:
    """Find this test process's warm parents."""
    children = _children(os.getpid())
    return [child for child in children if b"warm_parent" in Path(f"/proc/{child}/cmdline").read_bytes()]


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in text.split()]


async def test_native_code_in_the_process_gets_at_nothing() -> None:
    """A program in C's place: what Python can do behind the walls, an interpreter's bug could do too."""
    attempts = textwrap.dedent("""
        import os, socket, sys, signal, ctypes, resource
        from sandbox import wall
        filter, shared = wall.build_call_filter(), wall.mapped_bytes()
        layers = wall.no_layers()
        parent = os.getpid()
        wall.separate(layers)
        read, write = os.pipe()
        def attempt(name, action):
            pid = os.fork()
            if pid == 0:
                wall.confine(layers, wall.Limits(), shared, filter)
                try:
                    action()
                    os.write(write, f"{name}: DONE\\n".encode())
                except BaseException as error:
                    os.write(write, f"{name}: {type(error).__name__}\\n".encode())
                os._exit(0)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if code:
                os.write(write, f"{name}: killed by {signal.Signals(-code).name}\\n".encode())
        attempt("open", lambda: open("/etc/passwd"))
        attempt("environ", lambda: open("/proc/self/environ"))
        attempt("list", lambda: os.listdir("/"))
        attempt("stat", lambda: os.stat("/etc/passwd"))
        attempt("socket", lambda: socket.socket())
        attempt("fork", lambda: os.fork())
        attempt("exec", lambda: os.execv("/bin/true", ["true"]))
        attempt("kill", lambda: os.kill(parent, 0))
        attempt("thread", lambda: __import__("_thread").start_new_thread(print, ()))
        attempt("setuid", lambda: os.setuid(0))
        attempt("raise a limit", lambda: resource.setrlimit(resource.RLIMIT_CPU, (-1, -1)))
        attempt("memory", lambda: bytearray(2 * 1024**3))
        os.close(write)
        sys.stdout.write(os.fdopen(read).read())
    """)
    result = await anyio.run_process([sys.executable, "-c", attempts])
    assert result.stdout.decode().splitlines() == [
        "open: PermissionError",
        "environ: PermissionError",
        "list: PermissionError",
        "stat: PermissionError",
        "socket: killed by SIGSYS",
        "fork: PermissionError",
        "exec: killed by SIGSYS",
        "kill: killed by SIGSYS",
        "thread: RuntimeError",
        "setuid: PermissionError",
        "raise a limit: ValueError",
        "memory: MemoryError",
    ]


async def test_all_walls_stand_on_this_machine() -> None:
    async with WarmParent.start() as parent:
        connection = await parent.connect()
        process = await connection.fork()
        try:
            ready = await process.wait_until_ready()
        finally:
            await process.end()
    assert ready.missing == {}
    assert ready.raised == ["namespaces", "empty root", "own user", "limits", "landlock", "seccomp"]


async def test_a_lua_process_ends_when_its_runner_is_killed() -> None:
    code = textwrap.dedent("""
        import anyio, sys
        from tests.sandbox.conftest import loaded, script
        async def main():
            async with loaded(script("log.info('runs') while true do pcall(error) end")) as pipeline:
                async def tell(stage, level, text, place):
                    print(text, flush=True)
                pipeline.host.log = tell
                await pipeline.run()
        anyio.run(main)
    """)
    root = Path(__file__).parents[2]
    async with await anyio.open_process([sys.executable, "-c", code], cwd=root, stderr=None) as runner:
        assert runner.stdout is not None
        assert b"runs" in await runner.stdout.receive()
        family = _descendants(runner.pid)
        assert len(family) == 2, "a warm parent and a Lua process"
        handles = [os.pidfd_open(pid) for pid in family]
        runner.kill()
        with anyio.fail_after(20):
            for handle in handles:
                await anyio.wait_readable(handle)
                os.close(handle)


def _descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    return [*children, *(grandchild for child in children for grandchild in _descendants(child))]
