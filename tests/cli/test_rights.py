"""Options that loosen what holds a container in: refused, unless the runner's owner allows them."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.cli.command import moonyard
from tests.cli.conftest import Runner

ASKED = {
    "privileged": "true",
    "mounts": '{ "/cache" }',
    "devices": '{ "/dev/kmsg" }',
    "capabilities": '{ "NET_ADMIN" }',
}


@pytest.fixture
def device() -> Generator[str]:
    """A device that containers do not have by themselves: another name of /dev/null."""
    path = f"/dev/moonyard-{secrets.token_hex(4)}"
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    yield path
    Path(path).unlink()


@pytest.mark.parametrize("option", ASKED)
async def test_a_stage_that_asks_for_what_is_not_allowed_fails_before_anything_is_made(
    option: str, run: Runner
) -> None:
    done = await run.script('log.info("ran")', container='"localhost/none"', **{option: ASKED[option]})
    assert done.code == 1
    assert done.errors[-1].code == "rights_refused"
    assert f"may not have {option}" in done.errors[-1].message.replace("`", "")
    assert "in pipeline `try`" in done.errors[-1].message
    assert done.texts(source="lua") == []


async def test_a_block_that_asks_for_what_is_not_allowed_is_refused_by_what_is_missing(run: Runner) -> None:
    tries = "\n".join(
        f'try(function() container.run("alpine", {{ {option} = {value} }}, function() end) end)'
        for option, value in ASKED.items()
    )
    done = await run.script(f"local function try(f) log.info(tostring(select(2, pcall(f)))) end\n{tries}")
    said = done.texts(source="lua")
    for text, option in zip(said, ASKED, strict=True):
        assert f"may not have {option}" in text.replace("`", ""), said


async def test_what_the_owner_allows_is_there_and_nothing_else(
    run: Runner, device: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shared, fixed = tmp_path_factory.mktemp("shared"), tmp_path_factory.mktemp("fixed")
    shared.chmod(0o777)
    (fixed / "given").write_text("from the owner")
    (run.folder / "moonyard.toml").write_text(f"""
        [[allow]]
        images = ["alpine:*"]
        mounts = ["{shared}:/cache", "{fixed}:/fixed:ro"]
        [[allow]]
        pipelines = ["tr*"]
        devices = ["{device}"]
        capabilities = ["NET_ADMIN"]
    """)
    body = f"""
        process.run({{ command = "cp", args = {{ "/fixed/given", "/cache/taken" }} }})
        local written = process.run({{ command = "touch", args = {{ "/fixed/x" }}, check = false }})
        process.run({{ command = "sh", args = {{ "-c", "echo gone > {device}" }} }})
        process.run({{ command = "ip", args = {{ "link", "set", "lo", "down" }} }})
        local mounted = process.run({{ command = "mount", args = {{ "-t", "tmpfs", "x", "/tmp" }}, check = false }})
        container.run("alpine", function()
          local seen = process.run({{ command = "ls", args = {{ "/cache" }}, check = false }})
          local set = process.run({{ command = "ip", args = {{ "link", "set", "lo", "down" }}, check = false }})
          log.info(written.ok, mounted.ok, seen.ok, set.ok)
        end)
    """
    done = await run.script(
        body,
        container='"alpine"',
        mounts='{ "/cache", "/fixed" }',
        devices=f'{{ "{device}" }}',
        capabilities='{ "NET_ADMIN" }',
    )
    assert done.code == 0, done.stdout
    assert done.texts(source="lua") == ["false false false false"]
    assert (shared / "taken").read_text() == "from the owner"


@pytest.mark.parametrize("option", ASKED)
async def test_a_service_that_asks_for_what_is_not_allowed_is_refused_before_any_is_made(
    option: str, run: Runner
) -> None:
    services = f"services = {{ first = {{ image = 'alpine' }}, s = {{ image = 'none', {option} = {ASKED[option]} }} }}"
    stages = 'stages = { { name = "s", script = function() log.info("ran") end } }'
    done = await run(f'return {{ name = "try", {services}, {stages} }}')
    assert done.code == 1
    assert done.errors[-1].code == "rights_refused"
    assert f"image none may not have {option}" in done.errors[-1].message.replace("`", "")
    assert done.texts(source="lua") == []
    assert not [line for line in done.lines if line["type"] == "log" and "first" in line["text"]]


async def test_a_service_has_what_the_owner_allows_it_and_no_other_has_it(
    run: Runner, device: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shared = tmp_path_factory.mktemp("shared")
    (shared / "given").write_text("from the owner")
    (run.folder / "moonyard.toml").write_text(f"""
        [[allow]]
        images = ["alpine:*"]
        mounts = ["{shared}:/data"]
        devices = ["{device}"]
        capabilities = ["NET_ADMIN"]
    """)
    tries = f"cp /data/given /data/taken && echo x > {device} && ip link set lo down && echo done && sleep 1000"
    command = f'{{ "sh", "-c", "({tries}) 2>&1" }}'
    asked = f'mounts = {{ "/data" }}, devices = {{ "{device}" }}, capabilities = {{ "NET_ADMIN" }}'
    services = f"""services = {{
      with = {{ image = "alpine", command = {command}, {asked}, ready = {{ command = {{ "ls", "/data/taken" }} }} }},
      without = {{ image = "alpine", command = {command} }} }}"""
    done = await run(f'return {{ name = "try", {services}, stages = {{ {{ name = "s", script = function() end }} }} }}')
    assert done.code == 0, done.stdout
    said = {line["service"]: line["text"] for line in done.lines if line["type"] == "log" and line.get("service")}
    assert said["with"] == "done"
    assert "No such file" in said["without"]
    assert (shared / "taken").read_text() == "from the owner"


async def test_a_privileged_block_can_do_what_root_can(run: Runner) -> None:
    (run.folder / "moonyard.toml").write_text('[[allow]]\nimages = ["alpine"]\nprivileged = true\n')
    body = """
        container.run("alpine", { privileged = true }, function()
          process.run({ command = "mount", args = { "-t", "tmpfs", "x", "/tmp" } })
        end)
    """
    done = await run.script(body)
    assert done.code == 0, done.stdout


async def test_a_rule_that_leads_to_what_the_runner_keeps_is_refused_at_the_start(run: Runner) -> None:
    settings = run.folder / "moonyard.toml"
    settings.write_text(f'[[allow]]\nimages = ["*"]\nmounts = ["{run.state_folder}:/state:ro"]\n')
    done = await run.script("")
    assert done.code == 2
    assert "`allow` in settings file" in done.stdout
    assert "no container is to see" in done.stdout


async def test_doctor_says_what_is_loosened(run: Runner) -> None:
    rule = '[[allow]]\nimages = ["a"]\npipelines = ["p"]\nprivileged = true\nmounts = ["/none/such:/x"]\n'
    (run.folder / "moonyard.toml").write_text(rule)
    done = await moonyard("doctor", "--json", "--state-folder", str(run.state_folder), cwd=run.folder)
    assert done.code == 0
    [found] = [line for line in done.lines if line["check"] == "allowed"]
    assert found["state"] == "weak"
    assert "images `a` in pipelines `p` may have all that root on this machine can" in found["text"]
    assert "there is no `/none/such`" in found["text"]
