"""Where jobs may connect to by ``http``: the runner stands where others do not, so this is its owner's to say.

What is looked at is the address that is connected to, of each hop: a name that leads to the runner's own loopback, or
does so the second time it is asked, a redirect, an address in another spelling: all meet the same rules. In this order:

    allowed by the owner        yes
    denied by the owner         no
    loopback, link-local, the   no: services there trust whoever reaches them, and clouds hand out credentials
    clouds' metadata, not a
    single machine
    anything else               yes

Containers are not concerned: they have networks of their own.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final, NamedTuple, TypeAlias

from runner.web.errors import DestinationRefused

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_METADATA: Final = tuple(
    ipaddress.ip_address(text)
    for text in ("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254")
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
_HOST: Final = re.compile(r"[A-Za-z0-9*?_.-]{1,253}")


class Rule(NamedTuple):
    """What one entry of a list matches: a network, or a pattern for the host as it was named; and a port."""

    text: str
    network: Network | None
    host: str | None
    port: int | None

    def matches(self, host: str, port: int, address: Address) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            return address in self.network
        return self.host is not None and fnmatchcase(host.lower().rstrip("."), self.host)


def rule(text: str) -> Rule:
    """Read ``10.0.0.0/8``, ``[fd00::1]:8080``, ``*.example.org`` or ``intranet:8080``.

    :raises ValueError: when it is none of these.
    """
    host, port = _without_port(text.strip())
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"`{text}` has the port {port}, which there is not")
    try:
        return Rule(text, ipaddress.ip_network(host), None, port)
    except ValueError:
        pass
    if not _HOST.fullmatch(host) or re.fullmatch(r"[0-9./]+", host):
        raise ValueError(f"`{text}` is no address, network or host name, with a port or without")
    return Rule(text, None, host.lower().rstrip("."), port)


def _without_port(text: str) -> tuple[str, int | None]:
    if found := re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::([0-9]{1,5}))?", text):
        return found[1], None if found[2] is None else int(found[2])
    if text.count(":") == 1 and (found := re.fullmatch(r"([^:]+):([0-9]{1,5})", text)):
        return found[1], int(found[2])
    return text, None


class Destinations:
    """The owner's rules."""

    def __init__(self, allowed: Sequence[str] = (), denied: Sequence[str] = ()) -> None:
        """Take the rules.

        :raises ValueError: when one cannot be read.
        """
        self._allowed = [rule(text) for text in allowed]
        self._denied = [rule(text) for text in denied]

    def check(self, host: str, port: int, address: str) -> None:
        """See that jobs may connect to an address, which ``host`` stands for.

        :raises DestinationRefused: when they may not.
        """
        meant = _meant(ipaddress.ip_address(address.partition("%")[0]))
        if any(rule.matches(host, port, meant) for rule in self._allowed):
            return
        named = f"`{host}`" if host == str(meant) else f"`{host}` ({meant})"
        for denied in self._denied:
            if denied.matches(host, port, meant):
                raise DestinationRefused(
                    f"jobs may not connect to {named} port {port}: the runner's owner denies `{denied.text}`",
                    hint="The setting `http_denied` of the runner says so, and `http_allowed` makes exceptions.",
                )
        if (what := _special(meant)) is not None:
            raise DestinationRefused(
                f"jobs may not connect to {named} port {port}: it is {what}",
                hint="The runner's owner can allow it by the setting `http_allowed`.",
            )


def _meant(address: Address) -> Address:
    """Give the address that is reached in the end: IPv6 has several ways to write one of IPv4."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    low = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return low
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour or address


def _special(address: Address) -> str | None:
    if address in _METADATA:
        return "where clouds tell machines their credentials"
    if address.is_loopback or address.is_unspecified:
        return "the runner's own machine"
    if address.is_link_local or (isinstance(address, ipaddress.IPv6Address) and address.is_site_local):
        return "a link-local address"
    if address.is_multicast or address == ipaddress.IPv4Address(0xFFFFFFFF):
        return "not one machine's address"
    if isinstance(address, ipaddress.IPv4Address) and int(address) >> 24 == 0:
        return "the runner's own machine"
    return None
