"""Statements that hand jobs to runners, renew their leases, and take lost attempts back.

Locks are taken in one order: attempts before jobs, several rows of one table by job id; what cannot be had at once is
skipped (SKIP LOCKED), so that replicas never wait for each other here.
"""

from __future__ import annotations

from typing import Final

# $1 low-water mark, $2 how many, $3 a runner for each, $4 lease seconds
JOBS_CLAIM: Final = """
-- MATERIALIZED, for the planner may run a subquery with a LIMIT again and so take too many.
WITH waiting AS MATERIALIZED (
    SELECT id FROM moonyard.jobs
    -- The mark is where the last claim found its first: a walk from the start would visit each job claimed since the
    -- oldest transaction began, which a long one elsewhere makes many.
    WHERE state = 'queued' AND number > $1
    ORDER BY number
    LIMIT $2
    FOR UPDATE SKIP LOCKED
),
claimed AS (
    UPDATE moonyard.jobs
    SET state = 'running', attempt = attempt + 1, started_at = coalesce(started_at, now())
    -- As an array, which the planner takes for short: a join it might do by reading all jobs.
    WHERE id = ANY (ARRAY(SELECT id FROM waiting))
    RETURNING id, number, attempt, version_id, inputs
),
placed AS (
    SELECT *, row_number() OVER (ORDER BY number) AS place FROM claimed
),
leased AS (
    INSERT INTO moonyard.attempts (job_id, number, runner_id, lease_expires_at)
    SELECT placed.id, placed.attempt, slot.runner_id, now() + make_interval(secs => $4)
    FROM placed JOIN unnest($3::uuid[]) WITH ORDINALITY AS slot (runner_id, place) USING (place)
)
SELECT id, number, attempt, version_id, inputs, place FROM placed ORDER BY place
"""

# $1 runner, $2 jobs, $3 attempts, $4 lease seconds, $5 draining. One statement renews all that the runner holds.
LEASES_RENEW: Final = """
WITH held AS (
    SELECT job_id, attempt FROM unnest($2::uuid[], $3::integer[]) AS listed (job_id, attempt)
),
ours AS MATERIALIZED (
    SELECT attempt.job_id, attempt.number
    FROM held JOIN moonyard.attempts AS attempt ON attempt.job_id = held.job_id AND attempt.number = held.attempt
    WHERE attempt.runner_id = $1 AND attempt.finished_at IS NULL
    ORDER BY attempt.job_id
    FOR UPDATE OF attempt
),
renewed AS (
    UPDATE moonyard.attempts AS attempt SET lease_expires_at = now() + make_interval(secs => $4)
    FROM ours WHERE attempt.job_id = ours.job_id AND attempt.number = ours.number
    RETURNING attempt.job_id
),
seen AS (
    UPDATE moonyard.runners SET seen_at = now(), draining = $5 WHERE id = $1
)
SELECT held.job_id, renewed.job_id IS NULL AS gone, job.cancel_requested_at IS NOT NULL AS cancel
FROM held
LEFT JOIN renewed ON renewed.job_id = held.job_id
LEFT JOIN moonyard.jobs AS job ON job.id = renewed.job_id
"""

# The running attempts are few and in a small index; leases stand in none, so that renewing them stays cheap.
LEASES_EXPIRED: Final = """
SELECT
    attempt.job_id, attempt.number AS attempt, job.number, job.losses, runner.name AS runner,
    job.cancel_requested_at IS NOT NULL AS cancel
FROM moonyard.attempts AS attempt
JOIN moonyard.jobs AS job ON job.id = attempt.job_id
JOIN moonyard.runners AS runner ON runner.id = attempt.runner_id
WHERE attempt.state = 'running' AND attempt.lease_expires_at < now()
ORDER BY attempt.job_id
LIMIT 100
FOR UPDATE OF attempt SKIP LOCKED
"""

# An attempt that was handed out to somebody who had gone: nothing was heard of it yet.
ATTEMPT_UNANSWERED: Final = """
SELECT
    attempt.job_id, attempt.number AS attempt, job.number, job.losses, runner.name AS runner,
    job.cancel_requested_at IS NOT NULL AS cancel
FROM moonyard.attempts AS attempt
JOIN moonyard.jobs AS job ON job.id = attempt.job_id
JOIN moonyard.runners AS runner ON runner.id = attempt.runner_id
WHERE attempt.job_id = $1 AND attempt.number = $2 AND attempt.finished_at IS NULL AND attempt.next_seq = 1
FOR UPDATE OF attempt
"""

# $1 job, $2 attempt, $3 the job's next state, $4 by how much its losses grow, $5 why, $6 the job's error
ATTEMPT_LOSE: Final = """
WITH lost AS (
    UPDATE moonyard.attempts SET state = 'lost', finished_at = now()
    WHERE job_id = $1 AND number = $2 AND finished_at IS NULL
    RETURNING job_id, next_seq
),
changed AS (
    UPDATE moonyard.jobs AS job
    SET state = $3, losses = losses + $4, error = $6::jsonb,
        finished_at = CASE WHEN $3 = 'queued' THEN NULL ELSE now() END
    FROM lost WHERE job.id = lost.job_id AND job.attempt = $2
    RETURNING job.id, job.number, lost.next_seq
),
line AS (
    SELECT id, next_seq, moonyard.job_line(id, number, $2, next_seq, $3, $5::jsonb) AS text FROM changed
),
told AS (
    INSERT INTO moonyard.event_batches (job_id, attempt, first_seq, next_seq, size_bytes, lines)
    SELECT id, $2, next_seq, next_seq + 1, octet_length(text), text FROM line
)
UPDATE moonyard.stages SET state = 'cancelled', finished_at = now()
WHERE job_id = $1 AND attempt = $2 AND state = 'running'
"""
