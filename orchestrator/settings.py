"""What a replica is told when it starts."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal

import msgspec

from orchestrator.master_keys import MasterKeys


class EdgeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica asks of the connections and requests that reach it, whoever they are from."""

    trusted_proxies: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    """Whose word on where a request comes from is believed."""
    hosts: frozenset[str] = frozenset()
    """The names by which the replica may be asked, in lower case and without ports; none for any."""
    tls_certificate: Path | None = None
    """A PEM file with the certificate, and those between it and its root; None to speak without TLS."""
    tls_key: Path | None = None
    """A PEM file with its key; None where the certificate's file holds it."""
    connections: int = 20_000
    """How many clients may be connected; 0 for any number, as in all limits here."""
    connections_per_address: int = 12_000
    request_rate: float = 5000.0
    """How many requests a second may come with one token."""
    anonymous_rate: float = 100.0
    """How many requests a second may come from one address without a valid token."""
    head_seconds: float = 10.0
    """How long a request may take to tell what it asks for."""
    body_seconds: float = 30.0
    """The span of time in which a body has to bring ``body_bytes_minimum``."""
    body_bytes_minimum: int = 16 * 1024
    write_seconds: float = 60.0
    """How long a client may take nothing of its answer."""


class OidcSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Who else says who somebody is: an OpenID Connect provider."""

    issuer: str
    client_id: str
    client_secret: str
    name: str = "the identity provider"
    """How the login page calls it."""
    claim: str = "email"
    """The claim that names the account."""
    creates: bool = False
    """Whether a first login makes an account that is not there yet."""


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
    keep_audit_days: float | None = None
    """How long rows of the audit are kept; None for ever."""
    cache_size: int = 2 * 1024**3
    """The most bytes of one cache, packed."""
    cache_pipeline_budget: int = 10 * 1024**3
    """The most bytes of all caches of a pipeline."""
    cache_days: float = 14.0
    """How long a cache is kept after its last use."""
    artifact_store: str | None = None
    """An S3-compatible store for contents, `s3://BUCKET/PREFIX`; None for Postgres."""
    artifact_endpoint: str | None = None
    """Where that store is, unless it is Amazon's."""
    artifact_region: str | None = None
    plugin_folder: Path | None = None
    """Where plugins are beside those that ship: a folder for each."""
    sandbox_require: tuple[str, ...] = ()
    """The walls around Lua without which no file is loaded (``sandbox.wall.LAYERS``)."""
    losses_maximum: int = 3
    """How often a job is queued again after its attempt was lost."""
    connections_maximum: int = 16
    """How many connections to Postgres the replica's requests share; one more listens."""
    secret_keys: MasterKeys = MasterKeys()
    """Those that secrets are stored under, the one in use first; none where it has to do without secrets."""
    grant_versions: Literal["confirm", "follow"] = "confirm"
    """Whether a grant holds for versions that are pushed later, where it does not say."""
    hook_body_size: int = 8 * 1024**2
    """The most bytes of a webhook's delivery."""
    shell_idle_seconds: float = 900.0
    """How long a shell may stay open in which nothing is typed or said."""
    shell_seconds: float = 8 * 3600.0
    """How long any shell may stay open."""
    session_seconds: float = 14 * 86400.0
    """How long a login holds."""
    edge: EdgeSettings = EdgeSettings()
    oidc: OidcSettings | None = None
    """The identity provider by which people log in, beside passwords."""
    drain_seconds: float = 25.0
    """How long requests under way may take after the replica was told to stop."""
