"""How often requests may be sent: so many a second in the long run, and a burst of them at once.

A ``Bucket`` gives everybody who asks a moment of their own, in the order of asking; whoever asks waits until then. (The
generic cell rate algorithm, ITU-T I.371: one number is all that is kept.)
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Final

import anyio
import msgspec

_RATE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*/\s*(s|m|h)")
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}
HOSTS_MAXIMUM: Final = 10_000


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    """As it was written."""
    interval: float
    """Seconds from one request to the next, in the long run."""
    burst: int
    """How many at once."""


def rate(text: str, burst: int | None = None) -> Rate:
    """Read ``10/s``, ``30/m`` or ``1000/h``. A burst is by default what comes in a second, and at least one.

    :raises ValueError: when it is none of these.
    """
    found = _RATE.fullmatch(text.strip())
    if found is None or float(found[1]) <= 0:
        raise ValueError(f'`{text[:40]}` is no rate: it looks like "10/s", "30/m" or "1000/h"')
    per_second = float(found[1]) / _SECONDS[found[2]]
    if not 1 / 86400 <= per_second <= 1_000_000:
        raise ValueError(f"`{text[:40]}` is out of all measure")
    if burst is not None and not 1 <= burst <= 1_000_000:
        raise ValueError(f"a burst is 1 to 1,000,000 requests, not {burst}")
    return Rate(text=text.strip(), interval=1 / per_second, burst=burst or max(1, round(per_second)))


class Bucket:
    """One limit, for all who share it."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._next = 0.0
        """When the next request is due, were all spread evenly."""

    def delay(self) -> float:
        """Take a moment for one request; give the seconds until then."""
        now = anyio.current_time()
        self._next = max(self._next, now)
        wait = self._next - now - (self.rate.burst - 1) * self.rate.interval
        self._next += self.rate.interval
        return max(0.0, wait)


class HostBuckets:
    """A limit for each host."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def of(self, host: str) -> Bucket:
        bucket = self._buckets.pop(host, None) or Bucket(self._rate)
        self._buckets[host] = bucket
        if len(self._buckets) > HOSTS_MAXIMUM:
            self._buckets.popitem(last=False)
        return bucket
