"""What somebody changed by psql, and what never came to be."""

from __future__ import annotations

import time
from uuid import UUID

import msgspec
import pytest

from schema.errors import ErrorInfo
from schema.ids import uuid7
from schema.wire import Job, JobSubmit
from tests.chaos import fence
from tests.chaos.faults import Happened
from tests.chaos.figures import Figures
from tests.chaos.pipelines import Order
from tests.chaos_checks.ran import ORDER, broken, ran
from tests.orchestrator.installation import DEFINITION, Installation
from tests.postgres import psql


async def test_a_job_that_ran_as_it_should_breaks_nothing_and_is_counted(installation: Installation) -> None:
    job = await ran(installation)
    figures = await job.figures()
    assert (broken(figures), figures.details) == (set(), [])
    assert (figures.submitted, figures.acknowledged, figures.final, figures.states) == (1, 1, 1, {"succeeded": 1})
    assert (figures.attempts, figures.attempts_lost, figures.log_lines) == (2, 1, 4)


REPEAT = "UPDATE moonyard.event_batches SET lines = lines || lines WHERE lines LIKE '%k lua 3%'"
FORGET = "DELETE FROM moonyard.event_batches WHERE lines LIKE '%k lua 3%'"
SWAP = """
UPDATE moonyard.event_batches
SET lines = replace(replace(replace(lines, 'lua 2', 'lua x'), 'lua 3', 'lua 2'), 'lua x', 'lua 3')
"""
OVERLAP = "UPDATE moonyard.attempts SET finished_at = finished_at + interval '1 hour' WHERE state = 'lost'"
NEVER_ENDED = "UPDATE moonyard.jobs SET state = 'running', finished_at = NULL"


@pytest.mark.parametrize(
    ("meddle", "expected"),
    [
        (REPEAT, {"log_lines_doubled", "records_disordered"}),
        (FORGET, {"log_lines_missing", "records_disordered"}),
        (SWAP, {"records_disordered"}),
        (OVERLAP, {"ran_twice_at_once"}),
        (NEVER_ENDED, {"lost"}),
        ("DELETE FROM moonyard.jobs", {"lost"}),
        ("UPDATE moonyard.stages SET state = 'running'", {"rows_wrong"}),
        ("DELETE FROM moonyard.stages WHERE attempt = 2", {"rows_wrong"}),
    ],
)
async def test_what_is_changed_by_hand_is_noticed(installation: Installation, meddle: str, expected: set[str]) -> None:
    job = await ran(installation)
    assert broken(await job.figures(meddle)) == expected


async def test_a_second_job_for_a_key_is_noticed_whoever_was_told_of_it(installation: Installation) -> None:
    job = await ran(installation)
    await installation.push(msgspec.structs.replace(DEFINITION, name="other"))
    await (await installation.client()).post("/v1/jobs", Job, JobSubmit(pipeline="other", idempotency_key="k"))
    assert broken(await job.figures()) == {"submitted_twice"}
    job.ledger.acknowledged["k"].add(str(uuid7()))
    assert "submitted_twice" in broken(await job.figures())


async def test_a_job_that_ends_twice_is_noticed(installation: Installation) -> None:
    job = await ran(installation)
    again = "UPDATE moonyard.jobs SET state = 'cancelled'"
    assert broken(await job.figures(after_look=again)) == {"ends_changed"}


async def test_a_submit_that_nobody_took_is_noticed(installation: Installation) -> None:
    job = await ran(installation)
    job.ledger.orders["k2"] = msgspec.structs.replace(ORDER, key="k2")
    assert broken(await job.figures()) == {"unacknowledged"}


async def test_an_artifact_that_is_missing_is_noticed(installation: Installation) -> None:
    job = await ran(installation)
    job.ledger.orders["k"] = Order(key="k", kind="artifact", count=3)
    assert "artifacts_wrong" in broken(await job.figures())


