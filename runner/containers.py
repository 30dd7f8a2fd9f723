"""The containers of one job: made when first needed, removed when their part of the job ends.

- the default container: one a job, from the runner's default image;
- a stage's container, where the stage names an image: for that stage alone;
  it is made ahead, while the stage before runs: that is the one image of which it is known that it will be needed;
- a block container, for the span of one ``container.run``; those that plugins open are block containers too.

Where a job or a stage has services, its containers are on a network with them (``runner.services``); a stage that has
some, and names no image, has a container of its own of the default image. All others can reach no container at all;
where the engine cannot keep them from each other on one network, those of a job have one of their own.

Removal goes on in the background while the job goes on; ``remove_all`` waits until nothing runs any more. What cannot
be removed is said in the log, and tried again by ``runner.reaper``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import anyio.abc
import msgspec

from runner.engine.container import Container, ContainerKind, ContainerSpec
from runner.engine.engine import Engine
from runner.engine.errors import NotIsolated
from runner.engine.images import Progress
from runner.event_stream import EventStream
from runner.registries import WHOLE_JOB, JobRegistries
from runner.services import Services
from schema.definition import ServiceDefinition, StageDefinition
from schema.errors import MoonyardError

REMOVAL_SECONDS: Final = 30.0
CREATION_SECONDS: Final = 15 * 60.0
"""For making one container, its image's pull included."""


def _has_own(stage: StageDefinition) -> bool:
    """Tell whether a stage has a container of its own: for its image, or to be on a network with its services."""
    return stage.container is not None or bool(stage.services)


class ContainerClosed(MoonyardError):
    """A command was sent to a block's container after the block ended."""

    code = "container_closed"


class ContainerNotThere(MoonyardError):
    """A container was asked for that the job does not have."""

    code = "shell_no_container"


