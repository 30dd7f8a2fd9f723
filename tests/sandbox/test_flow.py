"""``parallel``, ``retry``, ``sleep``, groups and fields of the log, ``job`` and ``env``."""

from __future__ import annotations

import anyio
import pytest

from sandbox.process import JobFacts, Value
from schema.errors import MoonyardError
from schema.wire import Trigger
from tests.sandbox.conftest import failure_of, loaded, run_script, script


async def test_parallel_has_the_calls_of_all_its_functions_under_way_at_once() -> None:
    body = """
    log.info(parallel({
      function() process.run({ command = "a" }) return "first", "unseen" end,
      function() process.run({ command = "b" }) return nil end,
      function() process.run({ command = "c" }) return 3 end,
    }))
    """
    async with loaded(script(body)) as pipeline:
        all_there = anyio.Event()

        async def meet(_: list[Value]) -> Value:
            if len(pipeline.host.calls) == 3:
                all_there.set()
            await all_there.wait()
            return {}

        pipeline.host.answers["process.run"] = meet
        with anyio.fail_after(20):
            await pipeline.run()
        assert pipeline.host.lines == ["first nil 3"]


async def test_the_first_failure_ends_the_other_functions_and_is_raised_as_it_was() -> None:
    body = """
    local mine = { code = "mine", message = "it broke" }
    local ok, problem = pcall(parallel, {
      function() process.run({ command = "for ever" }) log.info("never") end,
      function() process.run({ command = "soon" }) error(mine) end,
      function() coroutine.wrap(function() process.run({ command = "for ever" }) end)() log.info("never") end,
    })
    log.info(ok, problem == mine, problem.code)
    log.info(pcall(parallel, { function() error("as text") end }))
    process.run({ command = "after" })
    """
    async with loaded(script(body)) as pipeline:
        waiting = anyio.Event()
        ended: list[str] = []

        async def answer(arguments: list[Value]) -> Value:
            given = arguments[1]
            assert isinstance(given, dict)
            if given["command"] == "for ever":
                if len(pipeline.host.calls) == 3:
                    waiting.set()
                try:
                    await anyio.sleep_forever()
                finally:
                    ended.append("for ever")
            if given["command"] == "soon":
                await waiting.wait()
            return {}

        pipeline.host.answers["process.run"] = answer
        with anyio.fail_after(20):
            await pipeline.run()
        assert pipeline.host.lines == ["false true mine", "false try.lua:10: as text"]
        assert ended == ["for ever", "for ever"]
        assert [call[1][1] for call in pipeline.host.calls][-1] == {"command": "after"}


async def test_a_limit_lets_so_many_functions_run_at_once() -> None:
    body = """
    local functions = {}
    for number = 1, 6 do functions[number] = function() process.run({ command = "x" }) return number end end
    log.info(parallel(functions, { limit = 2 }))
    """
    async with loaded(script(body)) as pipeline:
        running, most, both = 0, 0, anyio.Event()

        async def answer(_: list[Value]) -> Value:
            nonlocal running, most
            running += 1
            most = max(most, running)
            if running == 2:
                both.set()
            await both.wait()
            running -= 1
            return {}

        pipeline.host.answers["process.run"] = answer
        with anyio.fail_after(20):
            await pipeline.run()
        assert pipeline.host.lines == ["1 2 3 4 5 6"]
        assert most == 2


async def test_functions_at_once_are_in_the_blocks_and_groups_around_them_and_in_their_own() -> None:
    host = await run_script("""
    container.run("outer", function()
      log.group("both", function()
        parallel({
          function() log.group("left", function() process.run({ command = "a" }) end) end,
          function() container.run("inner", function() process.run({ command = "b" }) end) end,
        })
      end)
    end)
    """)
    runs = [(call[1], group) for call, group in zip(host.calls, host.groups, strict=True) if call[0] == "process.run"]
    assert sorted(runs, key=str) == [
        (["c1", {"command": "a"}], ["both", "left"]),
        (["c2", {"command": "b"}], ["both"]),
    ]


