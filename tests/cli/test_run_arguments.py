"""``moonyard run --json`` met with odd values: arguments, files and inputs, of the right kinds and of wrong ones."""

from __future__ import annotations

import pytest

from tests.cli.command import moonyard
from tests.cli.conftest import Runner
from tests.cli.job_lines import ALPINE, SHELL, nothing_is_left, shape, succeeded


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
