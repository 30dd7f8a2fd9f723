"""``time``: waits, and moments as text in any time zone. What counts durations is in the sandbox itself."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, tzinfo
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import anyio
import msgspec

from runner.job_context import Call, JobContext
from runner.modules.arguments import ArgumentInvalid, text
from runner.modules.data import DataCall
from sandbox.process import Value
from schema import times

SECONDS_MINIMUM: Final = -62_135_596_800.0
"""The year 1."""
SECONDS_MAXIMUM: Final = 253_402_214_400.0
"""The last day of the year 9999, wherever it is."""
FORMAT_LENGTH_MAXIMUM: Final = 200
DIRECTIVES: Final = "aAbBdfHIjmMpSuVyYzGZ%"
"""What a format may ask for: what means the same everywhere, whatever the runner's language is set to."""
_DIRECTIVE: Final = re.compile(r"%(.?)", re.DOTALL)
_ZONE: Final = re.compile(r"[A-Za-z0-9+_-]+(?:/[A-Za-z0-9+_-]+){0,2}")
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)")


class FormatArguments(msgspec.Struct, frozen=True, kw_only=True):
    seconds: float
    """Since 1970, as ``time.now()`` gives them."""
    format: str | None = None
    """As `strftime` has it, such as ``"%Y-%m-%d"``; without it, RFC 3339 with milliseconds."""
    zone: str = "UTC"
    """A time zone's name, such as ``"Europe/Berlin"``."""


class ParseArguments(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    """Such as ``"2026-11-24T18:00:00Z"``."""
    format: str | None = None
    """As `strptime` has it; without it, RFC 3339."""
    zone: str = "UTC"
    """Which time zone is meant where the text does not say."""


class PartsArguments(msgspec.Struct, frozen=True, kw_only=True):
    seconds: float
    """Since 1970, as ``time.now()`` gives them."""
    zone: str = "UTC"
    """A time zone's name, such as ``"Europe/Berlin"``."""


async def sleep(_job: JobContext, call: Call) -> Value:
    """Wait for a duration: seconds, or text such as ``"90s"``."""
    value = call.arguments[0] if call.arguments else None
    if value == 0:
        return None
    try:
        seconds = times.duration_seconds(value)
    except ValueError as error:
        raise ArgumentInvalid(f"time.sleep: {error}") from error
    await anyio.sleep(seconds)
    return None


def _format(arguments: FormatArguments) -> Value:
    """Write a moment as text."""
    moment = _moment("time.format", arguments.seconds, arguments.zone)
    if arguments.format is None:
        written = moment.isoformat(timespec="milliseconds")
        return written.replace("+00:00", "Z") if arguments.zone == "UTC" else written
    return moment.strftime(_checked("time.format", arguments.format))


def _parse(arguments: ParseArguments) -> Value:
    """Read a moment; give seconds since 1970."""
    zone = _zone("time.parse", arguments.zone)
    said = text("time.parse", "text", arguments.text)
    try:
        if arguments.format is None:
            moment = datetime.fromisoformat(said.upper() if _RFC3339.fullmatch(said) else "none")
        else:
            wanted = _checked("time.parse", arguments.format)
            _check_once(wanted)
            moment = datetime.strptime(said, wanted)  # noqa: DTZ007  # it gets one
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)).timestamp()
    except (ValueError, OverflowError) as error:
        wanted = "2026-11-24T18:00:00Z" if arguments.format is None else arguments.format
        raise ArgumentInvalid(f"time.parse: `text` must be a time such as {wanted}, got {said[:80]!r}") from error


def _parts(arguments: PartsArguments) -> Value:
    """Take a moment apart."""
    moment = _moment("time.parts", arguments.seconds, arguments.zone)
    offset = moment.utcoffset()
    assert offset is not None, "it has a zone"
    return {
        "year": moment.year,
        "month": moment.month,
        "day": moment.day,
        "hour": moment.hour,
        "minute": moment.minute,
        "second": moment.second + moment.microsecond / 1e6 if moment.microsecond else moment.second,
        "weekday": moment.isoweekday(),
        "yearday": moment.timetuple().tm_yday,
        "week": moment.isocalendar().week,
        "offset": int(offset.total_seconds()),
        "zone": moment.tzname(),
    }


def _zone(name: str, zone: str) -> tzinfo:
    if zone == "UTC":
        return UTC
    try:
        return ZoneInfo(zone if _ZONE.fullmatch(zone) else "no/such/zone")
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ArgumentInvalid(
            f'{name}: `zone` must be a time zone such as "Europe/Berlin" or "UTC", got {zone[:80]!r}'
        ) from error


def _moment(name: str, seconds: float, zone: str) -> datetime:
    if not math.isfinite(seconds) or not SECONDS_MINIMUM <= seconds <= SECONDS_MAXIMUM:
        raise ArgumentInvalid(f"{name}: `seconds` must be seconds since 1970 in the years 1 to 9999, got {seconds:g}")
    try:
        return datetime.fromtimestamp(seconds, _zone(name, zone))
    except (OverflowError, ValueError, OSError) as error:
        raise ArgumentInvalid(
            f"{name}: `seconds` is beyond what can be written in `{zone}`, got {seconds:g}"
        ) from error


def _checked(name: str, wanted: str) -> str:
    unknown = [found[0] for found in _DIRECTIVE.finditer(wanted) if found[1] == "" or found[1] not in DIRECTIVES]
    if unknown or not wanted or len(wanted) > FORMAT_LENGTH_MAXIMUM:
        raise ArgumentInvalid(
            f"{name}: `format` must have up to {FORMAT_LENGTH_MAXIMUM} characters and no directives but "
            + " ".join(f"%{letter}" for letter in DIRECTIVES)
            + (f", got {unknown[0]!r}" if unknown else f", got {wanted[:80]!r}")
        )
    return text(name, "format", wanted)


def _check_once(wanted: str) -> None:
    """See that a text is asked for each part of a moment at most once."""
    found = [one[0] for one in _DIRECTIVE.finditer(wanted) if one[1] != "%"]
    for directive in found:
        if found.count(directive) > 1:
            raise ArgumentInvalid(f"time.parse: `format` has {directive} more than once: {wanted[:80]!r}")


COMPUTING: Final = {
    "time.format": DataCall("time.format", FormatArguments, _format),
    "time.parse": DataCall("time.parse", ParseArguments, _parse),
    "time.parts": DataCall("time.parts", PartsArguments, _parts),
}
CALLS: Final[dict[str, Any]] = {"time.sleep": sleep, **COMPUTING}
