"""``job.output``: a small result of a stage, for the stages after it and for whoever looks at the job."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from runner.formats import json
from runner.formats.plain import DataInvalid
from runner.job_context import Call, JobContext
from runner.modules.arguments import ArgumentInvalid, parse
from runner.outputs import NAME_PATTERN
from sandbox.frames import Value

OUTPUT: Final = "job.output"


class OutputArguments(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    """Up to 100 letters, digits, `_`, `.` and `-`, a letter or `_` first; it is its stage's."""
    value: Any
    """Text, a number, a boolean, or a table of these; at most 64 KiB as JSON."""


async def output(job: JobContext, call: Call) -> Value:
    """Tell a result of the stage; give it as later stages will find it.

    :raises OutputRefused: when another stage has told one of that name, or it is too much.
    """
    arguments = parse(OUTPUT, OutputArguments, call.arguments[0] if call.arguments else None)
    if not NAME_PATTERN.fullmatch(arguments.name):
        raise ArgumentInvalid(
            f"{OUTPUT}: `name` has up to 100 letters, digits, `_`, `.` and `-`, a letter or `_` first, "
            f"got {arguments.name[:120]!r}"
        )
    if arguments.value is None:
        raise ArgumentInvalid(f"{OUTPUT}: `value` is required")
    try:
        encoded = json.encode(arguments.value)
        value = json.decode(encoded)
    except DataInvalid as error:
        raise ArgumentInvalid(f"{OUTPUT}: `value` cannot be kept: {error.message}", hint=error.hint) from error
    if _holds_nul(value):
        raise ArgumentInvalid(f"{OUTPUT}: `value` cannot be kept: it has a NUL byte in it")
    job.outputs.tell(call.stage, arguments.name, msgspec.json.decode(encoded))
    return value


def _holds_nul(value: Value) -> bool:
    match value:
        case str():
            return "\0" in value
        case list():
            return any(_holds_nul(item) for item in value)
        case dict():
            return any("\0" in name or _holds_nul(item) for name, item in value.items())
        case _:
            return False


CALLS: Final = {OUTPUT: output}
