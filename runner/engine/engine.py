"""The engine: finds Podman or starts it, makes containers, removes what owners left."""

from __future__ import annotations

import logging
import os
import platform
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiohttp
import anyio
import anyio.abc
import msgspec
from aiodocker import Docker
from aiodocker.containers import DockerContainer
from aiodocker.exceptions import DockerError
from aiodocker.stream import Stream

from runner.engine import helper, limits, networks, processes, pull_failures, sockets
from runner.engine.allowances import Allowances, Granted
from runner.engine.call_filter import CallFilter
from runner.engine.command_server import MOUNTED_AT, Folder, Server, is_missing_shell
from runner.engine.connection import API_VERSION, Connection, check, describe, start
from runner.engine.container import (
    Container,
    ContainerSpec,
    check_environment,
    config,
    remove,
    start_failure,
)
from runner.engine.errors import (
    ContainerStartFailed,
    EngineError,
    EngineLost,
    EngineUnavailable,
    ImagePlatformMismatch,
    NotIsolated,
    first_line,
    reason,
)
from runner.engine.facts import EngineFacts
from runner.engine.image_budget import ImageBudget
from runner.engine.image_rules import ImageRules
from runner.engine.images import Images, Progress
from runner.engine.names import ImageMap, registry
from runner.engine.private_images import ANYONE, PrivateImages, Wanted
from runner.engine.removals import CLEANUP_SECONDS, Removals
from runner.engine.served import Servers
from runner.engine.service import PrivateService, find_podman
from runner.engine.settings import EngineSettings
from runner.engine.warm import Shape, WarmContainers
from schema.definition import PullPolicy, Rights
from schema.errors import single_error

log: Final = logging.getLogger(__name__)

FIRST_WORD_SECONDS: Final = 1.0
"""What a container's shell has to say that it is ready, before somebody looks whether the container still runs."""
PULLS_MAXIMUM: Final = 3
"""For one container: somebody else, or a budget, may remove an image just after it was pulled."""


