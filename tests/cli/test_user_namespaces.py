"""Whole jobs whose containers have users of their own."""

from __future__ import annotations

import anyio

from tests.cli.command import ROOT
from tests.cli.conftest import Runner
from tests.cli.test_run_more import ALPINE, SHELL, nothing_is_left, succeeded

MAPPED = "user_namespaces = true\n"


async def test_services_answer_and_artifacts_are_kept(run: Runner) -> None:
    (run.folder / "moonyard.toml").write_text(MAPPED)
    example = await anyio.Path(ROOT / "examples" / "services.lua").read_text(encoding="utf-8")
    printed = succeeded(await run(example))
    assert printed.texts(source="lua") == ["it said: hello from beside"]
    await nothing_is_left(printed.job["job"], run.state_folder)


async def test_who_may_do_more_than_all_has_the_machines_users_and_the_same_workspace(run: Runner) -> None:
    (run.folder / "moonyard.toml").write_text(
        MAPPED + '[[allow]]\npipelines = ["*"]\nprivileged = true\ncapabilities = ["NET_ADMIN"]\n'
    )
    body = (
        SHELL
        + f"""
        local function map() return (sh("cat /proc/self/uid_map").stdout:gsub("%s+", " ")) end
        local mapped = map()
        sh("echo mine > file; chmod 640 file; mkdir folder; chmod 700 folder")
        container.run("{ALPINE}", {{ privileged = true }}, function()
          log.info(map(), sh("stat -c '%u %g' file; echo more >> file; touch folder/x").stdout)
        end)
        log.info(mapped, sh("cat file; stat -c '%u %g' folder/x; rm -r folder").stdout)
        artifact.save({{ path = "file" }})"""
    )
    printed = succeeded(await run.script(body, container=f'"{ALPINE}"'))
    said = " ".join(printed.texts(source="lua")).split()
    assert said == ["0", "0", "4294967295", "0", "0", "0", "1879048192", "65536", "mine", "more", "0", "0"]
    await nothing_is_left(printed.job["job"], run.state_folder)
