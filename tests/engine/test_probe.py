"""What Podman has to be told on machines where it is not at home."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import msgspec
import pytest

from runner.engine import probe
from runner.engine.errors import EngineUnavailable

RLIMIT = (
    'time="..." level=warning msg="The cgroups manager is set to systemd but there is no systemd user session"\n'
    "Error: runc: runc create failed: unable to start container process: error during container init: error setting "
    "rlimits for ready process: error setting rlimit type 7: operation not permitted: OCI permission denied"
)


def test_the_remedy_for_limits_is_the_own_ones() -> None:
    found = probe.remedy_for(RLIMIT, {})
    assert found is not None
    section, name, value = found
    assert (section, name) == ("containers", "default_ulimits")
    limits = tomllib.loads(f"{name} = {value}")[name]
    assert f"nofile={probe.limits()['nofile']}:{probe.limits()['nofile']}" in limits


def test_warnings_lead_to_no_remedy() -> None:
    assert probe.remedy_for(RLIMIT, {"containers": {"default_ulimits": "[]"}}) is None


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        ("Error: crun: cgroups in hybrid mode not supported, drop all controllers from cgroupv2", "runtime"),
        (
            "Error: systemd cgroup flag passed, but systemd support for managing cgroups is not available",
            "cgroup_manager",
        ),
        ("Error: unable to connect to dbus", "cgroup_manager"),
        ("Error: cannot write event to journald: no such file", "events_logger"),
    ],
)
def test_each_known_failure_has_its_line(failure: str, line: str) -> None:
    found = probe.remedy_for(failure, {})
    assert found is not None
    assert found[:2] == ("engine", line)


def test_an_unknown_failure_has_none() -> None:
    assert probe.remedy_for("Error: the disk is full", {}) is None


def test_the_outcome_is_a_containers_conf() -> None:
    found = probe.Outcome(lines={"containers": {"default_ulimits": '["nofile=1:1"]'}, "engine": {"runtime": '"runc"'}})
    assert tomllib.loads(found.text) == {
        "containers": {"default_ulimits": ["nofile=1:1"]},
        "engine": {"runtime": "runc"},
    }


async def test_the_outcome_is_found_once_and_then_known(tmp_path: Path) -> None:
    podman = shutil.which("podman")
    assert podman is not None
    first, conf = await probe.outcome(podman, tmp_path)
    assert (conf is None) == (not first.lines)
    kept = next((tmp_path / "engine").glob("probe-*.json"))
    known = probe.Outcome(lines={"engine": {"runtime": '"known"'}})
    kept.write_bytes(msgspec.json.encode(known))
    second, _ = await probe.outcome(podman, tmp_path)
    assert second == known


async def test_a_podman_that_runs_nothing_is_told_with_its_words_and_how_to_try(tmp_path: Path) -> None:
    broken = tmp_path / "podman"
    broken.write_text("#!/bin/sh\necho 'Error: the disk is full' >&2\nexit 125\n")
    broken.chmod(0o755)
    with pytest.raises(EngineUnavailable, match="cannot run a container on this machine: the disk is full") as raised:
        await probe.outcome(str(broken), tmp_path / "state")
    assert str(raised.value.hint).startswith(f"The same without Moonyard: {broken} run --rm")
    assert list((tmp_path / "state" / "engine").iterdir()) == []
