"""What a runner's machine lacks is found: each lack is made for real."""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from pathlib import Path

import msgspec
import pytest

from runner import checkup, container_checks
from runner.engine import firewall
from runner.engine.allowances import Allowance
from runner.engine.container import ContainerSpec
from runner.engine.engine import Engine
from runner.engine.facts import EngineFacts
from runner.engine.settings import EngineSettings
from schema.definition import Rights
from schema.findings import Finding
from tests.engine.conftest import ALPINE

FACTS = EngineFacts(
    name="an engine",
    version="Podman 4",
    is_rootless=False,
    cgroup_version="2",
    limits_memory=True,
    limits_pids=True,
    storage="",
    is_local=True,
)


def told(finding: Finding) -> Finding:
    assert finding.state == "ok" or (finding.why and finding.hint), finding
    return finding


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Generator[Path]:
    """A disk with the size and the number of files that a test asks for."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize(
    ("disk", "state", "text"),
    [
        ("size=100g,nr_inodes=1000000", "ok", "are free in"),
        ("size=100g,nr_inodes=100000", "weak", "files (inodes)"),
        ("size=100g,nr_inodes=1000", "broken", "files (inodes)"),
        ("size=1g,nr_inodes=1000000", "weak", "1.0 GiB are free in"),
        ("size=1g,nr_inodes=1000", "broken", "files (inodes)"),
        ("size=64m,nr_inodes=1000000", "broken", "64.0 MiB are free in"),
    ],
    indirect=["disk"],
)
def test_a_disk_is_looked_at_for_room_and_for_files(disk: Path, state: str, text: str) -> None:
    found = told(checkup._room("disk", disk))
    assert found.state == state
    assert text in found.text


def test_a_disk_that_is_not_there_is_broken(tmp_path: Path) -> None:
    assert told(checkup._room("disk", tmp_path / "none")).state == "broken"


def test_without_iptables_networks_are_kept_apart_by_the_engine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(firewall, "_FOLDERS", str(tmp_path))
    found = told(checkup._firewall(FACTS))
    assert found.state == "weak"
    assert "there is no `iptables`" in found.text


def test_an_iptables_that_does_not_work_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "iptables"
    program.write_text("#!/bin/sh\necho this kernel has no tables >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    found = told(checkup._firewall(FACTS))
    assert found.state == "broken"
    assert "this kernel has no tables" in found.text


def test_an_engine_without_limits_is_weak() -> None:
    found = told(checkup._limits(msgspec.structs.replace(FACTS, limits_memory=False, limits_pids=False)))
    assert found.state == "weak"
    assert "no limit to a container's memory and processes" in found.text


async def test_a_container_that_is_held_by_less_is_weak(engine_settings: EngineSettings, workspace: Path) -> None:
    rule = Allowance(images=["*"], pipelines=["trusted"], privileged=True)
    settings = msgspec.structs.replace(engine_settings, allow=[rule])
    spec = ContainerSpec(image=ALPINE, job="checkup", attempt=1, workspace=workspace, network="none")
    async with Engine.open(settings, "checkup") as engine:
        assert told(await container_checks._isolation(engine, spec)).state == "ok"
        asked = msgspec.structs.replace(spec, rights=Rights(privileged=True), pipeline="trusted")
        found = told(await container_checks._isolation(engine, asked))
        assert found.state == "weak"
        assert "it has more capabilities than it should" in found.text
        assert "no system calls are filtered (seccomp)" in found.text


async def test_a_limit_of_memory_that_does_not_bite_is_weak(
    engine: Engine, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ContainerSpec(image=ALPINE, job="checkup", attempt=1, workspace=workspace, network="none")
    assert told(await container_checks._held_memory(engine, spec)).state == "ok"
    monkeypatch.setattr(container_checks, "TRIED_MEMORY_BYTES", 512 * 1024**2)  # more than the command takes
    found = told(await container_checks._held_memory(engine, spec))
    assert found.state == "weak"
    assert "a command took more than" in found.text
