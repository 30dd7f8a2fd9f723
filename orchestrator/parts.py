"""What a replica consists of, for those who answer its requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import msgspec
from litestar.connection import ASGIConnection

from orchestrator.authentication import Authentication, Identity
from orchestrator.blobs import Blobs
from orchestrator.checking import Checker
from orchestrator.database import Database
from orchestrator.dispatcher import Dispatcher
from orchestrator.hooks.deliveries import Deliveries
from orchestrator.http_limits import HttpLimits
from orchestrator.metrics import Metrics
from orchestrator.notifications import Notifications
from orchestrator.protections import Protections
from orchestrator.record import Record
from orchestrator.refusals import Refusals
from orchestrator.settings import OrchestratorSettings
from orchestrator.submissions import Submissions
from orchestrator.versions import Versions

if TYPE_CHECKING:
    from orchestrator.oidc import Provider

STATE_NAME: Final = "parts"


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    settings: OrchestratorSettings
    database: Database
    notifications: Notifications
    authentication: Authentication
    blobs: Blobs
    versions: Versions
    dispatcher: Dispatcher
    record: Record
    submissions: Submissions
    http_limits: HttpLimits
    oidc: Provider | None
    """Who else says who somebody is."""
    protections: Protections
    hooks: Deliveries
    refusals: Refusals
    checker: Checker
    metrics: Metrics
    draining: anyio.Event
    """The replica was told to stop: whoever waits here stops waiting."""

    def drain(self) -> None:
        """Let all that wait go, and let nobody wait any more."""
        self.draining.set()
        self.dispatcher.drain()
        self.notifications.jobs.ring_all()
        self.notifications.runners.ring_all()
        self.notifications.shells.ring_all()


def of(connection: ASGIConnection[Any, Any, Any, Any]) -> Parts:
    """Find the parts of the replica that got a request."""
    parts: Parts = connection.scope["state"][STATE_NAME]
    return parts


def actor(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Name who sent a request, for the audit."""
    return identity(connection).actor


def identity(connection: ASGIConnection[Any, Any, Any, Any]) -> Identity:
    """Give who sent a request, as the guard found out."""
    found = connection.scope["auth"]
    assert isinstance(found, Identity), "the guard lets nobody through without"
    return found
