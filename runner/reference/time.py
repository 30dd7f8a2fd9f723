"""``time``."""

from __future__ import annotations

from typing import Final

import msgspec

from runner.modules import time
from runner.modules.arguments import Duration
from runner.reference.description import Given, Module, function


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    year: int
    """Such as 2026."""
    month: int
    """1 to 12."""
    day: int
    """1 to 31."""
    hour: int
    """0 to 23."""
    minute: int
    """0 to 59."""
    second: float
    """With its fraction."""
    weekday: int
    """1 for Monday to 7 for Sunday."""
    yearday: int
    """1 to 366."""
    week: int
    """Of ISO 8601."""
    offset: int
    """Seconds ahead of UTC."""
    zone: str
    """The zone's short name at that time, such as `"CET"`."""


MODULE: Final = Module(
    name="time",
    words="Tells the time, and waits.",
    functions=(
        function(
            "time.now",
            "Gives the time.",
            gives=float,
            gives_words="seconds since 1970, with their fraction",
            example="""
log.info(os.date("!%Y-%m-%d", math.floor(time.now())))
""",
        ),
        function(
            "time.sleep",
            "Waits without holding up anything else.",
            parameters=(Given("duration", Duration, "how long; 0 is accepted"),),
            example="""
time.sleep("10ms")
time.sleep(0.01)
""",
        ),
        function(
            "time.seconds",
            "Reads a duration.",
            parameters=(Given("duration", Duration, "how long"),),
            gives=float,
            gives_words="the seconds",
            example="""
assert(time.seconds("1h30m") == 5400)
""",
        ),
        function(
            "time.duration",
            "Writes seconds as people say them.",
            parameters=(Given("seconds", float, "at least 0"),),
            gives=str,
            example="""
assert(time.duration(5400) == "1h30m")
""",
        ),
        function(
            "time.format",
            "Writes a moment as text.",
            arguments=time.FormatArguments,
            positional=("seconds",),
            gives=str,
            example="""
assert(time.format(0) == "1970-01-01T00:00:00.000Z")
log.info(time.format(time.now(), { format = "%d.%m.%Y", zone = "Europe/Berlin" }))
""",
        ),
        function(
            "time.parse",
            "Reads a moment.",
            arguments=time.ParseArguments,
            positional=("text",),
            gives=float,
            gives_words="seconds since 1970",
            example="""
assert(time.parse("2026-11-24T18:00:00Z") == 1795543200)
assert(time.parse("24.11.2026", { format = "%d.%m.%Y" }) == 1795478400)
""",
        ),
        function(
            "time.parts",
            "Takes a moment apart.",
            arguments=time.PartsArguments,
            positional=("seconds",),
            gives=Parts,
            example="""
local parts = time.parts(0, { zone = "UTC" })
assert(parts.year == 1970 and parts.weekday == 4)
""",
        ),
    ),
)
