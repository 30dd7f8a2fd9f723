"""The event lines of a job: what a runner reports, Postgres keeps, and programs read.

The events of one attempt carry ``seq`` 1, 2, 3, ... without a gap. A job's record is its attempts' events in the order
of ``(attempt, seq)``. The same JSON lines are printed by ``run --json``, sent to the orchestrator, stored, and
followed.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from schema.errors import ErrorInfo
from schema.states import JobState, Level, Source, StageState


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What all events share.

    ``at`` is RFC 3339 with milliseconds, ``job`` the job's UUID.
    """

    at: str
    job: str
    attempt: int
    seq: int


class StageEvent(Event, frozen=True, kw_only=True, tag="stage"):
    stage: str
    state: StageState
    container: str | None = None
    duration: float | None = None
    error: ErrorInfo | None = None
    outputs: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    """What its script told by ``job.output``, when it ended; stages that told nothing do not have it."""


class CommandEvent(Event, frozen=True, kw_only=True, tag="command"):
    """A command that ended. ``code`` is None when it never started or was killed by its timeout or a cancel."""

    stage: str
    argv: list[str]
    container: str
    digest: str | None = None
    """That of the container's image in the registry that it came from."""
    code: int | None
    duration: float
    cpu_seconds: float | None = None
    """Processor time; None where other commands ran in the container meanwhile, or the machine does not tell."""
    memory_peak_bytes: int | None = None
    """The most memory that the container had while the command ran, files in the cache included; None as above."""
    output_bytes: int = 0
    """Of stdout and stderr, whether they are in the log or not."""
    error: ErrorInfo | None = None
    group: list[str] | msgspec.UnsetType = msgspec.UNSET
    """As in log lines."""


class LogEvent(Event, frozen=True, kw_only=True, tag="log"):
    stage: str | None
    level: Level
    source: Source
    text: str
    """A line; of a flood, many, with newlines between them."""
    service: str | msgspec.UnsetType = msgspec.UNSET
    """Whose output it is, where the source is "service"; other lines do not have it."""
    fields: dict[str, str | int | float | bool] | msgspec.UnsetType = msgspec.UNSET
    """What the line tells by name, where it does."""
    group: list[str] | msgspec.UnsetType = msgspec.UNSET
    """The names of the groups that it is in, outermost first, where it is in any."""
    heading: bool | msgspec.UnsetType = msgspec.UNSET
    """True for the line that begins a group: its text is the group's name."""


class JobEvent(Event, frozen=True, kw_only=True, tag="job"):
    """A change of the job's state. The one with a final state is the last event of a job."""

    id: str
    number: int | None
    state: JobState
    error: ErrorInfo | None = None


AnyEvent = StageEvent | CommandEvent | LogEvent | JobEvent

encoder: Final = msgspec.json.Encoder()
decoder: Final = msgspec.json.Decoder(AnyEvent)


def encode_line(event: AnyEvent) -> bytes:
    """Encode one event as a JSON line, newline included."""
    return encoder.encode(event) + b"\n"


def decode_line(line: bytes | str) -> AnyEvent:
    """Decode one JSON line.

    :raises msgspec.ValidationError: when it is no event.
    """
    return decoder.decode(line)
