"""Where an engine listens: the address that was set, or the places where Podman's own service does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import anyio

from runner.engine.errors import EngineUnavailable

CONNECT_SECONDS: Final = 5.0


def chosen(setting: str | None, environment: Mapping[str, str]) -> tuple[str, str] | None:
    """Give the address that somebody decided on, and where that was said.

    :raises EngineUnavailable: when it is an address of a kind that is not understood.
    """
    for value, said_by in (
        (setting, "the setting `engine_socket`"),
        (environment.get("CONTAINER_HOST"), "CONTAINER_HOST"),
        (environment.get("DOCKER_HOST"), "DOCKER_HOST"),
    ):
        if value:
            return _address(value, said_by), said_by
    return None


def usual() -> list[Path]:
    """List the sockets where Podman's service listens by itself."""
    if os.geteuid() == 0:
        return [Path("/run/podman/podman.sock")]
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return [Path(runtime) / "podman" / "podman.sock"]


async def is_alive(socket: Path) -> bool:
    """Tell whether somebody listens at a socket."""
    try:
        with anyio.fail_after(CONNECT_SECONDS):
            async with await anyio.connect_unix(socket):
                return True
    except (OSError, TimeoutError):
        return False


def _address(value: str, said_by: str) -> str:
    if value.startswith("/"):
        return f"unix://{value}"
    if value.startswith(("unix://", "tcp://", "http://", "https://")):
        return value
    if value.startswith("unix:/"):
        return "unix://" + value.removeprefix("unix:")
    raise EngineUnavailable(
        f"the engine's address `{value}` ({said_by}) is of a kind that Moonyard does not know",
        hint="Give a socket's full path, or an address that begins with unix:// or tcp://.",
    )
