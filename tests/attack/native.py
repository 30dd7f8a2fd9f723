"""Native code in a Lua process, as after a bug of the interpreter's: what it gets at, with all walls standing.

Each attempt is made in a process of the sandbox's own, in the place of Lua (``taken_over``). Where the runner is root,
each is made once more as an ordinary user's runner has it, where a process has no user of its own.
"""

from __future__ import annotations

import os
import platform
from typing import Final

import anyio

from sandbox.parent import WarmParent
from sandbox.process import JobFacts, SandboxFailed
from tests.attack import native_acts, taken_over
from tests.attack.attempts import Attempt, not_tried, stopped, through
from tests.sandbox.conftest import RecordingHost

ORDINARY_USER: Final = 54321
KILLED: Final = ("killed by SIGSYS", "killed by SIGSEGV")
AT_ONCE: Final = 4
FACTS: Final = JobFacts(id="j", number=1, attempt=1, pipeline="hostile", inputs={})


async def attempts() -> list[Attempt]:
    """Try all."""
    if platform.machine() != "x86_64":
        return [not_tried(name, "the numbers of system calls are those of x86-64") for name in native_acts.ACTS]
    users = [None, ORDINARY_USER] if os.geteuid() == 0 else [None]
    return [attempt for user in users for attempt in await _as(user)]


async def _as(user: int | None) -> list[Attempt]:
    whose = "" if user is None else ", without a user of its own"
    made: list[Attempt] = []
    slots = anyio.Semaphore(AT_ONCE)
    async with WarmParent.start(program=taken_over.program(user)) as parent:

        async def make(act: str) -> None:
            async with slots:
                made.append(await _made(parent, act, act + whose))

        async with anyio.create_task_group() as tasks:
            for act in native_acts.ACTS:
                tasks.start_soon(make, act)
    return made


async def _made(parent: WarmParent, act: str, name: str) -> Attempt:
    async with parent.fork() as sandbox:
        source = taken_over.pipeline(act)
        host = RecordingHost()
        try:
            await sandbox.load("hostile.lua", source, {})
            await sandbox.run_stage("s", FACTS, host)
        except SandboxFailed as error:
            if any(words in error.message for words in KILLED):
                return stopped(name, error.message)
            return through(name, f"it ended in another way than it should: {error.message}")
    [line] = host.lines
    return through(name, line) if line.startswith("GOT") else stopped(name, line)
