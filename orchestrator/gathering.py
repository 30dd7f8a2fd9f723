"""Does in one statement what many ask for at about the same moment: each pays a part of one round trip and one commit.

    asks ──> waiting, in order ──┬── lane ──> one statement for all of them
    asks ──>                     └── lane ──> the next one, meanwhile

Nothing waits for company: a lane that is free takes what there is, be it one. The busier the replica, the more comes
together while the lanes are at work, and the less each costs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Generic, TypeVar

import anyio

from schema.database import DatabaseUnavailable

LANES: Final = 2
"""One is being built and sent while Postgres works on the other."""
COUNT_MAXIMUM: Final = 64

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class _Asked(Generic[Question, Answer]):
    def __init__(self, question: Question, size: int) -> None:
        self.question = question
        self.size = size
        self.answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        """A future and no event of anyio's, which costs as much as all else that is done for a question."""


class Gatherer(Generic[Question, Answer]):
    """Gathers questions and has them answered together. ``run`` has to run.

    :param answer_all: gives an answer for each question, in order, or raises for all of them.
    :param size_maximum: the sum of sizes that go together; one that is larger goes alone.
    """

    def __init__(
        self,
        answer_all: Callable[[Sequence[Question]], Awaitable[Sequence[Answer]]],
        *,
        size_maximum: int = COUNT_MAXIMUM,
    ) -> None:
        self._answer_all = answer_all
        self._size_maximum = size_maximum
        self._waiting: deque[_Asked[Question, Answer]] = deque()
        self._arrived = anyio.Event()
        self._stopped = False

    async def ask(self, question: Question, size: int = 1) -> Answer:
        """Have a question answered with others. What it asks for may be done although its asker was cancelled.

        :raises Exception: what ``answer_all`` raised.
        """
        if self._stopped:
            raise _stopped()
        asked: _Asked[Question, Answer] = _Asked(question, size)
        self._waiting.append(asked)
        self._arrived.set()
        return await asked.answered

    async def run(self) -> None:
        """Answer, until cancelled."""
        try:
            async with anyio.create_task_group() as tasks:
                for _ in range(LANES):
                    tasks.start_soon(self._run_lane)
        finally:
            self._stopped = True
            _fail(self._waiting, _stopped())

    async def _run_lane(self) -> None:
        while True:
            while not self._waiting:
                if self._arrived.is_set():
                    self._arrived = anyio.Event()
                await self._arrived.wait()
            await self._answer(self._taken())

    def _taken(self) -> list[_Asked[Question, Answer]]:
        taken = [self._waiting.popleft()]
        size = taken[0].size
        while self._waiting and len(taken) < COUNT_MAXIMUM:
            size += self._waiting[0].size
            if size > self._size_maximum:
                break
            taken.append(self._waiting.popleft())
        return taken

    async def _answer(self, taken: list[_Asked[Question, Answer]]) -> None:
        try:
            answers = await self._answer_all([asked.question for asked in taken])
        except anyio.get_cancelled_exc_class():
            _fail(taken, _stopped())
            raise
        except Exception as error:  # noqa: BLE001  # it belongs to those who asked
            if len(taken) == 1 or isinstance(error, DatabaseUnavailable):
                _fail(taken, error)
                return
            # What is wrong with one of them is not for the others to bear.
            for asked in taken:
                await self._answer([asked])
            return
        for asked, answer in zip(taken, answers, strict=True):
            if not asked.answered.done():  # its asker was cancelled
                asked.answered.set_result(answer)


def _fail(asked: Iterable[_Asked[Question, Answer]], error: Exception) -> None:
    for one in asked:
        if not one.answered.done():
            one.answered.set_exception(error)


def _stopped() -> DatabaseUnavailable:
    return DatabaseUnavailable(
        "this replica stops, and may not have stored what it was sent",
        hint="Send it again: another replica takes it, and what is stored already is not stored twice.",
    )
