"""The plugin ``git`` against a real git server over HTTP, with a password and without."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from tests.cli.command import Printed, moonyard
from tests.cli.conftest import Runner
from tests.git_server import GitOverHttp, git_over_http

PASSWORD = "s3cret-of-the-git-server"
IDENTITY = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@b"}
LUA = """
local url = "{url}"
local function sh(script) return process.run({{ command = "sh", args = {{ "-c", script }}, stdout = "off" }}).stdout end
local function try(f, ...)
  local ok, problem = pcall(f, ...)
  return ok and "ok" or problem.code or "lua_error", tostring(problem)
end
local function same(got, wanted)
  if got ~= wanted then error("expected " .. tostring(wanted) .. ", got " .. tostring(got), 2) end
end
local function names(files)
  local words = {{}}
  for index, file in ipairs(files) do
    words[index] = file.state .. ":" .. (file.from and file.from .. ">" or "") .. file.path
  end
  return table.concat(words, " ")
end
return {{ name = "p", plugins = {{ "git@1" }}, stages = {{ {{ name = "s", script = function()
{body}
end }} }} }}
"""


def sh(folder: Path, script: str) -> str:
    environment = {**os.environ, **IDENTITY, "GIT_CONFIG_GLOBAL": "/dev/null"}
    done = subprocess.run(
        ["sh", "-ec", script], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[GitOverHttp]:
    """A server with a public and a private repository; the public one has history, tags, folders and a submodule."""
    folder = tmp_path / "served"
    (folder / "public").mkdir(parents=True)
    script = """
      git init -q -b main work; cd work
      mkdir a b; echo 1 > a/one; echo 1 > b/two; echo top > top; git add .; git commit -qm one; git tag v1.0
      echo 2 > a/one; git commit -qam two; git branch v1.0-next; git tag -am 'second' v1.1
      git mv b/two b/renamed; echo new > a/new; git add .; git commit -qm three
      git branch twin; git tag twin HEAD~2
      cd ..
      git init -q -b main inner; cd inner; echo inner > inner; git add .; git commit -qm inner; cd ..
      git clone -q --bare inner public/inner.git
      git init -q -b main outer; cd outer
      git -c protocol.file.allow=always submodule --quiet add ../public/inner.git sub
      git config -f .gitmodules submodule.sub.url ../inner.git; git add .; git commit -qm outer; cd ..
      git clone -q --bare outer public/outer.git
      git clone -q --bare work public/work.git; git clone -q --bare work private.git
      git init -q --bare -b main public/empty.git
      git -C private.git config http.receivepack true; git -C public/work.git config http.receivepack true
    """
    await anyio.to_thread.run_sync(sh, folder, script)
    async with git_over_http(folder, user="me", password=PASSWORD) as serving:
        yield serving


async def tried(runner: Runner, server: GitOverHttp, body: str) -> Printed:
    source = LUA.format(url=server.url(), body=body)
    options = [*runner.arguments(source), "--secret", "GIT_TOKEN", "-v"]
    return await moonyard(*options, cwd=runner.folder, GIT_TOKEN=PASSWORD)


def succeeded(printed: Printed) -> None:
    assert printed.code == 0, (printed.stdout[-3000:], printed.stderr[-3000:])


async def test_clones_of_a_branch_a_tag_a_commit_some_folders_and_submodules(
    run_folder: Runner, server: GitOverHttp, tmp_path: Path
):
    first = sh(tmp_path / "served" / "work", "git rev-parse v1.0")
    printed = await tried(
        run_folder,
        server,
        f"""
    local work = url .. "/public/work.git"
    local made = git.clone(work, {{ path = "main" }})
    same(made.branch, "main") same(made.path, "main")
    same(sh("cat main/a/one"), "2\\n")
    same(git.clone(work, {{ path = "tag", tag = "twin" }}).commit, "{first}")
    same(git.clone(work, {{ path = "twin", branch = "twin" }}).branch, "twin")
    local exact = git.clone(work, {{ path = "exact", commit = "{first}" }})
    same(exact.commit, "{first}") same(exact.branch, "")
    git.clone({{ url = work, path = "some", sparse = {{ "a" }} }})
    same(sh("cd some && ls"), "a\\ntop\\n")
    git.clone(url .. "/public/outer.git", {{ path = "without" }})
    same(sh("ls without/sub"), "")
    git.clone(url .. "/public/outer.git", {{ path = "with", submodules = "direct" }})
    same(sh("cat with/sub/inner"), "inner\\n")
    same(try(git.clone, work, {{ path = "main" }}), "git_path_not_empty")
    same(try(git.clone, url .. "/public/empty.git", {{ path = "none" }}), "git_repository_empty")
    same(try(git.clone, work, {{ path = "none", tag = "nosuch" }}), "command_failed")
    same(try(git.clone, work, {{ path = "none", tag = "v1.0", branch = "main" }}), "argument_invalid")
    same(try(git.clone, work, {{ path = "../none" }}), "argument_invalid")
    same(try(git.clone, "--upload-pack=x", {{ path = "none" }}), "argument_invalid")
    same(sh("ls -d none 2>/dev/null || true"), "")
    """,
    )
    succeeded(printed)


LARGE = bytes(range(256)) * 8192


@pytest.fixture
async def large(tmp_path: Path) -> AsyncGenerator[GitOverHttp]:
    """A server with a private repository whose large file is in Git LFS; another one's is not what it should be."""
    folder = tmp_path / "served"
    folder.mkdir()
    objects = folder / "objects"
    objects.mkdir()
    for name, content in {"large": LARGE, "damaged": LARGE + b"x"}.items():
        oid = hashlib.sha256(content).hexdigest()
        (objects / oid).write_bytes(content if name == "large" else LARGE)
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n"
        (folder / f"pointer-{name}").write_text(pointer, encoding="utf-8")
        script = f"""
          git init -q -b main {name}; cd {name}
          printf '*.bin filter=lfs diff=lfs merge=lfs -text\n' > .gitattributes
          cp ../pointer-{name} a.bin; echo small > small; git add .; git commit -qm {name}
          cd ..; git clone -q --bare {name} {name}.git
        """
        await anyio.to_thread.run_sync(sh, folder, script)
    script = """
      git init -q -b main outer; cd outer
      git -c protocol.file.allow=always submodule --quiet add ../large.git "a sub"
      git config -f .gitmodules "submodule.a sub.url" ../large.git; git add .; git commit -qm outer; cd ..
      git clone -q --bare outer outer.git
    """
    await anyio.to_thread.run_sync(sh, folder, script)
    async with git_over_http(folder, user="me", password=PASSWORD, large_objects=objects) as serving:
        yield serving