async def test_blocks_of_functions_that_were_ended_are_closed() -> None:
    body = """
    log.info(pcall(parallel, {
      function() container.run("left open", function() process.run({ command = "for ever" }) end) end,
      function() process.run({ command = "fail" }) end,
    }))
    """
    async with loaded(script(body)) as pipeline:
        waiting = anyio.Event()

        async def answer(arguments: list[Value]) -> Value:
            given = arguments[1]
            assert isinstance(given, dict)
            if given["command"] == "for ever":
                waiting.set()
                await anyio.sleep_forever()
            await waiting.wait()
            raise MoonyardError("it failed", code="command_failed")

        pipeline.host.answers["process.run"] = answer
        with anyio.fail_after(20):
            await pipeline.run()
        assert pipeline.host.lines == ["false it failed"]
        assert ("container.close", ["c1", None]) in pipeline.host.calls


async def test_parallel_in_parallel_and_a_stage_that_is_stopped_in_it() -> None:
    body = """
    local function leaf() process.run({ command = "for ever" }) end
    parallel({ leaf, function() parallel({ leaf, leaf }) end })
    """
    async with loaded(script(body)) as pipeline:
        all_there, ended = anyio.Event(), 0

        async def answer(_: list[Value]) -> Value:
            nonlocal ended
            if len(pipeline.host.calls) == 3:
                all_there.set()
            try:
                await anyio.sleep_forever()
            finally:
                ended += 1
            return None

        pipeline.host.answers["process.run"] = answer
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pipeline.run)
                await all_there.wait()
                tasks.cancel_scope.cancel()
        assert ended == 3
        assert pipeline.sandbox.is_alive


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("parallel(print)", "parallel takes a list of functions, got a function"),
        ("parallel({})", "parallel takes a list of at least one function"),
        ("parallel({ print, 1 })", "entry 2 of the list must be a function, got a number"),
        ("parallel({ print }, { limit = 0 })", "`limit` must be a whole number of at least 1, got 0"),
        ("parallel({ print }, { most = 1 })", "`most` is not an argument"),
        ("retry(print)", "retry takes a table, got a function"),
        ("retry({ times = 1 })", "`fn` must be a function, got nil"),
        ("retry({ times = -1, fn = print })", "`times` must be a whole number from 0 to 100, got -1"),
        ('retry({ delay = "soon", fn = print })', 'at most 30 days, got "soon"'),
        ('retry({ backoff = "linear", fn = print })', '`backoff` must be one of "constant", "exponential"'),
        ("retry({ tries = 1, fn = print })", "`tries` is not an argument"),
        ("log.group(1, print)", "log.group takes a name"),
        ('log.group("a")', "log.group takes a name and a function, got nil"),
        ('log.info("a", { 1, 2 })', "a field's name is up to 64 letters"),
        ("job.output = 1", "`output` cannot be set"),
        ("env.get(1)", "the variable's name must be a string"),
    ],
)
async def test_what_is_not_taken_is_told(call: str, message: str) -> None:
    # The global, which the script's own argument of that name would hide.
    error = await failure_of(f"local job = _G.job {call}")
    assert error.code == "argument_invalid"
    assert message in error.message


@pytest.mark.parametrize("name", ["parallel({ print })", "log.info(job.id)", "env.all()", "sleep(1)"])
async def test_nothing_of_a_job_is_there_while_the_file_is_loaded(name: str) -> None:
    with pytest.raises(MoonyardError) as raised:
        async with loaded(script("", before=name)):
            pass
    assert raised.value.code == "call_at_top_level"


async def test_more_functions_than_may_be_under_way_in_a_job_are_refused() -> None:
    error = await failure_of("""
    local function many(deeper)
      local functions = {}
      for number = 1, 200 do functions[number] = deeper or function() process.run({ command = "x" }) end end
      return functions
    end
    parallel(many(function() parallel(many()) end))
    """)
    assert error.code == "argument_invalid"
    assert "more than 256 functions would be under way" in error.message