class Engine:
    """Makes containers for one owner. Safe to use from several tasks at once."""

    def __init__(
        self,
        settings: EngineSettings,
        owner: str,
        connection: Connection,
        images: Images,
        tasks: anyio.abc.TaskGroup,
        bridge: networks.OwnBridge,
    ) -> None:
        if settings.memory_bytes is None and connection.is_local:
            settings = msgspec.structs.replace(settings, memory_bytes=limits.container_memory())
        self.settings = settings
        self._owner = owner
        self._connection = connection
        self._images = images
        self._map = ImageMap(settings.image_map)
        self._rules = ImageRules(settings.images_allowed, settings.images_denied)
        self._allowances = Allowances(settings.allow)
        self._call_filter = CallFilter(connection, settings.state_folder)
        self._helper = helper.find()
        self._holds_limits: bool | None = None
        self._without_server: set[str] = set()
        """Images whose containers cannot have a command server, as far as that was found out."""
        self._tasks = tasks
        self._removals = Removals(connection, owner, tasks)
        self._bridge = bridge
        self._removals.keep_network(bridge.name)
        default = ContainerSpec(image=settings.default_image, job="", attempt=0, workspace=settings.state_folder)
        self._warm = WarmContainers(
            make=self._make_warm,
            image_of=images.id_of,
            discard=self.discard,
            default=_shape(default, self._map.resolve(settings.default_image), ANYONE),
            maximum=settings.warm_containers if _can_keep_warm(settings, connection) else 0,
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
            bridge = await stack.enter_async_context(networks.OwnBridge.open(connection, owner_name))
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            budget = ImageBudget(settings.state_folder, settings.image_budget, connection)
            private = PrivateImages(settings.state_folder, connection)
            images = Images(settings, connection, tasks, budget, private)
            engine = cls(settings, owner_name, connection, images, tasks, bridge)
            tasks.start_soon(budget.trim)
            tasks.start_soon(private.prune)
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
            await self._removals.finish()

    async def facts(self) -> EngineFacts:
        """Ask the engine what it is.

        :raises EngineError: when it does not tell.
        """
        return await EngineFacts.ask(self._connection)

    async def holds_limits(self) -> bool:
        """Tell whether what a container may use of the machine can be limited at all; the engine is asked once.

        :raises EngineError: when it does not tell.
        """
        if self._holds_limits is None:
            self._holds_limits = os.geteuid() == 0 or (await self.facts()).limits_memory
        return self._holds_limits

    async def has_image(self, image: str) -> bool:
        """Tell whether an image is there, by the name that a pipeline would use.

        :raises EngineError: when the engine does not tell.
        """
        return await self._images.id_of(self._map.resolve(image)) is not None

    def full_name(self, image: str) -> str:
        """Give the full name of the image that is meant by a name that a pipeline would use."""
        return self._map.resolve(image)

    async def until_warm(self) -> None:
        """Wait until a container is ready."""
        await self._warm.until_ready()

    @property
    def isolates(self) -> bool:
        """Whether containers of different jobs are kept from each other without networks of their own."""
        return self._bridge.isolates

    @property
    def keeps_warm(self) -> bool:
        """Whether containers are made ahead here."""
        return self._warm.is_on

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
        :raises RightsRefused: when it asks for what the owner does not allow.
        :raises NotIsolated: when it would be on one network with others, and could reach them.
        :raises ImageNotFound: and its siblings in ``runner.engine.errors``, which say why there is no container.
        """
        spec = self._granted(spec)
        wanted, is_pulled = await self._resolve(spec, progress)
        # One that was made ahead is on no network of a job's own, and has nothing that not all have.
        is_usual = not spec.networks and spec.rights is None
        if not is_pulled and is_usual and (warm := await self._adopted(spec, wanted)) is not None:
            return warm
        return await self._made_now(spec, wanted, progress)

    async def _made_now(self, spec: ContainerSpec, wanted: Wanted, progress: Progress) -> Container:
        await self._connection.ensure()
        if self._connection.is_local and wanted.name not in self._without_server:
            container = await self._make_with_server(spec, wanted, progress)
            if container is not None:
                return container
            await self._check_platform(spec, wanted.name)
            self._without_server.add(wanted.name)
        async with self._making(spec) as name:
            made, facts = await self._make(spec, wanted, name, helper.first_process(self._helper), progress)
            return self._keep(made, spec, facts, None)

    def _keep(
        self, made: DockerContainer, spec: ContainerSpec, facts: dict[str, Any], servers: Servers | None
    ) -> Container:
        return self._removals.keep(Container(self._connection, made, spec, facts, servers))

    def _nothing(self) -> Path:
        """Give an empty folder, for containers whose workspace is mounted later."""
        nothing = self.settings.state_folder / "owners" / self._owner / "nothing"
        nothing.mkdir(parents=True, exist_ok=True)
        return nothing

    def check_rights(self, image: str, pipeline: str, rights: Rights) -> Granted:
        """See that a container may have what it asks for beyond what all have.

        :raises RightsRefused: when it may not.
        """
        return self._allowances.grant(image, pipeline, rights)

    def _granted(self, spec: ContainerSpec) -> ContainerSpec:
        if spec.rights is None:
            return spec
        return msgspec.structs.replace(spec, granted=self.check_rights(spec.image, spec.pipeline, spec.rights))

    async def _resolve(self, spec: ContainerSpec, progress: Progress) -> tuple[Wanted, bool]:
        """Give the image to take, and whether it was fetched for that.

        :raises MoonyardError: when it may not be taken, or cannot be fetched, or no container could be made of it.
        """
        check_environment(spec)
        if spec.image != self.settings.default_image:  # which is the owner's own choice
            self._rules.check(spec.image)
        wanted = Wanted(self._map.resolve(spec.image), spec.logins, self._images.private)
        if self._policy(spec) != "always" or registry(wanted.name) == "localhost":
            return wanted, False
        await self._connection.ensure()
        await self._images.pull(spec.image, wanted, progress)
        return wanted, True

    async def create_service(self, spec: ContainerSpec, progress: Progress) -> tuple[Container, Stream]:
        """Make and start a container that runs what its image says; give it, and all that it says.

        :raises RightsRefused: when it asks for what the owner does not allow.
        :raises ImageNotFound: and its siblings in ``runner.engine.errors``, which say why there is no container.
        """
        spec = self._granted(spec)
        wanted, _ = await self._resolve(spec, progress)
        await self._connection.ensure()
        async with self._making(spec) as name, AsyncExitStack() as attached:
            said: list[Stream] = []

            async def attach(container: DockerContainer) -> None:
                stream = container.attach(stdout=True, stderr=True)
                await stream._init()  # noqa: SLF001  # reading would do it, and without telling when
                attached.push_async_callback(stream.close)
                said.append(stream)

            first = helper.FirstProcess(command=[])
            made, facts = await self._make(spec, wanted, name, first, progress, before_start=attach)
            attached.pop_all()
            return self._keep(made, spec, facts, None), said[0]

    def entering(self, container: Container) -> list[str]:
        """Give the command by which a person on this machine gets a shell in a container."""
        service = self._connection.service
        if service is None:
            words = ["podman", "--url", self._connection.address]
        else:  # `podman` by itself has the same containers
            words = ["podman"] if service.conf is None else [f"CONTAINERS_CONF={service.conf}", "podman"]
        return [*words, "exec", "-it", container.id[:12], "sh"]

    async def create_network(self, job: str, attempt: int) -> str:
        """Make a network of a job's own, on which containers reach each other by name; give its name.

        :raises NetworkUnavailable: when the engine does not make one.
        """
        name = self._new_name()
        with self._removals.making_network(name):
            await networks.create(self._connection, name, self._owner, job, attempt)
        return name

    def discard(self, container: Container) -> None:
        """Remove a container in the background. What cannot be removed now is left to ``reap``."""
        self._removals.discard(container)

    def discard_network(self, name: str) -> None:
        """Remove a network in the background, once its containers are gone."""
        self._removals.discard_network(name)

    async def reap(self) -> int:
        """Remove what carries this owner's name and nobody holds: what was made half-way, or could not be removed.

        :raises EngineError: when the engine does not do it.
        """
        return await self._removals.reap()

    def _policy(self, spec: ContainerSpec) -> PullPolicy:
        owner = self.settings.pull_policy
        return owner if owner != "missing" else spec.pull or "missing"

    async def _check_platform(self, spec: ContainerSpec, resolved: str) -> None:
        """See whether an image whose shell does not run is for other processors than this machine's.

        :raises ImagePlatformMismatch: when it is.
        """
        if (architecture := await self._images.foreign_platform(resolved)) is not None:
            raise ImagePlatformMismatch(
                f"image `{spec.image}` is for {architecture} processors, and this machine's are {platform.machine()}",
                hint="Use an image that is published for them, or a runner with others.",
            )

    async def _adopted(self, spec: ContainerSpec, wanted: Wanted) -> Container | None:
        """Give a container that was made ahead, if there is one of that shape."""
        key = await wanted.key() if self._images.private.knows(wanted.name) else ANYONE
        container = self._warm.take(_shape(spec, wanted.name, key))
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
        spec = ContainerSpec(
            image=shape.image,
            job="",
            attempt=0,
            workspace=self._nothing(),
            network=shape.network,
            memory=shape.memory,
            cpus=shape.cpus,
            user=shape.user,
            read_only=shape.read_only,
            kind="warm",
        )
        await self._connection.ensure()
        wanted = Wanted(shape.image, None, self._images.private, shape.key)
        try:
            container = await self._make_with_server(spec, wanted, None)
        except NotIsolated as error:
            log.warning("no container is made ahead any more: each is to be on a network of its job's (%s)", error)
            self._warm.stop()
            raise
        if container is None:
            raise ContainerStartFailed(f"image `{shape.image}` has no shell that serves commands")
        return container

    async def _make_with_server(
        self, spec: ContainerSpec, wanted: Wanted, progress: Progress | None
    ) -> Container | None:
        """Make a container whose first process is a command server; None where its image has no shell for that."""
        name = self._new_name()
        folder = Folder.make(self.settings.state_folder / "owners" / self._owner / "servers" / name)
        server = folder.prepare_server()
        first = helper.FirstProcess(command=server.command, binds=[f"{folder.path}:{MOUNTED_AT}:ro"])
        servers: Servers | None = None
        try:
            async with self._making(spec, name):
                made, facts = await self._make(spec, wanted, name, first, progress)
                if await self._is_served(made, server):
                    servers = Servers(folder, server, partial(self._start_server, made))
                    return self._keep(made, spec, facts, servers)
                log.debug("image `%s` has no shell that serves commands", wanted.name)
                await self._undo(name)
                return None
        except EngineError as error:
            if isinstance(error.__cause__, DockerError) and is_missing_shell(error.__cause__.message):
                return None
            raise
        finally:
            if servers is None:
                server.close()
                folder.remove()

    async def _is_served(self, container: DockerContainer, server: Server) -> bool:
        with anyio.move_on_after(FIRST_WORD_SECONDS):
            return await server.wait_until_ready()
        # A shell that could not begin to run says nothing, and its container has ended.
        async with self._connection.reaching("looking at a container"):
            is_running = bool((await describe(container))["State"]["Running"])
        return is_running and await server.wait_until_ready()

    async def _start_server(self, container: DockerContainer, command: list[str]) -> None:
        await self._connection.ensure()
        try:
            async with self._connection.reaching("starting a command server"):
                # So that it is not taken for what a command left behind that began when it did.
                marked = {processes.MARK: processes.SERVER_MARK}
                made = await container.exec(command, stdout=False, stderr=False, environment=marked)
                await made.start(detach=True)
        except DockerError as error:
            raise EngineError(f"a command server could not be started: {first_line(error.message)}") from error

    def _new_name(self) -> str:
        return networks.new_name(self._owner)

    @asynccontextmanager
    async def _making(self, spec: ContainerSpec, name: str | None = None) -> AsyncGenerator[str]:
        """Give a name for the container that the block makes; when the block fails, there is none of that name."""
        name = name or self._new_name()
        with self._removals.making(name):
            try:
                yield name
            except BaseException as error:
                await self._undo(name)
                if isinstance(error, DockerError):
                    raise start_failure(spec, error.message) from error
                raise

    async def _make(
        self,
        spec: ContainerSpec,
        wanted: Wanted,
        name: str,
        first: helper.FirstProcess,
        progress: Progress | None,
        before_start: Callable[[DockerContainer], Awaitable[None]] | None = None,
    ) -> tuple[DockerContainer, dict[str, Any]]:
        resolved = wanted.name
        container: DockerContainer | None = None
        with self._images.budget.holding(resolved):
            for _ in range(PULLS_MAXIMUM):
                container = await self._create(spec, resolved, name, first)
                is_withheld = container is not None and not await self._may_start(container, wanted)
                if is_withheld:
                    await self._undo(name)
                    container = None
                if container is not None or progress is None:
                    break
                if self._policy(spec) == "never":
                    never = pull_failures.withheld if is_withheld else pull_failures.never_pulled
                    raise never(spec.image, resolved)
                await self._images.pull(spec.image, wanted, progress)
        if container is None:
            raise _missing(spec, resolved)
        facts: dict[str, Any] = {}
        # A start that is given up half-way goes on in the engine, and would outlive the removal.
        with anyio.CancelScope(shield=True):
            async with self._connection.reaching(f"starting a container of `{spec.image}`"):
                if before_start is not None:
                    await before_start(container)
                await start(container)
                facts = await describe(container)
            if _is_on_shared_bridge(spec):
                await self._bridge.isolate()
        await anyio.lowlevel.checkpoint()
        # Podman's own API has it under this name, the one that Docker speaks too has not.
        return container, facts | {"ImageDigest": await self._images.digest_of(resolved, facts["Image"])}

    async def _may_start(self, container: DockerContainer, wanted: Wanted) -> bool:
        """See whether what a container was made of may be used by whoever wants it.

        What an image's name means can change at any time, so only this is asked, and not before a container is made.
        """
        if "@" not in wanted.name and registry(wanted.name) == "localhost":
            return True  # nothing is ever pulled under such a name
        async with self._connection.reaching("looking at a container"):
            image = str((await describe(container))["Image"])
        return await self._images.may_be_used(wanted, image)

    async def remove_containers(self, owner: str) -> int:
        """Remove all containers and networks of an owner, and give how many containers there were.

        :raises EngineError: when the engine does not do it.
        """
        return await self._removals.remove_all_of(owner)

    async def _create(
        self, spec: ContainerSpec, resolved: str, name: str, first: helper.FirstProcess
    ) -> DockerContainer | None:
        """Make a container, or tell by None that its image is missing."""
        # A cancel between the question and the answer would leave a container nobody knows of.
        with anyio.CancelScope(shield=True):
            try:
                return await self._create_once(spec, resolved, name, first)
            except DockerError as error:
                if self._bridge.forget(error.message):
                    return await self._create_once(spec, resolved, name, first)
                if error.status == HTTPStatus.NOT_FOUND and "image" in error.message.lower():
                    return None
                raise

    async def _create_once(
        self, spec: ContainerSpec, resolved: str, name: str, first: helper.FirstProcess
    ) -> DockerContainer:
        if _is_on_shared_bridge(spec):
            spec = msgspec.structs.replace(spec, network=await self._bridge.get())
        described = config(spec, resolved, self.settings, self._owner, first, await self._call_filter.get())
        async with self._connection.reaching(f"making a container of `{spec.image}`"):
            return await self._connection.docker.containers.create(described, name=name)

    async def _undo(self, name: str) -> None:
        with (
            anyio.CancelScope(shield=True),
            anyio.move_on_after(CLEANUP_SECONDS),
            suppress(EngineError),  # the owner's label leads `reap` to it
        ):
            await self._connection.ensure()
            await remove(self._connection, name)


def _can_keep_warm(settings: EngineSettings, connection: Connection) -> bool:
    # To enter a container's mounts takes root, and a machine that is the containers' own. And what is to be pulled for
    # each container cannot be made ahead.
    return connection.is_local and os.geteuid() == 0 and settings.pull_policy != "always"


def _is_on_shared_bridge(spec: ContainerSpec) -> bool:
    return spec.network == "bridge" and not spec.networks


def _missing(spec: ContainerSpec, resolved: str) -> ContainerStartFailed:
    # It was removed just after it was pulled, or was not to be pulled.
    return ContainerStartFailed(
        f"container of image `{spec.image}` could not be made: image `{resolved}` is not there, or not any more"
    )


def _shape(spec: ContainerSpec, resolved: str, key: str) -> Shape:
    return Shape(
        image=resolved,
        key=key,
        network=spec.network,
        memory=spec.memory,
        cpus=spec.cpus,
        user=spec.user,
        read_only=spec.read_only,
    )


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
