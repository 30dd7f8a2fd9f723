"""Fetches images, one pull at a time for each image however many ask for it.

What fails for a reason that may pass is tried again after a pause; Podman itself has tried some of it before it says
so (a refused connection four times in three seconds, a registry that says "later" for as long as that said).
"""

from __future__ import annotations

import base64
import math
import platform
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.abc
import anyio.to_thread
from aiodocker.exceptions import DockerError
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from msgspec.json import decode, encode

from runner.engine import credentials, names, pull_failures
from runner.engine.connection import Connection
from runner.engine.credentials import Login
from runner.engine.errors import CredentialsUnusable, EngineError, EngineLost, StateFolderUnusable, first_line
from runner.engine.image_budget import ImageBudget
from runner.engine.private_images import PrivateImages, Wanted, repositories
from runner.engine.pull_failures import described
from runner.engine.settings import EngineSettings

Progress = Callable[[str], Awaitable[None]]
"""Takes a line for whoever waits."""


ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
"""What images call the kinds of processors that the kernel names otherwise."""
EMULATORS: Final = Path("/proc/sys/fs/binfmt_misc")


class _Pull:
    """One pull under way."""

    def __init__(self, login: Login | None, key: str) -> None:
        self.login = login
        self.key = key
        """The hash of the job's credentials: who has others, or none, does not get what is fetched with them."""
        self.scope = anyio.CancelScope()
        self.waiting: list[MemoryObjectSendStream[str]] = []
        self.failure: str | None = None
        """In the engine's words."""
        self.error: EngineError | None = None

    def tell(self, text: str) -> None:
        for stream in self.waiting:
            # Progress that nobody has time to read is not worth waiting for.
            if stream.statistics().current_buffer_used < stream.statistics().max_buffer_size:
                stream.send_nowait(text)


