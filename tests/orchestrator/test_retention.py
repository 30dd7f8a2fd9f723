"""What is old goes, what is not stays, and finding it reads no history."""

from __future__ import annotations

import re

from orchestrator import retention
from orchestrator.sql import retention as sql
from tests.orchestrator.installation import Installation

AGE = """
UPDATE moonyard.jobs SET state = 'succeeded', finished_at = now() - make_interval(days => $2) WHERE number = $1
"""

# All that a runner leaves of an attempt has no foreign key.
TABLES_OF_A_JOB = {
    "attempts": "1, gen_random_uuid(), 'running', now(), NULL, now(), 1",
    "stages": "1, 'build', 'running', NULL, now(), NULL, NULL, 1",
    "commands": "1, 1, 'build', '{true}', 'image', 0, 1.0, now(), NULL",
    "event_batches": "1, 1, 2, 1, E'\n', now()",
}


async def test_jobs_that_ended_long_ago_go_with_all_that_is_theirs(installation: Installation) -> None:
    await installation.replica()
    await installation.push()
    old, recent, queued = [(await installation.submit()).number for _ in range(3)]
    for table, columns in TABLES_OF_A_JOB.items():
        await installation.database.rows(
            f"INSERT INTO moonyard.{table} SELECT id, {columns} FROM moonyard.jobs WHERE number = ANY ($1)",  # noqa: S608  # named here
            [old, recent],
        )
    await installation.database.rows(AGE, old, 40)
    await installation.database.rows(AGE, recent, 20)
    assert await retention.remove_old_jobs(installation.database, 30) == 1
    left = await installation.database.rows("SELECT number FROM moonyard.jobs ORDER BY number")
    assert [row["number"] for row in left] == [recent, queued]
    batches = await installation.database.rows(
        "SELECT DISTINCT job.number FROM moonyard.event_batches JOIN moonyard.jobs AS job ON job.id = job_id ORDER BY 1"
    )
    assert [row["number"] for row in batches] == [recent, queued]
    for table in TABLES_OF_A_JOB:
        orphans = await installation.database.value(
            f"SELECT count(*) FROM moonyard.{table} WHERE job_id NOT IN (SELECT id FROM moonyard.jobs)"  # noqa: S608  # named here
        )
        assert orphans == 0, table
    assert await retention.remove_old_jobs(installation.database, 30) == 0


async def test_many_old_jobs_go_in_steps(installation: Installation) -> None:
    await installation.replica()
    await installation.push()
    await installation.submit()
    await installation.database.rows(
        """
        INSERT INTO moonyard.jobs (id, pipeline_id, version_id, inputs, state, finished_at)
        SELECT gen_random_uuid(), pipeline_id, version_id, inputs, 'succeeded', now() - interval '2 days'
        FROM moonyard.jobs CROSS JOIN generate_series(1, 350)
        """
    )
    assert await retention.remove_old_jobs(installation.database, 1) == 350
    assert await installation.database.value("SELECT count(*) FROM moonyard.jobs") == 1


async def test_a_long_history_that_is_to_be_kept_is_not_read(installation: Installation) -> None:
    await installation.replica()
    await installation.push()
    await installation.submit()
    await installation.database.rows(
        """
        INSERT INTO moonyard.jobs (id, pipeline_id, version_id, inputs, state, finished_at)
        SELECT gen_random_uuid(), pipeline_id, version_id, inputs, 'succeeded', now()
        FROM moonyard.jobs CROSS JOIN generate_series(1, 20000)
        """
    )
    await installation.database.rows("ANALYZE moonyard.jobs")
    statement = sql.JOBS_REMOVE_OLD.replace("$1", "86400").replace("$2", "100")
    plan = await installation.database.rows("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) " + statement)
    text = "\n".join(row[0] for row in plan)
    assert "Seq Scan" not in text, text
    read = [int(match) for match in re.findall(r"Scan using \S+ on jobs\S* .*rows=(\d+)", text)]
    assert read
    assert max(read) <= 101, text
