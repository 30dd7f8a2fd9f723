"""Statements that hand jobs to runners, renew their leases, and take lost attempts back.

Locks are taken in one order: attempts before jobs, several rows of one table by job id; what cannot be had at once is
skipped (SKIP LOCKED), so that replicas never wait for each other here.
"""

from __future__ import annotations

from typing import Final

# $1 low-water mark, $2 how many, $3 a runner for each, $4 lease seconds, $5 the tags that all these runners reach:
# those that are bound to pipelines have `@` among them, and take nothing that does not ask for a class of pipelines.
JOBS_CLAIM: Final = """
-- MATERIALIZED, for the planner may run a subquery with a LIMIT again and so take too many.
WITH untagged AS MATERIALIZED (
    SELECT id, pipeline_id, number, turn - 1000 * priority AS place, false AS is_tagged FROM moonyard.jobs
    -- The mark is where the last claim found its first: a walk from the start would visit each job claimed since the
    -- oldest transaction began, which a long one elsewhere makes many.
    WHERE state = 'queued' AND parked IS NULL AND tag_set IS NULL AND turn - 1000 * priority >= $1
        AND NOT EXISTS (SELECT FROM moonyard.pauses WHERE pipeline_id IS NULL) AND NOT '@' = ANY ($5::text[])
    ORDER BY turn - 1000 * priority, number
    LIMIT $2
    FOR UPDATE SKIP LOCKED
),
-- One walk for each set of tags that these runners have: what asks for other tags is not passed by, it is not seen.
tagged AS MATERIALIZED (
    SELECT job.id, job.pipeline_id, job.number, job.place, true AS is_tagged
    FROM moonyard.tag_sets AS wanted
    CROSS JOIN LATERAL (
        SELECT id, pipeline_id, number, turn - 1000 * priority AS place FROM moonyard.jobs
        WHERE state = 'queued' AND parked IS NULL AND tag_set = wanted.id
        ORDER BY turn - 1000 * priority, number
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    ) AS job
    WHERE wanted.tags <@ $5::text[] AND (wanted.has_class OR NOT '@' = ANY ($5::text[]))
        AND NOT EXISTS (SELECT FROM moonyard.pauses WHERE pipeline_id IS NULL)
),
waiting AS MATERIALIZED (
    SELECT found.id, found.place, found.is_tagged, pause.pipeline_id IS NOT NULL AS is_paused
    FROM (
        SELECT * FROM untagged UNION ALL SELECT * FROM tagged ORDER BY place, number LIMIT $2
    ) AS found
    LEFT JOIN moonyard.pauses AS pause ON pause.pipeline_id = found.pipeline_id
),
-- Jobs of a paused pipeline are met once, and put out of the way: pausing need not touch them all.
paused AS (
    UPDATE moonyard.jobs SET parked = 'paused' WHERE id = ANY (ARRAY(SELECT id FROM waiting WHERE is_paused))
),
claimed AS (
    UPDATE moonyard.jobs
    SET state = 'running', attempt = attempt + 1, started_at = coalesce(started_at, now())
    -- As an array, which the planner takes for short: a join it might do by reading all jobs.
    WHERE id = ANY (ARRAY(SELECT id FROM waiting WHERE NOT is_paused))
    RETURNING id, number, attempt, version_id, inputs, turn, turn - 1000 * priority AS place,
        tag_set IS NOT NULL AS is_tagged, resume, traceparent, created_at, keep_on_failure_seconds, trigger
),
placed AS (
    SELECT *, row_number() OVER (ORDER BY place, number) AS slot FROM claimed
),
-- How far the turns are now. What priority lets go early says nothing of it.
passed AS MATERIALIZED (
    SELECT setval('moonyard.turns', max(least(turn, place))) AS turn FROM claimed
    HAVING max(least(turn, place)) > (SELECT last_value FROM moonyard.turns)
),
leased AS (
    INSERT INTO moonyard.attempts (job_id, number, runner_id, lease_expires_at)
    SELECT placed.id, placed.attempt, given.runner_id, now() + make_interval(secs => $4)
    FROM placed JOIN unnest($3::uuid[]) WITH ORDINALITY AS given (runner_id, slot) USING (slot)
)
SELECT slot, id, number, attempt, version_id, inputs, place, is_tagged, resume, traceparent, created_at,
    keep_on_failure_seconds, trigger, (SELECT turn FROM passed) AS turn
FROM placed
UNION ALL
-- What was put out of the way: not for anybody, but the queue is not empty.
SELECT NULL, id, NULL, NULL, NULL, NULL, place, is_tagged, NULL, NULL, NULL, NULL, NULL, NULL
FROM waiting WHERE is_paused
ORDER BY slot
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
SELECT held.job_id, renewed.job_id IS NULL AS gone, job.cancel_requested_at IS NOT NULL AS cancel,
    job.cancel_forced AS kill
FROM held
LEFT JOIN renewed ON renewed.job_id = held.job_id
LEFT JOIN moonyard.jobs AS job ON job.id = renewed.job_id
"""

