"""The server of a replica: uvicorn, with connections that have limits, and with a certificate that may change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
from collections.abc import Generator
from typing import Any, Final

import anyio
import msgspec
import uvicorn
from litestar.types import ASGIApp

from orchestrator import requests
from orchestrator.certificates import Certificate
from orchestrator.connections import CLOSING_SECONDS, Connections
from orchestrator.settings import OrchestratorSettings

log: Final = logging.getLogger(__name__)

BACKLOG: Final = 2048
KEEP_ALIVE_SECONDS: Final = 75
HANDSHAKE_SECONDS: Final = 10.0
FILES_BESIDE: Final = 256
"""Open files that a replica needs for other things than clients."""


class Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: what a signal means is decided in ``orchestrator.serve``."""

    def __init__(self, application: ASGIApp, settings: OrchestratorSettings, certificate: Certificate | None) -> None:
        edge = settings.edge
        files = _files_allowed(edge.connections)
        if not 0 < edge.connections <= files - FILES_BESIDE:
            edge = msgspec.structs.replace(edge, connections=max(1, files - FILES_BESIDE))
            log.info("up to %d clients may be connected: a process here may open %d files", edge.connections, files)
        self._connections = Connections(edge)
        self._certificate = certificate
        headers = list(requests.HEADERS_ALWAYS)
        if certificate is not None:
            headers.append(requests.STRICT_TRANSPORT)
        super().__init__(
            uvicorn.Config(
                application,
                http=self._connections.connection,  # pyright: ignore[reportArgumentType]  # is called as a class would be
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                headers=headers,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
            )
        )

    @property
    def scheme(self) -> str:
        return "http" if self._certificate is None else "https"

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. This is uvicorn's, with deadlines for what TLS does by itself."""
        assert sockets is not None, "a replica brings its sockets"
        config, loop = self.config, asyncio.get_running_loop()
        values: dict[str, Any] = {"backlog": config.backlog}
        if self._certificate is not None:
            values["ssl"] = self._certificate.context
            values["ssl_handshake_timeout"] = HANDSHAKE_SECONDS
            values["ssl_shutdown_timeout"] = CLOSING_SECONDS

        def connection() -> asyncio.Protocol:
            return self._connections.connection(config=config, server_state=self.server_state, app_state={})

        self.servers = [await loop.create_server(connection, sock=one, **values) for one in sockets]
        self.started = True

    async def look_after(self) -> None:
        """End the connections that take too long, and show the certificate of the files, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._connections.look_for_ever)
            if self._certificate is not None:
                tasks.start_soon(self._certificate.renew_for_ever)
                tasks.start_soon(_renew_on_signal, self._certificate)


async def _renew_on_signal(certificate: Certificate) -> None:
    with anyio.open_signal_receiver(signal.SIGHUP) as signals:
        async for _ in signals:
            certificate.renew(always=True)


def _files_allowed(connections: int) -> int:
    """Have the system allow as many open files as are needed, or as it does allow; say how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1024 * 1024
    wanted = min(hard, connections + FILES_BESIDE) if connections else hard
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return hard if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
