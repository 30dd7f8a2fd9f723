"""Fetches images, one pull at a time for each image however many ask for it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import anyio
import anyio.abc
from aiodocker.exceptions import DockerError
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from runner.engine import names
from runner.engine.connection import Connection
from runner.engine.errors import EngineError, EngineLost, ImageNotFound, ImagePullFailed, first_line

Progress = Callable[[str], Awaitable[None]]
"""Takes a line for whoever waits."""

SILENCE_SECONDS: Final = 300.0
"""A pull that tells nothing for so long has failed."""
_UNKNOWN: Final = ("manifest unknown", "name unknown", "not found", "name_unknown", "manifest_unknown")
_DENIED: Final = ("unauthorized", "denied", "authentication required", "forbidden")


class _Pull:
    """One pull under way."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.waiting: list[MemoryObjectSendStream[str]] = []
        self.failure: str | None = None
        self.lost: EngineLost | None = None

    def tell(self, text: str) -> None:
        for stream in self.waiting:
            # Progress that nobody has time to read is not worth waiting for.
            if stream.statistics().current_buffer_used < stream.statistics().max_buffer_size:
                stream.send_nowait(text)


class Images:
    def __init__(self, connection: Connection, tasks: anyio.abc.TaskGroup) -> None:
        self._connection = connection
        self._tasks = tasks
        self._pulls: dict[str, _Pull] = {}

    async def id_of(self, resolved: str) -> str | None:
        """Give the id of the image that a full name means now; None where there is none.

        :raises EngineError: when the engine does not tell.
        """
        await self._connection.ensure()
        try:
            async with self._connection.reaching(f"looking at image `{resolved}`"):
                return str((await self._connection.docker.images.inspect(resolved))["Id"])
        except DockerError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise EngineError(f"image `{resolved}` could not be looked at: {first_line(error.message)}") from error

    async def pull(self, image: str, resolved: str, progress: Progress) -> None:
        """Fetch an image, or wait for the pull of it that is under way.

        :param image: as the user named it.
        :param resolved: its full name after the image map.
        :raises ImageNotFound: when its registry does not have it.
        :raises ImagePullFailed: when it could not be fetched.
        :raises EngineLost: when the engine was lost meanwhile.
        """
        if names.registry(resolved) == "localhost":
            raise _missing_here(image, resolved)
        pull = self._pulls.get(resolved)
        if pull is None:
            pull = self._pulls[resolved] = _Pull()
            self._tasks.start_soon(self._run, resolved, pull)
        send: MemoryObjectSendStream[str]
        receive: MemoryObjectReceiveStream[str]
        send, receive = anyio.create_memory_object_stream[str](20)
        pull.waiting.append(send)
        started = anyio.current_time()
        try:
            with receive:
                await progress(f"pulling image {described(image, resolved)} from {names.registry(resolved)}")
                async for text in receive:
                    await progress(text)
        finally:
            if send in pull.waiting:
                send.close()
                pull.waiting.remove(send)
                if not pull.waiting:  # nobody wants it any more
                    pull.scope.cancel()
                    self._forget(resolved, pull)
        if pull.lost is not None:
            raise pull.lost
        if pull.failure is not None:
            raise _failure(image, resolved, pull.failure)
        await progress(f"pulled image {described(image, resolved)} in {anyio.current_time() - started:.1f} s")

    async def _run(self, resolved: str, pull: _Pull) -> None:
        with pull.scope:
            try:
                await self._fetch(resolved, pull)
            except EngineLost as error:
                pull.lost = error
            except DockerError as error:
                pull.failure = error.message
            except EngineError as error:
                pull.failure = error.message
        self._forget(resolved, pull)
        for stream in pull.waiting:
            stream.close()
        pull.waiting.clear()

    async def _fetch(self, resolved: str, pull: _Pull) -> None:
        async with self._connection.reaching(f"pulling image `{resolved}`", math.inf):
            lines = self._connection.docker.images.pull(resolved, stream=True)
            with anyio.fail_after(SILENCE_SECONDS) as scope:
                try:
                    async for line in lines:
                        scope.deadline = anyio.current_time() + SILENCE_SECONDS
                        self._tell(line, pull)
                except aiohttp.ClientPayloadError as error:
                    raise EngineLost(f"{self._connection.name} was lost while pulling `{resolved}`") from error

    def _tell(self, line: dict[str, Any], pull: _Pull) -> None:  # the engine's own JSON
        status = str(line.get("status", ""))
        if status.startswith("Trying to pull") or status in {"Download complete", "Pull complete"}:
            layer = str(line.get("id", ""))[:12]
            pull.tell(f"{status.lower()} {layer}".strip())

    def _forget(self, resolved: str, pull: _Pull) -> None:
        if self._pulls.get(resolved) is pull:
            del self._pulls[resolved]


def described(image: str, resolved: str) -> str:
    """Name an image as the user did, and as what it is really taken from if that is another."""
    return f"`{image}`" if names.full(image) == resolved else f"`{image}` (mapped to `{resolved}`)"


def _missing_here(image: str, resolved: str) -> ImageNotFound:
    return ImageNotFound(
        f"image {described(image, resolved)} does not exist on this machine, and `localhost/` names no registry",
        hint="`podman images` lists what there is; in a checkout of Moonyard, `make images` builds stand-ins.",
    )


def _failure(image: str, resolved: str, message: str) -> EngineError:
    reason = reason_of(message)
    registry = names.registry(resolved)
    text = message.lower()
    if any(words in text for words in _DENIED):
        return ImagePullFailed(
            f"image {described(image, resolved)} could not be pulled from {registry}: {reason}",
            hint=f"Is the name right? A private image needs `podman login {registry}` on the runner's machine first.",
        )
    if any(words in text for words in _UNKNOWN):
        return ImageNotFound(
            f"image {described(image, resolved)} does not exist in {registry}: {reason}",
            hint="Check the name and the tag.",
        )
    return ImagePullFailed(
        f"image {described(image, resolved)} could not be pulled from {registry}: {reason}",
        hint=f"Does the runner's machine reach {registry}? An image map in the settings takes images from elsewhere.",
    )


def reason_of(message: str) -> str:
    """Shorten a pull's error to its last part, which says why; what comes before says again which image."""
    line = first_line(message)
    for word in ("pinging container registry", "reading manifest", "initializing source"):
        if word in line:
            line = line[line.index(word) :]
            break
    return line
