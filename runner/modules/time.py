"""``time.sleep``: waits without holding up anything else."""

from __future__ import annotations

from typing import Final

import anyio

from runner.job_context import Call, JobContext
from runner.modules.arguments import ArgumentInvalid
from sandbox.process import Value
from schema import times


async def sleep(_job: JobContext, call: Call) -> Value:
    value = call.arguments[0] if call.arguments else None
    if value == 0:
        return None
    try:
        seconds = times.duration_seconds(value)
    except ValueError as error:
        raise ArgumentInvalid(f"time.sleep: {error}") from error
    await anyio.sleep(seconds)
    return None


CALLS: Final = {"time.sleep": sleep}
