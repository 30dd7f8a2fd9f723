"""The engine: finds Podman or starts it, makes containers, removes what owners left."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import anyio
import anyio.abc
from aiodocker import Docker
from aiodocker.containers import DockerContainer
from aiodocker.exceptions import DockerError

from runner.engine import helper, sockets
from runner.engine.command_server import MOUNTED_AT, Folder, is_missing_shell
from runner.engine.connection import API_VERSION, Connection, check, describe, labelled, start
from runner.engine.container import OWNER_LABEL, Container, ContainerSpec, config, remove, start_failure
from runner.engine.errors import ContainerStartFailed, EngineError, EngineLost, EngineUnavailable, first_line, reason
from runner.engine.images import Images, Progress
from runner.engine.names import ImageMap
from runner.engine.served import Servers
from runner.engine.service import PrivateService, find_podman
from runner.engine.settings import EngineSettings
from runner.engine.warm import Shape, WarmContainers
from schema.errors import single_error

log: Final = logging.getLogger(__name__)

REMOVALS_AT_ONCE: Final = 4
CLEANUP_SECONDS: Final = 60.0


class Engine:
    """Makes containers for one owner. Safe to use from several tasks at once."""

    def __init__(
        self,
        settings: EngineSettings,
        owner: str,
        connection: Connection,
        images: Images,
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        self.settings = settings
        self._owner = owner
        self._connection = connection
        self._images = images
        self._map = ImageMap(settings.image_map)
        self._helper = helper.find()
        self._without_server: set[str] = set()
        """Images whose containers cannot have a command server, as far as that was found out."""
        self._tasks = tasks
        self._removing: set[Container] = set()
        self._removed = anyio.Event()
        self._removals = anyio.CapacityLimiter(REMOVALS_AT_ONCE)
        default = ContainerSpec(image=settings.default_image, job="", attempt=0, workspace=settings.state_folder)
        self._warm = WarmContainers(
            make=self._make_warm,
            image_of=images.id_of,
            discard=self.discard,
            default=_shape(default, self._map.resolve(settings.default_image)),
            # To enter a container's mounts takes root, and a machine that is the containers' own.
            maximum=settings.warm_containers if connection.is_local and os.geteuid() == 0 else 0,
        )

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: EngineSettings, owner_name: str) -> AsyncGenerator[Engine]:
        """Connect to the engine, starting a private one if none is there.

        :param owner_name: what containers are labelled with, so that a later process can tell whose they were.
        :raises EngineUnavailable: when there is no engine and none can be started.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(single_error())
            address, service = await _find(settings, owner_name, stack)
            docker = await stack.enter_async_context(_client(address))
            connection = Connection(docker, address, service)
            try:
                await check(connection)
            except (EngineLost, DockerError) as error:
                raise _does_not_answer(address, sockets.chosen(settings.socket, os.environ), error) from error.__cause__
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            engine = cls(settings, owner_name, connection, Images(connection, tasks), tasks)
            stack.push_async_callback(engine.finish)
            tasks.start_soon(engine.keep_warm)
            yield engine

    @property
    def warm_count(self) -> int:
        """How many containers are ready."""
        return self._warm.count

    async def keep_warm(self) -> None:
        """Keep containers ready, as many as the settings allow."""
        await self._warm.run()

    async def finish(self) -> None:
        """Keep no containers ready any more, and wait until all that were thrown away are gone."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(CLEANUP_SECONDS):
            self._warm.stop()
            while self._removing:
                await self._removed.wait()

    async def check(self) -> None:
        """See that the engine answers; start a private one that ended.

        :raises EngineError: when it does not.
        """
        await self._connection.ensure()
        try:
            await check(self._connection)
        except DockerError as error:
            raise EngineUnavailable(f"{self._connection.name} answers a ping with status {error.status}") from error

    async def create_container(self, spec: ContainerSpec, progress: Progress) -> Container:
        """Make and start a container, fetching its image first if it is missing.

        Whatever happens, also when the caller is cancelled, no container is left that was not returned.

        :param progress: takes lines about a pull.
        :raises ImageNotFound: and its siblings in ``runner.engine.errors``, which say why there is no container.
        """
        resolved = self._map.resolve(spec.image)
        if (warm := await self._adopted(spec, resolved)) is not None:
            return warm
        await self._connection.ensure()
        if self._connection.is_local and resolved not in self._without_server:
            container = await self._make_with_server(spec, resolved, progress)
            if container is not None:
                return container
            self._without_server.add(resolved)
        name = self._new_name()
        try:
            made, facts = await self._make(spec, resolved, name, helper.first_process(self._helper), progress)
            return Container(self._connection, made, spec, facts, None)
        except BaseException as error:
            await self._undo(name)
            if isinstance(error, DockerError):
                raise start_failure(spec, error.message) from error
            raise

    def discard(self, container: Container) -> None:
        """Remove a container in the background. What cannot be removed is left to the runner's next start."""
        self._removing.add(container)
        self._tasks.start_soon(self._remove_in_background, container)

    async def _remove_in_background(self, container: Container) -> None:
        try:
            with anyio.CancelScope(shield=True), anyio.fail_after(CLEANUP_SECONDS):
                await container.end()
                async with self._removals:
                    await container.remove()
        except (EngineError, TimeoutError) as error:
            log.warning(
                "container %s of image `%s` could not be removed (%s); the runner's next start removes it",
                container.id[:12],
                container.image,
                error,
            )
        finally:
            self._removing.discard(container)
            self._removed.set()
            self._removed = anyio.Event()

    async def _adopted(self, spec: ContainerSpec, resolved: str) -> Container | None:
        """Give a container that was made ahead, if there is one of that shape."""
        container = self._warm.take(_shape(spec, resolved))
        if container is None:
            return None
        try:
            await container.adopt(spec)
        except OSError as error:
            log.warning("no container is made ahead any more: a workspace cannot be mounted into one here (%s)", error)
            self._warm.stop()
            self.discard(container)
            return None
        except BaseException:
            self.discard(container)
            raise
        self._tasks.start_soon(self._rename, container, spec)
        return container

    async def _rename(self, container: Container, spec: ContainerSpec) -> None:
        """Let the engine's lists say whose it is: labels cannot be changed any more."""
        try:
            await container.rename(f"moonyard-{spec.job}-{spec.attempt}-{secrets.token_hex(3)}")
        except EngineError as error:
            log.debug("%s", error.message)  # it may be gone already

    async def _make_warm(self, shape: Shape) -> Container:
        nothing = self.settings.state_folder / "owners" / self._owner / "nothing"
        nothing.mkdir(parents=True, exist_ok=True)
        spec = ContainerSpec(
            image=shape.image,
            job="",
            attempt=0,
            workspace=nothing,
            network=shape.network,
            memory=shape.memory,
            cpus=shape.cpus,
            user=shape.user,
            kind="warm",
        )
        await self._connection.ensure()
        container = await self._make_with_server(spec, shape.image, None)
        if container is None:
            raise ContainerStartFailed(f"image `{shape.image}` has no shell that serves commands")
        return container

    async def _make_with_server(
        self, spec: ContainerSpec, resolved: str, progress: Progress | None
    ) -> Container | None:
        """Make a container whose first process is a command server; None where its image has no shell for that."""
        name = self._new_name()
        folder = Folder.make(self.settings.state_folder / "owners" / self._owner / "servers" / name)
        server = folder.prepare_server()
        first = helper.FirstProcess(command=server.command, binds=[f"{folder.path}:{MOUNTED_AT}:ro"])
        servers: Servers | None = None
        try:
            made, facts = await self._make(spec, resolved, name, first, progress)
            if await server.wait_until_ready():
                servers = Servers(folder, server, partial(self._start_server, made))
                return Container(self._connection, made, spec, facts, servers)
            log.debug("image `%s` has no shell that serves commands", resolved)
            await self._undo(name)
            return None
        except BaseException as error:
            await self._undo(name)
            if not isinstance(error, DockerError):
                raise
            if is_missing_shell(error.message):
                return None
            raise start_failure(spec, error.message) from error
        finally:
            if servers is None:
                server.close()
                folder.remove()

    async def _start_server(self, container: DockerContainer, command: list[str]) -> None:
        await self._connection.ensure()
        try:
            async with self._connection.reaching("starting a command server"):
                made = await container.exec(command, stdout=False, stderr=False)
                await made.start(detach=True)
        except DockerError as error:
            raise EngineError(f"a command server could not be started: {first_line(error.message)}") from error

    def _new_name(self) -> str:
        return f"moonyard-{self._owner[:8]}-{secrets.token_hex(6)}"

    async def _make(
        self, spec: ContainerSpec, resolved: str, name: str, first: helper.FirstProcess, progress: Progress | None
    ) -> tuple[DockerContainer, dict[str, Any]]:
        container = await self._create(spec, resolved, name, first)
        if container is None and progress is not None:
            await self._images.pull(spec.image, resolved, progress)
            container = await self._create(spec, resolved, name, first)
        if container is None:
            raise _missing(spec, resolved)
        async with self._connection.reaching(f"starting a container of `{spec.image}`"):
            await start(container)
            facts = await describe(container)
        return container, facts

    async def remove_containers(self, owner: str) -> int:
        """Remove all containers of an owner, and give how many there were.

        :raises EngineError: when the engine does not do it.
        """
        await self._connection.ensure()
        try:
            async with self._connection.reaching(f"listing the containers of owner {owner}"):
                found = await labelled(self._connection.docker, f"{OWNER_LABEL}={owner}")
        except DockerError as error:
            raise EngineError(
                f"the containers of owner {owner} could not be listed: {first_line(error.message)}"
            ) from error
        limit = anyio.CapacityLimiter(REMOVALS_AT_ONCE)

        async def remove_one(container: str) -> None:
            async with limit:
                await remove(self._connection, container)

        with single_error():
            async with anyio.create_task_group() as tasks:
                for container in found:
                    tasks.start_soon(remove_one, container)
        return len(found)

    async def _create(
        self, spec: ContainerSpec, resolved: str, name: str, first: helper.FirstProcess
    ) -> DockerContainer | None:
        """Make a container, or tell by None that its image is missing."""
        # A cancel between the question and the answer would leave a container nobody knows of.
        with anyio.CancelScope(shield=True):
            try:
                async with self._connection.reaching(f"making a container of `{spec.image}`"):
                    return await self._connection.docker.containers.create(
                        config(spec, resolved, self.settings, self._owner, first), name=name
                    )
            except DockerError as error:
                if error.status == HTTPStatus.NOT_FOUND and "image" in error.message.lower():
                    return None
                raise

    async def _undo(self, name: str) -> None:
        with (
            anyio.CancelScope(shield=True),
            anyio.move_on_after(CLEANUP_SECONDS),
            suppress(EngineError),  # the owner's label leads the next start to it
        ):
            await self._connection.ensure()
            await remove(self._connection, name)


