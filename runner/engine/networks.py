"""Networks of our own: what is on one reaches nothing that is on another of them.

Jobs with services have some, on which containers find each other by name. All other containers of an owner's that are
to have a network are on one bridge, which has no names, and on which none of them reaches another (``bridge_ports``).
That takes a runner that is root where the containers run; elsewhere, each job has a network of its own.

Each is labelled like a container with its owner, job and attempt, so that whoever finds it can tell whose it was. The
engine gives it a range of addresses, a name server, and a way out through the machine.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any, Final

import anyio
import anyio.to_thread
from aiodocker.exceptions import DockerError
from aiodocker.networks import DockerNetwork

from runner.engine import bridge_devices, bridge_ports, firewall
from runner.engine.connection import Connection
from runner.engine.container import OWNER_LABEL, labels
from runner.engine.errors import EngineError, NetworkUnavailable, NotIsolated, first_line

log: Final = logging.getLogger(__name__)

REMOVAL_SECONDS: Final = 30.0


# Podman lets the containers of isolated networks reach none of another isolated network: more or less (``firewall``).
_ISOLATED: Final = {"isolate": "true"}
LISTING_TRIES: Final = 5
_DEVICE_WENT: Final = "no such network interface"
_LIBPOD: Final = "v4.0.0/libpod/networks/create"
_LIBPOD_NETWORKS: Final = "v4.0.0/libpod/networks/json"
"""Podman's own API: Docker's has no names for devices, and aiodocker no words for this one."""


async def create(connection: Connection, name: str, owner: str, job: str, attempt: int) -> None:
    """Make a network on which containers find each other by name.

    :raises NetworkUnavailable: when the engine does not make one.
    """
    await connection.ensure()
    named = labels(owner, job, attempt, "network")
    # A cancel between the question and the answer would leave a network nobody knows of.
    with anyio.CancelScope(shield=True):
        try:
            await _separate(connection)
            async with connection.reaching(f"making network {name}"):
                try:
                    await _create_in_peace(connection, name, owner, named)
                except DockerError as error:
                    if error.status != HTTPStatus.NOT_FOUND:
                        raise
                    # It is not Podman. Its networks are kept from each other by itself.
                    await connection.docker.networks.create({"Name": name, "Driver": "bridge", "Labels": named})
        except DockerError as error:
            raise NetworkUnavailable(
                f"a network for job {job} could not be made: {first_line(error.message)}",
                hint="Install netavark, aardvark-dns and iptables on the runner's machine.",
            ) from error


async def _create_in_peace(connection: Connection, name: str, owner: str, named: dict[str, str]) -> None:
    """Make a network. Podman lists the machine's devices for it, and fails where one goes away meanwhile (Go's net)."""
    for tries_left in range(LISTING_TRIES, -1, -1):
        try:
            await _create(connection, name, bridge_devices.new_name(owner), named, has_names=True)
        except DockerError as error:
            if _DEVICE_WENT not in error.message or not tries_left:
                raise
        else:
            return


async def _create(connection: Connection, name: str, device: str, named: dict[str, str], *, has_names: bool) -> None:
    description = {
        "name": name,
        "driver": "bridge",
        "network_interface": device,
        "labels": named,
        "options": _ISOLATED,
        "dns_enabled": has_names,
    }
    await connection.docker._query_json(  # noqa: SLF001
        _LIBPOD, method="POST", data=description, versioned_api=False
    )


async def _separate(connection: Connection) -> None:
    """Keep the networks of this machine from each other, where this process can.

    :raises NetworkUnavailable: when it could, and the machine does not do it.
    """
    if not connection.is_local or os.geteuid() != 0:
        return
    try:
        await anyio.to_thread.run_sync(firewall.separate)
    except OSError as error:
        raise NetworkUnavailable(f"networks cannot be kept from each other: {error}") from error


def new_name(owner: str) -> str:
    """Give a name for something of an owner's that nothing else has."""
    return name_prefix(owner) + secrets.token_hex(6)


def name_prefix(owner: str) -> str:
    """Give what the names of an owner's containers and networks begin with when they are made."""
    return f"moonyard-{owner[:8]}-"


