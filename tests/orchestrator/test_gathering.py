"""What many ask for at one moment is done together, and what is wrong with one is not for the others to bear."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import anyio
import pytest

from orchestrator.gathering import COUNT_MAXIMUM, LANES, Gatherer
from schema.database import DatabaseUnavailable


class Answering:
    """Answers with the double of what it is asked, when it is let."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.go_on = anyio.Event()
        self.refuses: Exception | None = None

    async def __call__(self, asked: Sequence[int]) -> Sequence[int]:
        self.groups.append(list(asked))
        await self.go_on.wait()
        if self.refuses is not None:
            raise self.refuses
        if 13 in asked:
            raise ValueError("thirteen")
        return [2 * one for one in asked]


@pytest.fixture
def answering() -> Answering:
    return Answering()


@pytest.fixture
async def gatherer(answering: Answering) -> AsyncGenerator[Gatherer[int, int]]:
    made = Gatherer(answering)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.run)
        yield made
        tasks.cancel_scope.cancel()


async def answers(gatherer: Gatherer[int, int], asked: Sequence[int]) -> dict[int, int | Exception]:
    got: dict[int, int | Exception] = {}

    async def ask(one: int) -> None:
        try:
            got[one] = await gatherer.ask(one)
        except Exception as error:  # noqa: BLE001  # it is what is looked at
            got[one] = error

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for one in asked:
                tasks.start_soon(ask, one)
    return got


async def test_what_comes_while_all_lanes_work_goes_together_and_each_gets_its_own_answer(
    gatherer: Gatherer[int, int], answering: Answering
) -> None:
    async with anyio.create_task_group() as tasks:
        for one in range(LANES):
            tasks.start_soon(answers, gatherer, [one])
            await anyio.wait_all_tasks_blocked()
        assert answering.groups == [[one] for one in range(LANES)]
        many = range(100, 100 + 2 * COUNT_MAXIMUM)

        async def see() -> None:
            assert await answers(gatherer, many) == {one: 2 * one for one in many}

        tasks.start_soon(see)
        await anyio.wait_all_tasks_blocked()
        answering.go_on.set()
    assert [len(group) for group in answering.groups[LANES:]] == [COUNT_MAXIMUM] * 2


async def test_what_one_fails_for_is_told_to_nobody_else(gatherer: Gatherer[int, int], answering: Answering) -> None:
    answering.go_on.set()
    got = await answers(gatherer, [1, 13, 2])
    assert isinstance(got.pop(13), ValueError)
    assert got == {1: 2, 2: 4}


async def test_an_outage_is_told_to_all_at_once(gatherer: Gatherer[int, int], answering: Answering) -> None:
    answering.refuses = DatabaseUnavailable("it is down")
    answering.go_on.set()
    assert set(map(str, (await answers(gatherer, [1, 2, 3])).values())) == {"it is down"}
    assert len(answering.groups) <= LANES + 1


async def test_whoever_asks_while_it_stops_is_told_so(answering: Answering) -> None:
    gatherer = Gatherer(answering)
    async with anyio.create_task_group() as asking, anyio.create_task_group() as tasks:
        tasks.start_soon(gatherer.run)

        async def see() -> None:
            got = await answers(gatherer, range(LANES + 3))
            assert all(isinstance(answer, DatabaseUnavailable) for answer in got.values())

        asking.start_soon(see)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    with pytest.raises(DatabaseUnavailable):
        await gatherer.ask(1)


async def test_large_questions_go_by_themselves(answering: Answering) -> None:
    gatherer = Gatherer(answering, size_maximum=10)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gatherer.run)
        answering.go_on.set()
        async with anyio.create_task_group() as asking:
            for size in (4, 4, 4, 50, 4):
                asking.start_soon(gatherer.ask, size, size)
        tasks.cancel_scope.cancel()
    assert answering.groups == [[4, 4], [4], [50], [4]]
