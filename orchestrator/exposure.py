"""Whether others on the network could read or change what is said to a replica."""

from __future__ import annotations

import ipaddress

import msgspec

from orchestrator.settings import EdgeSettings


class Exposure(msgspec.Struct, frozen=True):
    """What is weak, and what to do about it."""

    text: str
    hint: str


def examine(listens_at: str, settings: EdgeSettings) -> Exposure | None:
    """Say what is weak about how a replica listens: None for nothing.

    :param listens_at: the address that it listens at, such as ``0.0.0.0``.
    """
    if settings.tls_certificate is not None or settings.trusted_proxies:
        return None
    if ipaddress.ip_address(listens_at.partition("%")[0]).is_loopback:
        return None
    return Exposure(
        text=f"{listens_at} is reached from other machines, and what they say there, tokens and secrets too, goes "
        "without TLS",
        hint="Give it a certificate (`tls_certificate`, `tls_key`), or put a proxy with TLS before it and name that in "
        "`trusted_proxies`, or listen on 127.0.0.1 alone.",
    )
