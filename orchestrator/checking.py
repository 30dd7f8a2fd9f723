"""Checks pushed pipelines in the same sandbox that runs them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import anyio

from orchestrator.problems import RequestInvalid
from plugins import Plugin
from plugins.resolution import Catalogue
from sandbox import loading
from sandbox.loading import LoadedPipeline
from sandbox.parent import WarmParent
from schema.plugins import PluginDescription

CHECK_SECONDS: Final = 30.0
CHECKS_MAXIMUM: Final = 4
"""How many files are checked at once: each takes a process, and a processor if it loops."""

Result = TypeVar("Result")


class Checker:
    """Loads pipeline files, each in a process of its own."""

    def __init__(self, parent: WarmParent) -> None:
        self._parent = parent
        self._limit = anyio.CapacityLimiter(CHECKS_MAXIMUM)

    @staticmethod
    @asynccontextmanager
    async def open(required: Sequence[str] = ()) -> AsyncGenerator[Checker]:
        """Have one; with the walls that are required, or not at all."""
        async with WarmParent.start(required=required) as parent:
            if required:
                async with parent.fork():
                    pass  # better to end now than with each file
            yield Checker(parent)

    async def check(self, filename: str, source: str, catalogue: Catalogue) -> LoadedPipeline:
        """Load a pipeline file, with its plugins as a catalogue has them.

        :raises PipelineInvalid: with all that is wrong with it.
        """
        return await self._within_time(
            f"pipeline file `{filename}`", lambda: loading.load(self._parent, filename, source, catalogue)
        )

    async def describe(self, plugin: Plugin, catalogue: Catalogue) -> PluginDescription:
        """Load a plugin, and give what it says of itself.

        :raises MoonyardError: when it cannot be loaded, or needs others that there are not.
        """
        return await self._within_time(
            f"plugin `{plugin.name}`", lambda: loading.describe_with_needs(self._parent, plugin, catalogue)
        )

    async def _within_time(self, what: str, load: Callable[[], Awaitable[Result]]) -> Result:
        async with self._limit:
            with anyio.move_on_after(CHECK_SECONDS):
                return await load()
        raise RequestInvalid(
            f"{what} did not load within {CHECK_SECONDS:.0f} s",
            code="pipeline_timeout",
            hint="What stands outside of the stages' scripts runs when the file is loaded: keep it short.",
        )
