"""Calls what plugins want to do once a job: ``setup`` before its first stage, ``teardown`` at its end.

    setups, those that others need first ──> stages ... finally stages ──> teardowns, in the reverse order

A setup that fails fails the job before any stage; what was set up until then is torn down. A teardown runs whatever
became of the job, unless its Lua process is gone or the job was killed; one that fails is told in the log and changes
nothing. What they do is told under the name ``plugin:NAME``, as if that were a stage.
"""

from __future__ import annotations

from typing import Final

from runner.engine.stopping import Stop, limited
from runner.host_calls import JobHostCalls
from runner.job_context import JobContext
from sandbox.process import Sandbox
from schema.definition import StageDefinition
from schema.errors import MoonyardError

SETUP_SECONDS: Final = 600.0
"""Of each setup: it may pull an image."""
TEARDOWN_SECONDS: Final = 60.0
"""Of all teardowns together."""


class PluginFailed(MoonyardError):
    """What a plugin does at the job's start did not work."""

    code = "plugin_setup_failed"


class PluginHooks:
    """The setups and teardowns of one attempt."""

    def __init__(self, sandbox: Sandbox, calls: JobHostCalls, context: JobContext) -> None:
        self._sandbox = sandbox
        self._calls = calls
        self._context = context
        self._left_to_tear_down: list[str] = []

    async def set_up(self) -> None:
        """Call the setups.

        :raises PluginFailed: when one fails, or takes too long.
        """
        self._left_to_tear_down = [name for name in self._sandbox.teardown if name not in self._sandbox.setup]
        for name in self._sandbox.setup:
            if name in self._sandbox.teardown:
                self._left_to_tear_down.append(name)
            stop = Stop(self._context.stop)
            try:
                async with limited(stop, SETUP_SECONDS):
                    await self._call(name, "setup", stop)
            except MoonyardError as error:
                failure = PluginFailed(f"the setup of plugin `{name}` failed: {error.message}", where=error.where)
                failure.__cause__ = error
                raise failure from error
            if stop.scope.cancelled_caught:
                raise PluginFailed(f"the setup of plugin `{name}` took longer than {SETUP_SECONDS:g} s")

    async def tear_down(self) -> None:
        """Call the teardowns of what was set up, and of plugins that have nothing to set up; the last one first."""
        if not self._left_to_tear_down:
            return
        stop = self._context.stop = Stop()
        order = {name: index for index, name in enumerate(self._sandbox.teardown)}
        async with limited(stop, TEARDOWN_SECONDS):
            for name in sorted(self._left_to_tear_down, key=lambda name: order[name], reverse=True):
                if not self._sandbox.is_alive:
                    break
                try:
                    await self._call(name, "teardown", Stop(stop))
                except MoonyardError as error:
                    await self._tell(name, f"the teardown of plugin `{name}` failed: {error.message}")
        if stop.scope.cancelled_caught:
            await self._tell(None, f"the teardowns of plugins took longer than {TEARDOWN_SECONDS:g} s and were stopped")
        elif not self._sandbox.is_alive:
            await self._tell(None, f"plugins could not be torn down: {self._sandbox.end}")

    async def _call(self, name: str, hook: str, stop: Stop) -> None:
        stage = StageDefinition(name=f"plugin:{name}")
        self._context.add_stage(stage, stop)
        has_failed = True
        try:
            await self._sandbox.run_hook(stage.name, name, hook, self._calls)
            has_failed = False
        finally:
            self._context.containers.close_blocks_of(stage.name)
            self._context.containers.end_stage(stage.name, has_failed=has_failed)

    async def _tell(self, name: str | None, text: str) -> None:
        await self._context.stream.log(None if name is None else f"plugin:{name}", "warn", "system", text)
