"""A runner's token is replaced while it runs: when it is old enough, or when an operator wants it.

    ask for a new one ──> write it to the file ──> use it: only now does the old one end

Whatever ends the runner in between, what stands in the file is valid: the orchestrator takes the old token until the
new one was used (``orchestrator.runner_tokens``). What does not work out is tried again, with the old token until then.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import msgspec

from runner.registration import Registration
from schema import times
from schema.client import Client, OrchestratorRefused, OrchestratorUnreachable
from schema.errors import MoonyardError
from schema.wire import RunnerToken, RunnerTokenUsed

log: Final = logging.getLogger(__name__)

DEFAULT_SECONDS: Final = 7 * 86400.0
PAUSE_SECONDS_FIRST: Final = 2.0
PAUSE_SECONDS_MAXIMUM: Final = 600.0
LOOK_SECONDS_MAXIMUM: Final = 600.0
"""The clock by which a token gets old may be set: it is looked at again."""


class RotationSettings(msgspec.Struct, frozen=True, kw_only=True):
    file: Path
    """Where the runner's registration stands."""
    seconds: float = DEFAULT_SECONDS
    """How long a token is used."""


class Rotation:
    """Replaces the token of a client. ``run`` has to run."""

    def __init__(self, client: Client, settings: RotationSettings) -> None:
        self._client = client
        self._settings = settings
        self._registration: Registration | None = None
        self._wanted = anyio.Event()

    def want(self) -> None:
        """Replace the token now."""
        self._wanted.set()

    @property
    def is_wanted(self) -> bool:
        """It is to be replaced now, and was not yet."""
        return self._wanted.is_set()

    async def run(self) -> None:
        pause = PAUSE_SECONDS_FIRST
        while True:
            try:
                await self._until_due()
                await self._rotate()
            except MoonyardError as error:
                log.warning("the runner's token was not replaced: %s; next try in %.0f s", error.message, pause)
                await anyio.sleep(pause)
                pause = min(pause * 2, PAUSE_SECONDS_MAXIMUM)
            else:
                pause = PAUSE_SECONDS_FIRST

    async def _until_due(self) -> None:
        while True:
            registration = self._registration = self._registration or await self._read()
            left = self._settings.seconds - _age_seconds(registration)
            if left <= 0 or self._wanted.is_set():
                return
            with anyio.move_on_after(min(left, LOOK_SECONDS_MAXIMUM)):
                await self._wanted.wait()

    async def _rotate(self) -> None:
        old = await self._read()
        if self._registration is not None and old.token != self._registration.token:
            raise MoonyardError(
                f"{self._settings.file} was written by somebody else since this runner started",
                code="runner_registered_again",
                hint="The runner that was registered there is another one: start this one again to be that.",
            )
        answer = await self._client.post("/v1/runner/token", RunnerToken)
        new = msgspec.structs.replace(old, token=answer.token, token_at=times.now())
        await self._write(new)
        self._client.use(new.token)
        try:
            await self._client.get("/v1/runner/token", RunnerTokenUsed)
        except OrchestratorUnreachable:
            pass  # whatever is asked next uses it
        except OrchestratorRefused as refusal:
            if refusal.status == 401:
                # Somebody used another that was asked for with the old one: which is good, the next try says.
                self._client.use(old.token)
                await self._write(old)
                raise
        self._wanted = anyio.Event()
        log.info("the runner has a new token")

    async def _write(self, registration: Registration) -> None:
        # To its end, whatever stops the runner meanwhile: what is in use has to be what stands in the file.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(registration.write, self._settings.file)
        self._registration = registration

    async def _read(self) -> Registration:
        return await anyio.to_thread.run_sync(Registration.read, self._settings.file)


def _age_seconds(registration: Registration) -> float:
    """Say how old a token is; one of unknown age, or of the future, is as old as can be."""
    try:
        age = (datetime.now(UTC) - datetime.fromisoformat(registration.token_at or "")).total_seconds()
    except (ValueError, TypeError):
        return float("inf")
    return age if age >= -LOOK_SECONDS_MAXIMUM else float("inf")
