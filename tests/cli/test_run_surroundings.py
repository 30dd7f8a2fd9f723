"""``moonyard run --json`` in odd surroundings: streams that are closed, environments, workspaces and git servers."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import pytest

from tests.cli.command import SECONDS, Printed, argv, environment, moonyard
from tests.cli.conftest import Runner
from tests.cli.job_lines import ALPINE, GIT, SHELL, nothing_is_left, succeeded


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
