"""How often an address may send to a hook what is not signed: so that a flood costs neither the database nor a body.

Counted at this replica alone, for an address and an id as they were given: whether there is such a hook makes no
difference, so the answer tells nothing. What is rightly signed is not counted, and what others send to the same hook is
not kept waiting.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

FAILURES_MAXIMUM: Final = 10
WINDOW_SECONDS: Final = 60.0
KEPT_MAXIMUM: Final = 10_000


class Throttle:
    """Counts failures of the last while."""

    def __init__(self) -> None:
        self._failures: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()
        """How many, and until when they count."""

    def wait(self, hook: str, address: str) -> float:
        """Give for how many seconds an address has to wait; 0 where it need not."""
        count, until = self._failures.get((hook, address), (0, 0.0))
        return max(0.0, until - time.monotonic()) if count >= FAILURES_MAXIMUM else 0.0

    def note(self, hook: str, address: str) -> None:
        """Count a failure."""
        now = time.monotonic()
        count, until = self._failures.pop((hook, address), (0, 0.0))
        if until <= now:
            count, until = 0, now + WINDOW_SECONDS
        self._failures[hook, address] = count + 1, until
        if len(self._failures) > KEPT_MAXIMUM:
            self._failures.popitem(last=False)
