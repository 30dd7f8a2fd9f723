"""Many jobs in one call, and keys that keep a job from being queued twice."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from schema.client import OrchestratorRefused
from schema.wire import Job, JobsSubmit, JobsSubmitted, JobSubmit, JobSubmitted
from tests.orchestrator.installation import DEFINITION, Installation


async def submit(installation: Installation, *jobs: JobSubmit) -> list[JobSubmitted]:
    admin = await installation.client()
    return (await admin.post("/v1/jobs/batch", JobsSubmitted, JobsSubmit(jobs=list(jobs)), seconds=120)).jobs


def job(who: str = "world", **fields: Any) -> JobSubmit:
    return JobSubmit(pipeline="hello", inputs={"who": who}, **fields)


async def test_ten_thousand_jobs_are_queued_in_one_call_and_in_their_order(installation: Installation):
    await installation.replica()
    await installation.push()
    made = await submit(installation, *(job(f"person {number}") for number in range(10_000)))
    assert len(made) == 10_000
    numbers = [one.number for one in made]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == 10_000
    rows = await installation.fetch(
        """
        SELECT number, inputs ->> 'who' AS who,
            (SELECT count(*) FROM moonyard.event_batches WHERE job_id = id) AS told
        FROM moonyard.jobs ORDER BY number
        """
    )
    assert [(row["number"], row["who"], row["told"]) for row in rows] == [
        (number, f"person {place}", 1) for place, number in enumerate(numbers)
    ]
    runner = await installation.runner()
    [first] = await runner.claim()
    assert (first.number, first.inputs) == (numbers[0], {"who": "person 0", "times": 1})


@pytest.mark.parametrize(
    ("wrong", "status", "code", "said"),
    [
        (JobSubmit(pipeline="hello", inputs={"times": 7}), 422, "inputs_invalid", "must be one of"),
        (JobSubmit(pipeline="nothing"), 404, "pipeline_unknown", "there is no pipeline `nothing`"),
        (JobSubmit(pipeline="hello", priority=1000), 422, "request_invalid", "`priority` is 1000"),
    ],
)
async def test_one_wrong_job_refuses_them_all_and_is_named(
    installation: Installation, wrong: JobSubmit, status: int, code: str, said: str
):
    await installation.replica()
    await installation.push()
    with pytest.raises(OrchestratorRefused) as refused:
        await submit(installation, job(), job(), wrong, job())
    assert (refused.value.status, refused.value.code) == (status, code)
    assert refused.value.message.startswith("job 3 of the batch: ")
    assert said in refused.value.message
    assert "none of the 4 jobs was queued" in refused.value.message
    assert await installation.fetch("SELECT FROM moonyard.jobs") == []


@pytest.mark.parametrize("count", [0, 10_001])
async def test_a_batch_of_none_or_too_many_is_refused(installation: Installation, count: int):
    await installation.replica()
    await installation.push()
    with pytest.raises(OrchestratorRefused) as refused:
        await submit(installation, *[job()] * count)
    assert (refused.value.status, refused.value.code) == (422, "request_invalid")


async def test_a_key_gives_the_first_job_however_often_it_is_sent(installation: Installation):
    await installation.replica()
    await installation.push()
    first = await submit(installation, job("a", idempotency_key="one"), job("b", idempotency_key="two"), job("c"))
    again = await submit(installation, job("d"), job("b", idempotency_key="two"), job("b", idempotency_key="two"))
    assert [one.fresh for one in first] == [True, True, True]
    assert [one.fresh for one in again] == [True, False, False]
    assert again[1].number == again[2].number == first[1].number
    single = await installation.submit(inputs={"who": "a"}, idempotency_key="one")
    assert single.number == first[0].number
    assert len(await installation.fetch("SELECT FROM moonyard.jobs")) == 4


async def test_a_key_with_something_else_is_refused_and_nothing_is_queued(installation: Installation):
    await installation.replica()
    await installation.push()
    first = await installation.submit(inputs={"who": "a"}, idempotency_key="k")
    for other in (
        {"inputs": {"who": "b"}},
        {"inputs": {"who": "a", "times": 2}},
        {"inputs": {"who": "a"}, "priority": 5},
        {"inputs": {"who": "a"}, "delay": 5.0},
    ):
        with pytest.raises(OrchestratorRefused) as refused:
            await installation.submit(idempotency_key="k", **other)
        assert (refused.value.status, refused.value.code) == (409, "idempotency_key_used")
        assert f"`k` was used for job {first.number}" in refused.value.message
    with pytest.raises(OrchestratorRefused) as refused:
        await submit(installation, job("x"), job("b", idempotency_key="k"))
    assert refused.value.code == "idempotency_key_used"
    assert len(await installation.fetch("SELECT FROM moonyard.jobs")) == 1


async def test_a_key_keeps_its_meaning_after_a_push(installation: Installation):
    await installation.replica()
    await installation.push()
    first = await installation.submit(idempotency_key="k")
    await installation.push(source="-- another version\n")
    assert (await installation.submit(idempotency_key="k")).id == first.id


async def test_the_same_key_in_one_batch_with_other_inputs_is_refused(installation: Installation):
    await installation.replica()
    await installation.push()
    with pytest.raises(OrchestratorRefused) as refused:
        await submit(installation, job("a", idempotency_key="k"), job("b", idempotency_key="k"))
    assert refused.value.code == "idempotency_key_used"
    assert await installation.fetch("SELECT FROM moonyard.jobs") == []


async def test_submits_with_one_key_at_the_same_moment_make_one_job(installation: Installation):
    replicas = [await installation.replica() for _ in range(2)]
    await installation.push(DEFINITION)
    clients = [await installation.client(address=replica.address) for replica in replicas]
    made: set[str] = set()

    async def send(number: int) -> None:
        made.add((await clients[number % 2].post("/v1/jobs", Job, job(idempotency_key="k"))).id)

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(send, number)
    assert len(made) == 1
    assert len(await installation.fetch("SELECT FROM moonyard.jobs")) == 1
