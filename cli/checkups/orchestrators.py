"""Whether orchestrators answer, by which version, over what, and with which clock."""

from __future__ import annotations

import importlib.metadata
import ipaddress
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import anyio
import msgspec
from anyio.streams.tls import TLSAttribute

from schema import client, database
from schema.findings import Finding, State
from schema.wire import Health

PART: Final = "orchestrators"
ANSWER_SECONDS: Final = 10.0
ANSWER_BYTES_MAXIMUM: Final = 64 * 1024
HTTPS_PORT: Final = 443
CLOCK_SECONDS: Final = 5.0
CERTIFICATE_DAYS: Final = 14
_SECONDS_PER_DAY: Final = 86400


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    status: int
    body: bytes
    date: str | None
    at: datetime
    certificate: dict[str, Any] | None


async def examine(address: str, tls_ca: Path | None) -> list[Finding]:
    """Look at one orchestrator.

    :param tls_ca: who certifies it, in place of those that the system trusts.
    :raises AddressInvalid: when that cannot be used.
    """
    address = address.rstrip("/")
    trusted = True if tls_ca is None else client.tls_context(tls_ca)
    try:
        with anyio.fail_after(ANSWER_SECONDS):
            answer = await _ask(address, trusted)
    except aiohttp.ClientConnectorCertificateError as error:
        return [
            _finding(
                address,
                "broken",
                f"its certificate is not one that this machine trusts ({error.certificate_error})",
                why="Nothing is sent there, for it may be anybody.",
                hint="It has to be in date, of this host name, and by an authority known here: the setting `tls_ca`.",
            )
        ]
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return [
            _finding(
                address,
                "broken",
                f"it is not reached ({client.reason(error)})",
                why="A runner takes no jobs, and nobody submits any, where none is reached.",
                hint="Does an orchestrator run there, and does the way to it lead through a firewall?",
            )
        ]
    return [_health(address, answer), _way(address, answer), *_clock(address, answer)]


async def _ask(address: str, trusted: ssl.SSLContext | bool) -> _Answer:
    async with aiohttp.ClientSession() as session, session.get(f"{address}/v1/health", ssl=trusted) as response:
        body = await response.content.read(ANSWER_BYTES_MAXIMUM)
        return _Answer(
            status=response.status,
            body=body,
            date=response.headers.get("Date"),
            at=datetime.now(UTC),
            certificate=await _certificate(address, trusted),
        )


async def _certificate(address: str, trusted: ssl.SSLContext | bool) -> dict[str, Any] | None:
    """Give the certificate that an address shows; None where it speaks no TLS."""
    parts = urlsplit(address)
    if parts.scheme != "https" or parts.hostname is None:
        return None
    context = trusted if isinstance(trusted, ssl.SSLContext) else ssl.create_default_context()
    # Many a server breaks TLS off without saying so.
    connected = await anyio.connect_tcp(
        parts.hostname, parts.port or HTTPS_PORT, tls=True, ssl_context=context, tls_standard_compatible=False
    )
    async with connected as stream:
        shown: Any = stream.extra(TLSAttribute.peer_certificate)  # noqa: S610  # not Django's
        return shown


def _health(address: str, answer: _Answer) -> Finding:
    if answer.status != HTTPStatus.OK:
        return _finding(
            address,
            "broken",
            f"it answers, with status {answer.status}",
            why="An orchestrator answers 503 while it cannot reach its database, and takes nothing then.",
            hint="Its own log says why: `moonyard doctor` on its machine looks at its database.",
        )
    try:
        health = msgspec.json.decode(answer.body, type=Health)
    except msgspec.DecodeError:
        return _finding(
            address,
            "broken",
            "what answers is no orchestrator",
            why="Runners and commands speak to orchestrators.",
            hint="Is the address right, with its port, and does a proxy before it pass /v1/ on?",
        )
    ours = importlib.metadata.version("moonyard")
    if health.version != ours:
        return _finding(
            address,
            "weak",
            f"it is version {health.version}, and this is {ours}",
            why="Versions are made to work with the one before them, not with any.",
            hint="Upgrade the older one: first `moonyard db upgrade`, then orchestrators, then runners.",
        )
    if health.schema_version != database.head():
        return _finding(
            address,
            "weak",
            f"its database has schema version {health.schema_version}, and this Moonyard needs {database.head()}",
            why="It goes on with the schema that it started with, and none that is started now would.",
            hint="Run: moonyard db upgrade, with its `database_url`.",
        )
    if health.status != "ok":
        return _finding(
            address,
            "weak",
            "it drains: it takes nothing new, and stops",
            why="Others have to take over.",
            hint="Was it told to stop? It ends by itself.",
        )
    return _finding(address, "ok", f"it answers, and is version {health.version}")


def _way(address: str, answer: _Answer) -> Finding:
    check = f"way to {address}"
    if urlsplit(address).scheme != "https":
        if _is_this_machine(urlsplit(address).hostname or ""):
            return _finding(address, "ok", "plain HTTP, on this machine alone", check=check)
        return _finding(
            address,
            "weak",
            "plain HTTP, over a network",
            check=check,
            why="Whoever is on the way reads tokens and secrets, and can answer in the orchestrator's place.",
            hint="Give it a certificate (`tls_certificate`), or a proxy that has one, and use its https:// address.",
        )
    days = _days_left(answer)
    if days is not None and days < CERTIFICATE_DAYS:
        return _finding(
            address,
            "weak",
            f"TLS, by a certificate that runs out in {days:.0f} days",
            check=check,
            why="No runner and no command speaks to it from then on.",
            hint="Renew it now, and see to it that it is renewed by itself.",
        )
    return _finding(address, "ok", "TLS, by a certificate that this machine trusts", check=check)


def _days_left(answer: _Answer) -> float | None:
    ends = None if answer.certificate is None else answer.certificate.get("notAfter")
    if not isinstance(ends, str):
        return None
    return (ssl.cert_time_to_seconds(ends) - answer.at.timestamp()) / _SECONDS_PER_DAY


def _clock(address: str, answer: _Answer) -> list[Finding]:
    if answer.date is None:
        return []
    check = f"clock of {address}"
    try:
        apart = abs((parsedate_to_datetime(answer.date) - answer.at).total_seconds())
    except (ValueError, TypeError):  # what says the date is no orchestrator, or a proxy that says it in its own way
        return []
    if apart <= CLOCK_SECONDS:
        return [_finding(address, "ok", "it agrees with this machine's", check=check)]
    return [
        _finding(
            address,
            "weak",
            f"it is {apart:.0f} s apart from this machine's",
            check=check,
            why="Times in logs do not fit together; certificates and tokens may run out too early, or too late.",
            hint="Let both keep their time by NTP.",
        )
    ]


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _finding(
    address: str, state: State, text: str, *, check: str | None = None, why: str | None = None, hint: str | None = None
) -> Finding:
    return Finding(part=PART, check=check or f"orchestrator {address}", state=state, text=text, why=why, hint=hint)
