"""What a machine's owner may set about the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

DEFAULT_IMAGE: Final = "docker.io/library/alpine:latest"


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the engine is, and what containers get when a pipeline says nothing."""

    state_folder: Path
    socket: str | None = None
    """A path, or an address such as ``unix:///run/podman/podman.sock``; by default one is looked for, or made."""
    image_map: dict[str, str] = {}
    """Which image is taken in whose place: for mirrors and air-gapped sites."""
    default_image: str = DEFAULT_IMAGE
    memory_bytes: int | None = None
    """For each container; by default whatever the machine has."""
    cpus: float | None = None
    warm_containers: int = 0
    """How many containers may be kept ready, made ahead of need."""
    pids: int = 2048
    """How many processes and threads a container may have at once: a fork bomb ends there."""
