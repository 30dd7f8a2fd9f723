"""What tells an attempt that was lost from one that failed: something that is the runner's own was taken from it.

Nothing that a script raises is believed here, for its words are its own. The engine is known to be lost by what a host
call met, whatever the script made of that; the Lua process by how it ended; a full disk by what it did not take of the
runner's own; a machine without room, files or processes by what its engine said when it was to make a container; and a
container by how it ended: nothing in it can remove it or kill its first process, but for the kernel, when its memory is
used up. Where that cannot be told apart, for the container was gone before anybody looked, the attempt has failed.

That a workspace takes no more is for the command to tell that wrote to it. An attempt whose script got over it and
succeeds has succeeded.
"""

from __future__ import annotations

from typing import Final

from runner.engine.errors import (
    ContainerTaken,
    EngineLost,
    EngineUnavailable,
    MachineExhausted,
    StateFolderUnusable,
)
from sandbox.process import SandboxLost
from schema.errors import MoonyardError

NOT_ITS_OWN_DOING: Final = (
    ContainerTaken,
    EngineLost,
    EngineUnavailable,
    MachineExhausted,
    SandboxLost,
    StateFolderUnusable,
)


class AttemptLost(MoonyardError):
    """An attempt came to an end that is none of its own."""

    code = "attempt_lost"


class Losses:
    """What one attempt lost, if anything."""

    def __init__(self) -> None:
        self._met: MoonyardError | None = None

    def note(self, error: MoonyardError) -> None:
        """Remember an error that a host call or a stage met, if it tells of a loss."""
        self._met = self._met or _loss_in(error)

    def behind(self, failure: MoonyardError) -> MoonyardError | None:
        """Find the loss that made an attempt, or a stage of it, fail; None where it failed by itself."""
        return self._met or _loss_in(failure)


def _loss_in(error: BaseException | None) -> MoonyardError | None:
    while error is not None and not isinstance(error, NOT_ITS_OWN_DOING):
        error = error.__cause__
    return error
