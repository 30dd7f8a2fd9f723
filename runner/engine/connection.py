"""A connection to the engine, and who sees that there is one at the other end."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import msgspec
from aiodocker import Docker
from aiodocker.containers import DockerContainer

from runner.engine.errors import EngineUnavailable, reaching
from runner.engine.service import PrivateService

API_VERSION: Final = "v1.41"
"""Podman 4 and 5 and Docker since 20.10 speak it; naming it saves asking."""
ANSWER_SECONDS: Final = 60.0


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A container in the engine's lists."""

    id: str
    names: set[str]


class Connection:
    """aiodocker's client with a name for messages, and the private service behind it, if there is one."""

    def __init__(self, docker: Docker, address: str, service: PrivateService | None) -> None:
        self.docker = docker
        self.name = f"the {'private ' if service is not None else ''}container engine at {address}"
        self.service = service
        self.address = address
        self.is_local = address.startswith("unix://")
        """The engine's containers run on this machine's kernel, as far as its address tells."""

    async def ensure(self) -> None:
        """Start the private service again if it ended.

        :raises EngineUnavailable: when it does not start.
        """
        if self.service is not None:
            await self.service.ensure()

    def reaching(self, doing: str, seconds: float = ANSWER_SECONDS) -> AbstractAsyncContextManager[None]:
        """Hold calls to a deadline, and tell a lost engine as such; see ``errors.reaching``."""
        if self.service is not None and (words := self.service.ended()) is not None:
            doing = f"{doing}; it had ended: {words}"
        return reaching(self.name, doing, seconds)


async def check(connection: Connection) -> None:
    """Ask the engine for a sign of life.

    :raises EngineLost: when nobody answers.
    :raises EngineUnavailable: when it is no engine that answers.
    """
    async with (
        connection.reaching("saying hello", 30.0),
        # aiodocker has no public way to ask for it.
        connection.docker._query("_ping", versioned_api=False) as response,  # noqa: SLF001
    ):
        answer = await response.text()
    if answer.strip() != "OK":
        raise EngineUnavailable(
            f"{connection.name} is none: to a ping, it answered {answer[:60]!r}",
            hint="Is the setting `engine_socket` right? Without it, Moonyard starts an engine of its own.",
        )


# aiodocker leaves parameters of these without types; what they answer is the engine's own JSON.


async def describe(container: DockerContainer) -> dict[str, Any]:
    """Give the engine's own description of a container."""
    return await container.show()  # pyright: ignore[reportUnknownMemberType]


async def start(container: DockerContainer) -> None:
    await container.start()  # pyright: ignore[reportUnknownMemberType]


async def labelled(docker: Docker, label: str) -> list[Found]:
    """List the containers that have a label, whatever their state."""
    filters = {"label": [label]}
    found = await docker.containers.list(all=True, filters=filters)  # pyright: ignore[reportUnknownMemberType]
    listed: list[Found] = []
    for container in found:
        names: list[str] = container["Names"] or []
        listed.append(Found(id=container.id, names={name.removeprefix("/") for name in names}))
    return listed


def known(docker: Docker, container: str) -> DockerContainer:
    """Speak of a container by its id or name, whether it exists or not."""
    return docker.containers.container(container)  # pyright: ignore[reportUnknownMemberType]
