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
import os
import tomllib
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread

from runner.engine.connection import Connection

log: Final = logging.getLogger(__name__)

_CONFIGURATIONS: Final = (
    Path("/usr/share/containers/containers.conf"),
    Path("/etc/containers/containers.conf"),
    Path("~/.config/containers/containers.conf").expanduser(),
)
_DEFAULTS: Final = (Path("/etc/containers/seccomp.json"), Path("/usr/share/containers/seccomp.json"))
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

        :raises EngineError: when the engine does not answer.
        """
        async with self._making:
            if not self._is_made:
                self._path = await self._make()
                self._is_made = True
            return self._path

    async def _make(self) -> Path | None:
        if not (self._connection.is_local and await self._is_podman()):
            return None
        conf = None if self._connection.service is None else self._connection.service.conf
        try:
            own = await anyio.to_thread.run_sync(own_list, conf)
            return None if own is None else await anyio.to_thread.run_sync(_write, own, self._folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("the engine's list of system calls cannot be narrowed: %s", error)
            return None

    async def _is_podman(self) -> bool:
        await self._connection.ensure()
        async with (
            self._connection.reaching("asking what it is"),
            self._connection.docker._query("_ping", versioned_api=False) as response,  # noqa: SLF001  # as in connection
        ):
            return "Libpod-API-Version" in response.headers


def own_list(conf: Path | None) -> Path | None:
    """Find the list that Podman takes; None where there is none, or its owner wants none.

    To ask Podman takes a second where the machine is busy, for it asks all its helpers for their versions. So this
    looks where containers.conf(5) says, and at what the library of containers-common has for a default.

    :param conf: what a private Podman is told, in the place of the machine's files.
    """
    named = os.environ.get("CONTAINERS_CONF")
    files = [conf] if conf is not None else [Path(named)] if named else _CONFIGURATIONS
    found: str | None = None
    for file in files:
        if file.is_file():
            containers: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8")).get("containers", {})
            found = containers.get("seccomp_profile", found)
    if found:
        return None if found == "unconfined" else Path(found)
    return next((path for path in _DEFAULTS if path.is_file()), None)


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
