"""The system calls that containers may make: those of the engine's own list, less what leads out of them all the same.

Podman's list has two that do (containers-common's ``seccomp.json``, as Docker's once had):

    keyctl   the kernel's keys belong to a user of the machine, not to a container: root in one that is no user of its
             own reads what root outside keeps there
    socket   of families that know no network namespaces (AF_VSOCK: from a virtual machine to what runs it), and of
             those that nobody needs and whose code is rarely looked at (AF_ALG and the like)

The list stays the engine's otherwise, so that what its owner changed in it, and what it knows of capabilities that are
granted, counts. An engine that is elsewhere, or that names no list (Docker), keeps its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
from aiodocker.exceptions import DockerError

from runner.engine.connection import Connection
from runner.engine.facts import LIBPOD_INFO

log: Final = logging.getLogger(__name__)

REFUSED: Final = frozenset({"keyctl", "add_key", "request_key"})
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET = 1, 2, 10, 16, 17
NETLINK_AUDIT: Final = 9


class CallFilter:
    """The list for the containers of one engine, made when the first one is."""

    def __init__(self, connection: Connection, state_folder: Path) -> None:
        self._connection = connection
        self._folder = state_folder / "engine"
        self._making = anyio.Lock()
        self._is_made = False
        self._path: Path | None = None

    async def get(self) -> Path | None:
        """Give the file with the list; None where the engine is to use its own.

        :raises EngineError: when the engine does not say which that is.
        """
        async with self._making:
            if not self._is_made:
                self._path = await self._make()
                self._is_made = True
            return self._path

    async def _make(self) -> Path | None:
        own = await self._own() if self._connection.is_local else None
        if own is None:
            return None
        try:
            return await anyio.to_thread.run_sync(_write, own, self._folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("the engine's list of system calls, %s, cannot be narrowed: %s", own, error)
            return None

    async def _own(self) -> Path | None:
        await self._connection.ensure()
        try:
            async with self._connection.reaching("asking which system calls it lets containers make"):
                told: dict[str, Any] = await self._connection.docker._query_json(  # noqa: SLF001  # as with networks
                    LIBPOD_INFO, versioned_api=False
                )
        except DockerError:
            return None
        security: dict[str, Any] = told.get("host", {}).get("security", {})
        path = str(security.get("seccompProfilePath") or "")
        return Path(path) if security.get("seccompEnabled") and path.startswith("/") else None


def narrowed(profile: dict[str, Any]) -> dict[str, Any]:
    """Give a list of system calls (OCI's, as containers-common writes it) less those that lead out."""
    kept: list[dict[str, Any]] = []
    for rule in profile["syscalls"]:
        names = [name for name in rule["names"] if name not in REFUSED and name != "socket"]
        if names:
            kept.append({**rule, "names": names})
    return {**profile, "syscalls": [*kept, *_sockets()]}


def _sockets() -> list[dict[str, Any]]:
    allowed = [[_argument(0, family)] for family in (AF_UNIX, AF_INET, AF_INET6, AF_PACKET)]
    allowed.append([_argument(0, AF_NETLINK), _argument(2, NETLINK_AUDIT, "SCMP_CMP_NE")])
    return [{"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": arguments} for arguments in allowed]


def _argument(index: int, value: int, compared: str = "SCMP_CMP_EQ") -> dict[str, Any]:
    return {"index": index, "value": value, "valueTwo": 0, "op": compared}


def _write(own: Path, folder: Path) -> Path:
    data = json.dumps(narrowed(json.loads(own.read_bytes())), indent=1).encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"seccomp-{hashlib.sha256(data).hexdigest()[:16]}.json"
    if not path.exists():
        nascent = path.with_suffix(".new")
        nascent.write_bytes(data)
        nascent.rename(path)
    return path
