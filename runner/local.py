"""``moonyard run``: one pipeline here and now, with a registered runner's sandbox and engine, and no server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import anyio
import anyio.to_thread

from plugins.resolution import Catalogue
from runner import owner as owners
from runner.artifact_stores import FolderArtifacts
from runner.cache_folder import CACHE_BYTES, CacheFolder
from runner.cache_stores import LocalCaches
from runner.engine.engine import Engine
from runner.engine.settings import EngineSettings
from runner.event_stream import EventStream
from runner.job import Job, JobOrder
from runner.kept_here import KeptHere
from runner.plugin_store import ResolvedPlugins
from runner.reaper import reaping
from runner.redaction.credentials import Credentials, RedactSettings
from runner.redaction.redactor import Redaction
from runner.secrets import GivenSecrets
from runner.web.exchange import Web, WebSettings
from sandbox import loading
from sandbox.parent import WarmParent
from schema.definition import resolve_inputs
from schema.errors import single_error
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
    keep_on_failure: float | None = None,
    kept: Callable[[], None] = lambda: None,
    web_settings: WebSettings = WebSettings(),  # noqa: B008  # it never changes
    redact_settings: RedactSettings = RedactSettings(),  # noqa: B008
    secrets: Mapping[str, bytes] = MappingProxyType({}),
    catalogue: Catalogue = loading.SHIPPED_ONLY,
) -> JobEvent:
    """Run a pipeline file to its final event. ``stop``, once set, cancels the job; ``kill`` ends it at once.

    :param print_lines: takes one or more whole JSON lines of events.
    :param keep_on_failure: seconds for which its containers and workspace are kept if it fails, or until ``stop``.
    :param secrets: what the pipeline may have, by name.
    :param catalogue: where its plugins are looked for.
    :param kept: called when the final event has been told and they are.
    :raises MoonyardError: when the pipeline or its inputs are wrong, or there is no engine: then nothing ran.
    """
    job_id = str(uuid7())
    redaction = Redaction(Credentials(redact_settings))
    stream = EventStream(job=job_id, number=None, attempt=1, sink=PrintingSink(print_lines), redaction=redaction)
    async with WarmParent.start() as parent:
        loaded = await loading.load(parent, filename, source, catalogue)
        resolved = resolve_inputs(loaded.definition, inputs)
        with owners.take(engine_settings.state_folder) as owner:
            async with (
                Engine.open(engine_settings, owner.name) as engine,
                reaping(engine_settings.state_folder, owner, engine),
                Web.open(web_settings) as web,
            ):
                caches = CacheFolder(engine_settings.state_folder, cache_budget)
                await caches.trim()
                keeper = KeptHere(engine)
                job = Job(
                    JobOrder(
                        id=job_id,
                        number=None,
                        attempt=1,
                        filename=filename,
                        source=source,
                        definition=loaded.definition,
                        inputs=resolved,
                        plugins=loaded.resolved.lock,
                        keep_on_failure=keep_on_failure,
                    ),
                    engine=engine,
                    parent=parent,
                    owner=owner,
                    stream=stream,
                    artifacts=FolderArtifacts(artifact_folder / job_id, job_id),
                    caches=LocalCaches(caches),
                    web=web,
                    plugins=ResolvedPlugins(loaded.resolved.plugins),
                    keeper=keeper,
                    secrets=GivenSecrets(secrets),
                )
                final = await _run_delivering(job, stream, stop, kill)
                if keeper.is_holding:
                    kept()
                    await keeper.hold(stop)
                return final


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
