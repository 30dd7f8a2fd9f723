"""Runs one replica: from a look at the database's schema version to the last answer after SIGTERM.

To stop: no new connections, whoever waits (claims, followers, heartbeats) is let go at once, requests under way are
finished, and only then the loops behind them end and the connections to Postgres are closed.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc
import anyio.to_thread

from orchestrator import app, certificates, exposure, maintenance, requests, secrets
from orchestrator.authentication import Authentication
from orchestrator.blobs import Blobs, Objects
from orchestrator.checking import Checker
from orchestrator.database import Database
from orchestrator.dispatcher import Dispatcher
from orchestrator.hooks.deliveries import Deliveries
from orchestrator.http_limits import HttpLimits
from orchestrator.leaks import Leaks
from orchestrator.metrics import Metrics
from orchestrator.notifications import Notifications
from orchestrator.parts import Parts
from orchestrator.protections import Protections
from orchestrator.record import Record
from orchestrator.refusals import Refusals
from orchestrator.server import Server
from orchestrator.settings import OrchestratorSettings
from orchestrator.sql import health as health_sql
from orchestrator.submissions import Submissions
from orchestrator.versions import Versions
from schema import database as schema_database
from schema.errors import MoonyardError
from schema.tracing import Tracer

if TYPE_CHECKING:
    from orchestrator.oidc import Provider

log: Final = logging.getLogger(__name__)


class AddressUnusable(MoonyardError):
    """The address to listen on cannot be had."""

    code = "address_unusable"


async def serve(
    settings: OrchestratorSettings, *, started: Callable[[str], None], tracer: Tracer | None = None
) -> None:
    """Run a replica until SIGTERM or SIGINT, and let it drain; a second signal ends it at once.

    :param started: is called with the replica's address once it listens.
    :raises MoonyardError: when the database cannot be reached or has another schema version, or the address is taken.
    """
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        await tasks.start(_stop_on_signal, stop)
        await run(settings, stop=stop, started=started, tracer=tracer)
        tasks.cancel_scope.cancel()


async def run(
    settings: OrchestratorSettings,
    *,
    stop: anyio.Event,
    started: Callable[[str], None],
    with_parts: Callable[[Parts], None] = lambda _parts: None,
    tracer: Tracer | None = None,
) -> None:
    """Run a replica until ``stop`` is set.

    :param with_parts: is called with the replica's parts before it listens.
    """
    certificate = certificates.of(settings.edge)
    current, head = await anyio.to_thread.run_sync(schema_database.check, settings.database_url)
    if current != head:
        raise schema_database.schema_version_wrong(settings.database_url, current, head)
    with _listening_socket(settings.host, settings.port) as listening:
        async with (
            Checker.open(settings.sandbox_require) as checker,
            _database(settings) as database,
            _parts(settings, database, checker, tracer) as parts,
        ):
            with_parts(parts)
            await secrets.warn_of_missing_keys(database, settings.secret_keys)
            await _warn_of_rights(database)
            _warn_of_exposure(listening, settings)
            server = Server(requests.watch(app.create(), parts, tracer), settings, certificate)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.look_after)
                tasks.start_soon(_drain_when, stop, parts, server)
                tasks.start_soon(_say_when_started, server, listening, started)
                await server.serve(sockets=[listening])
                tasks.cancel_scope.cancel()


async def _warn_of_rights(database: Database) -> None:
    """Say so where the replica has more rights in the database than it needs."""
    found = await database.row(health_sql.RIGHTS)
    if found is not None and (found["is_superuser"] or found["is_owner"]):
        log.warning(
            "%s is used as `%s`, %s: whoever took this replica over could change the schema, and the audit; "
            "`moonyard db add-login` makes a login that may no more than a replica needs",
            schema_database.described(database.url),
            found["login"],
            "a superuser" if found["is_superuser"] else "who owns the schema",
        )


@contextlib.asynccontextmanager
async def _database(settings: OrchestratorSettings) -> AsyncGenerator[Database]:
    async with Database.open(
        settings.database_url, connections_maximum=settings.connections_maximum, listen_url=settings.listen_url
    ) as database:
        if database.is_pooled and settings.listen_url is None:
            log.warning(
                "%s is behind a connection pooler, and `listen_url` names no way around it: what other replicas do is "
                "seen a second late",
                schema_database.described(settings.database_url),
            )
        yield database


@contextlib.asynccontextmanager
async def _parts(
    settings: OrchestratorSettings, database: Database, checker: Checker, tracer: Tracer | None
) -> AsyncGenerator[Parts]:
    notifications = Notifications(database)
    versions = Versions(database)
    submissions = Submissions(database, versions, notifications)
    protections = Protections(database)
    dispatcher = Dispatcher(
        database, versions, notifications, protections, lease_seconds=settings.lease_seconds, tracer=tracer
    )
    metrics = Metrics(lambda: dispatcher.waiting_count)
    parts = Parts(
        settings=settings,
        database=database,
        notifications=notifications,
        authentication=Authentication(database),
        blobs=Blobs(database, _objects(settings)),
        versions=versions,
        dispatcher=dispatcher,
        record=Record(database, notifications, Leaks(database, settings.secret_keys)),
        submissions=submissions,
        http_limits=HttpLimits(database),
        oidc=_provider(settings),
        protections=protections,
        hooks=Deliveries(
            database,
            submissions,
            notifications,
            metrics,
            master_keys=settings.secret_keys,
            body_bytes_maximum=settings.hook_body_size,
        ),
        refusals=Refusals(database),
        metrics=metrics,
        checker=checker,
        draining=anyio.Event(),
    )
    await parts.http_limits.look()
    await parts.protections.look()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(notifications.listen_for_ever, name="listen")
        tasks.start_soon(notifications.send_for_ever, name="notify")
        tasks.start_soon(parts.dispatcher.run, name="dispatch")
        tasks.start_soon(parts.record.run, name="record")
        tasks.start_soon(parts.submissions.run, name="submissions")
        tasks.start_soon(maintenance.run, parts, name="maintain")
        yield parts
        await parts.refusals.flush(is_last=True)
        tasks.cancel_scope.cancel()


def _provider(settings: OrchestratorSettings) -> Provider | None:
    if settings.oidc is None:
        return None
    # What verifies signatures takes a fifth of a replica's start, which one without a provider need not spend.
    from orchestrator.oidc import Provider

    return Provider(settings.oidc)


def _objects(settings: OrchestratorSettings) -> Objects | None:
    if settings.artifact_store is None:
        return None
    # It takes some ten megabytes, which a replica without one need not spend.
    from orchestrator.object_store import ObjectStore

    return ObjectStore(settings.artifact_store, settings.artifact_endpoint, settings.artifact_region)


def _listening_socket(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise AddressUnusable(
            f"the orchestrator cannot listen on {host}:{port} ({(error.strerror or str(error)).lower()})",
            hint="Is another one running there? `--port` and `--host` choose another address.",
        ) from error
    return listening


async def _say_when_started(server: Server, listening: socket.socket, started: Callable[[str], None]) -> None:
    host, port = listening.getsockname()[:2]
    while not server.started:  # noqa: ASYNC110  # uvicorn says it by a flag alone
        await anyio.sleep(0.005)
    started(f"{server.scheme}://{f'[{host}]' if ':' in host else host}:{port}")


def _warn_of_exposure(listening: socket.socket, settings: OrchestratorSettings) -> None:
    exposure_found = exposure.examine(listening.getsockname()[0], settings.edge)
    if exposure_found is not None:
        log.warning("%s. %s", exposure_found.text, exposure_found.hint)


async def _drain_when(stop: anyio.Event, parts: Parts, server: Server) -> None:
    await stop.wait()
    log.info("draining: no new requests are taken")
    parts.drain()
    server.should_exit = True


async def _stop_on_signal(stop: anyio.Event, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            if stop.is_set():
                raise MoonyardError(f"stopped by a second {number.name}, with requests under way", code="stopped")
            stop.set()
