"""A host call that works on the files of the workspace, in a thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from runner import file_work
from runner.job_context import Call, JobContext
from runner.modules.arguments import parse
from runner.trees import Check
from sandbox.frames import Value

Arguments = TypeVar("Arguments", bound=msgspec.Struct)


class FileCall:
    """A handler: what the call takes, and the work in a workspace that it stands for."""

    def __init__(self, name: str, kind: type[Arguments], work: Callable[[Path, Arguments, Check], Value]) -> None:
        def answer(workspace: Path, given: Value, check: Check) -> Value:
            # A large text takes its time to be checked, too.
            return work(workspace, parse(name, kind, given), check)

        self._name = name
        self.arguments: type[msgspec.Struct] = kind
        self._answer = answer

    async def __call__(self, job: JobContext, call: Call) -> Value:
        """Answer a call.

        :raises ArgumentInvalid: for what it does not take.
        :raises JailError: for what cannot be done to the files it names.
        """
        given = call.arguments[0] if call.arguments else None
        return await file_work.run(self._name, lambda check: self._answer(job.workspace, given, check))
