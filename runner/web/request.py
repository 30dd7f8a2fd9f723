"""What a request is made of."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
from yarl import URL

from runner.web.private import PrivatePlace
from runner.web.rates import Bucket

Body = Callable[[AsyncExitStack], Awaitable[Any]]
"""Gives what aiohttp takes as ``data``; opened anew for each hop, and closed with the stack."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    call: str
    """Who asks, for messages."""
    method: str
    url: URL
    headers: list[tuple[str, str]]
    body: Body | None
    seconds: float
    """For each try, from the first byte sent to the last one received; waiting for one's turn does not count."""
    retries: int
    follow: int
    """How many redirects."""
    verify: bool | ssl.SSLContext
    bytes_maximum: int
    to: str | None
    """Where in the workspace the answer's body goes."""
    bucket: Bucket | None
    """A limit of the pipeline's own."""
    check: Callable[[str, int], None] | None = None
    """Is asked whether a host and port may be asked, at each hop, and raises where not."""
    private_headers: frozenset[str] = frozenset()
    """In small letters: those that hold a secret, which is for the place of the URL alone."""
    is_body_private: bool = False
    private: PrivatePlace | None = None
    """There where the URL holds a secret."""

    def shown(self, url: URL) -> str:
        """Name the place of a hop in messages."""
        if self.private is None:
            return shown(url)
        return self.private.shown if url == self.url else f"the place that {self.private.shown} redirects to"


def shown(url: URL) -> str:
    """Name a place in messages: what stands after `?`, and a password, is nobody's business."""
    return str(url.with_user(None).with_query(None).with_fragment(None))
