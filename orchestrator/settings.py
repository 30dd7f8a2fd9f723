"""What a replica is told when it starts."""

from __future__ import annotations

import msgspec


class OrchestratorSettings(msgspec.Struct, frozen=True, kw_only=True):
    database_url: str
    listen_url: str | None = None
    """The Postgres itself, to listen at, where a connection pooler stands before it; `off` to listen nowhere."""
    host: str = "127.0.0.1"
    port: int = 8400
    """0 for any free one."""
    lease_seconds: float = 15.0
    """How long a runner may be silent before its attempts are lost."""
    keep_days: float | None = None
    """How long jobs are kept after they ended, with logs and artifacts; None for ever."""
    losses_maximum: int = 3
    """How often a job is queued again after its attempt was lost."""
    connections_maximum: int = 16
    """How many connections to Postgres the replica's requests share; one more listens."""
    drain_seconds: float = 25.0
    """How long requests under way may take after the replica was told to stop."""
