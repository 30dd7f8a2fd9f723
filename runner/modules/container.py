"""``container.run``: a container for the span of one Lua function.

The sandbox opens it, runs the function, and closes it.
"""

from __future__ import annotations

from typing import Annotated, Final, get_args

import msgspec

from runner.engine.container import ContainerSpec
from runner.job_context import Call, JobContext
from runner.modules.arguments import ArgumentInvalid, OneOf, Size, choice, environment, parse, text, word
from sandbox.frames import Value, lua_type
from schema import sizes
from schema.definition import PullPolicy, Rights

RUN: Final = "container.run"
NETWORKS: Final = ("bridge", "none")
PULL_POLICIES: Final[tuple[PullPolicy, ...]] = get_args(PullPolicy)
MEMORY_BYTES_MINIMUM: Final = 8 * 1024 * 1024
MEMORY_BYTES_MAXIMUM: Final = 1024**5


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    env: dict[str, str | int | float] = {}
    """For all commands in it."""
    network: Annotated[str, OneOf(NETWORKS)] | None = None
    """`"none"` for a container without a network; by default `"bridge"`."""
    memory: Size | None = None
    """What goes beyond is killed; at least 8m."""
    cpus: float | None = None
    """How much of the machine's processors it may use."""
    user: str | int | None = None
    """Who runs the commands."""
    workdir: str | None = None
    """Where they start, below `/workspace`, or with its full path."""
    entrypoint: str | list[str] | None = None
    """What each command becomes an argument of."""
    pull: Annotated[str, OneOf(PULL_POLICIES)] | None = None
    """When the image is pulled; by default as the runner's `pull_policy` says."""
    read_only: bool = False
    """Whether nothing of the image can be written to."""
    privileged: bool = False
    """Whether it can do all that root on the runner's machine can, where the runner's owner allows it."""
    mounts: list[str] = []
    """Folders that the runner's owner shares, by their places in the container."""
    devices: list[str] = []
    """Devices of the runner's machine, such as `/dev/kvm`, where its owner allows them."""
    capabilities: list[str] = []
    """Beyond those that all containers have, such as `NET_ADMIN`, where the owner allows them."""


async def open_block(job: JobContext, call: Call) -> Value:
    """Make the block's container; the answer is its handle.

    :raises EngineError: when it cannot be made.
    """
    image = call.arguments[0]
    if not isinstance(image, str) or not image:
        raise ArgumentInvalid(
            f'{RUN}: the image must be a string such as "docker.io/library/rust:latest", got '
            + ("an empty one" if image == "" else lua_type(image)),
            hint=f"Write {RUN}(image, function() ... end).",
        )
    given = call.arguments[1] if len(call.arguments) > 1 else None
    options = parse(RUN, RunOptions, {} if given is None else given)

    def with_options(spec: ContainerSpec) -> ContainerSpec:
        return msgspec.structs.replace(
            spec,
            env=spec.env | environment(RUN, options.env),
            network=spec.network if options.network is None else choice(RUN, "network", options.network, NETWORKS),
            memory=spec.memory if options.memory is None else size_bytes(options.memory),
            cpus=spec.cpus if options.cpus is None else _cpus(options.cpus),
            user=spec.user if options.user is None else word(RUN, "user", options.user),
            workdir=spec.workdir if options.workdir is None else text(RUN, "workdir", options.workdir),
            entrypoint=_entrypoint(options.entrypoint),
            pull=None if options.pull is None else choice(RUN, "pull", options.pull, PULL_POLICIES),
            read_only=options.read_only,
            rights=_rights(options),
        )

    return await job.containers.open_block(call.stage, with_options, image, quiet=call.plugin is not None)


async def close_block(job: JobContext, call: Call) -> Value:
    handle = call.arguments[0]
    if isinstance(handle, str):
        job.containers.close_block(handle)
    return None


def size_bytes(value: str | float) -> int:
    """Read a size of memory.

    :raises ArgumentInvalid: when it is none, or less than a process needs to start.
    """
    if isinstance(value, str):
        try:
            size = sizes.size_bytes(value)
        except ValueError as error:
            raise ArgumentInvalid(
                f'{RUN}: `memory` must be bytes or text such as "512m" or "2g", got "{value}"'
            ) from error
    else:
        size = value
    if not MEMORY_BYTES_MINIMUM <= size <= MEMORY_BYTES_MAXIMUM:
        raise ArgumentInvalid(f"{RUN}: `memory` must be at least 8m and at most 1048576g, got {value}")
    return int(size)


def _rights(options: RunOptions) -> Rights | None:
    rights = Rights(
        privileged=options.privileged,
        mounts=[text(RUN, "mounts", target) for target in options.mounts],
        devices=[text(RUN, "devices", device) for device in options.devices],
        capabilities=[text(RUN, "capabilities", capability) for capability in options.capabilities],
    )
    return None if rights == Rights() else rights


def _entrypoint(value: str | list[str] | None) -> list[str] | None:
    if value is None:
        return None
    words = [value] if isinstance(value, str) else value
    return [text(RUN, "entrypoint", part) for part in words]


def _cpus(value: float) -> float:
    if not 0.01 <= value <= 1024:
        raise ArgumentInvalid(f"{RUN}: `cpus` must be between 0.01 and 1024, got {value}")
    return value


CALLS: Final = {"container.open": open_block, "container.close": close_block}
