"""Where a request that changes something comes from, for the rows of the audit that it leaves.

The guard notes it once; every statement of that request tells the database, for its transaction alone, so it holds
behind a connection pooler too. Of runners' requests nothing is noted: they come often, and where one leaves a row, it
says itself where it came from.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

address: Final[ContextVar[str | None]] = ContextVar("moonyard_origin", default=None)

TELL: Final = "SELECT set_config('moonyard.address', $1, true)"
