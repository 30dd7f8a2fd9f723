"""What a pipeline may say of its containers' images and folders, run by the real command."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.command import moonyard
from tests.cli.conftest import Runner


async def test_the_record_has_the_digest_of_each_commands_image(run: Runner) -> None:
    done = await run.script('process.run({ command = "true" })', container='"alpine"')
    [command] = done.commands()
    assert command["container"] == "alpine"
    assert command["digest"].startswith("sha256:")


async def test_a_read_only_stage_and_block_can_write_to_the_workspace_alone(run: Runner) -> None:
    body = """
        local tried = process.run({ command = "touch", args = { "/etc/x" }, check = false })
        log.info("stage " .. tried.code)
        process.run({ command = "touch", args = { "/workspace/x", "/tmp/x" } })
        container.run("alpine", { read_only = true }, function()
          tried = process.run({ command = "touch", args = { "/etc/x" }, check = false })
          log.info("block " .. tried.code)
        end)
    """
    done = await run.script(body, container='"alpine"', read_only="true")
    assert done.code == 0, done.stdout
    assert done.texts(source="lua") == ["stage 1", "block 1"]


async def test_an_image_that_is_not_to_be_pulled_fails_the_command_with_its_policy(run: Runner) -> None:
    body = 'container.run("quay.io/no/such", { pull = "never" }, function() process.run({ command = "true" }) end)'
    done = await run.script(body)
    assert done.code == 1
    assert done.errors[-1].code == "image_not_found"
    assert "pull policy (`never`)" in done.errors[-1].message


async def test_a_pull_policy_that_there_is_not_is_told_with_those_there_are(run: Runner) -> None:
    done = await run.script('container.run("alpine", { pull = "sometimes" }, function() end)')
    assert done.errors[-1].code == "argument_invalid"
    assert '`pull` must be one of "missing", "always", "never"' in done.errors[-1].message


async def test_options_of_a_stages_own_container_need_one(run: Runner) -> None:
    done = await run.script("", pull='"daily"', read_only="true")
    assert done.code == 2
    message = json.loads(done.stdout)["error"]["message"]
    assert '`pull` of stage `s` must be one of "missing", "always", "never"' in message
    assert "`read_only` of stage `s` is about the stage's own container, and it has none" in message


async def test_images_that_the_settings_file_denies_are_refused(run: Runner) -> None:
    (run.folder / "moonyard.toml").write_text('images_denied = "debian"\n')
    done = await run.script('process.run({ command = "true" })', container='"debian:bookworm"')
    assert done.code == 1
    assert done.errors[-1].code == "image_refused"
    assert "it fits `debian` in its `images_denied`" in done.errors[-1].message


async def test_a_size_that_is_none_is_refused_with_the_form_it_has(tmp_path: Path) -> None:
    done = await moonyard("run", "any.lua", "--container-memory", "lots", cwd=tmp_path)
    assert done.code == 2
    assert '`lots` is no size, such as "512m" or "20g"' in done.stderr
