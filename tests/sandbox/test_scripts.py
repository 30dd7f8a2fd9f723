"""Scripts in the sandbox: state, host calls, coroutines, containers, plugins."""

from __future__ import annotations

import anyio
import pytest

from sandbox.process import LogPlace, Value
from schema.errors import MoonyardError
from schema.states import Level
from tests.sandbox.conftest import failure_of, loaded, run_script, script


async def test_variables_live_from_one_stage_to_the_next() -> None:
    source = """
    local count = 0
    return { name = "p", stages = {
      { name = "a", script = function() count = count + 1; shared = "global" end },
      { name = "b", script = function() log.info(count, shared) end },
    } }"""
    async with loaded(source) as pipeline:
        await pipeline.run("a")
        await pipeline.run("b")
        assert pipeline.host.lines == ["1 global"]


async def test_a_script_gets_the_facts_of_its_job() -> None:
    async with loaded(script("log.info(job.id, job.number, job.attempt, job.pipeline, job.inputs.ref)")) as pipeline:
        await pipeline.run(inputs={"ref": "main"})
        assert pipeline.host.lines == ["job-id 7 1 try main"]


async def test_values_cross_in_both_directions_unchanged() -> None:
    async with loaded(
        script('local r = process.run({ args = { "a", 1, 2.5, true, "\\xff\\0", {} }, env = { A = "ü" } }) return_(r)',
               "function return_(r) process.run({ back = r }) end")
    ) as pipeline:  # fmt: skip

        async def answer(_: list[Value]) -> Value:
            return {"list": [1, -1, 2**62, 0.5, None, "x"], "bytes": b"\xff\x00", "text": "ü", "nested": {"a": [True]}}

        pipeline.host.answers["process.run"] = answer
        await pipeline.run()
        assert pipeline.host.calls[0][1][1] == {"args": ["a", 1, 2.5, True, b"\xff\x00", {}], "env": {"A": "ü"}}
        back = pipeline.host.calls[1][1][1]
        assert isinstance(back, dict)
        assert back["back"] == {
            # nil ends a Lua list, so a list with a hole arrives as a table by position
            "list": {1: 1, 2: -1, 3: 2**62, 4: 0.5, 6: "x"},
            "bytes": b"\xff\x00",
            "text": "ü",
            "nested": {"a": [True]},
        }


async def test_log_levels_and_odd_text_arrive() -> None:
    host = await run_script(
        'log.debug("d") log.info("i", 1, nil, true) log.warn("w") log.error("e") print("p") log.info("\\xff\\0")'
    )
    assert host.levels == ["debug", "info", "warn", "error", "info", "info"]
    assert host.lines == ["d", "i 1 nil true", "w", "e", "p", "\\xff\\x00"]


async def test_a_host_call_in_a_coroutine_of_the_script_works() -> None:
    host = await run_script("""
    local co = coroutine.wrap(function(first)
      process.run({ command = first })
      local second = coroutine.yield("between")
      process.run({ command = second })
      return "end"
    end)
    log.info(co("one")) log.info(co("two"))
    local inner = coroutine.create(function()
      local deeper = coroutine.create(function() process.run({ command = "deep" }) return 1, nil, 3 end)
      return coroutine.resume(deeper)
    end)
    log.info(coroutine.resume(inner))
    log.info(coroutine.status(inner), coroutine.resume(inner))
    """)
    assert [call[1][1] for call in host.calls] == [{"command": "one"}, {"command": "two"}, {"command": "deep"}]
    assert host.lines == ["between", "end", "true true 1 nil 3", "dead false cannot resume dead coroutine"]


async def test_a_host_call_in_a_c_callback_raises_a_clear_error() -> None:
    host = await run_script("""
    for _, f in ipairs({
      function() string.gsub("a", "a", function() process.run({ command = "x" }) end) end,
      function() table.sort({ 2, 1, 3 }, function() process.run({ command = "x" }) end) end,
      function()
        local co = coroutine.wrap(function() process.run({ command = "x" }) end)
        string.gsub("a", "a", function() co() end)
      end,
    }) do
      local ok, err = pcall(f)
      log.info(ok, err.code, tostring(err))
    end
    """)
    assert not host.calls
    assert len(host.lines) == 3
    assert all(
        line.startswith("false call_in_callback process.run was called in a function that C code calls back")
        for line in host.lines
    )


async def test_host_calls_work_under_pcall_xpcall_and_in_metamethods() -> None:
    host = await run_script("""
    assert(pcall(process.run, { command = "a" }))
    assert(xpcall(process.run, function(e) return e end, { command = "b" }))
    local lazy = setmetatable({}, { __index = function(_, key) process.run({ command = key }) return key end })
    log.info(lazy.c)
    for value in (function() process.run({ command = "d" }) return nil end) do log.info(value) end
    """)
    assert [call[1][1] for call in host.calls] == [{"command": name} for name in "abcd"]


