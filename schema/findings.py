"""What a look at an installation finds: the runner's at its start, and ``moonyard doctor``'s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from schema.errors import MoonyardError

State = Literal["ok", "weak", "broken"]
"""`weak`: it works, and is less safe, or less sure, than it could be. `broken`: something does not work."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at. What is not ok says why that matters, and what to do."""

    part: str = "runner"
    check: str
    state: State
    text: str
    why: str | None = None
    hint: str | None = None


def failed(check: str, error: MoonyardError, *, part: str = "runner", why: str, hint: str) -> Finding:
    """Make a finding of an error, with its own hint where it has one."""
    return Finding(part=part, check=check, state="broken", text=error.message, why=why, hint=error.hint or hint)


def listed(words: Sequence[str]) -> str:
    """Write words as a sentence has them: `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "nothing"
