"""The first process of a container that has no command server: keeps it alive and collects orphaned processes.

Podman's own ``catatonit`` does that (``-P``), and being a static program it runs in any image, those without a shell
included. It is mounted into the container from the host. Where the host has none, a shell of the image has to do.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import msgspec

MOUNTED_AT: Final = "/.moonyard-init"
_PLACES: Final = ("/usr/libexec/podman/catatonit", "/usr/lib/podman/catatonit", "/usr/libexec/catatonit/catatonit")
# `wait` returns when any child ends; the sleeping one is only there to be waited for.
_SHELL_LOOP: Final = "trap 'exit 0' TERM INT; while :; do sleep 2147483647 & wait; done"


def find() -> Path | None:
    """Find the helper on this machine."""
    found = [Path(place) for place in _PLACES if Path(place).is_file()]
    if (on_path := shutil.which("catatonit")) is not None:
        found.append(Path(on_path))
    return found[0].resolve() if found else None


class FirstProcess(msgspec.Struct, frozen=True, kw_only=True):
    """What a container runs as its first process, and what of the host's that needs."""

    command: list[str]
    binds: list[str] = []


def first_process(helper: Path | None) -> FirstProcess:
    """Give a first process that does nothing else but be there."""
    if helper is None:
        return FirstProcess(command=["/bin/sh", "-c", _SHELL_LOOP])
    return FirstProcess(command=[MOUNTED_AT, "-P"], binds=[f"{helper}:{MOUNTED_AT}:ro"])
