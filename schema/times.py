"""Times and durations as people write them and programs read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
DURATION_MAXIMUM: Final = 30 * 86400.0


def rfc3339(moment: datetime) -> str:
    """Write a time as RFC 3339 in UTC with milliseconds: ``2026-11-24T03:30:00.123Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def now() -> str:
    return rfc3339(datetime.now(UTC))


def duration_seconds(value: object, *, maximum: float = DURATION_MAXIMUM) -> float:
    """Read a duration: seconds as a number, or text such as ``"20m"``, ``"1h30m"``, ``"500ms"``.

    :param maximum: in seconds, whole days.
    :raises ValueError: with a message fit for a user, for anything else, zero, or more than that.
    """
    expected = 'expected seconds as a number, or text such as "90s", "20m", "1h30m"'
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(expected)
    if isinstance(value, str):
        if not value or _DURATION.sub("", value):
            raise ValueError(f"{expected}, got `{value}`")
        seconds = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION.findall(value))
    else:
        seconds = float(value)
    if not 0 < seconds <= maximum:
        raise ValueError(f"a duration is more than zero and at most {maximum / 86400:.0f} days, got `{value}`")
    return seconds
