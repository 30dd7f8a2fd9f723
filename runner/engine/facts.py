"""What an engine says of itself."""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec
from aiodocker.exceptions import DockerError

from runner.engine.connection import Connection
from runner.engine.errors import EngineError, first_line

LIBPOD_INFO: Final = "v4.0.0/libpod/info"


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    """Whose it is and where it listens, for messages."""
    version: str
    is_rootless: bool
    cgroup_version: str
    limits_memory: bool
    limits_pids: bool
    storage: str
    """The folder of its images and containers, on its own machine."""
    is_local: bool

    @classmethod
    async def ask(cls, connection: Connection) -> EngineFacts:
        """Ask an engine what it is.

        :raises EngineError: when it does not tell.
        """
        await connection.ensure()
        try:
            async with connection.reaching("asking what it is"):
                version: dict[str, Any] = await connection.docker.version()
                told = await connection.docker.system.info()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        except DockerError as error:
            raise EngineError(f"{connection.name} does not say what it is: {first_line(error.message)}") from error
        info = cast("dict[str, Any]", told)
        parts: list[dict[str, Any]] = version.get("Components") or []
        is_rootless = bool(info.get("Rootless")) or "name=rootless" in (info.get("SecurityOptions") or [])
        controllers = await _controllers(connection) if is_rootless else None
        product = str(parts[0].get("Name", "engine")).removesuffix(" Engine") if parts else "engine"
        return cls(
            name=connection.name,
            version=f"{product} {version.get('Version', 'of unknown version')}",
            is_rootless=is_rootless,
            cgroup_version=str(info.get("CgroupVersion") or "unknown"),
            limits_memory=bool(info.get("MemoryLimit")) if controllers is None else "memory" in controllers,
            limits_pids=bool(info.get("PidsLimit")) if controllers is None else "pids" in controllers,
            storage=str(info.get("DockerRootDir") or ""),
            is_local=connection.is_local,
        )


async def _controllers(connection: Connection) -> list[str] | None:
    """Ask a Podman without root which controllers it was handed over; None where it is none.

    What it says by Docker's API is what the machine has, not what it may use (seen with 4.3).
    """
    try:
        async with connection.reaching("asking what it may limit"):
            told: dict[str, Any] = await connection.docker._query_json(  # noqa: SLF001  # as with networks
                LIBPOD_INFO, versioned_api=False
            )
    except DockerError:
        return None
    return list(told.get("host", {}).get("cgroupControllers") or [])
