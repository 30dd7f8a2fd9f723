from __future__ import annotations

import pytest

from runner.engine.errors import (
    CommandLost,
    ContainerGone,
    ContainerStartFailed,
    ContainerTaken,
    EngineError,
    EngineLost,
    EngineUnavailable,
    MachineExhausted,
)
from runner.losses import Losses
from sandbox.process import SandboxFailed, SandboxLost
from schema.errors import MoonyardError


def caused(outer: MoonyardError, inner: BaseException) -> MoonyardError:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    "error",
    [
        EngineLost("gone"),
        EngineUnavailable("none"),
        SandboxLost("killed"),
        ContainerTaken("it was removed"),
        MachineExhausted("no space left on device"),
    ],
)
def test_what_was_taken_from_an_attempt_is_a_loss_however_deep_it_stands(error: MoonyardError) -> None:
    failure = caused(MoonyardError("the stage failed"), caused(MoonyardError("the command failed"), error))
    assert Losses().behind(failure) is error


@pytest.mark.parametrize(
    "error",
    [
        SandboxFailed("too much memory", code="memory_limit"),
        ContainerGone("it was killed for want of memory"),
        ContainerStartFailed("it knows no user `me`"),
        CommandLost("kill -9 -1"),
        EngineError("no"),
        MoonyardError("a script raised what looks like one", code="engine_lost"),
        caused(MoonyardError("the stage failed"), ConnectionResetError()),
    ],
)
def test_what_can_be_an_attempts_own_doing_is_none(error: MoonyardError) -> None:
    losses = Losses()
    losses.note(error)
    assert losses.behind(error) is None


def test_the_first_loss_that_was_met_is_the_one_whatever_fails_in_its_wake() -> None:
    losses, first = Losses(), EngineLost("gone")
    losses.note(caused(MoonyardError("the command failed"), first))
    losses.note(EngineUnavailable("none"))
    assert losses.behind(MoonyardError("whatever the script made of it")) is first