async def test_commands_go_to_the_innermost_container_block() -> None:
    host = await run_script("""
    process.run({ command = "default" })
    local result = container.run("outer", function()
      process.run({ command = "in outer" })
      container.run("inner", { network = "none" }, function() process.run({ command = "in inner" }) end)
      process.run({ command = "in outer again" })
      return "value"
    end)
    log.info(result)
    pcall(container.run, "failing", function() error("x") end)
    process.run({ command = "default again" })
    """)
    assert host.lines == ["value"]
    assert host.calls == [
        ("process.run", [None, {"command": "default"}]),
        ("container.open", ["outer", None]),
        ("process.run", ["c1", {"command": "in outer"}]),
        ("container.open", ["inner", {"network": "none"}]),
        ("process.run", ["c2", {"command": "in inner"}]),
        ("container.close", ["c2", None]),
        ("process.run", ["c1", {"command": "in outer again"}]),
        ("container.close", ["c1", None]),
        ("container.open", ["failing", None]),
        ("container.close", ["c3", None]),
        ("process.run", [None, {"command": "default again"}]),
    ]


async def test_a_coroutine_keeps_the_block_it_opened_and_else_is_where_it_is_resumed() -> None:
    host = await run_script("""
    local co = coroutine.wrap(function()
      process.run({ command = "resumer's" }) coroutine.yield()
      container.run("own", function() coroutine.yield() process.run({ command = "own" }) end)
    end)
    container.run("outer", function() co() end)
    co()
    container.run("other", function() co() process.run({ command = "other" }) end)
    """)
    runs = [arguments for name, arguments in host.calls if name == "process.run"]
    assert runs == [["c1", {"command": "resumer's"}], ["c2", {"command": "own"}], ["c3", {"command": "other"}]]


async def test_an_error_of_a_host_call_keeps_its_code_cause_and_place() -> None:
    cause = MoonyardError("no route", code="network")
    refusal = MoonyardError(
        "image `x` could not be pulled", code="image_pull_failed", hint="Check it.", cause=cause.info
    )
    async with loaded(script('\nlocal function build() process.run({ command = "make" }) end\nbuild()')) as pipeline:
        pipeline.host.fail("process.run", refusal)
        with pytest.raises(MoonyardError) as raised:
            await pipeline.run()
    error = raised.value
    assert (error.code, error.message, error.hint) == ("image_pull_failed", refusal.message, "Check it.")
    assert error.where == "try.lua:3"
    assert error.cause == cause.info
    assert error.trace is not None
    assert error.trace[0].startswith("try.lua:3: in ")
    assert "build" in error.trace[0]
    assert error.trace[1].startswith("try.lua:4: in ")


async def test_a_caught_error_can_be_read_joined_and_raised_again() -> None:
    async with loaded(
        script("""
    local ok, err = pcall(process.run, {})
    log.info(ok, err.code, "it said: " .. err, tostring(err))
    local again, same = pcall(error, err)
    log.info(again, same == err)
    error(err)
    """)
    ) as pipeline:
        pipeline.host.fail("process.run", MoonyardError("broken", code="engine_lost"))
        with pytest.raises(MoonyardError) as raised:
            await pipeline.run()
    assert pipeline.host.lines == ["false engine_lost it said: broken broken", "false true"]
    assert (raised.value.code, raised.value.where) == ("engine_lost", "try.lua:3")


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ('error("plain")', "lua_error", "plain"),
        ('error("no place", 0)', "lua_error", "no place"),
        ("error()", "lua_error", "error called with nil"),
        ('error("")', "lua_error", "error called with an empty message"),
        ("error({ code = 'mine', message = 'of mine' })", "mine", "of mine"),
        ("error({ 1 })", "lua_error", "error called with a table { 1 = 1 }"),
        ("error(setmetatable({}, { __tostring = function() return {} end }))", "lua_error",
         "error called with a table whose tostring fails"),
        ("error(setmetatable({}, { __tostring = function() error('x') end }))", "lua_error",
         "error called with a table whose tostring fails"),
        ('error("\\xff")', "lua_error", "\ufffd"),
        ("error(print)", "lua_error", None),
        ("local x = nil; x.y = 1", "lua_error", "attempt to index a nil value (local 'x')"),
        ("return undefined_name()", "lua_error", "attempt to call a nil value (global 'undefined_name')"),
        ("local function f() return 1 + f() end f()", "lua_error", "stack overflow"),
        ("coroutine.yield()", "lua_error", "attempt to yield from outside a coroutine"),
        ("local c = coroutine.create(function() error('inner') end) assert(coroutine.resume(c))", "lua_error", "inner"),
        ("coroutine.wrap(function() error('inner') end)()", "lua_error", "inner"),
        ("local c <close> = setmetatable({}, { __close = function() error('on close') end })", "lua_error", "on close"),
    ],
)  # fmt: skip
async def test_every_kind_of_error_has_a_message_and_a_place(body: str, code: str, message: str | None) -> None:
    error = await failure_of(body)
    assert error.code == code
    if message is not None:
        assert error.message.replace("\\xff", "\ufffd") == message
    assert error.where == "try.lua:2"


