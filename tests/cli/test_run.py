"""``moonyard run`` as programs and people meet it: the real command, real containers, no server."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import pytest

from tests.chaos import processes
from tests.chaos.installation import LUA_PARENT
from tests.cli.command import ROOT, SECONDS, moonyard, started
from tests.cli.conftest import Runner

PYTHON = "docker.io/library/python:3.11"
DEBIAN = "docker.io/library/debian:bookworm"


async def test_the_hello_example_prints_its_lines_and_ends_with_the_jobs(state_folder: Path, tmp_path: Path) -> None:
    example = str(ROOT / "examples" / "hello.lua")
    options = ["--json", "--input", "name=you", "--state-folder", str(state_folder)]
    printed = await moonyard("run", example, *options, cwd=tmp_path)
    assert printed.code == 0
    assert (printed.job["state"], printed.job["error"]) == ("succeeded", None)
    assert printed.texts(source="stdout") == ["Hello, you, from a container!"]
    assert [line["seq"] for line in printed.lines] == list(range(1, len(printed.lines) + 1))
    assert {line["job"] for line in printed.lines} == {printed.job["id"]}
    stages = [(line["stage"], line["state"]) for line in printed.lines if line["type"] == "stage"]
    assert stages == [("greet", "running"), ("greet", "succeeded")]
    (command,) = printed.commands()
    assert command["argv"] == ["echo", "Hello, you, from a container!"]
    assert (command["code"], command["container"]) == (0, "docker.io/library/alpine:latest")
    assert command["duration"] > 0


async def test_the_failing_example_ends_with_code_1_and_the_chain_of_errors(state_folder: Path, tmp_path: Path) -> None:
    example = str(ROOT / "examples" / "failing.lua")
    printed = await moonyard("run", example, "--json", "--state-folder", str(state_folder), cwd=tmp_path)
    assert printed.code == 1
    assert printed.job["state"] == "failed"
    assert [error.code for error in printed.errors] == ["stage_failed", "command_failed"]
    assert {error.where for error in printed.errors} == {"failing.lua:5"}
    assert "exited with code 3" in printed.errors[1].message
    assert printed.errors[1].trace is not None
    assert "'test_suite'" in printed.errors[1].trace[0]
    assert [(line["stage"], line["state"]) for line in printed.lines if line["type"] == "stage"][-1] == (
        "deploy",
        "skipped",
    )
    people = await moonyard("run", example, "--state-folder", str(state_folder), cwd=tmp_path)
    assert people.code == 1
    for words in ("1 of 12 failed", "error[stage_failed] failing.lua:5", "at failing.lua:5: in function", "hint: "):
        assert words in people.stdout


async def test_arguments_arrive_as_they_are_given(run: Runner) -> None:
    printed = await run.script("""
    local odd = { "", " ", "two words", "'single'", '"double"', "$HOME", "`id`", "$(id)", "*", "~", "-n", "--", "a\\nb",
      "tab\\t", "back\\\\slash", "ünï", "!", ";", "&&", "|", ">x", "#", "%s", "{}", "[a]", 1, 2.5, "=" }
    local r = process.run({ command = "sh", args = { "-c", 'for a in "$@"; do printf "%s\\\\0" "$a"; done', "sh",
      table.unpack(odd) }, stdout = "off" })
    local got = {}
    for a in r.stdout:gmatch("([^\\0]*)\\0") do got[#got + 1] = a end
    for i, a in ipairs(odd) do
      if got[i] ~= tostring(a) then error(string.format("%q became %q", tostring(a), tostring(got[i]))) end
    end
    assert(#got == #odd, #got)
    r = process.run({ command = "env", env = { ODD = "a 'b' \\"c\\" $d\\n=e", EMPTY = "", N = 5 }, stdout = "off" })
    assert(("\\n" .. r.stdout):find("\\nODD=a 'b' \\"c\\" $d\\n=e\\n", 1, true), r.stdout)
    assert(("\\n" .. r.stdout):find("\\nEMPTY=\\n", 1, true))
    assert(("\\n" .. r.stdout):find("\\nN=5\\n", 1, true))
    r = process.run({ command = "cat", stdin = "line 1\\n\\0\\xffno newline", stdout = "off" })
    assert(r.stdout == "line 1\\n\\0\\xffno newline")
    r = process.run({ command = "cat", stdin = ("0123456789"):rep(500000), capture = 16 * 1024 * 1024, stdout = "off" })
    assert(#r.stdout == 5000000, #r.stdout)
    process.run({ command = "mkdir", args = { "-p", "sub/dir with space" } })
    assert(process.run({ command = "pwd", cwd = "sub/dir with space" }).stdout == "/workspace/sub/dir with space\\n")
    assert(process.run({ command = "pwd", cwd = "/tmp" }).stdout == "/tmp\\n")
    """)
    assert printed.code == 0, printed.stdout


async def test_results_and_checks(run: Runner) -> None:
    printed = await run.script("""
    local r = process.run({ command = "sh", args = { "-c", "echo out; echo err >&2; exit 7" }, check = false })
    assert(r.code == 7 and r.ok == false and r.stdout == "out\\n" and r.stderr == "err\\n" and r.duration > 0)
    r = process.run({ command = "true" })
    assert(r.code == 0 and r.ok == true and r.stdout == "" and r.stderr == "")
    r = process.run({ command = "sh", args = { "-c", "kill -9 $$" }, check = false })
    assert(r.code == 137 and r.signal == "SIGKILL", tostring(r.code) .. tostring(r.signal))
    local ok, err = pcall(process.run, { command = "sh", args = { "-c", "exit 4" } })
    assert(not ok and err.code == "command_failed" and tostring(err):find("exited with code 4", 1, true))
    ok, err = pcall(process.run, { command = "no-such-command", args = { "x" } })
    assert(not ok and err.code == "command_not_found", err.code)
    log.info(tostring(err))
    ok, err = pcall(process.run, { command = "true", cwd = "missing" })
    log.info(err.code, tostring(err))
    ok, err = pcall(process.run, { comand = "true" })
    log.info(err.code, tostring(err))
    ok, err = pcall(process.run, { command = "true", stdout = "loud" })
    log.info(err.code, tostring(err))
    ok, err = pcall(process.run, "make all")
    log.info(err.code, tostring(err))
    """)
    assert printed.code == 0, printed.stdout
    not_found, no_folder, unknown, level, text = printed.texts(source="lua")
    assert "`no-such-command`" in not_found
    assert "docker.io/library/alpine:latest" in not_found
    assert no_folder.startswith("cwd_not_found ")
    assert "missing" in no_folder
    assert unknown.startswith("argument_invalid process.run: `comand` is not an argument; did you mean `command`?")
    assert level == (
        'argument_invalid process.run: `stdout` must be one of "debug", "info", "warn", "error", "off", got "loud"'
    )
    assert text == "argument_invalid process.run takes one table of named arguments, got a string"
    assert [command["code"] for command in printed.commands()[:4]] == [7, 0, 137, 4]


async def test_variables_live_across_stages_and_containers(run: Runner) -> None:
    printed = await run(f"""
    local seen = {{}}
    local function system()
      return process.run({{ command = "cat", args = {{ "/etc/os-release" }}, stdout = "off" }}).stdout
    end
    return {{ name = "p", stages = {{
      {{ name = "last", needs = {{ "own" }}, script = function()
          log.info(seen.file, seen.default ~= seen.own, seen.default == seen.after, seen.own == seen.block)
        end }},
      {{ name = "first", script = function()
          seen.default = system()
          process.run({{ command = "sh", args = {{ "-c", "echo kept > file; hostname > /tmp/only-here" }} }})
          container.run("{DEBIAN}", function()
            seen.block = system()
            container.run("{PYTHON}", {{ network = "none" }}, function()
              seen.file = process.run({{ command = "cat", args = {{ "file" }} }}).stdout:gsub("%s", "")
            end)
            assert(process.run({{ command = "test", args = {{ "-e", "/tmp/only-here" }}, check = false }}).code == 1)
          end)
          seen.after = system()
          assert(process.run({{ command = "test", args = {{ "-e", "/tmp/only-here" }} }}).ok)
        end }},
      {{ name = "own", needs = {{ "first" }}, container = "{DEBIAN}", script = function() seen.own = system() end }},
    }} }}""")
    assert printed.code == 0, printed.stdout
    assert printed.texts(source="lua") == ["kept true true true"]
    stages = [line["stage"] for line in printed.lines if line["type"] == "stage" and line["state"] == "running"]
    assert stages == ["first", "own", "last"]
    images = [command["container"] for command in printed.commands()]
    assert images.count(PYTHON) == 1
    assert images.count(DEBIAN) == 3


async def test_each_stream_goes_to_the_log_at_its_level(run: Runner) -> None:
    printed = await run.script("""
    local both = { "-c", "echo out; echo err >&2" }
    process.run({ command = "sh", args = both })
    process.run({ command = "sh", args = both, stdout = "debug", stderr = "error" })
    process.run({ command = "sh", args = both, stdout = "off", stderr = "info" })
    process.run({ command = "printf", args = { "no newline" } })
    process.run({ command = "printf", args = { "a\\\\r\\\\nb\\\\n\\\\nlatin \\\\351\\\\n" } })
    log.debug("d") log.info("i\\nj") log.warn("w") log.error("e")
    """)
    assert printed.code == 0, printed.stdout
    logged = [(line["level"], line["source"], line["text"]) for line in printed.lines if line["type"] == "log"]
    out_of = [entry for entry in logged if entry[1] != "lua"]
    assert sorted(out_of[:2]) == [("info", "stdout", "out"), ("warn", "stderr", "err")]
    assert sorted(out_of[2:4]) == [("debug", "stdout", "out"), ("error", "stderr", "err")]
    assert out_of[4:] == [
        ("info", "stderr", "err"),
        ("info", "stdout", "no newline"),
        ("info", "stdout", "a"),
        ("info", "stdout", "b"),
        ("info", "stdout", ""),
        ("info", "stdout", "latin \\xe9"),
    ]
    assert [entry for entry in logged if entry[1] == "lua"] == [
        ("debug", "lua", "d"),
        ("info", "lua", "i"),
        ("info", "lua", "j"),
        ("warn", "lua", "w"),
        ("error", "lua", "e"),
    ]


async def test_a_command_in_a_coroutine_of_the_script_works(run: Runner) -> None:
    printed = await run.script("""
    local function words(text)
      return coroutine.wrap(function()
        for word in text:gmatch("%a+") do
          coroutine.yield(process.run({ command = "echo", args = { word }, stdout = "off" }).stdout)
        end
      end)
    end
    local all = {}
    for word in words("one two three") do all[#all + 1] = word:gsub("\\n", "") end
    log.info(table.concat(all, ","))
    log.info(select(2, pcall(string.gsub, "x", "x", function() process.run({ command = "true" }) end)).code)
    """)
    assert printed.code == 0, printed.stdout
    assert printed.texts(source="lua") == ["one,two,three", "call_in_callback"]


async def test_a_command_that_runs_too_long_is_killed_with_all_its_children(run: Runner) -> None:
    printed = await run.script("""
    local ok, err = pcall(process.run, { command = "sh", timeout = "300ms",
      args = { "-c", "setsid sleep 1234 & sleep 1234 & (sleep 1234 &) ; echo started; wait" } })
    log.info(ok, err.code)
    local left = process.run({ command = "sh", args = { "-c", "ps | grep -c '[s]leep 1234'" }, check = false })
    log.info("left: " .. left.stdout:gsub("%s", ""))
    """)
    assert printed.code == 0, printed.stdout
    assert printed.texts(source="lua") == ["false command_timeout", "left: 0"]
    assert printed.texts(source="stdout")[0] == "started"
    assert printed.commands()[0]["code"] is None
    assert printed.commands()[0]["error"]["code"] == "command_timeout"


async def test_a_stage_that_runs_too_long_fails_and_says_so(run: Runner) -> None:
    printed = await run.script('process.run({ command = "sleep", args = { "1000" } })', timeout='"500ms"')
    assert printed.code == 1
    assert [error.code for error in printed.errors] == ["stage_failed", "stage_timeout"]
    assert "ran longer than its timeout of 0.5 s" in printed.errors[1].message
    assert printed.errors[1].where == "try.lua:1"


async def test_an_endless_loop_in_a_stage_meets_the_stages_timeout(run: Runner) -> None:
    printed = await run.script("while true do pcall(error) end", timeout='"500ms"')
    assert printed.code == 1
    assert [error.code for error in printed.errors] == ["stage_failed", "stage_timeout"]


async def test_a_job_that_runs_too_long_fails_and_says_so(run: Runner) -> None:
    printed = await run(
        'return { name = "p", timeout = 0.5, stages = { { name = "s", script = function() time.sleep(1000) end } } }'
    )
    assert printed.code == 1
    assert printed.errors[0].code == "job_timeout"


async def test_a_stage_is_tried_again_as_often_as_it_allows(run: Runner) -> None:
    printed = await run("""
    local tries = 0
    return { name = "p", stages = { { name = "s", retries = 2, script = function()
      tries = tries + 1
      process.run({ command = "test", args = { tostring(tries), "=", "3" } })
    end } } }""")
    assert printed.code == 0, printed.stdout
    assert [command["code"] for command in printed.commands()] == [1, 1, 0]
    states = [line["state"] for line in printed.lines if line["type"] == "stage"]
    assert states == ["running", "failed", "running", "failed", "running", "succeeded"]


async def test_an_image_that_is_not_to_be_had_fails_the_job_with_the_reason(run: Runner) -> None:
    printed = await run.script('process.run({ command = "true" })', container='"127.0.0.1:1/no/such:image"')
    assert printed.code == 1
    assert printed.errors[1].code == "image_pull_failed"
    for words in ("`127.0.0.1:1/no/such:image`", "refused"):
        assert words in printed.errors[1].message


async def test_an_artifact_is_kept_and_nothing_outside_the_workspace_is(run: Runner) -> None:
    printed = await run.script("""
    process.run({ command = "sh", args = { "-c",
      "mkdir dist; printf content > dist/a.txt; ln -s /etc/passwd link; ln -s /etc d" } })
    local kept = artifact.save({ path = "dist/a.txt" })
    log.info(kept.name, kept.size, kept.sha256)
    artifact.save({ path = "/workspace/dist/a.txt", name = "other/b.txt" })
    process.run({ command = "sh", args = { "-c", "printf odd > 'odd\\nname'" } })
    log.info(pcall(artifact.save, { path = "odd\\nname" }))
    artifact.save({ path = "odd\\nname", name = "odd" })
    for _, path in ipairs({ "link", "d/passwd", "../x", "/etc/passwd", "missing", "" }) do
      local ok, err = pcall(artifact.save, { path = path })
      log.info(ok, err.code)
    end
    log.info(select(2, pcall(artifact.save, { path = "dist/a.txt", name = "../a" })).code)
    log.info(select(2, pcall(artifact.save, { path = "dist/a.txt" })).code)
    """)
    assert printed.code == 0, printed.stdout
    lines = printed.texts(source="lua")
    assert lines[0] == "a.txt 7 ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    assert lines[1].startswith("false artifact.save: 'odd\\nname' cannot be an artifact's name")
    assert lines[2:] == [
        "false path_refused",
        "false path_refused",
        "false path_refused",
        "false path_refused",
        "false path_not_found",
        "false path_refused",
        "argument_invalid",
        "artifact_exists",
    ]
    folder = run.folder / ".moonyard" / "artifacts" / printed.job["id"]
    assert {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()} == {
        "a.txt": "content",
        "other/b.txt": "content",
        "odd": "odd",
    }


async def test_files_named_anyhow_and_made_unreadable_are_removed_with_the_workspace(run: Runner) -> None:
    printed = await run.script("""
    process.run({ command = "sh", args = { "-c",
      "mkdir -p a/b; touch 'a/new\\nline' a/b/x; chmod 000 a/b; chmod 000 a; mkfifo fifo; ln -s / root" } })
    """)
    assert printed.code == 0, printed.stdout
    owners = run.state_folder / "owners"
    assert list(owners.glob("*/workspaces/*")) == []


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("missing.lua", None, "file_not_found", "`missing.lua` does not exist"),
        ("syntax.lua", b"return {\n  name = = 1\n}", "lua_syntax", "syntax.lua:2: unexpected symbol near '='"),
        ("binary.lua", b"\x7fELF\xff\xfe\x00", "pipeline_invalid", "is not UTF-8 text"),
        ("large.lua", b"-- " + b"x" * 10_000_000, "pipeline_too_large", "is larger than 1024 KiB"),
        ("empty.lua", b"", "pipeline_invalid", "the file returns nil, and a pipeline is a table"),
        ("loop.lua", b"while true do end", "cpu_limit", "top level ran for more than 2 s"),
        ("old.lua", b'return { name = "p", requires = { "git" }, stages = { { name = "s", script = print } } }',
         "pipeline_invalid", 'Write `plugins = { "git" }` instead.'),
        ("plugin.lua", b'return { name = "p", plugins = { "svn" }, stages = { { name = "s", script = print } } }',
         "plugin_unknown", "there is no plugin `svn` (plugins: docker, git, "),
    ],
)  # fmt: skip
async def test_a_file_that_cannot_be_run_is_told_with_exit_code_2(
    run: Runner, name: str, content: bytes | None, code: str, words: str
) -> None:
    if content is not None:
        await (anyio.Path(run.folder) / name).write_bytes(content)
    printed = await moonyard("run", name, "--json", "--state-folder", str(run.state_folder), cwd=run.folder)
    assert printed.code == 2, printed
    assert printed.job["state"] == "failed"
    assert printed.job["error"]["code"] == code
    assert len(printed.lines) == 1
    assert words in printed.stderr
    assert "Traceback" not in printed.stderr


async def test_wrong_inputs_are_told_all_at_once(run: Runner) -> None:
    source = """return { name = "p",
      inputs = { ref = { type = "string" }, n = { type = "integer", default = 1 }, k = { choices = { "a", "b" } } },
      stages = { { name = "s", script = function(job) log.info(job.inputs.ref, job.inputs.n, job.inputs.k) end } } }"""
    printed = await run(source, "--input", "n=three", "--input", "k=c", "--input", "x=1")
    assert printed.code == 2
    message = printed.job["error"]["message"]
    for words in (
        "`x` is not an input",
        "`ref` (string) is required",
        "`n` must be of type integer",
        "`k` must be one of",
    ):
        assert words in message
    good = await run(source, "--input", "ref=a b=c", "--input", "n=3", "--input", "k=a")
    assert good.code == 0
    assert good.texts(source="lua") == ["a b=c 3 a"]


async def test_ctrl_c_cancels_the_job_and_leaves_nothing(run: Runner) -> None:
    source = """return { name = "p", stages = { { name = "s", script = function()
      process.run({ command = "sh", args = { "-c", "echo started; exec sleep 1000" } }) end } } }"""
    async with started(*run.arguments(source), cwd=run.folder) as running:
        await running.until(type="log", text="started")
        running.process.send_signal(signal.SIGINT)
        assert await running.rest() == 1
    assert running.lines[-1]["type"] == "job"
    assert running.lines[-1]["state"] == "cancelled"
    assert list((run.state_folder / "owners").glob("*/workspaces/*")) == []


async def test_a_run_whose_lua_process_is_killed_is_lost_and_leaves_nothing(run: Runner) -> None:
    source = """return { name = "p", stages = { { name = "s", script = function()
      process.run({ command = "sh", args = { "-c", "echo started; exec sleep 1000" } }) end } } }"""
    async with started(*run.arguments(source), cwd=run.folder) as running:
        await running.until(type="log", text="started")
        children = processes.children(running.process.pid)
        [parent] = [pid for pid in children if any(LUA_PARENT in word for word in processes.words(pid))]
        [lua] = processes.children(parent)
        os.kill(lua, signal.SIGKILL)
        assert await running.rest() == 1
    final = running.lines[-1]
    assert (final["type"], final["state"], final["error"]["code"]) == ("job", "lost", "attempt_lost")
    assert "killed by SIGKILL" in final["error"]["message"]
    assert list((run.state_folder / "owners").glob("*/workspaces/*")) == []


async def test_what_a_killed_run_left_is_removed_by_the_next(run: Runner) -> None:
    source = """return { name = "p", stages = { { name = "s", script = function()
      process.run({ command = "sh", args = { "-c", "echo started; touch file; exec sleep 1000" } }) end } } }"""
    async with started(*run.arguments(source), cwd=run.folder) as running:
        await running.until(type="log", text="started")
        running.process.kill()
        await running.process.wait()
    left = list((run.state_folder / "owners").glob("*/workspaces/*"))
    assert len(left) == 1
    printed = await run.script('log.info("next")')
    assert printed.code == 0
    assert not left[0].exists()
    listed = await anyio.run_process(
        ["podman", "ps", "--all", "--quiet", "--filter", f"label=moonyard.owner={left[0].parents[1].name}"], check=False
    )
    assert listed.stdout == b""


async def test_a_flood_of_output_neither_grows_memory_nor_loses_a_line(run: Runner) -> None:
    lines = 1_000_000
    source = """return { name = "p", stages = { { name = "s", script = function()
      local program = 'BEGIN { for (i = 1; i <= 1000000; i++) printf "%09d ' .. ("x"):rep(89) .. '\\\\n", i }'
      process.run({ command = "awk", args = { program }, capture = false })
    end } } }"""
    peak = 0
    count = 0
    async with started(*run.arguments(source), cwd=run.folder) as running:
        with anyio.fail_after(SECONDS * 2):
            while True:
                line = await running.next_line()
                running.lines.clear()
                if line["type"] == "log" and line["source"] == "stdout":
                    for text in line["text"].split("\n"):
                        count += 1
                        assert int(text[:9]) == count
                        if count % 50_000 == 0:
                            peak = max(peak, _resident_bytes(running.process.pid))
                elif line["type"] == "job" and line["state"] != "running":
                    assert line["state"] == "succeeded", line
                    break
    assert count == lines
    assert 0 < peak < 250 * 1024 * 1024


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