async def test_retry_tries_again_after_the_errors_that_are_meant() -> None:
    host = await run_script("""
    local tries = 0
    log.info(retry({ times = 3, delay = "2s", backoff = "exponential", on = { "busy" }, fn = function(try)
      tries = tries + 1
      if try < 3 then error({ code = "busy", message = "try " .. try }) end
      return "done", try
    end }))
    log.info(pcall(retry, { times = 3, on = "busy", function() tries = tries + 1 error("another") end }))
    local ok, problem = pcall(retry, { times = 1, function() error({ code = "busy", message = "for good" }) end })
    log.info(tries, ok, problem.message)
    """)
    assert host.lines == [
        "try 1; trying again in 2 s (3 left)",
        "try 2; trying again in 4 s (2 left)",
        "done 3",
        "false try.lua:9: another",
        "for good; trying again (1 left)",
        "4 false for good",
    ]
    assert [call for call in host.calls if call[0] == "time.sleep"] == [
        ("time.sleep", [2, None]),
        ("time.sleep", [4, None]),
    ]


async def test_lines_have_fields_and_groups() -> None:
    host = await run_script("""
    log.warn("done", 3, { passed = 812, ratio = 0.5, ok = true, suite = "unit", odd = print ~= nil and {} or nil })
    log.info({ a = 1 } ~= nil, setmetatable({}, { __tostring = function() return "itself" end }))
    log.info(log.group("outer", function(given)
      log.info("inside")
      log.group("inner", function() log.info("deep") end)
      pcall(log.group, "broken", function() error("x") end)
      log.info("inside again")
      return given, 2
    end, "given"))
    print("a", { 1 } ~= nil)
    """)
    fields = host.places[0].fields
    assert fields.pop("odd") is not None
    assert fields == {"passed": 812, "ratio": 0.5, "ok": True, "suite": "unit"}
    assert host.lines[0] == "done 3"
    assert host.lines[1] == "true itself"
    told = [(text, place.group, place.heading) for text, place in zip(host.lines, host.places, strict=True)][2:]
    assert told == [
        ("outer", ["outer"], True),
        ("inside", ["outer"], False),
        ("inner", ["outer", "inner"], True),
        ("deep", ["outer", "inner"], False),
        ("broken", ["outer", "broken"], True),
        ("inside again", ["outer"], False),
        ("given 2", [], False),
        ("a true", [], False),
    ]


async def test_a_secret_among_the_fields_is_not_seen() -> None:
    host = await run_script('log.info("token", { is = secret.get("token"), part = "a" .. secret.get("token") })')
    assert host.places[0].fields == {"is": "***", "part": "a***"}


async def test_a_script_and_its_plugins_know_the_job_by_the_global_too() -> None:
    body = """
    local argument = job
    local function facts()
      local seen = {}
      for name in pairs(_G.job) do seen[#seen + 1] = name end
      table.sort(seen)
      return table.concat(seen, " ")
    end
    log.info(_G.job.id, require("job").trigger.by, _G.job.outputs.before, argument.version == _G.job.version)
    log.info(facts())
    job.output("mine", { 1, two = "x" })
    log.info(_G.job.outputs.mine == job.outputs.mine, env.get("A"), env.get("B", "none"), env.all().A)
    log.info(pcall(env.require, "B"))
    """
    async with loaded(script(body)) as pipeline:

        async def echo(arguments: list[Value]) -> Value:
            given = arguments[0]
            assert isinstance(given, dict)
            return given["value"]

        pipeline.host.answers["job.output"] = echo
        facts = JobFacts(
            id="j",
            number=3,
            attempt=1,
            pipeline="try",
            version="0" * 64,
            trigger=Trigger(kind="submit", by="me"),
            inputs={},
            stage="s",
            env={"A": "a"},
            outputs={"before": "earlier"},
        )
        await pipeline.sandbox.run_stage("s", facts, pipeline.host)
        assert pipeline.host.lines == [
            "j me earlier true",
            "attempt env id inputs number output outputs pipeline stage trigger version",
            "true a none a",
            "false env.require: the job was given no variable `B`",
        ]