# The running attempts are few and in a small index; leases stand in none, so that renewing them stays cheap. What a
# claim gave to a runner in the moment in which it was revoked has no lease at all.
LEASES_EXPIRED: Final = """
SELECT
    attempt.job_id, attempt.number AS attempt, job.number, job.losses, job.turn - 1000 * job.priority AS place,
    runner.name AS runner, runner.revoked_by,
    job.cancel_requested_at IS NOT NULL AS cancel
FROM moonyard.attempts AS attempt
JOIN moonyard.jobs AS job ON job.id = attempt.job_id
JOIN moonyard.runners AS runner ON runner.id = attempt.runner_id
WHERE attempt.state = 'running' AND (
    attempt.lease_expires_at < now()
    OR attempt.runner_id = ANY (ARRAY(SELECT id FROM moonyard.runners WHERE revoked_at IS NOT NULL))
)
ORDER BY attempt.job_id
LIMIT 100
FOR UPDATE OF attempt SKIP LOCKED
"""

# An attempt that was handed out to somebody who had gone: nothing was heard of it yet.
ATTEMPT_UNANSWERED: Final = """
SELECT
    attempt.job_id, attempt.number AS attempt, job.number, job.losses, job.turn - 1000 * job.priority AS place,
    runner.name AS runner,
    job.cancel_requested_at IS NOT NULL AS cancel
FROM moonyard.attempts AS attempt
JOIN moonyard.jobs AS job ON job.id = attempt.job_id
JOIN moonyard.runners AS runner ON runner.id = attempt.runner_id
WHERE attempt.job_id = $1 AND attempt.number = $2 AND attempt.finished_at IS NULL AND attempt.next_seq = 1
FOR UPDATE OF attempt
"""

# An attempt that its runner reports as lost: fenced as all that a runner sends.
ATTEMPT_HELD: Final = """
SELECT
    attempt.job_id, attempt.number AS attempt, attempt.next_seq, job.number, job.losses,
    job.turn - 1000 * job.priority AS place, runner.name AS runner,
    job.cancel_requested_at IS NOT NULL AS cancel
FROM moonyard.attempts AS attempt
JOIN moonyard.jobs AS job ON job.id = attempt.job_id
JOIN moonyard.runners AS runner ON runner.id = attempt.runner_id
WHERE attempt.job_id = $1 AND attempt.number = $2 AND attempt.runner_id = $3 AND attempt.finished_at IS NULL
FOR UPDATE OF attempt
"""

# $1 job, $2 attempt, $3 the job's next state, $4 by how much its losses grow, $5 why, $6 the job's error
ATTEMPT_LOSE: Final = "SELECT moonyard.attempt_lose($1, $2, $3, $4, $5::jsonb, $6::jsonb)"

# $1 job, $2 attempt, $3 runner, $4 the final event's seq, $5 its error: the job's place where it is
# queued again, or NULL.
ATTEMPT_RETRY: Final = "SELECT moonyard.attempt_retry($1, $2, $3, $4, $5::jsonb)"

# $1 how many at most of each kind, $2 now, or NULL for the database's
JOBS_RELEASE: Final = "SELECT released, lowest FROM moonyard.jobs_release($1, coalesce($2::timestamptz, now()))"
JOBS_TIME_OUT: Final = "SELECT moonyard.jobs_time_out($1, coalesce($2::timestamptz, now())) AS id"
