"""Removes what an owner has with the engine, in the background, and finds what was forgotten.

    discard ──> removed in the background ──(the engine was lost, or refused)──> nobody's any more
                                                                                   │
    made half-way by a call that was lost ────────────────────────────────────> nobody's
                                                                                   │
    reap: lists what carries the owner's name, and removes what is nobody's  <─────┘

A container is somebody's while its object lives, or while the call that makes it is under way; a network from when it
is made until it is discarded. What is made while a list is on its way is not in the list; what is in it was somebody's
before, and is looked for among the living only after the list has come: so nothing is taken away from anybody.
"""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Final

import anyio
import anyio.abc
import anyio.to_thread
from aiodocker.exceptions import DockerError

from runner.engine import bridge_devices, networks, processes
from runner.engine.connection import Connection, Found, labelled
from runner.engine.container import OWNER_LABEL, Container, remove
from runner.engine.errors import EngineError, first_line
from schema.errors import single_error

log: Final = logging.getLogger(__name__)

REMOVALS_AT_ONCE: Final = 4
CLEANUP_SECONDS: Final = 60.0
HALF_REMOVED_MAXIMUM: Final = 100
_HALF_REMOVED: Final = re.compile(r'"([0-9a-f]{64})": container not known')
NETWORK_PAUSE_SECONDS: Final = 0.5
"""Between two tries to remove a network whose containers are being removed."""


class Removals:
    """What is to be removed. Safe to use from several tasks at once."""

    def __init__(self, connection: Connection, owner: str, tasks: anyio.abc.TaskGroup) -> None:
        self._connection = connection
        self._owner = owner
        self._tasks = tasks
        self._living: weakref.WeakSet[Container] = weakref.WeakSet()
        self._names: set[str] = set()
        """Of containers that are being made, and of networks that are somebody's."""
        self._removing: set[Container | str] = set()
        self._removed = anyio.Event()
        self._suspected: set[bridge_devices.Leftover] = set()
        """Devices that were nobody's at the last look."""
        self._limit = anyio.CapacityLimiter(REMOVALS_AT_ONCE)

    @contextmanager
    def making(self, name: str) -> Generator[None]:
        """Keep a container from being taken for nobody's until there is an object for it."""
        self._names.add(name)
        try:
            yield
        finally:
            self._names.discard(name)

    def keep(self, container: Container) -> Container:
        """Take note of a container that is somebody's from here on, for as long as its object lives."""
        self._living.add(container)
        return container

    @contextmanager
    def making_network(self, name: str) -> Generator[None]:
        """Keep a network as somebody's from here on until it is discarded, or could not be made."""
        self._names.add(name)
        try:
            yield
        except BaseException:
            self._names.discard(name)
            raise

    def keep_network(self, name: str) -> None:
        """Take note of a network that is somebody's until it is discarded."""
        self._names.add(name)

    def discard(self, container: Container) -> None:
        """Remove a container in the background."""
        self._tasks.start_soon(self._remove, container, container.id, lambda: self._end_and_remove(container))
        self._removing.add(container)

    def discard_network(self, name: str) -> None:
        """Remove a network in the background, once the containers on it are removed."""
        self._tasks.start_soon(self._remove, name, name, lambda: self._remove_network(name))
        self._removing.add(name)

    async def finish(self) -> None:
        """Wait until all that was discarded is gone, or could not be removed."""
        while self._removing:
            await self._removed.wait()

    async def _remove(self, what: Container | str, name: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            with anyio.CancelScope(shield=True), anyio.fail_after(CLEANUP_SECONDS):
                await work()
        except (EngineError, TimeoutError) as error:
            kind = "network" if isinstance(what, str) else f"container of image `{what.image}`"
            log.warning("%s %s could not be removed (%s); it is tried again later", kind, name[:32], error)
        finally:
            if isinstance(what, str):
                self._names.discard(what)
            else:
                what.close()
                self._living.discard(what)
            self._removing.discard(what)
            self._removed.set()
            self._removed = anyio.Event()

    async def _end_and_remove(self, container: Container) -> None:
        await container.end()
        async with self._limit:
            await container.remove()

    async def _remove_network(self, name: str) -> None:
        while True:
            removed = self._removed
            if await networks.remove(self._connection, name):
                return
            with anyio.move_on_after(NETWORK_PAUSE_SECONDS):
                await removed.wait()

    async def reap(self) -> int:
        """Remove the containers and networks of the owner's that are nobody's; give how many there were.

        :raises EngineError: when the engine does not do it.
        """
        listed = await self._containers_of(self._owner)
        known = {container.id for container in self._living}
        forgotten = [found for found in listed if found.id not in known and self._names.isdisjoint(found.names)]
        await self._remove_all([found.id for found in forgotten])
        listed_networks = await networks.of_owner(self._connection, self._owner)
        count = len(forgotten)
        for name in listed_networks:
            if name not in self._names and await networks.remove(self._connection, name):
                count += 1
        await self._end_lone_monitors(self._owner, {found.id for found in listed})
        count += await self._remove_devices()
        if count:
            log.info("removed %d containers and networks that nobody held any more", count)
        return count

    async def _remove_devices(self) -> int:
        """Remove devices of networks behind which nothing ran the last time, and does not now.

        Those of a container that is being started look alike; in the time between two looks, it has started.
        """
        found = set(await networks.leftover_devices(self._connection, self._owner))
        lasting, self._suspected = found & self._suspected, found
        return await networks.remove_devices(lasting)

    async def remove_all_of(self, owner: str) -> int:
        """Remove all containers and networks of an owner, and give how many containers there were.

        :raises EngineError: when the engine does not do it.
        """
        listed = await self._containers_of(owner)
        await self._remove_all([found.id for found in listed])
        for name in await networks.of_owner(self._connection, owner):
            await self._remove_network(name)
        await self._end_lone_monitors(owner, set())
        await networks.sweep(self._connection, owner)
        return len(listed)

    async def _end_lone_monitors(self, owner: str, listed: set[str]) -> None:
        """End the monitors of containers that the engine does not know: it was killed while it started them."""
        found = await anyio.to_thread.run_sync(processes.monitors)
        known = listed | {container.id for container in self._living} | self._names
        prefix = networks.name_prefix(owner)
        for monitor in found:
            if any(word.startswith(prefix) for word in monitor.words) and monitor.words.isdisjoint(known):
                processes.end_monitor(monitor)

    async def _containers_of(self, owner: str) -> list[Found]:
        for tries_left in range(HALF_REMOVED_MAXIMUM, -1, -1):
            await self._connection.ensure()
            try:
                async with self._connection.reaching(f"listing the containers of owner {owner}"):
                    return await labelled(self._connection.docker, f"{OWNER_LABEL}={owner}")
            except DockerError as error:
                # Podman that was killed in the middle of a removal cannot list what is left of the container, nor any
                # that the list would have besides (seen with 4.3), until the removal is done.
                half_removed = _HALF_REMOVED.search(error.message)
                if half_removed is None or not tries_left:
                    raise EngineError(
                        f"the containers of owner {owner} could not be listed: {first_line(error.message)}"
                    ) from error
            await remove(self._connection, half_removed[1])
        raise AssertionError("the last try gives the list or an error")

    async def _remove_all(self, containers: list[str]) -> None:
        async def remove_one(container: str) -> None:
            async with self._limit:
                await remove(self._connection, container)

        with single_error():
            async with anyio.create_task_group() as tasks:
                for container in containers:
                    tasks.start_soon(remove_one, container)
