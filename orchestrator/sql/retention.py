"""Statements that remove what is old."""

from __future__ import annotations

from typing import Final

# $1 seconds, $2 how many. Only the first jobs by number are looked at, for they are the oldest: where none of them
# is old enough, none is looked for in the history behind them. One that ran very long may so keep a few others a
# while longer. All that belongs to a job goes with it, by a trigger (`moonyard.job_remnants`) or a foreign key; a job
# that somebody holds is left to the next time.
JOBS_REMOVE_OLD: Final = """
WITH first AS MATERIALIZED (
    SELECT id, finished_at FROM moonyard.jobs
    WHERE state NOT IN ('queued', 'running')
    ORDER BY number
    LIMIT $2
    FOR UPDATE SKIP LOCKED
)
DELETE FROM moonyard.jobs
WHERE id = ANY (ARRAY(SELECT id FROM first WHERE finished_at < now() - make_interval(secs => $1)))
RETURNING id
"""