async def test_files_in_git_lfs_are_fetched_with_the_token_and_checked(run_folder: Runner, large: GitOverHttp) -> None:
    digest = hashlib.sha256(LARGE).hexdigest()
    printed = await tried(
        run_folder,
        large,
        f"""
    local token = secret.get("GIT_TOKEN")
    git.clone(url .. "/large.git", {{ path = "with", lfs = true, token = token, user = "me" }})
    same(fs.hash("with/a.bin"), "{digest}") same(fs.read("with/small"), "small\\n")
    assert(git.status({{ path = "with" }}).clean)
    git.clone(url .. "/outer.git", {{
      path = "outer", lfs = true, submodules = "recursive", token = token, user = "me",
    }})
    same(fs.hash("outer/a sub/a.bin"), "{digest}")
    git.clone(url .. "/large.git", {{ path = "without", token = token, user = "me" }})
    assert(fs.read("without/a.bin"):find("^version https://git%-lfs"))
    same(try(git.clone, url .. "/damaged.git", {{ path = "none", lfs = true, token = token, user = "me" }}),
      "command_failed")
    same(try(git.clone, url .. "/large.git", {{ path = "none", lfs = true }}), "command_failed")
    same(fs.exists("none"), false)
    """,
    )
    succeeded(printed)
    assert PASSWORD not in printed.stdout + printed.stderr
    asked = [path for path, is_known in large.asked if is_known and "lfs" in path]
    assert "/large.git/info/lfs/objects/batch" in asked
    assert f"/lfs/{digest}" in asked


async def test_a_repository_is_looked_at_and_changed(run_folder: Runner, server: GitOverHttp):
    printed = await tried(
        run_folder,
        server,
        """
    git.clone(url .. "/public/work.git", { depth = 0 })
    local state = git.status()
    assert(state.clean and state.branch == "main" and #state.commit == 40)
    same(git.describe().text:match("^v1.1%-1%-g%x+$") ~= nil, true)
    same(git.describe({ ref = "v1.1" }).text, "v1.1")
    same(git.describe({ match = "v1.0*" }).distance, 2)
    same(try(git.describe, { match = "w*" }), "git_no_tag")
    same(names(git.diff({ from = "HEAD~1", to = "HEAD" }).files), "added:a/new renamed:b/two>b/renamed")
    same(names(git.diff({ from = "v1.0", to = "v1.1", within = { "a" } }).files), "modified:a/one")
    same(try(git.diff, { from = "nosuch" }), "git_ref_unknown")
    sh("echo 3 > a/one; rm top; echo x > 'new file'; mkdir d; echo ü > d/ü")
    state = git.status()
    same(state.clean, false)
    same(names(state.files), "modified:a/one untracked:d/ü untracked:new file deleted:top")
    same(names(git.diff().files), "modified:a/one deleted:top")
    local made = git.commit("Some of it", { files = { "a", "d" }, author = { name = "B", email = "b@c" } })
    same(sh("true") .. names(git.diff({ from = "HEAD~1", to = "HEAD" }).files), "modified:a/one added:d/ü")
    git.commit("The rest")
    same(git.status().clean, true)
    same(try(git.commit, "Nothing"), "git_nothing_to_commit")
    git.commit("Nothing", { allow_empty = true })
    same(git.tag("v2.0", { ref = made.commit }).commit, made.commit)
    same(try(git.tag, "v2.0"), "git_tag_exists")
    git.tag("v2.0", { force = true, message = "second" })
    same(git.describe({ annotated = true }).text, "v2.0")
    same(git.checkout("v1.0").commit, git.checkout("v1.0").commit)
    same(git.status().branch, "")
    git.checkout("topic", { create = true })
    same(git.status().branch, "topic")
    same(git.checkout("twin").commit, git.status().commit)
    same(try(git.checkout, "nosuch"), "git_ref_unknown")
    """,
    )
    succeeded(printed)


