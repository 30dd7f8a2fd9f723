"""``moonyard run --json`` met with what strangers bring: odd values, odd surroundings, and ends at any moment."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import AsyncGenerator, Generator
from datetime import datetime
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from tests.cli.command import SECONDS, Line, Printed, argv, environment, moonyard
from tests.cli.conftest import Runner

ALPINE = "docker.io/library/alpine:latest"
DEBIAN = "docker.io/library/debian:bookworm"
GIT = "docker.io/alpine/git:latest"

SHELL = """
local function sh(script, options)
  local all = { command = "sh", args = { "-c", script }, check = false, stdout = "off", stderr = "off" }
  for name, value in pairs(options or {}) do all[name] = value end
  return process.run(all)
end
local function try(f, ...)
  local ok, err = pcall(f, ...)
  return ok and "ok" or type(err) == "table" and err.code or "lua_error", tostring(err)
end
"""
"""Lua that the pipelines below begin with."""


def shape(lines: list[Line]) -> None:
    """Check what holds for the lines of every job."""
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert len({(line["job"], line["attempt"]) for line in lines}) == 1
    moments = [line["at"] for line in lines]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", moment) for moment in moments)
    assert [datetime.fromisoformat(moment) for moment in moments] == sorted(map(datetime.fromisoformat, moments))
    assert [line["state"] for line in lines if line["type"] == "job"][:-1] in (["running"], [])
    assert lines[-1]["type"] == "job"
    assert lines[-1]["state"] in {"succeeded", "failed", "cancelled"}
    assert (lines[-1]["error"] is not None) == (lines[-1]["state"] == "failed")


def succeeded(printed: Printed) -> Printed:
    shape(printed.lines)
    assert printed.job["state"] == "succeeded", (printed.job, printed.texts(source="lua")[-3:])
    assert printed.code == 0
    assert printed.stderr == ""
    return printed


async def nothing_is_left(job: str, state_folder: Path) -> None:
    assert list((state_folder / "owners").glob("*/workspaces/*")) == []
    listed = await anyio.run_process(["podman", "ps", "--all", "--quiet", "--filter", f"label=moonyard.job={job}"])
    assert listed.stdout == b""


# --- arguments


async def test_arguments_of_wrong_kinds_are_refused_and_none_ends_the_job(run: Runner) -> None:
    printed = await run.script(
        SHELL
        + f"""
    local image = "{ALPINE}"
    local function block(options) container.run(image, options, function() error("this block was not to run") end) end
    local wrong = {{
      {{ block, {{ memory = 1/0 }} }}, {{ block, {{ memory = 0/0 }} }}, {{ block, {{ memory = 2^70 }} }},
      {{ block, {{ memory = "4m" }} }}, {{ block, {{ memory = "lots" }} }}, {{ block, {{ memory = "\\xff" }} }},
      {{ block, {{ cpus = 0/0 }} }}, {{ block, {{ cpus = 0 }} }}, {{ block, {{ cpus = "2" }} }},
      {{ block, {{ network = "host" }} }}, {{ block, {{ network = "\\xff" }} }},
      {{ block, {{ env = {{ ["A=B"] = "x" }} }} }}, {{ block, {{ env = {{ [""] = "x" }} }} }},
      {{ block, {{ env = {{ A = true }} }} }}, {{ block, {{ env = {{ "A=b" }} }} }},
      {{ block, {{ env = {{ ["a\\0b"] = 1 }} }} }},
      {{ block, {{ user = "\\xff" }} }}, {{ block, {{ entrypoint = {{ "a\\0" }} }} }}, {{ block, 7 }},
      {{ container.run, 5, print }}, {{ container.run, "", print }}, {{ container.run, image, {{}} }},
      {{ process.run, {{ command = "true", args = {{ "a", nil, "b" }} }} }},
      {{ process.run, {{ command = "true", args = "\\xff" }} }},
      {{ process.run, {{ command = "true", env = {{ [5] = "x" }} }} }},
      {{ process.run, {{ command = "true", env = {{ ["\\xff"] = "x" }} }} }},
      {{ process.run, {{ command = "true", env = {{ X = "\\xff" }} }} }},
      {{ process.run, {{ command = "true", stdout = "\\xff" }} }},
      {{ process.run, {{ command = "true", timeout = "\\xff" }} }},
      {{ process.run, {{ command = "true", timeout = 0 }} }}, {{ process.run, {{ command = "true", timeout = 1/0 }} }},
      {{ process.run, {{ command = "true", capture = 1e9 }} }},
      {{ process.run, {{ command = "true", user = "\\xff" }} }},
      {{ process.run, {{ command = "true", ["\\xff"] = 1 }} }}, {{ process.run, {{ command = "a\\0b" }} }},
      {{ process.run }}, {{ process.run, {{}} }}, {{ process.run, {{ "true" }} }}, {{ process.run, process, {{}} }},
      {{ time.sleep, -1 }}, {{ time.sleep, "soon" }}, {{ time.sleep }},
      {{ artifact.save, {{ path = "x", name = "\\xff" }} }},
      {{ artifact.save, {{ path = "no\\xff", name = "a" }} }},
    }}
    for index, call in ipairs(wrong) do
      local code, text = try(call[1], call[2], call[3])
      if code ~= "argument_invalid" then log.error(index, code, text) end
    end
    local cycle = {{}}
    cycle.cycle = cycle
    local many = {{}}
    for i = 1, 1000001 do many[i] = "" end
    for code, call in pairs({{
      not_plain = function() process.run({{ command = "true", args = {{ print }} }}) end,
      too_deep = function() process.run({{ command = "true", args = cycle }}) end,
      too_large = function() process.run({{ command = "true", args = many }}) end,
      secret_name_invalid = function() process.run({{ command = "true", secrets = {{ "\\xff" }} }}) end,
      path_not_found = function() artifact.save({{ path = "none", name = "a" }}) end,
      image_not_found = function() container.run("No Image!", print) end,
    }}) do
      local got, text = try(call)
      if got ~= code or text:find("table: ", 1, true) then log.error(got, code, text) end
    end
    many = nil
    local code, text = try(log.info, ("x"):rep(26 * 1024 * 1024))
    log.info(code, text)
    """
    )
    succeeded(printed)
    assert printed.texts(level="error") == []
    assert printed.texts(source="lua") == ["too_large log.info: more than 24 MiB cannot be passed at once"]
    assert printed.commands() == []


async def test_numbers_names_and_places_reach_a_command_as_they_are(run: Runner) -> None:
    printed = await run.script(
        SHELL
        + """
    local numbers = { 1, -5, 3.0, 2.5, 1e15, 0.1 + 0.2, 1/0, math.mininteger }
    local shown = {}
    for i, n in ipairs(numbers) do shown[i] = tostring(n) end
    local r = process.run({ command = "echo", args = numbers, stdout = "off" })
    assert(r.stdout == table.concat(shown, " ") .. "\\n", r.stdout)
    local variables = { A_B = "1", ["a.b-c d"] = "x\\ny", ["ü"] = "ü", MOONYARD_COMMAND = "not mine to set" }
    local env = "\\n" .. process.run({ command = "env", env = variables, stdout = "off" }).stdout
    for _, line in ipairs({ "A_B=1", "a.b-c d=x\\ny", "ü=ü", "CI=true", "MOONYARD_JOB=" .. job.id }) do
      assert(env:find("\\n" .. line .. "\\n", 1, true), line)
    end
    assert(not env:find("not mine to set", 1, true))
    sh("mkdir -p -- 'a b' 'c\\nd/e' ü '-x'; ln -s 'a b' link; ln -s missing broken; touch file")
    for cwd, place in pairs({ ["a b"] = "/workspace/a b", ["c\\nd/e"] = "/workspace/c\\nd/e", ["ü"] = "/workspace/ü",
        ["-x"] = "/workspace/-x", link = "/workspace/a b", ["link/.."] = "/workspace", [""] = "/workspace", ["/"] = "/",
        ["/tmp/../etc"] = "/etc", ["."] = "/workspace" }) do
      local r = process.run({ command = "pwd", args = { "-P" }, cwd = cwd, stdout = "off" })
      assert(r.stdout == place .. "\\n", cwd .. ": " .. r.stdout)
    end
    for _, cwd in ipairs({ "missing", "broken", "file", "..", "../tmp", "link/../../etc" }) do
      assert(try(process.run, { command = "pwd", cwd = cwd }) == "cwd_not_found", cwd)
    end
    for user, id in pairs({ nobody = "65534:65534", ["1234"] = "1234:0", ["1234:5"] = "1234:5" }) do
      local r = sh("echo $(id -u):$(id -g); echo x > by-" .. id:gsub(":", "-"), { user = user })
      assert(r.stdout == id .. "\\n", user)
    end
    assert(sh("id -u", { user = 77 }).stdout == "77\\n")
    assert(try(process.run, { command = "id", user = "nosuch" }) == "user_not_found")
    for command, code in pairs({ ["/etc"] = "command_not_executable", ["/etc/passwd"] = "command_not_executable",
        ["./missing"] = "command_not_found", ["echo x"] = "command_not_found", missing = "command_not_found" }) do
      assert(try(process.run, { command = command }) == code, command)
    end
    for _, name in ipairs({ "cd", "export", "exit", "eval", ":", ".", "set", "A=b", "moonyard_report" }) do
      assert(try(process.run, { command = name, args = { "x" } }) == "command_not_found", name)
    end
    sh("mkdir bin; printf '#!/bin/sh\\necho mine $1' > bin/true; chmod +x bin/true; cp bin/true bin/ls")
    for _, name in ipairs({ "true", "ls" }) do
      local r = process.run({ command = name, args = { "x" }, env = { PATH = "/workspace/bin:/bin" }, stdout = "off" })
      assert(r.stdout == "mine x\\n", name)
    end
    local code, text = try(process.run, { command = "/bin/sh", args = { "-c", ("x"):rep(5000000) }, stderr = "off" })
    assert(code ~= "ok" and #text < 2000, text:sub(1, 3000))
    error(("x"):rep(3000000))
    """
    )
    assert printed.code == 1
    shape(printed.lines)
    failed, cause = printed.errors
    assert failed.code == "stage_failed"
    assert cause.message.startswith("x" * 1000), cause.message[:500]
    assert max(len(line) for line in printed.stdout.splitlines()) < 300_000
    await nothing_is_left(printed.job["job"], run.state_folder)


# --- processes


async def test_ends_streams_and_signals_of_commands_are_told_as_they_are(run: Runner) -> None:
    printed = await run.script(
        SHELL
        + """
    local function is(r, code, stdout, stderr)
      local got = string.format("%d %q %q", r.code, r.stdout, r.stderr or "")
      assert(got == string.format("%d %q %q", code, stdout or "", stderr or ""), got)
      assert(r.ok == (code == 0))
    end
    is(sh("sleep 1000 & echo hi"), 0, "hi\\n")
    is(sh("setsid sleep 1000 & sleep 1000 & exit 5"), 5)
    is(sh("exec >&- 2>&-; exit 3"), 3)
    is(sh("exec <&-; exec >&-; echo x >&2", { stdin = ("x"):rep(500000) }), 0, "", "x\\n")
    is(process.run({ command = "cat" }), 0)
    is(process.run({ command = "cat", stdin = "" }), 0)
    is(process.run({ command = "true", stdin = ("x"):rep(3000000) }), 0)
    is(process.run({ command = "head", args = { "-c", 3 }, stdin = ("x"):rep(3000000), stdout = "off" }), 0, "xxx")
    for _, code in ipairs({ 1, 2, 125, 126, 127, 128, 255 }) do is(sh("exit " .. code), code) end
    for name, number in pairs({ TERM = 15, KILL = 9, SEGV = 11, USR1 = 10 }) do
      local r = sh("kill -" .. name .. " $$; sleep 100")
      assert(r.code == 128 + number and r.signal == "SIG" .. name, name)
    end
    is(sh("echo 'sh: not found' >&2; exit 127"), 127, "", "sh: not found\\n")
    is(sh("kill -9 1"), 0)
    is(sh("printf 'a\\\\nb'; printf 'c' >&2"), 0, "a\\nb", "c")
    local all = {}
    for i = 0, 255 do all[#all + 1] = string.format("\\\\%03o", i) end
    local bytes = sh("printf '" .. table.concat(all) .. "'").stdout
    assert(#bytes == 256)
    for i = 0, 255 do assert(bytes:byte(i + 1) == i, i) end
    is(process.run({ command = "cat", stdin = bytes, stdout = "debug" }), 0, bytes)
    is(sh("echo abcdef", { capture = 3 }), 0, "abc")
    is(sh("echo abcdef", { capture = false }), 0)
    local large = sh("head -c 16777217 /dev/zero; head -c 5 /dev/zero >&2", { capture = 16777216 })
    assert(#large.stdout == 16777216 and #large.stderr == 5)
    local long = "head -c 200000 /dev/zero | tr '\\\\0' x; echo; echo end"
    process.run({ command = "sh", args = { "-c", long }, capture = false })
    process.run({ command = "sh", args = { "-c", "for i in 1 2 3 4 5; do echo o$i; echo e$i >&2; done" } })
    """
    )
    succeeded(printed)
    told = printed.texts(source="stdout", level="info")
    assert "".join(told[:-6]) == "x" * 200_000
    assert max(len(text) for text in told) == 64 * 1024
    assert told[-6:] == ["end", "o1", "o2", "o3", "o4", "o5"]
    assert printed.texts(source="stderr")[-5:] == ["e1", "e2", "e3", "e4", "e5"]
    cut = [text for text in printed.texts(source="system") if text.startswith("process.run: stdout was ")]
    assert [text.split()[3] for text in cut] == ["7", "16777217"]


async def test_a_timeout_ends_one_command_and_its_container_serves_the_next(run: Runner) -> None:
    printed = await run.script(
        SHELL
        + f"""
    local function late(script, options)
      options = options or {{}}
      options.timeout = options.timeout or 0.3
      local code, text = try(sh, script, options)
      assert(code == "command_timeout", code .. " " .. text)
      local left = sh("ps | grep -v grep | grep -c 'sleep 4[3]21'").stdout
      assert(left == "0\\n", script .. " left " .. left)
    end
    sh("touch /tmp/mark")
    late("while :; do echo y; done", {{ capture = false }})
    late("trap '' TERM INT HUP; sleep 4321; sleep 4321; sleep 4321")
    late("setsid sleep 4321 & nohup sleep 4321 & (sleep 4321 &); wait")
    late("exec >&- 2>&- <&-; sleep 4321")
    late("env -i sh -c 'sleep 4321 & sleep 4321'")
    late("cat; sleep 4321", {{ stdin = ("x"):rep(3000000) }})
    late("sleep 4321", {{ timeout = 0.001 }})
    late("sleep 4321", {{ timeout = "200ms", user = "nobody" }})
    assert(sh("test -e /tmp/mark").ok)
    container.run("{DEBIAN}", function()
      local code = try(sh, "sleep 4321", {{ timeout = 0.3 }})
      assert(code == "command_timeout")
      assert(sh("echo alive").stdout == "alive\\n")
    end)
    assert(sh("echo alive").stdout == "alive\\n")
    """
    )
    succeeded(printed)
    stopped = [command for command in printed.commands() if command["code"] is None]
    assert len(stopped) == 9
    assert {command["error"]["code"] for command in stopped} == {"command_timeout"}


async def test_a_container_out_of_memory_is_told_and_only_that_container(run: Runner) -> None:
    printed = await run.script(
        SHELL
        + f"""
    local function eat() return {{ command = "awk", args = {{ 'BEGIN {{ s = "xxxxxxxx"; while (1) s = s s }}' }} }} end
    local code, text = try(container.run, "{ALPINE}", {{ memory = "16m" }}, function() process.run(eat()) end)
    log.info(code, text)
    assert(sh("echo alive").stdout == "alive\\n")
    """
    )
    succeeded(printed)
    (text,) = printed.texts(source="lua")
    assert text.startswith("command_failed command `awk ")
    assert "it ran out of memory" in text


# --- containers


async def test_blocks_nest_give_values_and_errors_and_keep_their_options_to_themselves(run: Runner) -> None:
    printed = await run.script(
        SHELL
        + f"""
    local A, D = "{ALPINE}", "{DEBIAN}"
    local function line(script) return (sh(script).stdout:gsub("\\n", "")) end
    local function where() return line("hostname") end
    local outer = where()
    local results = table.pack(container.run(A, {{ env = {{ L = "1" }} }}, function()
      local one = where()
      local inner = table.pack(container.run(D, {{ env = {{ L = 2 }}, workdir = "/tmp" }}, function()
        local two = where()
        local options = {{ user = "nobody", cpus = 0.5, memory = "64m", network = "none", workdir = "/tmp" }}
        return container.run(A, options, function()
          local three = where()
          assert(one ~= two and two ~= three and one ~= three and three ~= outer)
          sh("mkdir -p /workspace/kept; echo x > /workspace/kept/file")
          return line("echo [$L] $(id -un) $(pwd); ls /sys/class/net"), nil, two, nil
        end)
      end))
      assert(where() == one and line("echo $L") == "1")
      return inner[1], inner[2], inner[4], inner.n
    end))
    log.info(results.n, results[1], results[2], results[3], results[4])
    assert(where() == outer and line("echo [$L]") == "[]" and sh("test -e kept/file").ok)
    for name, fail in pairs({{
      mine = function() error({{ code = "mine", message = "deep", hint = "h" }}) end,
      lua_error = function() error("deep") end,
      command_failed = function() process.run({{ command = "false" }}) end,
      argument_invalid = function() process.run({{ comand = "false" }}) end,
    }}) do
      local code, text = try(container.run, A, function()
        container.run(D, function() container.run(A, fail) end)
      end)
      assert(code == name, code .. " " .. text)
      assert(where() == outer)
    end
    local ok, err = pcall(container.run, A, function() error() end)
    assert(ok == false and err == nil)
    assert(container.run(D, {{ entrypoint = {{ "env", "-i", "X=1" }} }}, function()
      return process.run({{ command = "/usr/bin/env", stdout = "off" }}).stdout
    end) == "X=1\\n")
    assert(try(container.run, A, {{ user = "nosuch" }}, print) == "container_start_failed")
    assert(try(container.run, A, {{ workdir = "missing" }}, function() process.run({{ command = "true" }}) end)
      == "cwd_not_found")
    container.run("{GIT}", function() process.run({{ command = "git", args = {{ "--version" }} }}) end)
    container.run(D, function()
      container.run(A, function() error({{ code = "outermost", cause = {{ code = 5, cause = "text" }} }}) end)
    end)
    """
    )
    assert printed.code == 1
    shape(printed.lines)
    assert printed.texts(source="lua") == ["4 [] nobody /tmplo nil nil 4"]
    assert printed.texts(source="stdout")[-1].startswith("git version ")
    assert [error.code for error in printed.errors] == ["stage_failed", "outermost", "5", "lua_error"]
    assert printed.errors[-1].message == "text"
    await nothing_is_left(printed.job["job"], run.state_folder)


async def test_coroutines_of_any_shape_can_wait_for_commands(run: Runner) -> None:
    printed = await run.script(
        SHELL
        + f"""
    local D = "{DEBIAN}"
    local function echo(text)
      local r = process.run({{ command = "echo", args = {{ text }}, stdout = "off" }})
      return (r.stdout:gsub("\\n", ""))
    end
    local function system() return sh("test -e /etc/debian_version").ok and "debian" or "alpine" end
    local thread = coroutine.create(function(a)
      local b = coroutine.yield(echo(a), "more")
      error({{ code = "mine", message = b }})
    end)
    local ok, one, more = coroutine.resume(thread, "one")
    assert(ok and one == "one" and more == "more" and coroutine.status(thread) == "suspended")
    local failed, err = coroutine.resume(thread, "two")
    assert(failed == false and err.code == "mine" and err.message == "two" and coroutine.status(thread) == "dead")
    assert(select(2, coroutine.resume(thread)) == "cannot resume dead coroutine")
    local closed, why = coroutine.close(thread)
    assert(closed == false and why == err)
    local list = {{}}
    for value in coroutine.wrap(function()
      for i = 1, 3 do coroutine.yield(coroutine.wrap(function() return echo("n" .. i) end)()) end
    end) do list[#list + 1] = value end
    assert(table.concat(list, ",") == "n1,n2,n3")
    assert(try(coroutine.wrap(function() process.run({{ command = "missing" }}) end)) == "command_not_found")
    local inner_ok, inner = coroutine.wrap(function() return pcall(process.run, {{ command = "missing" }}) end)()
    assert(inner_ok == false and inner.code == "command_not_found")
    assert(("E: " .. inner):find("E: command `missing` not found", 1, true))
    assert(select(2, xpcall(process.run, function(e) return "handled " .. e.code end, {{ command = "missing" }}))
      == "handled command_not_found")
    -- A block goes with the coroutine that opened it, and with those that it resumes.
    local opener = coroutine.wrap(function()
      container.run(D, function() coroutine.yield(system()) coroutine.yield(system()) end)
      return "end"
    end)
    assert(opener() .. system() .. opener() .. opener() == "debianalpinedebianend")
    local asker = coroutine.wrap(function() while true do coroutine.yield(system()) end end)
    assert(asker() .. container.run(D, asker) .. asker() == "alpinedebianalpine")
    local left = coroutine.create(function() container.run(D, function() coroutine.yield() end) end)
    coroutine.resume(left)
    assert(coroutine.close(left) and system() == "alpine")
    do local guard <close> = setmetatable({{}}, {{ __close = function() list[#list + 1] = echo("closed") end }}) end
    assert(list[4] == "closed")
    local object = setmetatable({{}}, {{
      __index = function(_, key) return echo(key) end, __add = function() return echo("sum") end,
      __call = function(_, text) return echo(text) end, __concat = function() return echo("joined") end,
    }})
    assert(object.key == "key" and object + 1 == "sum" and object("called") == "called" and object .. "x" == "joined")
    for name, call in pairs({{
      sort = function() table.sort({{ 3, 2, 1 }}, function(a, b) echo("x") return a < b end) end,
      gsub = function() string.gsub("abc", ".", function() echo("x") end) end,
      tostring = function() tostring(setmetatable({{}}, {{ __tostring = function() return echo("x") end }})) end,
    }}) do
      local code, text = try(call)
      assert(code == "call_in_callback" and text:find("process.run", 1, true), name)
    end
    for _, name in ipairs({{ "resume", "close", "status" }}) do
      local code, said = try(coroutine[name], 5)
      assert(said:find("coroutine expected", 1, true) and not said:find("moonyard", 1, true), said)
    end
    local _, said = try(coroutine.close, (coroutine.running()))
    assert(said:find("cannot close a running coroutine", 1, true) and not said:find("moonyard", 1, true), said)
    local function deep(n) if n == 0 then return echo("deep") end return coroutine.wrap(deep)(n - 1) end
    assert(deep(60) == "deep")
    assert(load("return process.run({{ command = 'true' }}).ok")())
    for i = 1, 10000 do log.debug("line " .. i) end
    log.info("\\xff\\0ü", nil, 1.5)
    log.warn("a\\nb\\n")
    print()
    log.error(("x"):rep(70000))
    error(setmetatable({{}}, {{ __tostring = function() error("no") end }}))
    """
    )
    assert printed.code == 1
    shape(printed.lines)
    assert printed.texts(source="lua", level="debug") == [f"line {number}" for number in range(1, 10_001)]
    assert printed.texts(source="lua", level="info") == ["\\xff\\x00ü nil 1.5", ""]
    assert printed.texts(source="lua", level="warn") == ["a", "b", ""]
    assert [len(text) for text in printed.texts(source="lua", level="error")] == [65_536, 4_464]
    assert printed.errors[1].message == "error called with a table whose tostring fails"
    await nothing_is_left(printed.job["job"], run.state_folder)


# --- timeouts of stages and jobs


async def test_a_stage_that_ran_out_of_time_inside_blocks_is_tried_again_with_its_variables(run: Runner) -> None:
    printed = await run(
        SHELL
        + f"""
    local tries = 0
    return {{ name = "p", stages = {{
      {{ name = "s", timeout = 1, retries = 3, script = function()
        tries = tries + 1
        if tries == 3 then return end
        container.run("{ALPINE}", function()
          container.run("{ALPINE}", function() pcall(process.run, {{ command = "sleep", args = {{ "1000" }} }}) end)
        end)
      end }},
      {{ name = "t", script = function() log.info(tries) end }},
    }} }}"""
    )
    succeeded(printed)
    assert printed.texts(source="lua") == ["3"]
    states = [line["state"] for line in printed.lines if line["type"] == "stage" and line["stage"] == "s"]
    assert states == ["running", "failed", "running", "failed", "running", "succeeded"]
    assert {command["error"]["code"] for command in printed.commands()} <= {"command_stopped"}
    await nothing_is_left(printed.job["job"], run.state_folder)


async def test_a_script_that_only_the_end_of_its_process_could_stop_is_not_tried_again(run: Runner) -> None:
    printed = await run("""
    return { name = "p", stages = {
      { name = "s", timeout = "300ms", retries = 5, script = function() while true do pcall(error) end end },
      { name = "t", script = function() end },
    } }""")
    assert printed.code == 1
    shape(printed.lines)
    assert [error.code for error in printed.errors] == ["stage_failed", "stage_timeout"]
    stages = [(line["stage"], line["state"]) for line in printed.lines if line["type"] == "stage"]
    assert stages == [("s", "running"), ("s", "failed"), ("t", "skipped")]


async def test_a_jobs_timeout_ends_a_command_in_a_block_and_skips_the_rest(run: Runner) -> None:
    printed = await run(f"""
    return {{ name = "p", timeout = 1.5, stages = {{
      {{ name = "s", retries = 5, script = function()
        container.run("{ALPINE}", function() process.run({{ command = "sleep", args = {{ "1000" }} }}) end)
      end }},
      {{ name = "t", script = function() end }},
    }} }}""")
    assert printed.code == 1
    shape(printed.lines)
    assert [error.code for error in printed.errors] == ["job_timeout"]
    stages = [(line["stage"], line["state"]) for line in printed.lines if line["type"] == "stage"]
    assert stages == [("s", "running"), ("s", "cancelled"), ("t", "skipped")]
    await nothing_is_left(printed.job["job"], run.state_folder)


@pytest.fixture
def silent_registry() -> Generator[str]:
    """A registry's address at which connections are taken and nothing is ever said."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        yield f"127.0.0.1:{listening.getsockname()[1]}"


async def test_a_stages_timeout_ends_a_pull(run: Runner, silent_registry: str) -> None:
    printed = await run.script(
        'process.run({ command = "true" })', container=f'"{silent_registry}/x:y"', timeout='"500ms"'
    )
    assert printed.code == 1
    shape(printed.lines)
    assert [error.code for error in printed.errors] == ["stage_failed", "stage_timeout"]
    assert any(text.startswith("pulling image") for text in printed.texts(source="system"))


# --- ends from outside


def until(line: Line) -> dict[str, str]:
    return {name: value for name, value in line.items() if isinstance(value, str)}


@pytest.mark.parametrize(
    ("wanted", "body", "number"),
    [
        ({"type": "log", "source": "system"}, 'container.run("REGISTRY/x:y", print)', signal.SIGINT),
        ({"type": "stage", "state": "running"}, 'process.run({ command = "true" }) time.sleep(1000)', signal.SIGTERM),
        ({"type": "log", "text": "go"}, 'log.info("go") while true do pcall(error) end', signal.SIGHUP),
        ({"type": "log", "text": "go"},
         """while true do pcall(process.run, { command = "sh",
              args = { "-c", "trap '' INT TERM; echo go; sleep 99" } }) end""",
         signal.SIGINT),
        ({"type": "log", "source": "stdout"}, 'process.run({ command = "yes" })', signal.SIGTERM),
        ({"type": "log", "text": "go"},
         f"""container.run("{ALPINE}", function() container.run("{ALPINE}", function()
              process.run({{ command = "sh", args = {{ "-c", "echo go; sleep 1000" }} }}) end) end)""", signal.SIGINT),
        ({"type": "stage", "state": "succeeded"}, 'process.run({ command = "true" })', signal.SIGINT),
    ],
    ids=["pulling", "creating", "computing", "catching", "flooding", "nested", "removing"],
)  # fmt: skip
async def test_a_signal_to_the_whole_process_group_cancels_the_job_at_any_moment(
    run: Runner, silent_registry: str, wanted: dict[str, str], body: str, number: signal.Signals
) -> None:
    source = (
        'return { name = "p", cancel_grace = "500ms", stages = { { name = "s", script = function() BODY end } } }'
    ).replace("BODY", body.replace("REGISTRY", silent_registry))
    # As a terminal does it: everything that was started in the foreground gets the signal.
    command = shlex.join(argv(*run.arguments(source)))
    async with await anyio.open_process(
        ["sh", "-c", f"exec {command}"],
        cwd=run.folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        text = b""
        with anyio.fail_after(SECONDS):
            seen = False
            while not seen:
                text += await process.stdout.receive()
                lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")]
                seen = any(wanted.items() <= until(line).items() for line in lines)
            os.killpg(process.pid, number)
            async for chunk in process.stdout:
                text += chunk
            said = b"".join([chunk async for chunk in process.stderr])
            await process.wait()
    lines = [json.loads(line) for line in text.splitlines()]
    shape(lines)
    assert b"Traceback" not in said
    assert number.name.encode() in said
    # It may have come to its own end just before.
    assert (process.returncode, lines[-1]["state"]) in {(1, "cancelled"), (0, "succeeded")}
    assert lines[-1]["state"] == "cancelled" or wanted == {"type": "stage", "state": "succeeded"}
    await nothing_is_left(lines[-1]["job"], run.state_folder)


async def test_a_reader_that_goes_away_ends_the_run_and_leaves_nothing(run: Runner) -> None:
    source = """return { name = "p", stages = { { name = "s", script = function()
      process.run({ command = "yes", args = { ("y"):rep(2000) } }) end } } }"""
    theirs, ours = os.pipe()
    with subprocess.Popen(  # noqa: ASYNC220  # a pipe that is really closed
        argv(*run.arguments(source)), cwd=run.folder, env=environment(), stdout=ours, stderr=subprocess.PIPE
    ) as process:
        os.close(ours)
        with os.fdopen(theirs, "rb") as reader:
            lines: list[Line] = []
            while not lines or lines[-1].get("source") != "stdout":
                lines.append(json.loads(await anyio.to_thread.run_sync(reader.readline)))
        _, said = await anyio.to_thread.run_sync(lambda: process.communicate(timeout=SECONDS))
        assert (process.returncode, said) == (2, b"")
    await nothing_is_left(lines[0]["job"], run.state_folder)


async def test_two_runs_share_a_state_folder_and_neither_clears_up_the_other(run: Runner) -> None:
    source = """return { name = "p", inputs = { n = { type = "integer" } }, stages = {
      { name = "s", script = function(job)
      process.run({ command = "sh", args = { "-c", "echo " .. job.inputs.n .. " > file" } })
      for _ = 1, 10 do process.run({ command = "cat", args = { "file" } }) end
    end } } }"""
    arguments = run.arguments(source)
    results: dict[str, Printed] = {}

    async def one(number: str) -> None:
        results[number] = await moonyard(*arguments, "--input", f"n={number}", cwd=run.folder)

    async with anyio.create_task_group() as tasks:
        for number in ("1", "2", "3"):
            tasks.start_soon(one, number)
    for number, printed in results.items():
        assert succeeded(printed).texts(source="stdout") == [number] * 10


# --- surroundings


async def shell(run: Runner, redirection: str, *, without: str = "", source: str | None = None) -> Printed:
    """Run a pipeline by a shell, with its redirections, and without some environment variables."""
    arguments = run.arguments(
        source or 'return { name = "p", stages = { { name = "s", script = function() log.info("ü") end } } }'
    )
    kept = {name: value for name, value in environment().items() if name not in without.split()}
    with anyio.fail_after(SECONDS):
        done = await anyio.run_process(
            ["sh", "-c", f"{shlex.join(argv(*arguments))} {redirection}"], cwd=run.folder, env=kept, check=False
        )
    return Printed(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.parametrize("redirection", ["<&-", "2>&-", "<&- 2>&-", "</dev/null"])
async def test_a_run_started_without_some_of_its_streams_works(run: Runner, redirection: str) -> None:
    printed = succeeded(await shell(run, redirection, source=f"""return {{ name = "p", stages = {{
      {{ name = "s", container = "{ALPINE}", script = function()
        process.run({{ command = "echo", args = {{ "ü" }} }})
      end }}
    }} }}"""))  # fmt: skip
    assert printed.texts(source="stdout") == ["ü"]


async def test_a_run_without_a_stdout_does_its_work_and_one_with_a_full_disk_says_so(run: Runner) -> None:
    for redirection in (">&-", "<&- >&-", "<&- >&- 2>&-"):
        closed = await shell(run, redirection)
        assert (closed.code, closed.stdout, closed.stderr) == (0, "", "")
    full = await shell(run, ">/dev/full")
    assert full.code == 2
    assert full.stderr.startswith(
        "error[output_lost] the job was cancelled: its output cannot be written to stdout (No sp"
    )
    assert "Traceback" not in full.stderr
    assert list((run.state_folder / "owners").iterdir()) == []


async def test_a_bare_environment_and_the_plainest_locale_are_enough(run: Runner) -> None:
    printed = succeeded(await shell(run, "", without="HOME TMPDIR LANG LC_ALL LC_CTYPE USER LOGNAME TERM"))
    assert printed.texts(source="lua") == ["ü"]
    path = run.folder / "try.lua"
    options = ["run", str(path), "--state-folder", str(run.state_folder)]
    for more in ({"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}):
        people = await moonyard(*options, cwd=run.folder, **more)
        assert people.code == 0, people
        assert "succeeded" in people.stdout
        assert people.stderr == ""


async def test_artifacts_that_stand_in_each_others_way_or_in_a_folder_that_is_none_are_told(run: Runner) -> None:
    body = """
    sh('printf x > x; printf y > y')
    artifact.save("x")
    artifact.save({ path = "y", name = "p/q" })
    local long = ("ü"):rep(200)
    log.info((try(artifact.save, "x")), (try(artifact.save, { path = "x", name = "x/y" })),
      (try(artifact.save, { path = "x", name = "p" })), (try(artifact.save, { path = "x", name = long })))
    """
    printed = succeeded(await run.script(SHELL + body))
    assert printed.texts(source="lua") == ["artifact_exists artifact_exists artifact_exists artifact_not_kept"]
    folder = run.folder / ".moonyard" / "artifacts" / printed.job["id"]
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {"x", "p/q"}
    assert (folder / "p" / "q").read_text() == "y"
    elsewhere = Runner(run.folder / "blocked", run.state_folder)
    elsewhere.folder.mkdir()
    (elsewhere.folder / ".moonyard").write_text("in the way")
    blocked = await elsewhere.script(SHELL + body)
    assert blocked.code == 1
    assert blocked.errors[1].code == "artifact_not_kept"
    assert blocked.errors[1].where is not None
    assert blocked.errors[1].where.startswith("try.lua:")
    assert "Traceback" not in blocked.stderr


async def test_a_workspace_of_anything_is_removed(run: Runner) -> None:
    printed = await run.script(
        SHELL
        + """
    sh([[
      i=0; d=dddddddddddddddddddddddddddddddddddddddd
      while [ $i -lt 1500 ]; do mkdir $d; cd $d; i=$((i+1)); done
      echo deep > file; cd /workspace
      mkdir -p '0/1/2' '1' "$(printf 'new\\nline')" "$(printf '\\377')"
      mkfifo fifo 0/1/fifo; ln -s / root; ln -s .. 0/up
      touch "$(printf '%0255d')"; chmod -R 000 0 1; chown 12345:12345 1; chmod 000 .
    ]])
    """
    )
    succeeded(printed)
    await nothing_is_left(printed.job["job"], run.state_folder)
    assert list((run.state_folder / "owners").iterdir()) == []


# --- files and inputs


async def test_files_that_cannot_be_run_and_usage_that_is_wrong_end_with_a_job_line_and_code_2(run: Runner) -> None:
    good = 'return { name = "p", stages = { { name = "s", script = function() end } } }'
    state = ["--state-folder", str(run.state_folder)]
    (run.folder / "file").write_text("x")
    (run.folder / "good.lua").write_text(good)
    for arguments, code in (
        ([".", *state], "file_unreadable"),
        (["missing-\udcff.lua", *state], "file_not_found"),
        (["good.lua/x", *state], "file_unreadable"),
        (["good.lua", "--state-folder", "file/state"], "state_folder_unusable"),
        (["good.lua", "--input", "x", *state], "usage"),
        (["good.lua", "--input", "x=1", "--input", "x=2", *state], "usage"),
        (["good.lua", "--input", "x=\udcff", *state], "usage"),
        (["good.lua", "--input", "x=1", *state], "inputs_invalid"),
        (["good.lua", "--engine-socket", "/nosuch", *state], "engine_unavailable"),
    ):
        printed = await moonyard("run", "--json", *arguments, cwd=run.folder)
        assert printed.code == 2, printed
        shape(printed.lines)
        assert printed.job["error"]["code"] == code, printed
        assert "Traceback" not in printed.stderr
        assert printed.stderr


@pytest.mark.parametrize(
    ("name", "before"),
    [("try.lua", b"\xef\xbb\xbf"), ("try.lua", b"#!/usr/bin/env -S moonyard run\n"), ("a\udcff b:3: \n.lua", b""),
     ("x" * 200 + ".lua", b"\r\n")],
)  # fmt: skip
async def test_a_file_named_or_begun_oddly_runs_and_its_errors_name_the_line(
    run: Runner, name: str, before: bytes
) -> None:
    source = before + b'\nreturn { name = "p", stages = { { name = "s", script = function() error("here") end } } }\n'
    (run.folder / name).write_bytes(source)
    options = ["--json", "--state-folder", str(run.state_folder)]
    printed = await moonyard("run", name, *options, cwd=run.folder)
    assert printed.code == 1, printed
    shape(printed.lines)
    line = 2 + before.count(b"\n")
    assert printed.errors[1].message == "here"
    assert printed.errors[1].where is not None
    assert printed.errors[1].where.endswith(f".lua:{line}")
    assert printed.stderr == ""


async def test_inputs_of_each_type_arrive_as_that_type(run: Runner) -> None:
    source = """return { name = "p", inputs = {
        s = { type = "string", default = "d" }, n = { type = "number" }, i = { type = "integer", default = 7 },
        b = { type = "boolean", default = true }, e = { type = "string", default = "" } },
      stages = { { name = "s", script = function(job)
        for _, name in ipairs({ "s", "n", "i", "b", "e" }) do
          local value = job.inputs[name]
          log.info(name, math.type(value) or type(value), value)
        end
      end } } }"""
    plain = succeeded(await run(source, "--input", "n=2.5"))
    assert plain.texts(source="lua") == [
        "s string d", "n float 2.5", "i integer 7", "b boolean true", "e string ",
    ]  # fmt: skip
    odd = ['s=a\nb="ü" \' $x', "n=-1e3", "i=-9223372036854775808", "b=no", "e=  "]
    given = succeeded(await run(source, *[word for value in odd for word in ("--input", value)]))
    assert given.texts(source="lua") == [
        "s string a", "b=\"ü\" ' $x", "n float -1000.0", "i integer -9223372036854775808",
        "b boolean false", "e string   ",
    ]  # fmt: skip
    for values in (["n=nan", "i=1.5", "b=maybe"], ["n=-inf", "i=9223372036854775808", "b="], ["n=x", "i=", "b=2"]):
        wrong = await run(source, *[word for value in values for word in ("--input", value)])
        assert (wrong.code, wrong.job["error"]["code"]) == (2, "inputs_invalid")
        for name in "nib":
            assert f"`{name}` must be of type" in wrong.job["error"]["message"]


# --- git


@pytest.fixture
async def repositories(tmp_path: Path, unused_port: int) -> AsyncGenerator[tuple[str, str]]:
    """A git server with a repository and an empty one, as containers reach it, and the repository's first commit."""
    folder = tmp_path / "repositories"
    folder.mkdir()
    script = """
      git init -q -b main repo; cd repo; git config user.email a@example.org; git config user.name A
      for i in 1 2 3; do echo $i > f; git add f; git commit -q -m $i; done
      git tag v1 HEAD~1; git checkout -q -b feature/ü; echo u > u; git add u; git commit -q -m u; git checkout -q main
      git init -q --bare ../empty.git; git rev-parse HEAD~2"""
    made = await anyio.run_process(["sh", "-ec", script], cwd=folder)
    arguments = [f"--base-path={folder}", "--export-all", "--listen=0.0.0.0", f"--port={unused_port}", "--verbose"]
    async with await anyio.open_process(["git", "daemon", *arguments], stdin=subprocess.DEVNULL) as daemon:
        assert daemon.stderr is not None
        said = b""
        with anyio.fail_after(SECONDS):
            while b"Ready to rumble" not in said:
                said += await daemon.stderr.receive()
        yield f"git://host.containers.internal:{unused_port}/", made.stdout.decode().strip()
        daemon.terminate()


async def test_a_repository_is_cloned_by_branch_tag_and_commit_and_what_is_there_already_is_not_touched(
    run: Runner, repositories: tuple[str, str]
) -> None:
    address, commit = repositories
    printed = await run(
        SHELL
        + f"""
    local address, commit = "{address}", "{commit}"
    local function content(path) return (sh("cat f u 2>/dev/null | tr -d '\\n'", {{ cwd = path }}).stdout) end
    local function clone(options) options.url = address .. (options.url or "repo") return git.clone(options) end
    return {{ name = "p", plugins = {{ "git" }}, stages = {{ {{ name = "s", script = function()
      assert(require("git") == git)
      assert(clone({{ path = "sub/main dir" }}).path == "sub/main dir" and content("sub/main dir") == "3")
      clone({{ path = "branch", branch = "feature/ü" }})
      clone({{ path = "tag", branch = "v1", depth = 0 }})
      assert(content("branch") == "3u" and content("tag") == "2")
      assert(sh("ls -A").stdout == "branch\\nsub\\ntag\\n")
      for index, name in ipairs({{ commit, commit:upper() }}) do
        assert(clone({{ path = "c" .. index, branch = name }}).commit == commit and content("c" .. index) == "1")
      end
      sh("touch branch/mine file; mkdir empty")
      for code, options in pairs({{
        command_failed = {{ path = "none", url = "nosuch" }},
        git_path_not_empty = {{ path = "branch", branch = commit }},
        git_repository_empty = {{ path = "none", url = "empty.git" }}, argument_invalid = {{ path = "../x" }},
      }}) do
        local got, text = try(clone, options)
        assert(got == code and not text:find("table: ", 1, true), got .. " " .. text)
      end
      assert(content("branch") == "3u" and sh("test -e branch/mine").ok)
      assert(try(clone, {{ path = "file", branch = commit }}) == "git_path_not_empty")
      assert(try(clone, {{ path = "branch" }}) == "git_path_not_empty")
      assert(try(clone, {{ path = "file" }}) == "git_path_not_empty" and sh("test -f file").ok)
      assert(clone({{ path = "empty", branch = commit }}).commit == commit)
      for _, options in ipairs({{ {{ branch = ("0"):rep(40) }}, {{ branch = "nosuch" }}, {{ url = "nosuch" }} }}) do
        options.path = "gone"
        local code, text = try(clone, options)
        assert(code == "command_failed" and text:find("fatal: ", 1, true), text)
        assert(sh("test -e gone").code == 1, text)
      end
      sh("rm -rf /workspace/* && ls -A")
      assert(clone({{ branch = commit }}).path == "." and content(".") == "1")
    end }} }} }}"""
    )
    succeeded(printed)
    assert {command["container"] for command in printed.commands() if command["argv"][0] == "git"} == {GIT}
