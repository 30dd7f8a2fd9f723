"""The queue against a model of it: whatever is done in whatever order, on the real statements and the real Postgres."""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID, uuid4

import msgspec
import psycopg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from orchestrator.sql import claims, events, jobs
from schema.ids import uuid7

LIMITS = {"a": 1, "b": 2}
FINAL = {"succeeded", "failed", "cancelled", "lost"}


class Held(NamedTuple):
    job: UUID
    attempt: int
    runner: UUID


class Queue(RuleBasedStateMachine):
    """Jobs, some in groups, that are claimed, ended, lost, cancelled and retried, also by stale holders."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.connection = psycopg.connect(self.url, autocommit=True, cursor_factory=psycopg.RawCursor)
        self.states: dict[UUID, str] = {}
        self.attempts: dict[UUID, int] = {}
        self.retries: dict[UUID, int] = {}
        self.cancelling: set[UUID] = set()
        self.held: list[Held] = []
        """Every attempt that was ever handed out: the last one of a job is live, the others are stale."""

    def teardown(self) -> None:
        self.connection.close()

    def ask(self, statement: str, *values: object) -> list[Any]:
        cursor = self.connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []

    @initialize()
    def empty(self) -> None:
        self.ask(
            "TRUNCATE moonyard.pipelines, moonyard.runners, moonyard.tag_sets, moonyard.audit, moonyard.attempts, "
            "moonyard.event_batches CASCADE"
        )
        self.runners = [uuid4(), uuid4()]
        for runner in self.runners:
            self.ask("INSERT INTO moonyard.runners (id, name) VALUES ($1, 'runner')", runner)
        self.pipelines: dict[str | None, tuple[UUID, UUID]] = {}
        for group in (None, *LIMITS):
            self.pipelines[group] = self.pipeline(group)

    def pipeline(self, group: str | None) -> tuple[UUID, UUID]:
        pipeline, version = uuid4(), uuid4()
        definition: dict[str, Any] = {"name": f"p{group}", "stages": [], "retries": 1 if group is None else 0}
        if group is not None:
            definition["concurrency"] = {"group": group, "limit": LIMITS[group], "cancel_running": False}
        self.ask("INSERT INTO moonyard.pipelines (id, name) VALUES ($1, $2)", pipeline, f"p{group}")
        self.ask(
            "INSERT INTO moonyard.pipeline_versions (id, pipeline_id, sha256, filename, source, definition, rules) "
            "VALUES ($1, $2, repeat('a', 64), 'p.lua', '', $3::json, moonyard.queue_rules($3::json))",
            version,
            pipeline,
            msgspec.json.encode(definition).decode(),
        )
        return pipeline, version

    @rule(group=st.sampled_from([None, "a", "b"]), priority=st.sampled_from([0, 0, 5]), count=st.integers(1, 3))
    def submit(self, group: str | None, priority: int, count: int) -> None:
        pipeline, version = self.pipelines[group]
        asked: list[dict[str, Any]] = [
            {"place": place, "id": uuid7(), "pipeline_id": pipeline, "version_id": version, "inputs": {}}
            | {"priority": priority}
            for place in range(count)
        ]
        for _, job, *_ in self.ask(jobs.JOBS_SUBMIT, msgspec.json.encode(asked).decode()):
            self.states[job], self.attempts[job] = "queued", 0
            self.retries[job] = 1 if group is None else 0

    @rule(slots=st.integers(1, 4), number=st.integers(0, 1))
    def claim(self, slots: int, number: int) -> None:
        free = self.ask(
            "SELECT id FROM moonyard.jobs WHERE state = 'queued' AND parked IS NULL "
            "ORDER BY turn - 1000 * priority, number"
        )
        runner = self.runners[number]
        rows = self.ask(claims.JOBS_CLAIM, -(2**62), slots, [runner] * slots, 60.0, [])
        assert [row[1] for row in rows] == [row[0] for row in free[:slots]]
        for _, job, _, attempt, *_ in rows:
            assert self.states[job] == "queued"
            assert attempt == self.attempts[job] + 1
            self.states[job], self.attempts[job] = "running", attempt
            self.held.append(Held(job, attempt, runner))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), state=st.sampled_from(["succeeded", "failed", "cancelled"]))
    def end(self, data: st.DataObject, state: str) -> None:
        """A runner ends an attempt that it holds, or once held."""
        held = data.draw(st.sampled_from(self.held))
        is_live = self.is_live(held)
        if state == "failed":
            [[place]] = self.ask(claims.ATTEMPT_RETRY, held.job, held.attempt, held.runner, 1, None)
            expected = is_live and self.retries[held.job] > 0 and held.job not in self.cancelling
            assert (place is not None) == expected
            if expected:
                self.retries[held.job] -= 1
                self.states[held.job] = "queued"
                return
        line = '{"type":"job"}\n'
        batch = (held.job, held.attempt, held.runner, 1, 2, state, len(line), line, None, None)
        stored = self.ask(events.EVENTS_STORE, *([value] for value in batch), "[]", "[]", [0])
        assert stored == ([(held.job,)] if is_live else [])
        if is_live:
            self.states[held.job] = state

    @precondition(lambda self: self.held)
    @rule(data=st.data(), is_final=st.booleans())
    def lose(self, data: st.DataObject, is_final: bool) -> None:
        held = data.draw(st.sampled_from(self.held))
        is_live = self.is_live(held)
        state = "lost" if is_final else "cancelled" if held.job in self.cancelling else "queued"
        self.ask(claims.ATTEMPT_LOSE, held.job, held.attempt, state, 1, None, None)
        if is_live:
            self.states[held.job] = state

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(list(self.states)))
        if self.refused(jobs.JOB_CANCEL, job, None, False) == "job_finished":
            assert self.states[job] in FINAL - {"cancelled"}
            return
        if self.states[job] == "queued":
            self.states[job] = "cancelled"
        elif self.states[job] == "running":
            self.cancelling.add(job)

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(list(self.states)))
        if self.refused(jobs.JOB_RETRY, job, "tester") == "job_unfinished":
            assert self.states[job] not in FINAL
            return
        assert self.states[job] in FINAL
        self.states[job] = "queued"
        self.cancelling.discard(job)
        self.retries[job] = 1 if self.retries_of(job) else 0

    @rule()
    def release(self) -> None:
        self.ask(claims.JOBS_RELEASE, 100, None)

    def refused(self, statement: str, *values: object) -> str | None:
        """Run a statement; give the code with which it was refused."""
        try:
            self.ask(statement, *values)
        except psycopg.errors.RaiseException as error:
            return error.diag.message_detail
        return None

    def is_live(self, held: Held) -> bool:
        return self.states[held.job] == "running" and self.attempts[held.job] == held.attempt

    def retries_of(self, job: UUID) -> bool:
        [[retry]] = self.ask("SELECT retry IS NOT NULL FROM moonyard.jobs WHERE id = $1", job)
        return bool(retry)

    @invariant()
    def jobs_are_in_the_states_that_the_model_says(self) -> None:
        rows = self.ask("SELECT id, state, attempt FROM moonyard.jobs")
        assert {job: (state, attempt) for job, state, attempt in rows} == {
            job: (state, self.attempts[job]) for job, state in self.states.items()
        }

    @invariant()
    def a_job_has_one_live_attempt_while_it_runs_and_none_else(self) -> None:
        rows = self.ask("SELECT job_id, number FROM moonyard.attempts WHERE state = 'running'")
        assert sorted(rows) == sorted(
            (job, self.attempts[job]) for job, state in self.states.items() if state == "running"
        )

    @invariant()
    def no_limit_is_passed_and_every_slot_has_its_job(self) -> None:
        under_way = self.ask(
            "SELECT id, concurrency_group FROM moonyard.jobs WHERE concurrency_group IS NOT NULL "
            "AND (state = 'running' OR (state = 'queued' AND parked IS NULL))"
        )
        slots = self.ask("SELECT job_id, concurrency_group FROM moonyard.concurrency_slots")
        assert sorted(slots) == sorted(under_way)
        for group, limit in LIMITS.items():
            taken = sum(name == group for _, name in slots)
            waiting = self.ask(
                "SELECT FROM moonyard.jobs WHERE state = 'queued' AND parked = 'group' AND concurrency_group = $1",
                group,
            )
            assert taken == limit or (taken < limit and not waiting)

    @invariant()
    def a_record_goes_on_without_a_gap_and_ends_as_the_job_did(self) -> None:
        gaps = self.ask(
            """
            SELECT job_id FROM (
                SELECT job_id, first_seq, lag(next_seq, 1, 1::bigint) OVER (
                    PARTITION BY job_id, attempt ORDER BY next_seq
                ) AS expected FROM moonyard.event_batches
            ) AS batch WHERE first_seq <> expected
            """
        )
        assert gaps == []


def test_the_queue_does_what_its_model_does(database_url: str):
    class OnDatabase(Queue):
        url = database_url

    run_state_machine_as_test(
        OnDatabase,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