class OwnBridge:
    """The network of an owner's containers that ask for "bridge". Made when the first one does."""

    def __init__(self, connection: Connection, name: str, owner: str) -> None:
        self.name = name
        self.isolates = connection.is_local and os.geteuid() == 0
        """Whether it keeps the containers on it from each other, as far as that was found out."""
        self._device = bridge_devices.new_name(owner)
        self._connection = connection
        self._owner = owner
        self._making = anyio.Lock()
        self._made = False

    @classmethod
    @asynccontextmanager
    async def open(cls, connection: Connection, owner: str) -> AsyncGenerator[OwnBridge]:
        """Have one; it is removed at the end, when all that makes containers has ended."""
        bridge = cls(connection, new_name(owner), owner)
        try:
            yield bridge
        finally:
            with anyio.CancelScope(shield=True), suppress(EngineError):  # the owner's label leads the next start to it
                await bridge.remove()
                await sweep(connection, owner)

    async def get(self) -> str:
        """Give its name.

        :raises NotIsolated: when there is none that keeps containers from each other.
        :raises EngineError: when the engine does not answer.
        """
        if not self.isolates:
            raise NotIsolated("containers of different jobs cannot be kept from each other on one network here")
        async with self._making:
            if not self._made:
                await self._create()
                self._made = True
            return self.name

    async def isolate(self) -> None:
        """Keep the containers that are on it by now from each other. Until then, they can reach one another.

        :raises NotIsolated: when the kernel does not do it.
        """
        try:
            await anyio.to_thread.run_sync(bridge_ports.isolate, self._device)
        except OSError as error:
            self.isolates = False
            log.info("each job gets a network of its own: on one, they cannot be kept from each other here (%s)", error)
            raise NotIsolated(f"containers on network {self.name} cannot be kept from each other ({error})") from error

    def forget(self, message: str) -> bool:
        """Tell whether an error of the engine's says that the network is gone, and make it anew the next time."""
        is_gone = self.name in message and "not found" in message
        if is_gone:  # `podman system prune` removes networks that nobody uses just then
            self._made = False
        return is_gone

    async def remove(self) -> None:
        """Remove it, unless somebody is on it still.

        :raises EngineError: when the engine does not do it.
        """
        if self._made:
            await remove(self._connection, self.name)

    async def _create(self) -> None:
        await self._connection.ensure()
        named = labels(self._owner, "", 0, "network")
        try:
            with anyio.CancelScope(shield=True):
                await _separate(self._connection)
                async with self._connection.reaching(f"making network {self.name}"):
                    await _create(self._connection, self.name, self._device, named, has_names=False)
        except DockerError as error:
            self.isolates = False
            raise NotIsolated(f"network {self.name} could not be made: {first_line(error.message)}") from error


async def remove(connection: Connection, name: str) -> bool:
    """Remove a network; False while containers are on it. One that is not there counts as removed.

    :raises EngineError: when the engine does not do it.
    """
    await connection.ensure()
    try:
        async with connection.reaching(f"removing network {name}", REMOVAL_SECONDS):
            await DockerNetwork(connection.docker, name).delete()
    except DockerError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return True
        # Podman 4 answers with 500, Podman 5 with 409, Docker with 403.
        if "being used" in error.message or "active endpoints" in error.message:
            return False
        raise EngineError(f"network {name} could not be removed: {first_line(error.message)}") from error
    return True


async def sweep(connection: Connection, owner: str) -> int:
    """Remove an owner's bridges that the engine knows no network of any more, with all that still leads to them.

    The engine leaves them where it is killed while it starts a container. Nobody makes containers for the owner now.

    :raises EngineError: when the engine does not tell which networks it has.
    """
    return await remove_devices(await leftover_devices(connection, owner))


async def leftover_devices(connection: Connection, owner: str) -> list[bridge_devices.Leftover]:
    """List an owner's bridges and ports of bridges behind which nothing runs.

    One of a container that is just being started looks alike.

    :raises EngineError: when the engine does not tell which networks it has.
    """
    if not connection.is_local or os.geteuid() != 0 or not bridge_devices.of_owner(owner):
        return []
    known = await _devices(connection)
    if known is None:
        return []
    try:
        return await anyio.to_thread.run_sync(bridge_devices.leftovers, owner, known)
    except OSError as error:
        log.warning("devices that an engine left behind could not be looked for (%s)", error)
        return []


async def remove_devices(found: Collection[bridge_devices.Leftover]) -> int:
    """Remove devices that are nobody's; give how many were there."""
    try:
        return await anyio.to_thread.run_sync(bridge_devices.remove, found)
    except OSError as error:
        log.warning("devices that an engine left behind could not be removed (%s)", error)
        return 0


async def _devices(connection: Connection) -> set[str] | None:
    """List the bridges of all networks that the engine has; None where it is not Podman, and has others."""
    await connection.ensure()
    try:
        async with connection.reaching("listing networks"):
            found: list[dict[str, Any]] = await connection.docker._query_json(  # noqa: SLF001
                _LIBPOD_NETWORKS, versioned_api=False
            )
    except DockerError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return None
        raise EngineError(f"networks could not be listed: {first_line(error.message)}") from error
    return {str(network.get("network_interface")) for network in found}


async def of_owner(connection: Connection, owner: str) -> list[str]:
    """List the names of an owner's networks.

    :raises EngineError: when the engine does not tell.
    """
    await connection.ensure()
    try:
        async with connection.reaching(f"listing the networks of owner {owner}"):
            found = await connection.docker.networks.list(filters={"label": [f"{OWNER_LABEL}={owner}"]})
    except DockerError as error:
        raise EngineError(f"the networks of owner {owner} could not be listed: {first_line(error.message)}") from error
    return [network["Name"] for network in found]
