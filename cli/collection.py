"""Python's collector of cycles in processes that serve for long: what they loaded is not looked at again and again."""

from __future__ import annotations

import gc
from typing import Final

ALLOCATIONS: Final = 20_000
"""How many more containers than were freed start a look at the young ones: a busy process makes and frees thousands a
second that hold no cycle. By default it is 700."""


def calm() -> None:
    """Leave out of all collections what is there now, and collect less often. To be called once all is imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS, 20, 20)
