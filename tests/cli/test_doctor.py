"""``moonyard doctor``: what it finds of this machine, and of ones that lack something."""

from __future__ import annotations

from pathlib import Path

import anyio

from tests.cli.command import moonyard


async def test_a_machine_that_has_what_a_runner_needs_is_told_so(
    tmp_path: Path, state_folder: Path, image_map: dict[str, str]
) -> None:
    assert image_map
    done = await moonyard("doctor", "--json", "--only=runner", "--state-folder", str(state_folder), cwd=tmp_path)
    assert done.code == 0, done.stdout + done.stderr
    found = {line["check"]: line for line in done.lines}
    looked_at = {"engine", "sandbox", "limits", "disk", "firewall", "image", "isolation", "network", "warm containers"}
    assert looked_at <= set(found)
    assert not [line for line in found.values() if line["state"] == "broken"]
    assert found["memory limit"]["text"] == "a command that took more than its container may was ended"
    for line in found.values():
        assert line["part"] == "runner"
        assert line["state"] == "ok" or (line["why"] and line["hint"]), line
    assert "Podman" in found["engine"]["text"]
    left = ["podman", "ps", "--all", "--quiet", "--filter", "label=moonyard.job=checkup"]
    assert (await anyio.run_process(left)).stdout == b""


async def test_each_finding_is_a_line_with_its_mark_for_people(tmp_path: Path, state_folder: Path) -> None:
    done = await moonyard(
        "doctor", "--only=runner", "--warm-containers=0", "--state-folder", str(state_folder), cwd=tmp_path
    )
    marks = [line[:7].strip() for line in done.stdout.splitlines() if line[0] != " "]
    assert set(marks) <= {"ok", "weak"}
    assert any(line.startswith("ok      engine ") for line in done.stdout.splitlines())
    assert done.stdout.count("why: ") == done.stdout.count("hint: ") == marks.count("weak")
    assert done.stderr == f"0 broken, {marks.count('weak')} weak, {marks.count('ok')} ok\n"


async def test_what_is_weak_fails_where_somebody_is_strict(tmp_path: Path, state_folder: Path) -> None:
    options = ("--json", "--only=runner", "--state-folder", str(state_folder), "--default-image", "localhost/none")
    assert (await moonyard("doctor", *options, cwd=tmp_path)).code == 0
    assert (await moonyard("doctor", *options, "--strict", cwd=tmp_path)).code == 1


async def test_an_engine_that_does_not_answer_fails_with_the_reason(tmp_path: Path, state_folder: Path) -> None:
    nobody = tmp_path / "nobody.sock"
    done = await moonyard(
        *("doctor", "--json", "--only=runner", "--state-folder", str(state_folder), "--engine-socket", str(nobody)),
        cwd=tmp_path,
    )
    assert done.code == 1
    found = {line["check"]: line for line in done.lines}
    assert found["engine"]["state"] == "broken"
    assert str(nobody) in found["engine"]["text"]
    assert found["sandbox"]["state"] in {"ok", "weak"}, "what does not need an engine is told as well"


async def test_an_image_that_is_not_there_is_weak_or_fails_by_the_pull_policy(
    tmp_path: Path, state_folder: Path
) -> None:
    arguments = ["doctor", "--json", "--only=runner", "--state-folder", str(state_folder)]
    arguments += ["--default-image", "localhost/none"]
    weak = await moonyard(*arguments, cwd=tmp_path)
    assert weak.code == 0
    assert {line["check"]: line["state"] for line in weak.lines}["image"] == "weak"
    fails = await moonyard(*arguments, "--pull-policy", "never", cwd=tmp_path)
    assert fails.code == 1
    assert {line["check"]: line["state"] for line in fails.lines}["image"] == "broken"


async def test_a_state_folder_that_cannot_be_used_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = await moonyard(
        "doctor", "--json", "--only=runner", "--state-folder", str(tmp_path / "file" / "state"), cwd=tmp_path
    )
    assert done.code == 1
    assert done.lines[0]["check"] == "state folder"
