"""What a machine's owner may set about the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from runner.engine.allowances import Allowance
from runner.engine.limits import TMP_BYTES
from schema.definition import PullPolicy

DEFAULT_IMAGE: Final = "docker.io/library/alpine:latest"


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the engine is, and what containers get when a pipeline says nothing."""

    state_folder: Path
    socket: str | None = None
    """A path, or an address such as ``unix:///run/podman/podman.sock``; by default one is looked for, or made."""
    image_map: dict[str, str] = {}
    """Which image is taken in whose place: for mirrors and air-gapped sites."""
    default_image: str = DEFAULT_IMAGE
    pull_policy: PullPolicy = "missing"
    """With `missing`, a pipeline may choose; `always` and `never` hold for all."""
    auth_file: Path | None = None
    """The registries' credentials, as Podman and Docker write them; by default where those look."""
    images_allowed: list[str] = []
    """Patterns of the images that pipelines may use; by default any."""
    images_denied: list[str] = []
    allow: list[Allowance] = []
    """What containers of some images or pipelines may have beyond what all have."""
    image_budget: int | None = None
    """Bytes of disk for images that were pulled here; by default no limit."""
    pull_silence: float = 300.0
    """Seconds after which a pull that tells nothing has failed."""
    pull_pauses: tuple[float, ...] = (1.0, 4.0)
    """Seconds before each further try of a pull that failed for a reason that may pass."""
    memory_bytes: int | None = None
    """For each container; by default what the machine has, but for a reserve (``limits``)."""
    tmp_bytes: int = TMP_BYTES
    """Of the container's memory, for its /tmp; with 0, that is on the image's disk."""
    cpus: float | None = None
    warm_containers: int = 0
    """How many containers may be kept ready, made ahead of need."""
    pids: int = 2048
    """How many processes and threads a container may have at once: a fork bomb ends there."""