async def test_what_needs_a_password_gets_it_from_a_secret_which_is_nowhere_else(
    run_folder: Runner, server: GitOverHttp, tmp_path: Path
):
    printed = await tried(
        run_folder,
        server,
        """
    local token, private = secret.get("GIT_TOKEN"), url .. "/private.git"
    same(try(git.clone, private, { path = "none" }), "command_failed")
    git.clone(private, { token = token, user = "me", depth = 0 })
    -- What a job's own commands write into the repository meets no token.
    sh([[
      printf '#!/bin/sh\\nenv > /workspace/stolen\\n' > .git/hooks/pre-push; chmod +x .git/hooks/pre-push
      printf '[credential]\\n helper = "!env > /workspace/stolen; cat >> /workspace/stolen #"\\n' >> .git/config
      printf '[core]\\n fsmonitor = "env > /workspace/stolen;"\\n sshCommand = false\\n' >> .git/config
      printf '[url "http://127.0.0.1:1/"]\\n insteadOf = http://\\n' >> .git/config
      printf '[http]\\n proxy = http://127.0.0.1:1\\n' >> .git/config
      printf '[remote "origin"]\\n url = http://127.0.0.1:1/x.git\\n proxy = http://127.0.0.1:1\\n' >> .git/config
      echo pushed > pushed ]])
    git.commit("Pushed", { files = { "pushed" } })
    git.tag("v3.0")
    local pushed = git.push({ token = token, user = "me", tags = { "v3.0" }, branch = "main" })
    same(pushed.commit, git.status().commit)
    same(sh("ls stolen 2>/dev/null || true"), "")
    same(sh("grep -rc 's3cre[t]' . | grep -v ':0' || true"), "")
    local code, text = try(git.push, { branch = "main", ref = "v1.0", token = token, user = "me" })
    same(code, "git_push_rejected")
    assert(text:find("non-fast-forward", 1, true) or text:find("fetch first", 1, true), text)
    git.push({ branch = "main", ref = "v1.0", token = token, user = "me", force = true })
    same(try(git.push, { token = "plain" }), "argument_invalid")
    same(try(git.clone, (private:gsub("//", "//me:pw@")), { path = "z" }), "argument_invalid")
    same(try(git.push, { path = "elsewhere" }), "git_url_unknown")
    same(try(git.push, { branch = "main", ref = "nosuch", token = token }), "git_ref_unknown")
    same(try(git.clone, "ssh://x/y.git", { path = "z", token = token }), "argument_invalid")
    """,
    )
    succeeded(printed)
    bare = tmp_path / "served" / "private.git"
    assert sh(bare, "git log -1 --format=%s v3.0") == "Pushed"
    assert sh(bare, "git rev-parse main") == sh(bare, "git rev-parse v1.0")
    assert PASSWORD not in printed.stdout + printed.stderr
    for command in printed.commands():
        assert not any("s3cret" in word for word in command["argv"])


async def test_a_redirect_to_another_host_gets_no_password(run_folder: Runner, server: GitOverHttp):
    printed = await tried(
        run_folder,
        server,
        """
    local token = secret.get("GIT_TOKEN")
    same(try(git.clone, url .. "/away/private.git", { path = "none", token = token, user = "me" }), "command_failed")
    """,
    )
    succeeded(printed)
    assert any(path.startswith("/away/") for path, _ in server.asked)
    assert not any(is_known for _, is_known in server.asked)


@pytest.fixture
def run_folder(run: Runner, tmp_path: Path) -> Runner:
    """Run pipelines beside the repositories, not above them."""
    folder = tmp_path / "runs"
    folder.mkdir()
    return Runner(folder, run.state_folder)
