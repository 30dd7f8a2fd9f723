"""Statements that store and read the events of jobs."""

from __future__ import annotations

from typing import Final

# $1 job, $2 attempt, $3 runner, $4 first seq, $5 next seq, $6 final state or NULL, $7 bytes, $8 lines, $9 stages,
# $10 commands, $11 error, $12 the job's number where the batch names it
#
# One statement: the batch and all that it means are there, or nothing is. `held` is the fence: no other part does
# anything unless this runner holds this attempt, unfinished, and the batch is the next one. It goes by primary key and
# asks for `finished_at`, not `state`, lest the planner walk the index of running attempts with its many dead entries.
EVENTS_STORE: Final = """
WITH held AS (
    UPDATE moonyard.attempts
    SET next_seq = $5, state = coalesce($6::text, state),
        finished_at = CASE WHEN $6::text IS NULL THEN NULL ELSE now() END
    WHERE job_id = $1 AND number = $2 AND runner_id = $3 AND next_seq = $4 AND finished_at IS NULL
        AND ($12::bigint IS NULL OR EXISTS (SELECT FROM moonyard.jobs WHERE id = $1 AND number = $12))
    RETURNING job_id
),
stored AS (
    INSERT INTO moonyard.event_batches (job_id, attempt, first_seq, next_seq, size_bytes, lines)
    SELECT job_id, $2, $4, $5, $7, $8 FROM held
),
staged AS (
    INSERT INTO moonyard.stages AS stage
        (job_id, attempt, name, state, container, started_at, finished_at, error, first_seq)
    SELECT held.job_id, $2, told.name, told.state, told.container, told.started_at, told.finished_at, told.error,
        told.first_seq
    FROM held CROSS JOIN jsonb_to_recordset($9::jsonb) AS told (
        name text, state text, container text, started_at timestamptz, finished_at timestamptz, error jsonb,
        first_seq bigint
    )
    ON CONFLICT (job_id, attempt, name) DO UPDATE SET
        state = excluded.state, container = coalesce(excluded.container, stage.container),
        started_at = coalesce(excluded.started_at, stage.started_at), finished_at = excluded.finished_at,
        error = excluded.error
),
commanded AS (
    INSERT INTO moonyard.commands
        (job_id, attempt, seq, stage, argv, container, code, duration_seconds, finished_at, error)
    SELECT held.job_id, $2, told.seq, told.stage, told.argv, told.container, told.code, told.duration, told.at,
        told.error
    FROM held CROSS JOIN jsonb_to_recordset($10::jsonb) AS told (
        seq bigint, stage text, argv text[], container text, code integer, duration double precision, at timestamptz,
        error jsonb
    )
),
ended AS (
    UPDATE moonyard.jobs AS job SET state = $6::text, finished_at = now(), error = $11::jsonb
    FROM held WHERE job.id = held.job_id AND job.attempt = $2 AND $6::text IS NOT NULL
)
SELECT count(*) FROM held
"""

# Where the fast way found nothing to do: why.
ATTEMPT_LOOK: Final = """
SELECT attempt.runner_id, attempt.state, attempt.next_seq, job.number
FROM moonyard.attempts AS attempt JOIN moonyard.jobs AS job ON job.id = attempt.job_id
WHERE attempt.job_id = $1 AND attempt.number = $2
"""

# $1 job, $2 and $3 the position: attempt and the seq that is wanted next, $4 bytes. The next batches, as many as fit;
# at least one. The sizes are summed up without reading the lines themselves.
EVENTS_READ: Final = """
SELECT attempt, first_seq, next_seq, lines
FROM (
    SELECT attempt, first_seq, next_seq, lines,
        sum(size_bytes) OVER (ORDER BY attempt, next_seq ROWS UNBOUNDED PRECEDING) - size_bytes AS bytes_before
    FROM (
        SELECT attempt, first_seq, next_seq, lines, size_bytes
        FROM moonyard.event_batches
        WHERE job_id = $1 AND (attempt, next_seq) > ($2, $3)
        ORDER BY attempt, next_seq
        LIMIT 200
    ) AS page
) AS counted
WHERE bytes_before < $4
ORDER BY attempt, next_seq
"""
