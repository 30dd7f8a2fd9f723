"""How often anybody may ask: each token so many times a second, and so each address without a valid token.

The limits are of one replica, in its memory, and are asked before anything else of a request is looked at: refusing one
costs next to nothing. Whose token a header holds is known from the last request that came with it and was let through;
of headers, only a number is kept here that does not lead back to them.

A request with a header that is not known here is let through, unless its address has used up what it has. Whether it
counted for its address is known at its end: runners that come to another replica, all at once and from one address,
were none that did.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Final
from uuid import UUID

from litestar.types import Scope

from orchestrator import addresses
from orchestrator.authentication import Identity
from orchestrator.settings import EdgeSettings

BURST_SECONDS: Final = 5.0
"""What was not used in this time can be used at once."""
REMEMBERED_MAXIMUM: Final = 50_000


class Limit:
    """Lets each of many do something so many times a second, five seconds' worth of them at once."""

    def __init__(self, rate: float) -> None:
        self._seconds_each = 1 / rate if rate > 0 else 0.0
        self._due: dict[UUID | str, float] = {}
        """Until when what each did is paid for at the rate: what lies more than a burst ahead is too much."""

    def wait(self, key: UUID | str, now: float) -> float:
        """Say how many seconds are to pass until the next one may come: 0 for none."""
        due = self._due.get(key)
        return 0.0 if due is None else max(0.0, due - now - BURST_SECONDS)

    def count(self, key: UUID | str, now: float) -> None:
        """Note that one came."""
        if not self._seconds_each:
            return
        due = self._due.get(key)
        if due is None and len(self._due) >= REMEMBERED_MAXIMUM:
            self._forget(now)
        self._due[key] = max(now, due or now) + self._seconds_each

    def _forget(self, now: float) -> None:
        """Drop those that came to no more than their rate; or all, where that does not help."""
        self._due = {key: due for key, due in self._due.items() if due > now}
        if len(self._due) >= REMEMBERED_MAXIMUM:
            self._due = {}


class Rates:
    """The limits of one replica."""

    def __init__(self, settings: EdgeSettings) -> None:
        self._tokens = Limit(settings.request_rate)
        self._addresses = Limit(settings.anonymous_rate)
        self._trusted = settings.trusted_proxies
        self._known: dict[int, UUID] = {}

    def enter(self, scope: Scope, credential: bytes | None) -> float:
        """Say how long a request has to wait before it may come: 0 for not at all."""
        now = time.monotonic()
        # A number of 64 bits under a key that only this process has: nobody can find another header with the same.
        token = None if credential is None else self._known.get(hash(credential))
        if token is None:
            return self._addresses.wait(self._address(scope), now)
        wait = self._tokens.wait(token, now)
        if not wait:
            self._tokens.count(token, now)
        return wait

    def leave(self, scope: Scope, credential: bytes | None, status: int) -> None:
        """Count a request that was let through, by who it turned out to be from."""
        now = time.monotonic()
        key = hash(credential)
        known = self._known.get(key)
        if status == HTTPStatus.UNAUTHORIZED:
            self._known.pop(key, None)
            self._addresses.count(self._address(scope), now)
            return
        identity: object = scope.get("auth")  # pyright: ignore[reportUnknownMemberType]  # the framework's own type
        if credential is None or not isinstance(identity, Identity):
            if known is None:
                self._addresses.count(self._address(scope), now)
            return
        if known == identity.token:
            return
        if len(self._known) >= REMEMBERED_MAXIMUM:
            self._known.clear()
        self._known[key] = identity.token
        if self._tokens.wait(identity.token, now):
            # The same token, written in another way each time, would never be known before.
            self._addresses.count(self._address(scope), now)
        self._tokens.count(identity.token, now)

    def _address(self, scope: Scope) -> str:
        return addresses.share(addresses.of(scope, self._trusted))
