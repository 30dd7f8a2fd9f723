"""``moonyard run --json`` of commands and blocks: how they end, time out, nest, and run out of memory."""

from __future__ import annotations

from tests.cli.conftest import Runner
from tests.cli.job_lines import ALPINE, DEBIAN, GIT, SHELL, nothing_is_left, shape, succeeded


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
