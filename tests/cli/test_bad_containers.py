"""What no container can be made of, and what no command can be given: an error of its own each, and the job goes on."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from tests.cli.command import moonyard
from tests.cli.conftest import Runner
from tests.cli.job_lines import ALPINE, SHELL, succeeded


async def test_image_names_that_a_shell_would_read_otherwise_are_no_names(run: Runner) -> None:
    printed = await run.script(
        SHELL
        + """
    local names = { "alpine; touch x", "$(touch x)", "`touch x`", "alpine | sh", "alpine && touch x", "-v", "--pull",
      "alpine\\ntouch x", "../../etc/passwd", "/etc/passwd", "alpine:latest:latest", "ALPINE", "alpine@sha256:1",
      "http://localhost/alpine", "alpine\\0", "\\xff", " alpine", ("a"):rep(300), "alpine:" .. ("a"):rep(200) }
    for _, name in ipairs(names) do
      local code = try(container.run, name, function() process.run({ command = "true" }) end)
      if code ~= "image_not_found" and code ~= "argument_invalid" then log.info(name .. ": " .. code) end
    end
    process.run({ command = "test", args = { "!", "-e", "x" } })"""
    )
    assert succeeded(printed).texts(source="lua") == []


async def test_what_no_kernel_takes_is_refused_with_its_size_wherever_it_is_given(run: Runner) -> None:
    printed = await run.script(
        SHELL
        + f"""
    local many, long = {{}}, {{}}
    for n = 1, 100000 do many["NAME_OF_VARIABLE_" .. n] = "value" end
    for n = 1, 20 do long[n] = ("x"):rep(105000) end
    local function tell(code, text) log.info(code, text:match("too long"), text:match("%d%d%d%d+")) end
    tell(try(process.run, {{ command = "true", env = many }}))
    tell(try(process.run, {{ command = "echo", args = long }}))
    tell(try(process.run, {{ command = "echo", args = {{ ("x"):rep(2 * 1024 * 1024) }} }}))
    tell(try(container.run, "{ALPINE}", {{ env = many }}, function() process.run({{ command = "true" }}) end))
    process.run({{ command = "true" }})"""
    )
    said = [text.split() for text in succeeded(printed).texts(source="lua")]
    assert [words[0] for words in said] == [*["command_start_failed"] * 3, "container_start_failed"]
    assert [int(words[3]) > 2_000_000 for words in said] == [True] * 4


async def test_a_workdir_that_leads_out_of_the_workspace_or_is_none_fails_the_command_alone(run: Runner) -> None:
    printed = await run.script(
        SHELL
        + f"""
    process.run({{ command = "sh", args = {{ "-c", "mkdir in; touch file" }} }})
    for _, workdir in ipairs({{ "..", "in/../..", "./../workspace/../..", "missing", "file", "/missing" }}) do
      local code, text = try(container.run, "{ALPINE}", {{ workdir = workdir }}, function()
        process.run({{ command = "true" }})
      end)
      if code ~= "cwd_not_found" then log.info(workdir .. ": " .. code .. " " .. text) end
    end
    process.run({{ command = "true" }})"""
    )
    assert succeeded(printed).texts(source="lua") == []


async def test_a_memory_bomb_and_a_fork_bomb_end_their_own_commands_alone(run: Runner) -> None:
    (run.folder / "moonyard.toml").write_text("container_pids = 64\n")
    printed = await run.script(
        SHELL
        + f"""
    container.run("{ALPINE}", {{ memory = "64m" }}, function()
      local code, text = try(process.run, {{ command = "sh", args = {{ "-c", "x=x; while :; do x=$x$x; done" }} }})
      log.info(code .. " " .. (text:match("out of memory") or text))
    end)
    container.run("{ALPINE}", function()
      local bomb = "bomb() {{ bomb | bomb & }}; (bomb) & exec sleep 1003"
      log.info((try(process.run, {{ command = "sh", timeout = 2, args = {{ "-c", bomb }} }})))
    end)
    process.run({{ command = "true" }})""",
        container=f'"{ALPINE}"',
    )
    assert succeeded(printed).texts(source="lua") == ["command_failed out of memory", "command_timeout"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """A folder on a disk that can be filled."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=0711", "moonyard-test", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


async def test_a_disk_that_a_command_fills_fails_the_command_and_the_next_job_has_room(
    run: Runner, small_disk: Path
) -> None:
    source = f"""return {{ name = "p", stages = {{ {{ name = "s", container = "{ALPINE}", script = function()
      process.run({{ command = "head", args = {{ "-c", "1000", "/dev/zero" }}, stdout = "off" }})
      process.run({{ command = "sh", args = {{ "-c", "cat /dev/zero > big" }} }})
    end }} }} }}"""
    (run.folder / "full.lua").write_text(source)
    words = ["run", "full.lua", "--json", "--state-folder", str(small_disk / "state")]
    for _ in range(2):
        printed = await moonyard(*words, cwd=run.folder)
        assert (printed.code, printed.job["state"]) == (1, "failed"), printed.stdout
        assert [error.code for error in printed.errors][-1] == "command_failed"
        assert any("No space left on device" in text for text in printed.texts(source="stderr"))
        assert os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize > 16 * 1024**2


async def test_a_disk_without_room_for_a_command_to_be_asked_for_loses_the_attempt(
    run: Runner, small_disk: Path
) -> None:
    source = f"""return {{ name = "p", stages = {{ {{ name = "s", container = "{ALPINE}", script = function()
      process.run({{ command = "sh", args = {{ "-c", "cat /dev/zero > big" }}, check = false }})
      process.run({{ command = "echo", args = {{ ("x"):rep(100000) }}, stdout = "off" }})
    end }} }} }}"""
    (run.folder / "full.lua").write_text(source)
    words = ["run", "full.lua", "--json", "--state-folder", str(small_disk / "state")]
    printed = await moonyard(*words, cwd=run.folder)
    assert (printed.code, printed.job["state"]) == (1, "lost"), printed.stdout
    assert "a request to a command server cannot be written" in printed.errors[0].message


async def test_a_disk_without_room_for_a_container_loses_the_attempt_with_the_engines_words(
    run: Runner, small_disk: Path, monkeypatch: pytest.MonkeyPatch, image_map: dict[str, str]
) -> None:
    # A private engine that keeps its containers on the small disk, and finds the images where the machine has them.
    said = (await anyio.run_process(["podman", "info", "--format", "json"])).stdout
    images = json.loads(said)["store"]["graphRoot"]
    (small_disk / "graph").mkdir()
    storage = run.folder / "storage.conf"
    storage.write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{small_disk}/graph"\nrunroot = "{run.folder}/run"\n'
        f'[storage.options]\nadditionalimagestores = ["{images}"]\n'
    )
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(storage))
    source = (
        'return { name = "p", stages = { { name = "s", script = function() process.run({ command = "true" }) end } } }'
    )
    assert succeeded(await run(source)).code == 0
    with suppress(OSError), (small_disk / "fill").open("wb", buffering=0) as fill:
        while True:
            fill.write(bytes(65536))
    printed = await run(source)
    assert (printed.code, printed.job["state"]) == (1, "lost"), printed.stdout
    assert printed.errors[0].code == "attempt_lost"
    assert "no space left on device" in printed.errors[0].message.lower()
