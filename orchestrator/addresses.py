"""Where a request comes from: the address of its client, and whether it came by TLS, also behind a proxy.

A proxy writes into `X-Forwarded-For` whom it speaks for, after what it was told itself; into `X-Forwarded-Proto`, how
it was asked. Anybody can send these headers, so they are believed only of the proxies that `trusted_proxies`
names: from the right, the first address that is none of them is the client's. `Forwarded` (RFC 7239) is not read: a
proxy that writes the one kind passes the other on as its client sent it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from litestar.connection import ASGIConnection
from litestar.types import Scope

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

STATE_NAME: Final = "trusted_proxies"
UNKNOWN: Final = "unknown"
"""Of a connection that ended before it was asked for its other end."""
_FORWARDED_FOR: Final = b"x-forwarded-for"
_FORWARDED_PROTO: Final = b"x-forwarded-proto"
_HOPS_MAXIMUM: Final = 32
_CLIENT_PREFIX: Final = 64
"""Of IPv6: what a client mostly has to itself."""


def client_address(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Give the address of who sent a request, such as `192.0.2.7` or `2001:db8::1`.

    It is what the connection's other end has, or what a trusted proxy says of it.
    """
    return of(connection.scope, _trusted(connection))


def is_secure(connection: ASGIConnection[Any, Any, Any, Any]) -> bool:
    """Whether a request came by TLS: to this replica, or to a trusted proxy."""
    return is_secure_scope(connection.scope, _trusted(connection))


def of(scope: Scope, trusted: Sequence[Network]) -> str:
    """Give the client's address of a request."""
    client: tuple[str, int] | None = scope["client"]
    if client is None:
        return UNKNOWN
    if not trusted:
        return client[0]
    address = _address(client[0])
    if address is None or not _is_in(address, trusted):
        return client[0]
    hops = b",".join(value for name, value in scope["headers"] if name == _FORWARDED_FOR).split(b",")
    for hop in reversed(hops[-_HOPS_MAXIMUM:]):
        named = _address(_host(hop.decode("latin-1").strip()))
        if named is None:
            # Whoever wrote this is trusted, and what it says names nobody: its own address is all that is known.
            break
        address = named
        if not _is_in(named, trusted):
            break
    return str(address)


def is_secure_scope(scope: Scope, trusted: Sequence[Network]) -> bool:
    """Whether a request came by TLS."""
    if scope["scheme"] == "https":
        return True
    client: tuple[str, int] | None = scope["client"]
    if client is None or not trusted or not is_trusted(client[0], trusted):
        return False
    said = b",".join(value for name, value in scope["headers"] if name == _FORWARDED_PROTO)
    return said.rpartition(b",")[2].strip().lower() == b"https"


def is_trusted(host: str, trusted: Sequence[Network]) -> bool:
    """Whether an address is that of a trusted proxy."""
    address = _address(host)
    return address is not None and _is_in(address, trusted)


def share(address: str) -> str:
    """Give whose an address is, to limit what they do: itself, or of IPv6 the network that a client mostly has."""
    found = _address(address)
    if not isinstance(found, ipaddress.IPv6Address):
        return address if found is None else str(found)
    return str(ipaddress.ip_network((found, _CLIENT_PREFIX), strict=False))


def network(text: str) -> Network:
    """Read an address or a network, such as `10.0.0.0/8`.

    :raises ValueError: when it is none.
    """
    return ipaddress.ip_network(text.strip())


def _trusted(connection: ASGIConnection[Any, Any, Any, Any]) -> Sequence[Network]:
    trusted: Sequence[Network] = connection.scope["state"][STATE_NAME]
    return trusted


def _is_in(address: ipaddress.IPv4Address | ipaddress.IPv6Address, networks: Sequence[Network]) -> bool:
    return any(address in one for one in networks)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # On a socket for both kinds, IPv4 shows as ::ffff:192.0.2.7.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _host(hop: str) -> str:
    """Give a hop's address without its port, which some proxies add."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
