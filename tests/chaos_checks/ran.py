"""A job that ran as it should, in a real installation, for somebody to meddle with."""

from __future__ import annotations

import anyio

from schema.errors import ErrorInfo
from schema.states import JobState, StageState
from schema.wire import Job, JobSubmit
from tests.chaos.faults import Happened
from tests.chaos.figures import Figures
from tests.chaos.load import Ledger
from tests.chaos.pipelines import Order
from tests.chaos.review import Review
from tests.orchestrator.installation import DEADLINE_SECONDS, Attempt, Installation, SpokenRunner
from tests.postgres import psql

ORDER = Order(key="k", kind="lua", count=3)


class Ran:
    """A job that ran as it should, told by a runner."""

    def __init__(self, here: Installation, ledger: Ledger, job: Job, runner: SpokenRunner) -> None:
        self.here = here
        self.ledger = ledger
        self.job = job
        self.runner = runner
        self.happened: list[Happened] = []

    async def figures(self, meddle: str = "", *, after_look: str = "") -> Figures:
        """Meddle by psql, and look at everything."""
        figures = Figures()
        review = Review(self.here.url, self.ledger, self.happened, figures)
        if meddle:
            psql(self.here.url, meddle)
        await review.look()
        if after_look:
            psql(self.here.url, after_look)
        await review.close()
        return figures


async def ran(here: Installation, state: JobState = "succeeded", error: ErrorInfo | None = None) -> Ran:
    """Run a job to its end; its first attempt is lost with its runner."""
    await here.replica()
    await here.push()
    runner = await here.runner()
    job = await (await here.client()).post("/v1/jobs", Job, JobSubmit(pipeline="hello", idempotency_key="k"))
    for number in (1, 2):
        with anyio.fail_after(DEADLINE_SECONDS):
            [assignment] = await runner.claim()
        attempt = Attempt(assignment)
        await runner.send(attempt, attempt.state("running"), attempt.stage("running"), attempt.log("k lua 1"))
        if number == 1:
            await here.let_leases_run_out()
    ended: StageState = "succeeded" if state == "succeeded" else "failed"
    await runner.send(attempt, attempt.log("k lua 2"), attempt.log("k lua 3"))
    await runner.send(attempt, attempt.stage(ended), attempt.state(state, error))
    ledger = Ledger()
    ledger.orders["k"] = ORDER
    ledger.acknowledged["k"].add(job.id)
    return Ran(here, ledger, job, runner)


def broken(figures: Figures) -> set[str]:
    return set(figures.judge())
