"""Checks pushed pipelines in the same sandbox that runs them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import anyio

import plugins
from orchestrator.problems import RequestInvalid
from sandbox.parent import WarmParent
from schema.definition import PipelineDefinition

CHECK_SECONDS: Final = 30.0
CHECKS_MAXIMUM: Final = 4
"""How many files are checked at once: each takes a process, and a processor if it loops."""


class Checker:
    """Loads pipeline files, each in a process of its own."""

    def __init__(self, parent: WarmParent) -> None:
        self._parent = parent
        self._limit = anyio.CapacityLimiter(CHECKS_MAXIMUM)

    @staticmethod
    @asynccontextmanager
    async def open() -> AsyncGenerator[Checker]:
        async with WarmParent.start() as parent:
            yield Checker(parent)

    async def check(self, filename: str, source: str) -> PipelineDefinition:
        """Load a pipeline file.

        :raises PipelineInvalid: with all that is wrong with it.
        """
        async with self._limit:
            with anyio.move_on_after(CHECK_SECONDS):
                async with self._parent.fork() as sandbox:
                    return await sandbox.load(filename, source, plugins.shipped())
        raise RequestInvalid(
            f"pipeline file `{filename}` did not load within {CHECK_SECONDS:.0f} s",
            code="pipeline_timeout",
            hint="What stands outside of the stages' scripts runs when the file is loaded: keep it short.",
        )