class Images:
    """Looks at images, and fetches them."""

    def __init__(
        self,
        settings: EngineSettings,
        connection: Connection,
        tasks: anyio.abc.TaskGroup,
        budget: ImageBudget,
        private: PrivateImages,
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._tasks = tasks
        self.budget = budget
        self.private = private
        self._digests: dict[tuple[str, str], str | None] = {}
        self._pulls: dict[tuple[str, str], _Pull] = {}
        """By the images' names and the hashes of the credentials."""

    async def id_of(self, resolved: str) -> str | None:
        """Give the id of the image that a full name means now; None where there is none.

        :raises EngineError: when the engine does not tell.
        """
        await self._connection.ensure()
        facts = await self._inspect(resolved)
        return None if facts is None else str(facts["Id"])

    async def digest_of(self, resolved: str, image: str) -> str | None:
        """Give the digest under which an image is known where it comes from; None where it was only built here.

        :param image: its id.
        """
        key = (resolved, image)
        if key not in self._digests:
            facts = await self._inspect(image)
            digests: list[str] = (facts or {}).get("RepoDigests") or []
            own = [digest for digest in digests if digest.startswith(f"{names.repository(resolved)}@")]
            self._digests[key] = next((digest.rpartition("@")[2] for digest in (own or digests)), None)
        return self._digests[key]

    async def may_be_used(self, wanted: Wanted, image: str) -> bool:
        """Tell whether an image that is here may be used by a job that asks for it.

        :param image: the id of the one that a container was made of.
        :raises MoonyardError: when the job is not to have the secret that would say so.
        """
        # By a digest, Podman (4.3) finds an image under any repository's name.
        if "@" in wanted.name and names.repository(wanted.name) not in repositories(await self._inspect(image) or {}):
            return False
        return await self.private.allows(wanted, image)

    async def foreign_platform(self, resolved: str) -> str | None:
        """Say for what kind of processors an image is, where this machine's are others and do not emulate them."""
        facts = await self._inspect(resolved)
        architecture = str((facts or {}).get("Architecture", ""))
        own = ARCHITECTURES.get(platform.machine(), platform.machine())
        if architecture in {"", own} or await anyio.to_thread.run_sync(lambda: any(EMULATORS.glob("qemu-*"))):
            return None
        return architecture

    async def _inspect(self, image: str) -> dict[str, Any] | None:  # the engine's own JSON
        try:
            async with self._connection.reaching(f"looking at image `{image}`"):
                return await self._connection.docker.images.inspect(image)
        except DockerError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise EngineError(f"image `{image}` could not be looked at: {first_line(error.message)}") from error

    async def pull(self, image: str, wanted: Wanted, progress: Progress) -> None:
        """Fetch an image, or wait for the pull of it with the same credentials that is under way.

        :param image: as the user named it.
        :raises ImageNotFound: when its registry does not have it.
        :raises ImagePullFailed: (and its siblings) when it could not be fetched.
        :raises CredentialsUnusable: when the registries' credentials cannot be read.
        :raises StateFolderUnusable: when it cannot be noted that it is fetched with a job's credentials.
        :raises EngineLost: when the engine was lost meanwhile.
        :raises MoonyardError: when the job is not to have the secret that its credentials are in.
        """
        resolved = wanted.name
        if names.registry(resolved) == "localhost":
            raise pull_failures.missing_here(image, resolved)
        login, key = await wanted.login(), await wanted.key()
        pull = self._pulls.get((resolved, key))
        if pull is None:
            pull = self._pulls[resolved, key] = _Pull(login, key)
            self._tasks.start_soon(self._run, resolved, pull)
        send: MemoryObjectSendStream[str]
        receive: MemoryObjectReceiveStream[str]
        send, receive = anyio.create_memory_object_stream[str](20)
        pull.waiting.append(send)
        started = anyio.current_time()
        try:
            with receive:
                by = "" if login is None else f" as `{login.username}`"
                await progress(f"pulling image {described(image, resolved)} from {names.registry(resolved)}{by}")
                async for text in receive:
                    await progress(text)
        finally:
            if send in pull.waiting:
                send.close()
                pull.waiting.remove(send)
                if not pull.waiting:  # nobody wants it any more
                    pull.scope.cancel()
                    self._forget(resolved, pull)
        if pull.error is not None:
            raise pull.error
        if pull.failure is not None:
            raise pull_failures.failure(image, resolved, pull.failure, login)
        await progress(f"pulled image {described(image, resolved)} in {anyio.current_time() - started:.1f} s")

    async def _run(self, resolved: str, pull: _Pull) -> None:
        with pull.scope:
            try:
                if pull.login is None:
                    await self.private.learn(resolved)
                else:
                    await self.private.begin(resolved)
                await self._fetch_trying(resolved, pull)
                if (image := await self.id_of(resolved)) is not None:
                    await self.private.note(resolved, image, pull.key)
                    await self.budget.note(resolved, image)
                self._tasks.start_soon(self.budget.trim)
                self._tasks.start_soon(self.private.prune)
            except (EngineLost, CredentialsUnusable, StateFolderUnusable) as error:
                pull.error = error
            except DockerError as error:
                pull.failure = error.message
            except EngineError as error:
                pull.failure = error.message
        self._forget(resolved, pull)
        for stream in pull.waiting:
            stream.close()
        pull.waiting.clear()

    async def _fetch_trying(self, resolved: str, pull: _Pull) -> None:
        for pause in (*self._settings.pull_pauses, None):
            try:
                await self._fetch(resolved, pull)
            except DockerError as error:
                if pause is None or not pull_failures.is_transient(resolved, error.message):
                    raise
                reason = pull_failures.reason_of(error.message)
                pull.tell(f"pulling `{resolved}` failed ({reason}); trying again in {pause:g} s")
                await anyio.sleep(pause)
            else:
                return

    async def _fetch(self, resolved: str, pull: _Pull) -> None:
        if pull.login is not None:
            shown: dict[str, str] | None = {"username": pull.login.username, "password": pull.login.password}
        else:
            shown = await anyio.to_thread.run_sync(credentials.find, resolved, self._settings.auth_file)
        headers = {} if shown is None else {"X-Registry-Auth": base64.urlsafe_b64encode(encode(shown)).decode()}
        silence = self._settings.pull_silence
        with anyio.move_on_after(silence) as scope:
            async with (
                self._connection.reaching(f"pulling image `{resolved}`", math.inf),
                # aiodocker's own way leaves the connection open when the stream is not read to its end.
                self._connection.docker._query(  # noqa: SLF001
                    "images/create", "POST", params={"fromImage": resolved}, headers=headers, timeout=None
                ) as response,
            ):
                try:
                    async for line in response.content:
                        scope.deadline = anyio.current_time() + silence
                        self._tell(decode(line), pull)
                finally:
                    response.close()
        if scope.cancelled_caught:
            raise EngineError(f"nothing was heard of the pull for {silence:g} s")

    def _tell(self, line: dict[str, Any], pull: _Pull) -> None:  # the engine's own JSON
        if "error" in line:
            raise DockerError(HTTPStatus.OK, str(line["error"]))
        status = str(line.get("status", ""))
        if status.startswith("Trying to pull") or status in {"Download complete", "Pull complete"}:
            layer = str(line.get("id", ""))[:12]
            pull.tell(f"{status.lower()} {layer}".strip())

    def _forget(self, resolved: str, pull: _Pull) -> None:
        if self._pulls.get((resolved, pull.key)) is pull:
            del self._pulls[resolved, pull.key]
