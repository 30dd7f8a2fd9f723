"""Finds what is there of jobs and runners: containers, networks, workspaces, processes, and runners' folders."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from runner.engine import bridge_devices
from tests.chaos import processes
from tests.chaos.processes import Known

PODMAN_SECONDS = 60.0
_LABELS = ("owner", "job", "attempt")
_FORM = "\t".join(
    [*(f'{{{{index .Labels "moonyard.{label}"}}}}' for label in _LABELS), "{{.ID}} {{.State}}", "{{.Names}}"]
)
_NAME = re.compile(r"moonyard-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-(\d+)-")
"""Of a container that was made ahead, and then given to a job: its labels cannot be changed."""


class Container(NamedTuple):
    owner: str
    job: str
    """Empty for one that was made ahead and has not been given away."""
    attempt: int
    is_over: bool
    """Nothing runs in it any more."""
    text: str


def containers() -> list[Container]:
    """List the containers of runners, whoever made them, in whatever state."""
    listed = subprocess.run(
        ["podman", "ps", "--all", "--format", _FORM, "--filter", "label=moonyard.owner"],
        capture_output=True,
        check=True,
        text=True,
        timeout=PODMAN_SECONDS,
    ).stdout.splitlines()
    found: list[Container] = []
    for line in listed:
        owner, job, attempt, state, name = line.split("\t")
        if given := _NAME.match(name):
            job, attempt = given.groups()
        is_over = " Exited" in state or " Removing" in state
        found.append(Container(owner, job, int(attempt or 0), is_over, f"container {name} {state}"))
    return found


class Network(NamedTuple):
    owner: str
    job: str
    """Empty for one that containers of several jobs are on."""
    text: str


class _Listed(msgspec.Struct, frozen=True):
    name: str
    labels: dict[str, str]


def networks() -> list[Network]:
    """List the networks of runners, whoever made them."""
    listed = subprocess.run(
        ["podman", "network", "ls", "--format", "json", "--filter", "label=moonyard.owner"],
        capture_output=True,
        check=True,
        timeout=PODMAN_SECONDS,
    ).stdout
    found = msgspec.json.decode(listed, type=list[_Listed])
    return [
        Network(network.labels["moonyard.owner"], network.labels.get("moonyard.job", ""), f"network {network.name}")
        for network in found
    ]


def with_the_engine(owners: Collection[str], jobs: Collection[str] = ()) -> list[str]:
    """List what the engine has of some owners, or of some jobs, and what it left of owners in the kernel."""
    there = [*containers(), *networks()]
    found = [found.text for found in there if found.owner in owners or found.job in jobs]
    return found + [f"bridge {name}" for owner in owners for name in bridge_devices.of_owner(owner)]


def workspaces(state_folder: Path) -> list[tuple[str, int]]:
    """List the workspaces below a runner's state folder, by job and attempt."""
    names = sorted(folder.name for folder in (state_folder / "owners").glob("*/workspaces/[!.]*"))
    return [(job, int(attempt)) for job, _, attempt in (name.rpartition("-") for name in names)]


def owners(state_folder: Path) -> list[str]:
    """List the runner processes, dead and alive, that left a folder."""
    folder = state_folder / "owners"
    return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []


def strays(seen: Iterable[Known], roots: Iterable[int]) -> list[str]:
    """List those of the processes once seen that are alive and not below one of the roots, which live too."""
    below = {found for pid in roots for found in processes.descendants(pid)}
    left = [process.pid for process in seen if process.pid not in below and processes.lives(process)]
    lines = {pid: " ".join(processes.words(pid)) for pid in left}
    # The engine's name server is one for all containers of the machine, whoever made them.
    return [f"process {pid} {line}" for pid, line in lines.items() if line and "aardvark-dns" not in line]