def _missing(spec: ContainerSpec, resolved: str) -> ContainerStartFailed:
    # It was removed just after it was pulled, or was not to be pulled.
    return ContainerStartFailed(
        f"container of image `{spec.image}` could not be made: image `{resolved}` is not there, or not any more"
    )


def _shape(spec: ContainerSpec, resolved: str) -> Shape:
    return Shape(image=resolved, network=spec.network, memory=spec.memory, cpus=spec.cpus, user=spec.user)


def _does_not_answer(
    address: str, chosen: tuple[str, str] | None, error: EngineLost | DockerError
) -> EngineUnavailable:
    why = reason(error) if isinstance(error, EngineLost) else f"it answers a ping with status {error.status}"
    if chosen is None:
        return EngineUnavailable(
            f"no container engine answers at {address} ({why})", hint="`podman info` shows whether Podman works here."
        )
    return EngineUnavailable(
        f"no container engine answers at {address}, which {chosen[1]} names ({why})",
        hint=f"Is `podman system service` running there? Without {chosen[1]}, Moonyard starts an engine of its own.",
    )


async def _find(settings: EngineSettings, owner: str, stack: AsyncExitStack) -> tuple[str, PrivateService | None]:
    """Choose the engine: the one that was named, one that listens where Podman usually does, or a private one."""
    chosen = sockets.chosen(settings.socket, os.environ)
    if chosen is not None:
        return chosen[0], None
    for socket in sockets.usual():
        if await sockets.is_alive(socket):
            return f"unix://{socket}", None
    podman = find_podman()
    if podman is None:
        tried = ", ".join(str(socket) for socket in sockets.usual())
        raise EngineUnavailable(
            f"there is no container engine: nothing listens at {tried}, and there is no `podman` in PATH to start",
            hint="Install Podman (Debian: apt-get install podman netavark aardvark-dns iptables uidmap catatonit), "
            "or name an engine's socket with the setting `engine_socket`.",
        )
    service = await stack.enter_async_context(PrivateService.open(podman, settings.state_folder, owner))
    return f"unix://{service.socket}", service


@asynccontextmanager
async def _client(address: str) -> AsyncGenerator[Docker]:
    # As many connections as there are commands: each holds one for as long as it runs.
    if address.startswith("unix://"):
        connector: aiohttp.BaseConnector = aiohttp.UnixConnector(address.removeprefix("unix://"), limit=0)
        url = "unix://localhost"  # the connector knows the path; addresses of requests need a host
    else:
        connector = aiohttp.TCPConnector(limit=0)
        url = address.replace("tcp://", "http://", 1)
    docker = Docker(url=url, connector=connector, api_version=API_VERSION)
    try:
        yield docker
    finally:
        with anyio.CancelScope(shield=True):
            await docker.close()
            await connector.close()
