"""Statements that store and read the events of jobs."""

from __future__ import annotations

from typing import Final

# Batches of different attempts, one an index of the arrays, in order of their jobs' ids: $1 jobs, $2 attempts,
# $3 runners, $4 first seqs, $5 next seqs, $6 final states or NULL, $7 bytes, $8 lines, $9 the final events' errors,
# $10 the jobs' numbers where a batch names them, $13 for how many delivered secrets each was looked through; for all of
# them together: $11 stages, $12 commands. It gives the jobs whose batches were stored.
#
# One statement: a batch and all that it means are there, or nothing of it is. `ours` is the fence: no other part does
# anything unless this runner holds this attempt, unfinished, and the batch is the next one. It goes by primary key and
# asks for `finished_at`, not `state`, lest the planner walk the index of running attempts with its many dead entries.
# What somebody else has locked is passed over, and tried again: a row that an operator holds in an open transaction
# keeps nobody waiting but its own runner.
EVENTS_STORE: Final = """
WITH told AS MATERIALIZED (
    SELECT * FROM unnest(
        $1::uuid[], $2::integer[], $3::uuid[], $4::bigint[], $5::bigint[], $6::text[], $7::integer[], $8::text[],
        $9::text[], $10::bigint[], $13::integer[]
    ) AS told (
        job_id, attempt, runner_id, first_seq, next_seq, state, size_bytes, lines, error, number, secrets
    )
),
held AS MATERIALIZED (
    SELECT told.* FROM told
    -- Looked up one by one whatever the statistics say: with those of an empty table, a join would read all of it.
    CROSS JOIN LATERAL (
        SELECT job_id FROM moonyard.attempts
        WHERE job_id = told.job_id AND number = told.attempt
            AND runner_id = told.runner_id AND next_seq = told.first_seq AND finished_at IS NULL
            AND coalesce(cardinality(secret_versions), 0) = told.secrets
        FOR UPDATE SKIP LOCKED
    ) AS ours
    LEFT JOIN LATERAL (
        SELECT id, number FROM moonyard.jobs WHERE id = ours.job_id AND told.state IS NOT NULL FOR UPDATE SKIP LOCKED
    ) AS ending ON true
    WHERE (told.state IS NULL OR ending.id IS NOT NULL)
        AND (
            told.number IS NULL OR told.number = ending.number
            OR told.state IS NULL AND EXISTS (SELECT FROM moonyard.jobs WHERE id = told.job_id AND number = told.number)
        )
),
advanced AS (
    UPDATE moonyard.attempts AS attempt
    SET next_seq = held.next_seq, state = coalesce(held.state, attempt.state),
        finished_at = CASE WHEN held.state IS NOT NULL THEN now() END
    FROM held WHERE attempt.job_id = held.job_id AND attempt.number = held.attempt
),
stored AS (
    INSERT INTO moonyard.event_batches (job_id, attempt, first_seq, next_seq, size_bytes, lines)
    SELECT job_id, attempt, first_seq, next_seq, size_bytes, lines FROM held
),
staged AS (
    INSERT INTO moonyard.stages AS stage
        (job_id, attempt, name, state, container, started_at, finished_at, error, outputs, first_seq)
    SELECT held.job_id, held.attempt, stage.name, stage.state, stage.container, stage.started_at, stage.finished_at,
        stage.error, stage.outputs, stage.first_seq
    FROM jsonb_to_recordset($11::jsonb) AS stage (
        job_id uuid, name text, state text, container text, started_at timestamptz, finished_at timestamptz,
        error jsonb, outputs jsonb, first_seq bigint
    )
    JOIN held ON held.job_id = stage.job_id
    ON CONFLICT (job_id, attempt, name) DO UPDATE SET
        state = excluded.state, container = coalesce(excluded.container, stage.container),
        started_at = coalesce(excluded.started_at, stage.started_at), finished_at = excluded.finished_at,
        error = excluded.error, outputs = excluded.outputs
),
commanded AS (
    INSERT INTO moonyard.commands
        (job_id, attempt, seq, stage, argv, container, digest, code, cpu_seconds, memory_peak_bytes, output_bytes,
        duration_seconds, finished_at, error)
    SELECT held.job_id, held.attempt, ran.seq, ran.stage, ran.argv, ran.container, ran.digest, ran.code,
        ran.cpu_seconds, ran.memory_peak_bytes, ran.output_bytes,
        ran.duration, ran.at, ran.error
    FROM jsonb_to_recordset($12::jsonb) AS ran (
        job_id uuid, seq bigint, stage text, argv text[], container text, digest text, code integer,
        cpu_seconds double precision, memory_peak_bytes bigint, output_bytes bigint,
        duration double precision, at timestamptz, error jsonb
    )
    JOIN held ON held.job_id = ran.job_id
),
ended AS (
    UPDATE moonyard.jobs AS job SET state = held.state, finished_at = now(), error = held.error::jsonb
    FROM held WHERE job.id = held.job_id AND job.attempt = held.attempt AND held.state IS NOT NULL
)
SELECT job_id FROM held
"""

# Where the fast way found nothing to do: why.
ATTEMPT_LOOK: Final = """
SELECT attempt.runner_id, attempt.state, attempt.next_seq, attempt.secret_versions, job.number
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
