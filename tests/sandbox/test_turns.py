"""Several scripts of one pipeline under way at once: they take turns in one Lua state, and share nothing else."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from sandbox import process
from sandbox.process import SandboxFailed, SandboxLost, Value
from sandbox.wall import Limits
from schema.errors import MoonyardError, single_error
from tests.sandbox.conftest import Pipeline, loaded

SECONDS = 20.0


class Meeting:
    """Answers ``process.run`` of each command when the test says so."""

    def __init__(self) -> None:
        self.answers: dict[str, Value] = {}
        self._asked: dict[str, anyio.Event] = {}
        self._allowed: dict[str, anyio.Event] = {}

    async def __call__(self, arguments: list[Value]) -> Value:
        options = arguments[1]
        assert isinstance(options, dict)
        command = str(options["command"])
        self._asked.setdefault(command, anyio.Event()).set()
        await self._allowed.setdefault(command, anyio.Event()).wait()
        return self.answers.get(command, command)

    async def asked(self, command: str) -> None:
        with anyio.fail_after(SECONDS):
            await self._asked.setdefault(command, anyio.Event()).wait()

    def allow(self, *commands: str) -> None:
        for command in commands:
            self._allowed.setdefault(command, anyio.Event()).set()


Met = tuple[Pipeline, Meeting]


@asynccontextmanager
async def meeting(scripts: dict[str, str], *, limits: Limits | None = None, before: str = "") -> AsyncGenerator[Met]:
    """Load a pipeline of one-line scripts by stage, each on a line of its own from line 2 on."""
    lines = "\n".join(f'{{ name = "{name}", script = function(job) {body} end }},' for name, body in scripts.items())
    source = f"{before} local function run(command) return process.run({{ command = command }}) end "
    source += f'return {{ name = "p", stages = {{\n{lines}\n}} }}'
    async with loaded(source, limits) as pipeline:
        met = pipeline.host.answers["process.run"] = Meeting()
        yield pipeline, met


class Outcome:
    """How a stage ended that ran beside others."""

    def __init__(self) -> None:
        self.ended = anyio.Event()
        self.error: MoonyardError | None = None
        self.scope = anyio.CancelScope()


def begin(tasks: anyio.abc.TaskGroup, run: Callable[[], Awaitable[None]]) -> Outcome:
    outcome = Outcome()

    async def to_the_end() -> None:
        try:
            with outcome.scope:
                await run()
        except MoonyardError as error:
            outcome.error = error
        finally:
            outcome.ended.set()

    tasks.start_soon(to_the_end)
    return outcome


@asynccontextmanager
async def under_way(pipeline: Pipeline, *stages: str) -> AsyncGenerator[dict[str, Outcome]]:
    with single_error(), anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as tasks:
            yield {stage: begin(tasks, lambda stage=stage: pipeline.run(stage)) for stage in stages}


async def test_while_one_script_waits_another_runs_and_both_see_the_same_variables() -> None:
    async with (
        meeting(
            {
                "a": 'seen = "by b" run("a") log.info("a", seen)',
                "b": 'run("b1") log.info("b", seen) seen = "by a" run("b2")',
            }
        ) as (pipeline, met),
        under_way(pipeline, "a", "b"),
    ):
        await met.asked("a")
        await met.asked("b1")
        met.allow("b1")
        await met.asked("b2")
        met.allow("a", "b2")
    assert pipeline.host.lines == ["b by b", "a by a"]


async def test_each_script_gets_the_answers_to_its_own_calls_in_whatever_order_they_come() -> None:
    count = 50
    scripts = {f"s{n}": f'for i = 1, 3 do log.info(run("{n}." .. i)) end' for n in range(count)}
    async with meeting(scripts) as (pipeline, met), under_way(pipeline, *scripts):
        for turn in (1, 2, 3):
            for n in range(count):
                await met.asked(f"{n}.{turn}")
            met.allow(*(f"{n}.{turn}" for n in reversed(range(count))))
    assert sorted(pipeline.host.lines) == sorted(f"{n}.{turn}" for n in range(count) for turn in (1, 2, 3))


async def test_a_host_call_in_a_coroutine_goes_on_in_its_own_script() -> None:
    body = """local co = coroutine.wrap(function() coroutine.yield(run("{0}1")) return run("{0}2") end)
      container.run("image", function() log.info(co(), co()) end)"""
    async with (
        meeting({name: body.format(name) for name in "ab"}) as (pipeline, met),
        under_way(pipeline, "a", "b"),
    ):
        await met.asked("a1")
        await met.asked("b1")
        met.allow("a1", "b1")
        await met.asked("a2")
        await met.asked("b2")
        met.allow("b2", "a2")
    assert sorted(pipeline.host.lines) == ["a1 a2", "b1 b2"]
    ran = [(arguments[0], arguments[1]) for name, arguments in pipeline.host.calls if name == "process.run"]
    blocks = {str(options["command"])[0]: handle for handle, options in ran if isinstance(options, dict)}
    assert sorted(map(str, blocks.values())) == ["c1", "c2"]
    assert all(isinstance(options, dict) and handle == blocks[str(options["command"])[0]] for handle, options in ran)


async def test_equal_errors_of_two_scripts_keep_the_places_where_each_arose() -> None:
    # The error of the first waits, on its way out, for its block's container to be closed.
    async with meeting(
        {"a": 'container.run("a", function() error("broken", 0) end)', "b": 'run("b") error("broken", 0)'}
    ) as (
        pipeline,
        met,
    ):
        closing, close = anyio.Event(), anyio.Event()

        async def closed(_arguments: list[Value]) -> None:
            closing.set()
            await close.wait()

        pipeline.host.answers["container.close"] = closed
        async with under_way(pipeline, "a", "b") as outcomes:
            await closing.wait()
            met.allow("b")
            await outcomes["b"].ended.wait()
            close.set()
    for stage, where in {"a": "try.lua:2", "b": "try.lua:3"}.items():
        error = outcomes[stage].error
        assert error is not None
        assert (error.message, error.where) == ("broken", where)
        assert error.trace is not None
        assert error.trace[0].startswith(f"{where}: in ")


async def test_a_script_that_is_cancelled_leaves_the_others_running() -> None:
    async with meeting(
        {"a": 'local g <close> = guard() run("a") log.info("went on")', "b": 'run("b") log.info("b ended")'},
        before="local function guard() return setmetatable({}, { __close = function() log.info('closed') end }) end",
    ) as (pipeline, met):
        async with under_way(pipeline, "a", "b") as outcomes:
            await met.asked("a")
            await met.asked("b")
            outcomes["a"].scope.cancel()
            await outcomes["a"].ended.wait()
            met.allow("b")
        assert pipeline.sandbox.is_alive
        assert pipeline.host.lines == ["b ended"]  # what a script says that was ended is heard by nobody
        met.allow("a")
        await pipeline.run("a")
        assert pipeline.host.lines == ["b ended", "went on", "closed"]


async def test_one_that_computes_is_not_ended_for_another_that_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "ABANDON_SECONDS", 0.05)
    async with meeting(
        {
            "waits": 'local g <close> = guard() run("waits")',
            "computes": 'log.info("computes") local till = os.clock() + 0.5 while os.clock() < till do end run("over")',
            "looks": "log.info(closed)",
        },
        before="local function guard() return setmetatable({}, { __close = function() closed = true end }) end",
    ) as (pipeline, met):
        told = anyio.Event()
        note = pipeline.host.log

        async def log(stage: str, level: process.Level, text: str, place: process.LogPlace) -> None:
            await note(stage, level, text, place)
            told.set()

        pipeline.host.log = log
        async with under_way(pipeline, "waits") as outcomes:
            await met.asked("waits")
            async with under_way(pipeline, "computes"):
                await told.wait()
                outcomes["waits"].scope.cancel()
                await outcomes["waits"].ended.wait()
                await met.asked("over")
                met.allow("over")
        await pipeline.run("looks")
        assert pipeline.host.lines == ["computes", "true"]


async def test_one_that_computes_without_end_takes_the_others_with_it_and_is_named() -> None:
    async with meeting({"a": 'run("a")', "b": 'run("b") log.info("computes") while true do pcall(error) end'}) as (
        pipeline,
        met,
    ):
        told = anyio.Event()

        async def log(stage: str, level: process.Level, text: str, place: process.LogPlace) -> None:
            del stage, level, text, place
            told.set()

        pipeline.host.log = log
        async with under_way(pipeline, "a", "b") as outcomes:
            await met.asked("a")
            met.allow("b")
            await told.wait()
            outcomes["b"].scope.cancel()
        assert not pipeline.sandbox.is_alive
        error = outcomes["a"].error
        assert isinstance(error, SandboxFailed)
        assert not isinstance(error, SandboxLost)
        assert error.message == "the Lua process was stopped in stage `b`, and its variables are gone"
        with pytest.raises(SandboxFailed, match="was stopped in stage `b`"):
            await pipeline.run("a")


async def test_all_scripts_of_a_process_that_is_killed_are_lost() -> None:
    async with meeting({"a": 'run("a")', "b": 'run("b")'}) as (pipeline, met):
        async with under_way(pipeline, "a", "b") as outcomes:
            await met.asked("a")
            await met.asked("b")
            os.kill(_lua_process(), signal.SIGKILL)
        assert all(isinstance(outcome.error, SandboxLost) for outcome in outcomes.values())


def _lua_process() -> int:
    [parent] = [pid for pid in _children(os.getpid()) if b"warm_parent" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    [child] = _children(parent)
    return child


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


async def test_the_limits_of_the_process_end_all_scripts_with_their_reason() -> None:
    async with meeting(
        {"a": 'run("a")', "b": "while true do pcall(function() while true do end end) end"},
        limits=Limits(cpu_seconds=1, load_cpu_seconds=1),
    ) as (pipeline, met):
        async with under_way(pipeline, "a") as outcomes:
            await met.asked("a")
            async with under_way(pipeline, "b") as others:
                pass
        assert {outcome.error.code for outcome in (outcomes["a"], others["b"]) if outcome.error} == {"cpu_limit"}


async def test_an_answer_that_does_not_fit_is_an_error_of_the_script_that_asked() -> None:
    async with (
        meeting(
            {"a": 'log.info("a", pcall(run, "a"))', "b": 'log.info("b", run("b"))'},
            limits=Limits(lua_bytes=8 * 1024 * 1024),
        ) as (
            pipeline,
            met,
        ),
        under_way(pipeline, "a", "b"),
    ):
        met.answers["a"] = "x" * (10 * 1024 * 1024)
        await met.asked("a")
        await met.asked("b")
        met.allow("a", "b")
    assert sorted(pipeline.host.lines) == [
        "a false the answer is larger than the memory that is left for the pipeline's Lua",
        "b b",
    ]


async def test_a_condition_gives_whether_it_holds_and_its_errors_have_their_place() -> None:
    conditions = {
        "yes": "return 1", "no": "return false", "nothing": "", "by_job": 'return job.stages.yes == "succeeded"',
        "wrong": "error('why')",
    }  # fmt: skip
    stages = "\n".join(
        f'{{ name = "{name}", when = function(job) {body} end, script = print }},' for name, body in conditions.items()
    )
    async with loaded(f'return {{ name = "p", stages = {{\n{stages}\n}} }}') as pipeline:
        facts = process.JobFacts(id="j", number=1, attempt=1, pipeline="p", inputs={}, stages={"yes": "succeeded"})

        async def holds(stage: str) -> bool:
            return await pipeline.sandbox.ask_condition(stage, facts, pipeline.host)

        assert [await holds(name) for name in ("yes", "no", "nothing", "by_job")] == [True, False, False, True]
        with pytest.raises(MoonyardError, match="why") as raised:
            await holds("wrong")
        assert raised.value.where == "try.lua:6"


async def test_a_process_that_breaks_the_protocol_is_lost_to_no_script_of_it() -> None:
    async with meeting({"a": 'run("a")', "b": 'run("b")'}) as (pipeline, met):
        async with under_way(pipeline, "a", "b") as outcomes:
            await met.asked("a")
            await met.asked("b")
            # As if it had sent what nobody asked for: its answer to this is out of place wherever it arrives.
            await pipeline.sandbox._process.send(1, {"op": "abandon"})  # pyright: ignore[reportPrivateUsage]
            met.allow("b")
        assert [outcome.error.code for outcome in outcomes.values() if outcome.error] == ["sandbox_breach"] * 2
        assert not any(isinstance(outcome.error, SandboxLost) for outcome in outcomes.values())
