"""Delivers an attempt's events and contents to the orchestrator: as often as it takes, and never twice.

A batch is sent again, the same bytes under the same ``first_seq``, until an orchestrator says it is stored; the
orchestrator passes over what it has. So a lost answer doubles nothing, a dead replica or database delays and loses
nothing. Only a word that the attempt is no longer this runner's ends the trying.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import IO, Final

import anyio
import anyio.to_thread

from schema.client import Client, OrchestratorRefused, OrchestratorUnreachable
from schema.errors import MoonyardError
from schema.secrets import SecretAsk, SecretDelivery, SecretUse
from schema.wire import BlobState, EventsAccepted, WorkspaceKeep, WorkspaceKept

log: Final = logging.getLogger(__name__)

PAUSE_SECONDS_FIRST: Final = 0.1
PAUSE_SECONDS_MAXIMUM: Final = 5.0
BLOB_SECONDS: Final = 3600.0
PATIENCE_SECONDS: Final = 15 * 60.0
"""For contents that no orchestrator takes or gives: an outage is no failure of the job's, and not without an end."""
RESUMED_BYTES_MINIMUM: Final = 8 * 1024 * 1024
"""What is smaller is sent at once, without a question."""
UPLOAD_MOVED: Final = "upload_moved"
GATHERING_SECONDS: Final = 0.02
"""A reader does not notice it, and each batch costs a request here, there, and a commit."""
TEMPORARY_STATUS: Final = frozenset({408, 429, 500, 502, 503, 504})


class AttemptGone(MoonyardError):
    """The attempt is no longer this runner's: its lease ran out, or the job ended without it."""

    code = "attempt_gone"


async def persistently(what: str, send: Callable[[], Awaitable[None]], *, patience: float = math.inf) -> None:
    """Call ``send`` until it succeeds, with growing pauses while no orchestrator answers.

    :param patience: for how many seconds to go on.
    :raises AttemptGone: when an orchestrator says so.
    :raises MoonyardError: for any other refusal, which a repetition would not change, and when the patience is over.
    """
    pause = PAUSE_SECONDS_FIRST
    gives_up_at = anyio.current_time() + patience
    while True:
        try:
            await send()
        except OrchestratorRefused as refusal:
            if refusal.code == AttemptGone.code:
                raise AttemptGone(refusal.message) from refusal
            if refusal.status not in TEMPORARY_STATUS or anyio.current_time() > gives_up_at:
                raise
            problem: MoonyardError = refusal
        except OrchestratorUnreachable as error:
            if anyio.current_time() > gives_up_at:
                raise
            problem = error
        else:
            return
        log.warning("%s failed: %s; next try in %.1f s", what, problem.message, pause)
        await anyio.sleep(pause)
        pause = min(pause * 2, PAUSE_SECONDS_MAXIMUM)


class OrchestratorSink:
    """Delivers the events of one attempt."""

    gathering_seconds = GATHERING_SECONDS

    def __init__(self, client: Client, job: str, attempt: int) -> None:
        self._client = client
        self._path = f"/v1/runner/jobs/{job}/{attempt}/events"

    async def deliver(self, first_seq: int, lines: Sequence[bytes]) -> None:
        data = b"".join(lines)

        async def send() -> None:
            await self._client.post_lines(self._path, EventsAccepted, data, query={"first_seq": first_seq})

        await persistently("delivering events", send)


class OrchestratorWorkspaces:
    """Keeps packed workspaces of failed attempts, and fetches the one that an attempt begins with."""

    def __init__(self, client: Client, job: str, attempt: int) -> None:
        self._client = client
        self._path = f"/v1/runner/jobs/{job}/{attempt}/workspace"

    async def keep(self, file: IO[bytes]) -> str:
        """Upload a packed workspace; give until when it is kept.

        :raises MoonyardError: when it is refused, or no orchestrator takes it.
        """
        sha256, size = await anyio.to_thread.run_sync(hashed, file)
        kept: list[WorkspaceKept] = []

        async def name_it() -> None:
            kept.append(await self._client.post(self._path, WorkspaceKept, WorkspaceKeep(sha256=sha256)))

        await upload(self._client, "the workspace", file, sha256, size)
        await persistently("keeping the workspace", name_it, patience=PATIENCE_SECONDS)
        return kept[-1].expires_at

    async def fetch(self, file: IO[bytes]) -> None:
        """Download the workspace that this attempt begins with.

        :raises MoonyardError: when there is none, or it does not come whole.
        """

        with anyio.fail_after(BLOB_SECONDS):
            await download(self._client, "the kept workspace", self._path, file)
        file.seek(0)


class OrchestratorSecrets:
    """Asks for the secrets of one attempt."""

    def __init__(self, client: Client, job: str, attempt: int) -> None:
        self._client = client
        self._path = f"/v1/runner/jobs/{job}/{attempt}/secrets"

    async def ask(self, name: str, stage: str, use: SecretUse) -> SecretDelivery:
        """Get a secret's value.

        :raises MoonyardError: when the attempt is not to have it, or no orchestrator answers.
        """
        given: list[SecretDelivery] = []

        async def ask() -> None:
            message = SecretAsk(name=name, stage=stage, use=use)
            given.append(await self._client.post(self._path, SecretDelivery, message))

        await persistently(f"asking for secret `{name}`", ask, patience=PATIENCE_SECONDS)
        return given[-1]


async def upload(
    client: Client, what: str, file: IO[bytes], sha256: str, size: int, *, patience: float = PATIENCE_SECONDS
) -> None:
    """Store a content, as often as it takes; what is stored of it already is not sent again.

    :raises MoonyardError: when it is refused, or no orchestrator takes it.
    """
    path = f"/v1/runner/blobs/{sha256}"
    is_first = size < RESUMED_BYTES_MINIMUM

    async def send() -> None:
        nonlocal is_first
        offset = 0
        if not is_first:
            state = await client.get(path, BlobState)
            if state.is_whole:
                return
            offset = state.size_bytes if state.size_bytes < size else 0
        is_first = False
        file.seek(offset)
        query = f"?offset={offset}" if offset else ""
        try:
            await client.put(f"{path}{query}", object, _chunks(file), seconds=BLOB_SECONDS)
        except OrchestratorRefused as refusal:
            if refusal.code != UPLOAD_MOVED:
                raise
            # The request before is still being worked on somewhere: it is looked at again in a moment.
            raise OrchestratorUnreachable(refusal.message) from refusal

    await persistently(f"uploading {what}", send, patience=patience)


async def download(
    client: Client, what: str, path: str, file: IO[bytes], *, patience: float = PATIENCE_SECONDS
) -> None:
    """Write a content into a file, which holds it alone and whole then.

    :raises MoonyardError: when there is none, or it does not come whole.
    """

    async def receive() -> None:
        file.seek(0)
        file.truncate()
        digest = hashlib.sha256()
        async with client.stream(path) as stream:
            promised = stream.headers.get("ETag", "").strip('"')
            async for chunk in stream.chunks():
                digest.update(chunk)
                await anyio.to_thread.run_sync(file.write, chunk)
        if digest.hexdigest() != promised:
            raise OrchestratorUnreachable(f"{what} did not arrive as it was sent")

    await persistently(f"fetching {what}", receive, patience=patience)


def hashed(file: IO[bytes]) -> tuple[str, int]:
    """Give a file's SHA-256 and size."""
    file.seek(0)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]  # it only reads
    return sha256, file.tell()


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := await anyio.to_thread.run_sync(file.read, 256 * 1024):
        yield chunk