class Ahead:
    """A stage's container that is being made before the stage asks for it."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.done = anyio.Event()
        self.error: MoonyardError | None = None


class JobContainers:
    """Makes, hands out and removes the containers of one attempt."""

    def __init__(
        self,
        *,
        engine: Engine,
        stream: EventStream,
        workspace: Path,
        tasks: anyio.abc.TaskGroup,
        keeps_failed: bool = False,
    ) -> None:
        """Prepare.

        :param keeps_failed: leaves the containers in which a stage failed, until ``hand_over`` or ``remove_all``.
        """
        self._engine = engine
        self._stream = stream
        self._workspace = workspace
        self._tasks = tasks
        self.pipeline = ""
        """The job's, once its file has been read."""
        self.environment: dict[str, str] = {}
        """The variables that each of them has; known at the same time."""
        self.registries: JobRegistries | None = None
        """The credentials for their images; the same."""
        self._handles = (f"c{number}" for number in itertools.count(1))
        self._kept: dict[str, Container] = {}
        """Of the job and of stages, by ``""`` and the stages' names."""
        self._blocks: dict[str, Container] = {}
        self._block_stages: dict[str, str] = {}
        self._making: dict[str, anyio.Lock] = {}
        self._ahead: dict[str, Ahead] = {}
        self._services: dict[str, Services] = {}
        """Of the job and of stages, by ``""`` and the stages' names."""
        self._network: str | None = None
        """The job's own, where there has to be one without services."""
        self._making_network = anyio.Lock()
        self._to_remove: set[Container] = set()
        self._removing: set[Container] = set()
        self._keeps_failed = keeps_failed
        self._used: dict[str, Container] = {}
        """Where each stage's newest command ran, the newest of all last."""
        self._left: dict[str, Container] = {}
        """Each stage's block that was closed last: it may be the one in which the stage failed."""
        self._handed_over: set[Container] = set()

    async def for_command(self, stage: StageDefinition, handle: str | None) -> Container:
        """Give the container that a command of a stage runs in: the block's, the stage's, or the job's default one.

        :raises ContainerClosed: when the block has ended.
        :raises EngineError: when the container cannot be made.
        """
        container = await self._for_command(stage, handle)
        self._used.pop(stage.name, None)
        self._used[stage.name] = container
        return container

    async def _for_command(self, stage: StageDefinition, handle: str | None) -> Container:
        if handle is not None:
            container = self._blocks.get(handle)
            if container is None:
                raise ContainerClosed(
                    "process.run was called for a container.run block that has ended",
                    hint="Functions that run commands inside a block have to finish before the block does.",
                )
            return container
        key = stage.name if _has_own(stage) else ""
        if key and (ahead := self._ahead.get(key)) is not None:
            await ahead.done.wait()
            if ahead.error is not None:
                del self._ahead[key]
                raise ahead.error
        return await self._kept_container(stage, key)

    def check(self, stage: StageDefinition) -> None:
        """See that a stage's own container may have what the stage asks for.

        :raises RightsRefused: when it may not.
        """
        if stage.container is not None and stage.rights is not None:
            self._engine.check_rights(stage.container, self.pipeline, stage.rights)

    def prepare(self, stage: StageDefinition) -> None:
        """Begin to make a stage's own container, if it has one, so that its first command need not wait for it.

        One that is on a network with the stage's services can only be made when these are there.
        """
        if stage.container is not None and not stage.services and stage.name not in self._ahead:
            ahead = self._ahead[stage.name] = Ahead()
            self._tasks.start_soon(self._make_ahead, stage, ahead)

    async def _make_ahead(self, stage: StageDefinition, ahead: Ahead) -> None:
        try:
            with ahead.scope:
                await self._kept_container(stage, stage.name)
        except MoonyardError as error:
            ahead.error = error  # the stage's to raise, if it ever needs the container
        finally:
            ahead.done.set()

    async def _kept_container(self, stage: StageDefinition, key: str) -> Container:
        async with self._making.setdefault(key, anyio.Lock()):
            if key not in self._kept:
                image = stage.container or self._engine.settings.default_image
                spec = self._connected(self._spec(image, "stage" if key else "default"), key)
                if key:
                    spec = msgspec.structs.replace(
                        spec, pull=stage.pull, read_only=stage.read_only, rights=stage.rights
                    )
                self._kept[key] = await self._make(spec, stage.name, quiet=False)
            return self._kept[key]

    def image_of(self, stage: StageDefinition, handle: str | None) -> str:
        """Name the image that a command of a stage would run in, as the user named it."""
        if handle is not None and handle in self._blocks:
            return self._blocks[handle].image
        return stage.container or self._engine.settings.default_image

    async def open_block(
        self, stage: str, spec: Callable[[ContainerSpec], ContainerSpec], image: str, *, quiet: bool
    ) -> str:
        """Make a block's container and give its handle. ``spec`` puts the block's options into the job's own spec."""
        container = await self._make(spec(self._connected(self._spec(image, "block"), stage)), stage, quiet=quiet)
        handle = next(self._handles)
        self._blocks[handle] = container
        self._block_stages[handle] = stage
        return handle

    def close_block(self, handle: str) -> None:
        stage = self._block_stages.pop(handle, "")
        container = self._blocks.pop(handle, None)
        if container is not None and self._keeps_failed:
            # Whether the stage fails is not known yet. One is enough: a script may open thousands.
            self._left[stage], container = container, self._left.get(stage)
        if container is not None:
            self._tasks.start_soon(self._remove, container)

    async def start_services(self, stage: StageDefinition | None, definitions: Mapping[str, ServiceDefinition]) -> None:
        """Start the services of a stage, or of the job, and wait until they are ready.

        :raises RightsRefused: when one asks for what the owner does not allow: then none is started.
        :raises ServiceFailed: when one cannot be started, or ends before it is ready.
        :raises ServiceNotReady: when one is not ready in time.
        """
        if not definitions:
            return
        for definition in definitions.values():
            if definition.rights is not None:
                self._engine.check_rights(definition.image, self.pipeline, definition.rights)
        key = "" if stage is None else stage.name
        services = self._services[key] = Services(
            engine=self._engine,
            stream=self._stream,
            stage=None if stage is None else stage.name,
            spec=lambda image: self._with_logins(self._spec(image, "service"), key or WHOLE_JOB),
            outer=self._services.get("") if key else None,
            tasks=self._tasks,
        )
        await services.start(definitions)

    def _connected(self, spec: ContainerSpec, stage: str) -> ContainerSpec:
        """Put a container of a stage, or of the job, where its services are."""
        services = self._services.get(stage) or self._services.get("")
        if services is None:
            return spec
        return msgspec.structs.replace(spec, networks=services.networks, hosts=services.hosts)

    def end_stage(self, stage: str, *, has_failed: bool = False) -> None:
        """Remove a stage's own container and services.

        A container that nobody waited for and is still being made stays to the job's end.
        """
        if (services := self._services.get(stage)) is not None:
            leaves_network = has_failed and self._keeps_failed
            self._tasks.start_soon(partial(services.end, leaves_network=leaves_network))
        if (ahead := self._ahead.get(stage)) is not None and not ahead.done.is_set():
            return
        self._ahead.pop(stage, None)
        if not (has_failed and self._keeps_failed):
            self.forget_stage(stage)

    def forget_stage(self, stage: str) -> None:
        """Remove what is left of a stage's containers, also of a try before."""
        if self._keeps_failed and (services := self._services.get(stage)) is not None:
            self._tasks.start_soon(services.end)
        for container in (self._kept.pop(stage, None), self._left.pop(stage, None)):
            if container is not None:
                self._tasks.start_soon(self._remove, container)

    def chosen(self, stage: str | None, image: str | None) -> Container:
        """Give a container that is there: by default the one in which the newest command ran.

        :raises ContainerNotThere: when there is none, or not that one; it says which there are.
        """
        used = [container for container in self._used.values() if self.has(container)]
        others = [container for container in self._to_remove if self.has(container) and container not in used]
        if stage is not None:
            found = self._used.get(stage) or self._kept.get(stage)
            candidates = [found] if found is not None and self.has(found) else []
        elif image is not None:
            named = self._engine.full_name(image)
            candidates = [one for one in [*others, *used] if self._engine.full_name(one.image) == named]
        else:
            candidates = [*others, *used]
        if candidates:
            return candidates[-1]
        there = ", ".join(sorted({f"`{container.image}`" for container in [*others, *used]}))
        wanted = f" of stage `{stage}`" if stage is not None else "" if image is None else f" of image `{image}`"
        raise ContainerNotThere(
            f"the job has no container{wanted} now"
            + (f": there are those of {there}" if there else ", and no other: no command runs in one at the moment"),
            hint="Containers are made when a stage's first command needs one, and removed at its end.",
        )

    def has(self, container: Container) -> bool:
        """Tell whether a container is still there, and to stay."""
        return container in self._to_remove and container not in self._removing

    @property
    def in_use(self) -> set[Container]:
        """Those that are there and in which commands ran."""
        return {container for container in self._used.values() if self.has(container)}

    def hand_over(self) -> None:
        """Leave the containers in which commands ran to whoever calls ``remove_handed_over``; others are removed."""
        self._handed_over = self.in_use

    async def remove_handed_over(self) -> None:
        """Remove those containers, in the background once nothing of them runs."""
        for container in self._handed_over:
            self._to_remove.discard(container)
            await container.end()
            self._engine.discard(container)
        self._handed_over.clear()
        for services in self._services.values():
            await services.end()
        self._discard_network()

    def _discard_network(self) -> None:
        if self._network is not None:
            self._engine.discard_network(self._network)
            self._network = None

    def close_blocks_of(self, stage: str) -> None:
        """Close the blocks that a stage's script left open: one that was stopped does not come to their ends."""
        for handle in [handle for handle, opened_by in self._block_stages.items() if opened_by == stage]:
            self.close_block(handle)

    async def remove_all(self) -> None:
        """Remove every container of the job that is still there, and wait for those under way."""
        for ahead in self._ahead.values():
            ahead.scope.cancel()
        for ahead in self._ahead.values():
            await ahead.done.wait()
        self._kept.clear()
        self._blocks.clear()
        self._block_stages.clear()
        async with anyio.create_task_group() as tasks:
            for container in self._to_remove - self._handed_over:
                tasks.start_soon(self._remove, container)
            for services in self._services.values():
                tasks.start_soon(partial(services.end, leaves_network=bool(self._handed_over)))
        if not self._handed_over:
            self._discard_network()

    def _spec(self, image: str, kind: ContainerKind) -> ContainerSpec:
        return ContainerSpec(
            image=image,
            kind=kind,
            job=self._stream.job,
            attempt=self._stream.attempt,
            workspace=self._workspace,
            env=self.environment,
            pipeline=self.pipeline,
        )

    def _with_logins(self, spec: ContainerSpec, stage: str) -> ContainerSpec:
        logins = None if self.registries is None else self.registries.of(stage)
        return msgspec.structs.replace(spec, logins=logins)

    async def _make(self, spec: ContainerSpec, stage: str, *, quiet: bool) -> Container:
        spec = self._with_logins(spec, stage)
        progress = self._progress(stage, quiet=quiet)
        if (spec.memory is not None or spec.cpus is not None) and not await self._engine.holds_limits():
            await self._stream.log(
                stage, "warn", "system", "`memory` and `cpus` have no effect: this runner's engine cannot limit them"
            )
        try:
            with anyio.fail_after(CREATION_SECONDS):
                container = await self._create(spec, progress)
        except TimeoutError as error:
            raise MoonyardError(
                f"container of image `{spec.image}` was not ready within {CREATION_SECONDS:.0f} s",
                code="container_start_failed",
            ) from error
        self._to_remove.add(container)
        return container

    async def _create(self, spec: ContainerSpec, progress: Progress) -> Container:
        if spec.network == "none" or spec.networks:
            return await self._engine.create_container(spec, progress)
        # What may change its own network, or forge what it sends, could pass for another on one that is shared.
        if self._engine.isolates and spec.rights is None:
            try:
                return await self._engine.create_container(spec, progress)
            except NotIsolated:
                pass  # it has found that out just now
        return await self._engine.create_container(
            msgspec.structs.replace(spec, networks=[await self._own_network()]), progress
        )

    async def _own_network(self) -> str:
        async with self._making_network:
            if self._network is None:
                self._network = await self._engine.create_network(self._stream.job, self._stream.attempt)
            return self._network

    def _progress(self, stage: str, *, quiet: bool) -> Progress:
        async def progress(text: str) -> None:
            await self._stream.log(stage, "debug" if quiet else "info", "system", text)

        return progress

    async def _remove(self, container: Container) -> None:
        if container not in self._to_remove:
            return
        self._removing.add(container)
        with anyio.CancelScope(shield=True):
            try:
                if await container.end():
                    # Nothing of it runs any more: the engine forgets it in the background.
                    if container in self._to_remove:
                        self._engine.discard(container)
                else:
                    with anyio.fail_after(REMOVAL_SECONDS):
                        await container.remove()
            except (MoonyardError, TimeoutError) as error:
                await self._stream.log(
                    None,
                    "warn",
                    "system",
                    f"container {container.id[:12]} of image `{container.image}` could not be removed ({error}); "
                    "it is tried again",
                )
                self._engine.discard(container)
        self._to_remove.discard(container)
        self._removing.discard(container)
