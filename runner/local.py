"""``moonyard run``: one pipeline here and now, with a registered runner's sandbox and engine, and no server."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from io import BufferedReader, BufferedWriter
from pathlib import Path

import anyio
import anyio.to_thread

import plugins
from runner import owner as owners
from runner.cache_folder import CACHE_BYTES, CacheFolder
from runner.cache_stores import LocalCaches
from runner.engine.engine import Engine
from runner.engine.settings import EngineSettings
from runner.event_stream import EventStream
from runner.job import Job, JobOrder
from runner.job_context import SavedArtifact
from runner.reaper import reaping
from runner.web.exchange import Web, WebSettings
from sandbox.parent import WarmParent
from schema.definition import resolve_inputs
from schema.errors import MoonyardError, single_error
from schema.events import JobEvent
from schema.ids import uuid7


class PrintingSink:
    """Hands every event to a function, as the JSON line it is."""

    gathering_seconds = 0.0

    def __init__(self, print_lines: Callable[[bytes], None]) -> None:
        self._print_lines = print_lines

    async def deliver(self, first_seq: int, lines: Sequence[bytes]) -> None:
        del first_seq
        # A terminal or a pipe that is not read holds up the printing, not the event loop.
        await anyio.to_thread.run_sync(self._print_lines, b"".join(lines))


class FolderArtifacts:
    """Keeps artifacts as files below a folder, one folder a job."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def save(self, file: BufferedReader, name: str, content_type: str) -> SavedArtifact:
        del content_type
        return await anyio.to_thread.run_sync(self._save, file, name)

    def _save(self, file: BufferedReader, name: str) -> SavedArtifact:
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

    def _copy(self, file: BufferedReader, copy: BufferedWriter, target: Path) -> None:
        try:
            shutil.copyfileobj(file, copy, 1024 * 1024)
        except BaseException:
            target.unlink()  # half a file would pass for a whole one
            raise


def _not_kept(name: str, folder: Path, error: OSError) -> MoonyardError:
    return MoonyardError(
        f"artifact `{name}` cannot be written to {folder} ({error.strerror})",
        code="artifact_not_kept",
        hint="`moonyard run` keeps artifacts below the working folder: it has to be writable, with room left.",
    )


async def run(
    *,
    filename: str,
    source: str,
    inputs: dict[str, object],
    engine_settings: EngineSettings,
    artifact_folder: Path,
    print_lines: Callable[[bytes], None],
    stop: anyio.Event,
    kill: anyio.Event,
    cache_budget: int = CACHE_BYTES,
    web_settings: WebSettings = WebSettings(),  # noqa: B008  # it never changes
) -> JobEvent:
    """Run a pipeline file to its final event. ``stop``, once set, cancels the job; ``kill`` ends it at once.

    :param print_lines: takes one or more whole JSON lines of events.
    :raises MoonyardError: when the pipeline or its inputs are wrong, or there is no engine: then nothing ran.
    """
    job_id = str(uuid7())
    stream = EventStream(job=job_id, number=None, attempt=1, sink=PrintingSink(print_lines))
    async with WarmParent.start() as parent:
        async with parent.fork() as sandbox:
            definition = await sandbox.load(filename, source, plugins.shipped())
        resolved = resolve_inputs(definition, inputs)
        with owners.take(engine_settings.state_folder) as owner:
            async with (
                Engine.open(engine_settings, owner.name) as engine,
                reaping(engine_settings.state_folder, owner, engine),
                Web.open(web_settings) as web,
            ):
                caches = CacheFolder(engine_settings.state_folder, cache_budget)
                await caches.trim()
                job = Job(
                    JobOrder(id=job_id, number=None, attempt=1, filename=filename, source=source, inputs=resolved),
                    engine=engine,
                    parent=parent,
                    owner=owner,
                    stream=stream,
                    artifacts=FolderArtifacts(artifact_folder / job_id),
                    caches=LocalCaches(caches),
                    web=web,
                )
                return await _run_delivering(job, stream, stop, kill)


async def _run_delivering(job: Job, stream: EventStream, stop: anyio.Event, kill: anyio.Event) -> JobEvent:
    final: JobEvent | None = None
    with single_error():
        async with anyio.create_task_group() as delivery:
            delivery.start_soon(stream.deliver_all)
            async with anyio.create_task_group() as watch:
                watch.start_soon(_when, stop, job.cancel)
                watch.start_soon(_when, kill, job.kill)
                final = await job.run()
                watch.cancel_scope.cancel()
            stream.finish()
    assert final is not None, "a job that is not cancelled from outside has a final event"
    return final


async def _when(told: anyio.Event, act: Callable[[], None]) -> None:
    await told.wait()
    act()
