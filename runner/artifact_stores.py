"""Where a job's artifacts are kept: with the orchestrator for all runners, or in a folder for ``moonyard run``."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote

import anyio.to_thread

from runner import delivery
from runner.job_context import SavedArtifact
from schema import times
from schema.client import Client
from schema.errors import MoonyardError
from schema.wire import (
    Artifact,
    ArtifactSave,
    ArtifactsFind,
    ArtifactsFound,
    ReportAdd,
    ReportAdded,
    ReportedTest,
)

COPY_BYTES: Final = 1024 * 1024
PART_TESTS: Final = 500
"""With their messages they stay below what a request may have."""


class OrchestratorArtifacts:
    """Uploads files under their SHA-256, and names them as artifacts of one attempt; finds and fetches others."""

    def __init__(self, client: Client, job: str, attempt: int) -> None:
        self._client = client
        self._job = f"/v1/runner/jobs/{job}/{attempt}"

    async def save(
        self, file: IO[bytes], name: str, content_type: str, *, stage: str, retention: float | None
    ) -> SavedArtifact:
        """Upload and name a file.

        :raises MoonyardError: when it changed while it was read, or the name is taken.
        """
        sha256, size = await anyio.to_thread.run_sync(delivery.hashed, file)

        async def name_it() -> None:
            message = ArtifactSave(
                name=name,
                sha256=sha256,
                size_bytes=size,
                content_type=content_type,
                stage=stage,
                retention=retention,
            )
            await self._client.post(f"{self._job}/artifacts", Artifact, message)

        await delivery.upload(self._client, f"artifact `{name}`", file, sha256, size)
        await delivery.persistently(f"naming artifact `{name}`", name_it)
        return SavedArtifact(sha256=sha256, size_bytes=size)

    async def find(self, wanted: ArtifactsFind) -> ArtifactsFound:
        answers: list[ArtifactsFound] = []

        async def ask() -> None:
            answers.append(await self._client.post(f"{self._job}/artifacts/find", ArtifactsFound, wanted))

        await delivery.persistently("looking for artifacts", ask, patience=delivery.PATIENCE_SECONDS)
        return answers[-1]

    async def fetch(self, artifact: Artifact, file: IO[bytes]) -> None:
        path = f"{self._job}/artifacts/{artifact.job}/{quote(artifact.name)}"
        await delivery.download(self._client, f"artifact `{artifact.name}`", path, file)

    async def report(self, stage: str, report: str, tests: Sequence[ReportedTest]) -> None:
        for position in range(0, max(len(tests), 1), PART_TESTS):
            part = ReportAdd(
                stage=stage, report=report, position=position, tests=list(tests[position : position + PART_TESTS])
            )
            await self._tell(part)

    async def _tell(self, part: ReportAdd) -> None:
        async def send() -> None:
            await self._client.post(f"{self._job}/tests", ReportAdded, part)

        await delivery.persistently("telling tests", send, patience=delivery.PATIENCE_SECONDS)


class FolderArtifacts:
    """Keeps artifacts as files below a folder, one folder a job."""

    def __init__(self, folder: Path, job: str) -> None:
        self._folder = folder
        self._job = job
        self._kept: dict[str, Artifact] = {}

    async def save(
        self, file: IO[bytes], name: str, content_type: str, *, stage: str, retention: float | None
    ) -> SavedArtifact:
        del retention  # whoever ran it removes the folder
        saved = await anyio.to_thread.run_sync(self._save, file, name)
        self._kept[name] = Artifact(
            job=self._job,
            name=name,
            sha256=saved.sha256,
            size_bytes=saved.size_bytes,
            content_type=content_type,
            created_at=times.now(),
            stage=stage,
        )
        return saved

    async def find(self, wanted: ArtifactsFind) -> ArtifactsFound:
        if wanted.job not in {None, self._job} or wanted.pipeline is not None:
            raise MoonyardError(
                "`moonyard run` knows the artifacts of its own job, and of no other",
                code="artifact_unknown",
                hint="Those of other jobs are with an orchestrator: submit the job there.",
            )
        if wanted.name is not None and wanted.name not in self._kept:
            names = ", ".join(f"`{name}`" for name in self._kept)
            raise MoonyardError(
                f"the job has no artifact `{wanted.name}`",
                code="artifact_unknown",
                hint=f"It kept {names}." if names else "It kept none.",
            )
        found = [kept for kept in self._kept.values() if wanted.name in {None, kept.name}]
        return ArtifactsFound(job=self._job, number=0, pipeline="", artifacts=sorted(found, key=lambda kept: kept.name))

    async def fetch(self, artifact: Artifact, file: IO[bytes]) -> None:
        await anyio.to_thread.run_sync(self._fetch, artifact, file)

    async def report(self, stage: str, report: str, tests: Sequence[ReportedTest]) -> None:
        """Keep nothing: the log says what there is to say."""

    def _fetch(self, artifact: Artifact, file: IO[bytes]) -> None:
        try:
            with (self._folder / artifact.name).open("rb") as kept:
                shutil.copyfileobj(kept, file, COPY_BYTES)
        except OSError as error:
            raise MoonyardError(
                f"artifact `{artifact.name}` cannot be read from {self._folder} ({error.strerror})",
                code="artifact_unknown",
                hint="Somebody removed it since the job kept it.",
            ) from error
        if delivery.hashed(file)[0] != artifact.sha256:
            raise MoonyardError(
                f"artifact `{artifact.name}` in {self._folder} is not what the job kept: somebody changed it since",
                code="artifact_damaged",
            )

    def _save(self, file: IO[bytes], name: str) -> SavedArtifact:
        file.seek(0)
        target = self._folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as copy:
                self._copy(file, copy, target)
            with target.open("rb") as copy:
                sha256 = hashlib.file_digest(copy, "sha256").hexdigest()
            return SavedArtifact(sha256=sha256, size_bytes=target.stat().st_size)
        except (FileExistsError, NotADirectoryError) as error:
            if not self._folder.is_dir():
                raise _not_kept(name, self._folder, error) from error
            raise MoonyardError(
                f"the job has an artifact `{name}` already, or one that needs this name for a folder",
                code="artifact_exists",
                hint="Give this one another `name`.",
            ) from error
        except OSError as error:
            raise _not_kept(name, self._folder, error) from error

    def _copy(self, file: IO[bytes], copy: IO[bytes], target: Path) -> None:
        try:
            shutil.copyfileobj(file, copy, COPY_BYTES)
        except BaseException:
            target.unlink()  # half a file would pass for a whole one
            raise


def _not_kept(name: str, folder: Path, error: OSError) -> MoonyardError:
    return MoonyardError(
        f"artifact `{name}` cannot be written to {folder} ({error.strerror})",
        code="artifact_not_kept",
        hint="`moonyard run` keeps artifacts below the working folder: it has to be writable, with room left.",
    )
