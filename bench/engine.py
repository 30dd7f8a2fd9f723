"""Podman's own command line on the terms of the runner's engine: the same image, and the same containers.conf."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import anyio

from cli import settings
from runner.engine import probe

IMAGE_NAME: Final = "docker.io/library/alpine:latest"
SECONDS_MAXIMUM: Final = 120.0


@functools.cache
def image() -> str:
    """Name the image as the engine knows it: the image map has been looked through."""
    return settings.image_map().get(IMAGE_NAME, IMAGE_NAME)


@functools.cache
def environment() -> dict[str, str]:
    """Give podman the containers.conf that the runner's engine needs on this machine, if it needs one."""
    folder = Path(os.environ.get("MOONYARD_STATE_FOLDER") or settings.default_state_folder())
    program = shutil.which("podman")
    if program is None:
        sys.exit("there is no podman on this machine")
    _, conf = anyio.run(probe.outcome, program, folder)
    return dict(os.environ) if conf is None else {**os.environ, "CONTAINERS_CONF": str(conf)}


def podman(*arguments: str) -> str:
    """Run podman and give what it printed.

    :raises SystemExit: when it fails, with its words.
    """
    done = subprocess.run(
        ["podman", *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=SECONDS_MAXIMUM,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"`podman {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done.stdout.strip()
