"""What is sent to orchestrators is sent until they take it."""

from __future__ import annotations

import pytest

from runner.delivery import persistently
from schema.client import OrchestratorUnreachable


class Failing:
    """Fails some times, and then no more."""

    def __init__(self, times: int) -> None:
        self.left = times

    async def __call__(self) -> None:
        self.left -= 1
        if self.left >= 0:
            raise OrchestratorUnreachable("nobody answers")


async def test_an_outage_is_waited_out() -> None:
    send = Failing(3)
    await persistently("sending", send)
    assert send.left == -1


async def test_where_patience_is_over_the_outage_is_told() -> None:
    send = Failing(3)
    with pytest.raises(OrchestratorUnreachable, match="nobody answers"):
        await persistently("sending", send, patience=0.1)
    assert send.left > 0
