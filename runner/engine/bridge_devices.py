"""The bridges of networks of ours, as the kernel has them, and what the engine leaves of them when it is killed.

While it starts a container, Podman makes a network namespace (a file in ``/run/netns`` holds it), a bridge if there is
none yet, and a pair of devices between them. Killed in between, it knows nothing of them afterwards: they would stay
until the machine is restarted (seen with Podman 4.3 and netavark 1.4).

A bridge's name says whose it is: of fifteen letters, which is all that the kernel takes, three are made of the owner's
name. What leads to it is the owner's, too. A namespace without such devices, left by a kill a moment earlier, has no
such mark, and stays: it is empty.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import secrets
import string
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from runner.engine import firewall

log: Final = logging.getLogger(__name__)

MARK_LENGTH: Final = 3
UNIQUE_LENGTH: Final = 4
_LETTERS: Final = string.ascii_letters + string.digits
_DEVICES: Final = Path("/sys/class/net")
_NAMESPACES: Final = Path("/run/netns")
_PROC: Final = Path("/proc")
_NO_NAMESPACE_ID: Final = 0xFFFFFFFF
_MNT_DETACH: Final = 2


class Leftover(msgspec.Struct, frozen=True, kw_only=True):
    """A device behind which nothing runs: a bridge, or a port of one with the namespace that it leads to."""

    index: int
    """The kernel's number of the device, which no other gets before the machine is restarted."""
    name: str
    namespace: str | None = None
    """The file of the namespace."""


def new_name(owner: str) -> str:
    """Give a name for a bridge of an owner's: at most 15 letters, which is all that the kernel takes."""
    return prefix(owner) + "".join(secrets.choice(_LETTERS) for _ in range(UNIQUE_LENGTH))


def prefix(owner: str) -> str:
    """Give what the names of an owner's bridges begin with. Of a quarter of a million owners, two may have the same."""
    digest = hashlib.sha256(owner.encode()).digest()
    return firewall.DEVICE_PREFIX + "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:MARK_LENGTH])


def of_owner(owner: str) -> list[str]:
    """List the bridges of an owner's."""
    length = len(prefix(owner)) + UNIQUE_LENGTH
    return [path.name for path in _DEVICES.glob(f"{prefix(owner)}*") if len(path.name) == length]


def leftovers(owner: str, known: Collection[str]) -> list[Leftover]:
    """List what of an owner's bridges leads to nothing that runs.

    :param known: the bridges that belong to networks: of these, only ports are listed.
    :raises OSError: when the kernel does not tell.
    """
    names = set(of_owner(owner))
    found: list[Leftover] = []
    with _route() as route:
        links = [_Link.of(link) for link in route.get_links()]
        namespaces = _namespaces(route)
    inhabited = _inhabited()
    for bridge in (link for link in links if link.name in names):
        ports = [link for link in links if link.master == bridge.index]
        lone = [
            Leftover(index=port.index, name=port.name, namespace=namespaces.get(port.namespace_id))
            for port in ports
            if port.namespace_id in namespaces and _identity(namespaces[port.namespace_id]) not in inhabited
        ]
        found += lone
        if bridge.name not in known and len(lone) == len(ports):
            found.append(Leftover(index=bridge.index, name=bridge.name))
    return found


def remove(found: Iterable[Leftover]) -> int:
    """Remove devices, ports before bridges, and the namespaces behind them; give how many were there.

    :raises OSError: when the kernel does not do it.
    """
    count = 0
    ordered = sorted(found, key=lambda one: one.namespace is None)
    if not ordered:
        return 0
    inhabited = _inhabited()
    with _route() as route:
        for one in ordered:
            if one.namespace is not None and _identity(one.namespace) in inhabited:
                continue  # something runs there by now
            if not _remove_device(route, one):
                continue
            count += 1
            if one.namespace is not None:
                _remove_namespace(one.namespace)
    return count


def _remove_device(route: Any, one: Leftover) -> bool:
    """Remove a device, unless it is gone, or a bridge that has got a port."""
    if not (_DEVICES / one.name).exists() or list(_DEVICES.glob(f"{one.name}/brif/*")):
        return False
    route.link("del", index=one.index)
    log.info("removed device %s, which an engine left behind that was killed", one.name)
    return True


def _remove_namespace(file: str) -> None:
    """Let go of a network namespace: it ends with its last user, and nothing runs in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    # What somebody unmounted meanwhile is a plain file.
    if libc.umount2(os.fsencode(file), _MNT_DETACH) != 0:
        log.debug("%s could not be unmounted (%s)", file, os.strerror(ctypes.get_errno()))
    with suppress(OSError):
        Path(file).unlink()


class _Link(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    name: str
    master: int | None
    """The bridge that it is a port of."""
    namespace_id: int | None
    """Of the namespace in which its other end is."""

    @classmethod
    def of(cls, link: Any) -> _Link:
        return cls(
            index=link["index"],
            name=link.get_attr("IFLA_IFNAME"),
            master=link.get_attr("IFLA_MASTER"),
            namespace_id=link.get_attr("IFLA_LINK_NETNSID"),
        )


@contextmanager
def _route() -> Generator[Any]:
    """Speak with the kernel about its devices. The library has no types."""
    from pyroute2 import IPRoute  # a tenth of a second, and hardly ever needed
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as route:
            yield route
    except NetlinkError as error:
        raise OSError(f"the kernel refuses it: {error}") from error


def _namespaces(route: Any) -> dict[int, str]:
    """Give the files of network namespaces by the ids that the kernel has for them here."""
    from pyroute2.netlink.exceptions import NetlinkError

    found: dict[int, str] = {}
    for path in _NAMESPACES.glob("netns-*") if _NAMESPACES.is_dir() else ():
        with suppress(OSError, NetlinkError):  # it has gone meanwhile, or is none
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                found[route.get_netnsid(fd=handle)["nsid"]] = str(path)
            finally:
                os.close(handle)
    found.pop(_NO_NAMESPACE_ID, None)
    return found


def _inhabited() -> set[tuple[int, int]]:
    """Give the network namespaces in which some process runs."""
    return set(_of_processes())


def _of_processes() -> Iterator[tuple[int, int]]:
    for name in os.listdir(_PROC):  # noqa: PTH208  # a thousand paths would be made to read a thousand names
        if name.isdecimal() and (identity := _identity(f"/proc/{name}/ns/net")) is not None:
            yield identity


def _identity(file: str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)  # noqa: PTH116  # called for each process of the machine
    except OSError:
        return None
    return found.st_dev, found.st_ino
