"""compose.yaml says what the command line, the load balancer's configuration and the checkout have."""

from __future__ import annotations

import re
from typing import Any

import click
import msgspec
import pytest

from cli import settings
from cli.main import moonyard
from tests.cli.command import ROOT

FILE = ROOT / "compose.yaml"
CONTAINERFILE = ROOT / "containers" / "Containerfile"
SECRETS = {"MOONYARD_TOKEN", "MOONYARD_REGISTRATION_TOKEN", "MOONYARD_SECRET_KEYS", "MOONYARD_LOGIN_PASSWORD"}
Service = dict[str, Any]


def services() -> dict[str, Service]:
    return msgspec.yaml.decode(FILE.read_bytes(), type=dict[str, Any])["services"]


OURS = {name: service for name, service in services().items() if "build" in service}


def command_lines(service: Service) -> list[list[str]]:
    """Give what a service runs of the command line, also where a shell does it."""
    words: list[str] = service["command"]
    if "entrypoint" not in service:
        return [words]
    [script] = words
    return [found.split() for found in re.findall(r"\bmoonyard ([a-z -]+)", script)]


@pytest.mark.parametrize("name", OURS)
def test_a_services_command_is_one_of_the_command_line(name: str) -> None:
    lines = command_lines(OURS[name])
    assert lines
    for words in lines:
        group: click.Command = moonyard
        rest = list(words)
        while isinstance(group, click.Group):
            found = group.get_command(click.Context(group), rest.pop(0))
            assert found is not None, words
            group = found
        group.make_context(words[-1], rest, resilient_parsing=False)


@pytest.mark.parametrize("name", OURS)
def test_a_services_environment_has_names_of_settings_alone(name: str) -> None:
    known = {f"MOONYARD_{setting.upper()}" for setting in settings.SETTINGS} | SECRETS
    assert set(OURS[name].get("environment", {})) <= known


def test_three_orchestrators_with_health_checks_stand_behind_the_balancer() -> None:
    text = (ROOT / "containers" / "haproxy.cfg").read_text(encoding="utf-8")
    behind = re.findall(r"^    server (\S+) (\S+)$", text, re.MULTILINE)
    orchestrators = [name for name in OURS if name.startswith("orchestrator-")]
    assert behind == [(name, f"{name}:8400") for name in orchestrators]
    assert len(orchestrators) == 3
    for name in (*orchestrators, "postgres", "balancer"):
        assert "healthcheck" in services()[name], name


def test_what_the_files_name_is_in_the_checkout() -> None:
    for service in services().values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert not source.startswith(".") or (ROOT / source).is_file(), volume
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
    copied = re.findall(r"^COPY (\S+) ", CONTAINERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert copied
    assert all((ROOT / name).exists() for name in copied)


def test_each_runner_has_its_workspaces_where_the_engine_looks_for_them() -> None:
    runners = {name: service for name, service in OURS.items() if name.startswith("runner-")}
    folders: list[str] = []
    for service in runners.values():
        folder = service["environment"]["MOONYARD_STATE_FOLDER"]
        assert f"{folder}:{folder}" in service["volumes"]
        folders.append(folder)
    assert len(set(folders)) == len(runners) > 1