async def test_arguments_that_are_not_plain_are_refused_with_the_call_named() -> None:
    for argument, words in {
        "print": "process.run: a function cannot be passed",
        "{ f = print }": "process.run: a function cannot be passed",
        "{ [{}] = 1 }": "process.run: a table with a table for a key cannot be passed",
        "setmetatable({}, { __index = error })": None,
    }.items():
        if words is None:
            await run_script(f"process.run({argument})")
        else:
            assert words in (await failure_of(f"process.run({argument})")).message
    endless = await failure_of("local t = {} t.t = t process.run(t)")
    assert "nested deeper than 64 levels" in endless.message
    large = await failure_of('process.run({ stdin = ("x"):rep(30 * 1024 * 1024) })')
    assert "more than 24 MiB" in large.message


async def test_container_run_without_a_function_says_what_to_write() -> None:
    error = await failure_of('container.run("image")')
    assert error.code == "argument_invalid"
    assert error.message == "container.run takes a function to run in the container, got nil"
    assert error.hint is not None
    assert "container.run(image, function() ... end)" in error.hint


async def cloned(arguments: list[Value]) -> Value:
    """Answer what the plugin git runs, as if it had worked."""
    is_git = isinstance(asked := arguments[1], dict) and asked["command"] == "git"
    return {"stdout": "0123456789abcdef0123456789abcdef01234567\n" if is_git else "", "code": 0, "ok": is_git}


async def test_a_plugin_is_injected_with_and_without_require() -> None:
    clone = 'git.clone({ url = "https://example.org/x.git" })'
    for before in ("", 'local git = require("git")'):
        source = script(clone, before).replace('name = "try",', 'name = "try", plugins = { "git" },')
        async with loaded(source) as pipeline:
            pipeline.host.answers["process.run"] = cloned
            await pipeline.run()
            assert pipeline.host.calls[0] == ("container.open", ["docker.io/alpine/git:latest", None])
            assert set(pipeline.host.plugins) == {"git"}


async def test_a_plugin_is_not_changed_by_what_the_pipeline_does_to_its_own_modules() -> None:
    source = script("process.run = nil table.move = nil git.clone({ url = 'https://example.org/x.git' })")
    async with loaded(source.replace('name = "try",', 'name = "try", plugins = { "git" },')) as pipeline:
        pipeline.host.answers["process.run"] = cloned
        await pipeline.run()
        assert ("container.close", ["c1", None]) in pipeline.host.calls


async def test_an_error_in_a_plugin_points_into_the_pipeline_and_shows_the_way() -> None:
    wrong = '\ngit.clone({ url = "https://example.org/x.git", tag = "a", branch = "b" })'
    source = script(wrong).replace('name = "try",', 'name = "try", plugins = { "git" },')
    async with loaded(source) as pipeline:
        with pytest.raises(MoonyardError) as raised:
            await pipeline.run()
    assert raised.value.code == "argument_invalid"
    assert raised.value.where == "try.lua:3"
    assert any("plugins/git/clone.lua" in frame for frame in raised.value.trace or [])


async def test_a_script_that_waits_can_be_abandoned_and_the_next_stage_still_has_its_variables() -> None:
    source = """
    local count = 0
    return { name = "p", stages = {
      { name = "a", script = function() count = count + 1 process.run({ command = "waits" }) count = 100 end },
      { name = "b", script = function() log.info(count) end },
    } }"""
    async with loaded(source) as pipeline:
        asked = anyio.Event()

        async def wait(_: list[Value]) -> Value:
            asked.set()
            await anyio.sleep_forever()

        pipeline.host.answers["process.run"] = wait
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pipeline.run, "a")
            await asked.wait()
            tasks.cancel_scope.cancel()
        await pipeline.run("b")
        assert pipeline.host.lines == ["1"]


async def test_a_script_that_computes_is_killed_by_a_cancel() -> None:
    source = script('log.info("starts") while true do pcall(error) end')
    async with loaded(source) as pipeline:
        started = anyio.Event()
        log = pipeline.host.log

        async def tell(stage: str, level: Level, text: str, place: LogPlace) -> None:
            await log(stage, level, text, place)
            started.set()

        pipeline.host.log = tell
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pipeline.run)
            await started.wait()
            tasks.cancel_scope.cancel()
        with pytest.raises(MoonyardError, match="was stopped in stage `s`, and its variables are gone"):
            await pipeline.run()
