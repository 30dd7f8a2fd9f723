"""What a test sees: of the jobs that it runs, and of the commands and requests that it answers for."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from sandbox.frames import Value


class Command(msgspec.Struct, frozen=True, kw_only=True):
    stage: str | None = None
    """Whose it is; none where the test itself runs it."""
    container: str
    """The image of its container."""
    command: str
    """Its first word."""
    argv: list[str]
    """All its words."""
    text: str
    """The words with blanks between."""
    env: dict[str, str]
    """Its environment, as far as it was given one."""
    cwd: str | None = None
    """The folder that it runs in."""
    stdin: str | bytes | None = None
    """What it was given."""
    user: str | None = None
    """Who runs it."""
    timeout: float | None = None
    """Seconds."""
    code: int | None = None
    """Its exit code, in what `pipeline.run` gives."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    stage: str | None = None
    """Whose it is; none where the test itself sends it."""
    method: str
    """Such as `GET`."""
    url: str
    """All of it."""
    headers: dict[str, str]
    """By their names in small letters."""
    body: str | bytes | None = None
    """As it would be sent; none of a form with files."""


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    state: str
    """How it ended."""
    container: str | None = None
    """Its image, where it names one."""
    error: Any = None
    """Why it failed."""
    outputs: dict[str, Any] | None = None
    """What it told by `job.output`."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    stage: str | None = None
    """Whose it is; none of the job's own."""
    level: Literal["debug", "info", "warn", "error"]
    """How much it matters."""
    source: Literal["stdout", "stderr", "lua", "system"]
    """Who says it."""
    text: str
    """The line."""
    service: str | None = None
    """Of which service it is."""
    fields: dict[str, Any] | None = None
    """What the script put beside it."""
    group: list[str] | None = None
    """The groups that it is in, outermost first."""


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    content_type: str
    """What it is."""
    data: str | bytes
    """Its content."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    state: Literal["succeeded", "failed"]
    """How the job ended."""
    error: Any = None
    """Why it failed."""
    stages: dict[str, Stage]
    """By name."""
    commands: list[Command]
    """Those that were asked for, in order."""
    requests: list[Request]
    """The HTTP requests, in order."""
    log: list[Line]
    """Its lines."""
    artifacts: dict[str, Artifact]
    """By name, what `artifact.save` kept."""


def table(told: Command | Request) -> dict[str, Value]:
    """Write it as it goes to Lua, without what is not there."""
    return {name: value for name, value in msgspec.structs.asdict(told).items() if value is not None}


STAGE_FIELDS: Final = Stage.__struct_fields__
LINE_FIELDS: Final = Line.__struct_fields__