async def test_an_artifact_whose_content_changed_or_that_a_lost_attempt_kept_is_noticed(
    installation: Installation,
) -> None:
    job = await ran(installation)
    order = job.ledger.orders["k"] = Order(key="k", kind="artifact", count=1)
    keep = """
    WITH blob AS (
        INSERT INTO moonyard.blobs (id, sha256, size_bytes)
        VALUES (gen_random_uuid(), encode(sha256('k 2 1' || E'\n'), 'hex'), 6) RETURNING id
    ), chunk AS (INSERT INTO moonyard.blob_chunks SELECT id, 0, convert_to('k 2 1' || E'\n', 'UTF8') FROM blob)
    INSERT INTO moonyard.artifacts (job_id, name, attempt, blob_id, content_type)
    SELECT job.id, 'kept.txt', 2, blob.id, 'text/plain' FROM moonyard.jobs AS job, blob
    """
    assert order.artifacts(2) != order.artifacts(1)
    psql(installation.url, keep.replace("sha256('k 2 1' || E'\n')", "sha256(convert_to('k 2 1' || E'\n', 'UTF8'))"))
    assert "artifacts_wrong" not in broken(await job.figures())
    assert "artifacts_wrong" in broken(await job.figures("UPDATE moonyard.artifacts SET attempt = 1"))
    torn = "UPDATE moonyard.artifacts SET attempt = 2; UPDATE moonyard.blob_chunks SET data = 'torn'"
    assert "artifacts_wrong" in broken(await job.figures(torn))


async def test_a_follower_who_missed_a_line_is_noticed(installation: Installation) -> None:
    job = await ran(installation)
    async with (await installation.client()).stream(f"/v1/jobs/{job.job.id}/events") as stream:
        lines = [line async for line in stream.lines()]
    job.ledger.followed[job.job.id] = lines
    assert broken(await job.figures()) == set()
    job.ledger.followed[job.job.id] = lines[:3] + lines[4:]
    assert broken(await job.figures()) == {"follows_wrong"}


async def test_a_failure_is_explained_by_a_full_disk_of_its_own_runner_alone(installation: Installation) -> None:
    job = await ran(installation, "failed", ErrorInfo(code="stage_failed", message="no room"))
    now = time.time()
    full = Happened(kind="disk_filled", target="runner", at=now - 60, until=now)
    assert "unexplained" in broken(await job.figures())
    job.happened.append(msgspec.structs.replace(full, target="runner 2"))
    job.happened.append(msgspec.structs.replace(full, kind="engine_killed"))
    job.happened.append(msgspec.structs.replace(full, at=now - 600, until=now - 500))
    assert "unexplained" in broken(await job.figures())
    job.happened.append(full)
    figures = await job.figures()
    assert "unexplained" not in broken(figures)
    assert figures.failures == {"stage_failed": 1}
    defect = """UPDATE moonyard.jobs SET error = '{"code": "internal_error", "message": "a defect"}'"""
    assert "unexplained" in broken(await job.figures(defect))


async def test_a_cancel_that_nobody_asked_for_is_noticed(installation: Installation) -> None:
    job = await ran(installation, "cancelled")
    assert "unexplained" in broken(await job.figures())
    job.ledger.orders["k"] = msgspec.structs.replace(ORDER, cancelled=True)
    assert "unexplained" not in broken(await job.figures())


async def test_a_fence_that_is_open_is_noticed(installation: Installation) -> None:
    job = await ran(installation)
    tokens = {UUID(job.runner.registered.id): job.runner.registered.token}
    address = installation.replicas[0].address
    closed, opened = Figures(), Figures()
    await fence.try_stale(installation.url, address, tokens, closed)
    assert (closed.stale_tried, broken(closed)) == (6, set())
    psql(installation.url, "UPDATE moonyard.attempts SET state = 'running', finished_at = NULL WHERE number = 1")
    await fence.try_stale(installation.url, address, tokens, opened)
    assert broken(opened) == {"stale_accepted"}
    assert any("has changed job" in text for text in opened.details)
