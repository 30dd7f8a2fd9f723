"""A push starts a pipeline: a real ``git push`` to a real server, whose own hook tells a real installation."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio.to_thread
import pytest

from tests.cli.command import ROOT
from tests.cli.test_git import PASSWORD, sh
from tests.cli.test_up import Installation, two_ports, up
from tests.git_server import GitOverHttp, git_over_http

BUILDING = """
return { name = "building", plugins = { "git" }, inputs = { url = {}, commit = {}, branch = { default = "" },
    message = { default = "" } },
  stages = { { name = "checkout", script = function(job)
    git.clone(job.inputs.url, { path = "source", commit = job.inputs.commit })
    process.run({ command = "cat", args = { "source/greeting" } })
    process.run({ command = "sh", args = { "-c", 'echo "$MESSAGE"' }, env = { MESSAGE = job.inputs.message } })
    log.info(job.trigger.kind .. " " .. job.trigger.by .. " " .. job.trigger.event .. " by " .. job.trigger.sender)
  end } } }
"""


def post_receive() -> str:
    """Give the script of docs/webhooks.md, for this Python."""
    page = (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8")
    script = re.search(r"```python\n#!/usr/bin/env python3\n(.*?)```", page, re.DOTALL)
    assert script is not None
    return f"#!{sys.executable}\n{script[1]}"


@pytest.fixture
async def installation(tmp_path: Path, image_map: dict[str, str]) -> AsyncGenerator[Installation]:
    assert image_map, "images are there"
    (tmp_path / "installation").mkdir()
    async with up(tmp_path / "installation", two_ports()) as (running, _):
        yield running


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[GitOverHttp]:
    """A server with a repository that anybody may read and write."""
    folder = tmp_path / "served"
    folder.mkdir()
    script = """
      git init -q -b main work; cd work; echo hello > greeting; git add .; git commit -qm one; cd ..
      mkdir public; git clone -q --bare work public/work.git; git -C public/work.git config http.receivepack true
    """
    await anyio.to_thread.run_sync(sh, folder, script)
    async with git_over_http(folder, user="me", password=PASSWORD) as serving:
        yield serving


async def test_a_git_push_starts_a_pipeline_that_builds_what_was_pushed(
    installation: Installation, server: GitOverHttp, tmp_path: Path
) -> None:
    await installation.push(BUILDING)
    url = f"{server.url()}/public/work.git"
    options = ("--pipeline", "building", "--kind", "generic", "--branch", "main", "--constant", f"url={url}")
    made = await installation("hook", "create", "pushed", *options, "--json")
    assert made.code == 0, made.stderr
    [hook] = made.lines
    served = tmp_path / "served"
    bare = served / "public" / "work.git"
    (bare / "moonyard-secret").write_text(hook["secret"] + "\n", encoding="utf-8")
    (bare / "moonyard-secret").chmod(0o600)
    (bare / "hooks" / "post-receive").write_text(post_receive(), encoding="utf-8")
    (bare / "hooks" / "post-receive").chmod(0o755)
    address = f"{installation.addresses[0]}{hook['path']}"
    await anyio.to_thread.run_sync(sh, bare, f"git config moonyard.url {address}")

    push = f"""
      cd work; echo "hello, yard" > greeting; git commit -qam 'Greet "$(id)" the yard'; git branch topic
      git push http://127.0.0.1:{server.port}/public/work.git main topic 2>&1
    """
    said = await anyio.to_thread.run_sync(sh, served, push)
    assert 'remote: moonyard: {"job":1,' in said, said
    assert "branch topic is not of this hook's" in said

    logs = await installation("logs", "1", "-f", "--json")
    assert logs.code == 0, (logs.stdout[-2000:], logs.stderr)
    assert logs.texts(source="stdout")[-2:] == ["hello, yard", 'Greet "$(id)" the yard']
    assert logs.texts(source="lua")[-1] == "webhook pushed push by me"
    commit = await anyio.to_thread.run_sync(sh, served / "work", "git rev-parse main")
    shown = await installation("job", "1", "--json")
    assert shown.lines[0]["inputs"]["commit"] == commit
    assert shown.lines[0]["trigger"]["by"] == "pushed"

    delivered = await installation("hook", "deliveries", "pushed", "--json")
    assert [(row["result"], row["job"]) for row in delivered.lines] == [("skipped", None), ("submitted", 1)]
    seen = await installation("db", "psql", "-c", "TABLE inspect.hook_deliveries")
    assert re.search(r"pushed +\| push +\| submitted +\| +1 \| +1 \| me", seen.stdout), (seen.stdout, seen.stderr)


async def test_a_hook_is_made_tried_rotated_paused_and_removed(installation: Installation) -> None:
    await installation.push(
        'return { name = "build", inputs = { branch = {} }, stages = { { name = "s", script = function() end } } }'
    )
    made = await installation(
        "hook", "create", "on-push", "--pipeline", "build", "--kind", "github", "--branch", "main"
    )
    assert made.code == 0, made.stderr
    assert re.search(
        r"^hook on-push  starts build\nurl +http://127\.0\.0\.1:\d+/v1/hooks/\S+\nsecret +whsec_\S+=\n$", made.stdout
    )
    [secret] = re.findall(r"whsec_\S+", made.stdout)
    tried = await installation("hook", "test", "on-push")
    assert tried.stdout.endswith("inputs:\n  branch = main\na job would be submitted\n")
    skipped = await installation("hook", "test", "on-push", "--branch", "other")
    assert skipped.stdout.endswith("skipped: branch other is not of this hook's\n")
    (installation.folder / "push.json").write_text('{"ref": "refs/heads/main"}', encoding="utf-8")
    tried = await installation("hook", "test", "on-push", "--payload", "push.json", "--submit")
    assert tried.stdout.endswith("job 1 was submitted\n")
    (installation.folder / "bad.json").write_bytes(b"\xff")
    bad = await installation("hook", "test", "on-push", "--payload", "bad.json")
    assert (bad.code, "it is not UTF-8" in bad.stderr) == (2, True)
    rotated = await installation("hook", "rotate", "on-push", "--overlap", "1h")
    assert re.fullmatch(r"secret +whsec_\S+=\n", rotated.stdout)
    assert secret not in rotated.stdout
    assert "The secret of before holds on until" in rotated.stderr
    assert (await installation("hook", "pause", "on-push")).stdout == "hook on-push is paused\n"
    listed = await installation("hook", "list")
    assert re.search(r"on-push +build +github +paused by .+ submitted +1 +0", listed.stdout), listed.stdout
    shown = await installation("hook", "show", "on-push")
    for text in ("branches  main", "events    push", "forks     refuse", "secret    2", "secret    1", "submitted"):
        assert text in shown.stdout
    assert "whsec_" not in shown.stdout + listed.stdout
    assert (await installation("hook", "resume", "on-push")).stdout == "hook on-push goes on\n"
    changed = await installation("hook", "change", "on-push", "--tag", "v*", "--clear", "branches", "--no-drafts")
    assert changed.stdout == "hook on-push is changed\n"
    now = await installation("hook", "show", "on-push", "--json")
    assert (now.lines[0]["branches"], now.lines[0]["tags"]) == ([], ["v*"])
    wrong = await installation("hook", "create", "x", "--pipeline", "build", "--kind", "github", "--input", "branch=a[")
    assert wrong.code == 2
    assert "is no path" in wrong.stderr
    assert (await installation("hook", "remove", "on-push")).stdout == "hook on-push is removed\n"
    gone = await installation("hook", "show", "on-push")
    assert (gone.code, "there is no hook `on-push`" in gone.stderr) == (2, True)
