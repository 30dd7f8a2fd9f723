"""Finds what is there of jobs and runners: containers, workspaces, processes, and runners' folders."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.chaos import processes
from tests.chaos.processes import Known

PODMAN_SECONDS = 60.0
_FORM = '{{index .Labels "moonyard.job"}} {{index .Labels "moonyard.attempt"}} {{.ID}} {{.State}}'


class Container(NamedTuple):
    job: str
    attempt: int
    is_over: bool
    """Nothing runs in it any more."""
    text: str


def containers() -> list[Container]:
    """List the containers of jobs, whoever made them, in whatever state."""
    listed = subprocess.run(
        ["podman", "ps", "--all", "--format", _FORM, "--filter", "label=moonyard.job"],
        capture_output=True,
        check=True,
        text=True,
        timeout=PODMAN_SECONDS,
    ).stdout.splitlines()
    found = [line.split(" ", 2) for line in listed]
    return [
        Container(job, int(attempt), " Exited" in rest or " Removing" in rest, f"container {rest} of job {job}")
        for job, attempt, rest in found
    ]


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
