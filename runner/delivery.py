"""Delivers an attempt's events and artifacts to the orchestrator: as often as it takes, and never twice.

A batch is sent again, the same bytes under the same ``first_seq``, until an orchestrator says it is stored; the
orchestrator passes over what it has. So a lost answer doubles nothing, a dead replica or database delays and loses
nothing. Only a word that the attempt is no longer this runner's ends the trying.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from io import BufferedReader
from typing import IO, Final

import anyio
import anyio.to_thread

from runner.job_context import SavedArtifact
from schema.client import Client, OrchestratorRefused, OrchestratorUnreachable
from schema.errors import MoonyardError
from schema.wire import Artifact, ArtifactSave, EventsAccepted, WorkspaceKeep, WorkspaceKept

log: Final = logging.getLogger(__name__)

PAUSE_SECONDS_FIRST: Final = 0.1
PAUSE_SECONDS_MAXIMUM: Final = 5.0
BLOB_SECONDS: Final = 3600.0
PATIENCE_SECONDS: Final = 15 * 60.0
"""For contents that no orchestrator takes or gives: an outage is no failure of the job's, and not without an end."""
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


class OrchestratorArtifacts:
    """Uploads files under their SHA-256 and names them as artifacts of one attempt."""

    def __init__(self, client: Client, job: str, attempt: int) -> None:
        self._client = client
        self._path = f"/v1/runner/jobs/{job}/{attempt}/artifacts"

    async def save(self, file: BufferedReader, name: str, content_type: str) -> SavedArtifact:
        """Upload and name a file.

        :raises MoonyardError: when it changed while it was read, or the name is taken.
        """
        sha256, size = await anyio.to_thread.run_sync(_hash, file)

        async def name_it() -> None:
            message = ArtifactSave(name=name, sha256=sha256, size_bytes=size, content_type=content_type)
            await self._client.post(self._path, Artifact, message)

        await upload(self._client, f"artifact `{name}`", file, sha256)
        await persistently(f"naming artifact `{name}`", name_it)
        return SavedArtifact(sha256=sha256, size_bytes=size)


class OrchestratorWorkspaces:
    """Keeps packed workspaces of failed attempts, and fetches the one that an attempt begins with."""

    def __init__(self, client: Client, job: str, attempt: int) -> None:
        self._client = client
        self._path = f"/v1/runner/jobs/{job}/{attempt}/workspace"

    async def keep(self, file: IO[bytes]) -> str:
        """Upload a packed workspace; give until when it is kept.

        :raises MoonyardError: when it is refused, or no orchestrator takes it.
        """
        sha256, _ = await anyio.to_thread.run_sync(_hash, file)
        kept: list[WorkspaceKept] = []

        async def name_it() -> None:
            kept.append(await self._client.post(self._path, WorkspaceKept, WorkspaceKeep(sha256=sha256)))

        await upload(self._client, "the workspace", file, sha256)
        await persistently("keeping the workspace", name_it, patience=PATIENCE_SECONDS)
        return kept[-1].expires_at

    async def fetch(self, file: IO[bytes]) -> None:
        """Download the workspace that this attempt begins with.

        :raises MoonyardError: when there is none, or it does not come whole.
        """

        with anyio.fail_after(BLOB_SECONDS):
            await download(self._client, "the kept workspace", self._path, file)
        file.seek(0)


async def upload(
    client: Client, what: str, file: IO[bytes], sha256: str, *, patience: float = PATIENCE_SECONDS
) -> None:
    """Store a content, as often as it takes.

    :raises MoonyardError: when it is refused, or no orchestrator takes it.
    """

    async def send() -> None:
        file.seek(0)
        await client.put(f"/v1/runner/blobs/{sha256}", object, _chunks(file), seconds=BLOB_SECONDS)

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


def _hash(file: IO[bytes]) -> tuple[str, int]:
    file.seek(0)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]  # it only reads
    return sha256, file.tell()


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := await anyio.to_thread.run_sync(file.read, 256 * 1024):
        yield chunk
