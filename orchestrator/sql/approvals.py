"""Statements about stages that wait for an approval."""

from __future__ import annotations

from typing import Final

# The fence, as for events; it stays locked, so that the attempt cannot end before what is asked for is there.
ATTEMPT_HOLD: Final = """
SELECT job.version_id, job.losses + job.failures > 0 AS is_again
FROM moonyard.attempts AS held JOIN moonyard.jobs AS job ON job.id = held.job_id
WHERE held.job_id = $1 AND held.number = $2 AND held.runner_id = $3 AND held.state = 'running'
    AND job.state = 'running' AND job.attempt = held.number
FOR UPDATE OF held
"""

# $1 job, $2 the stage's names
NEEDED: Final = "SELECT needed, message, seconds FROM moonyard.stage_approvals($1, $2::text[])"

# $1 job, $2 stage, $3 attempt, $4 how many, $5 message, $6 seconds, $7 whether this attempt takes the place of one that
# was lost or failed: then what was answered for that one holds for this one, if it is enough by now.
ASK: Final = """
INSERT INTO moonyard.approvals AS known (job_id, stage, attempt, needed, message, expires_at)
VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6))
ON CONFLICT (job_id, stage) DO UPDATE SET
    attempt = excluded.attempt,
    needed = excluded.needed,
    state = CASE
        WHEN $7 AND known.attempt = $3 - 1 AND NOT (known.state = 'approved' AND known.needed < excluded.needed)
        THEN known.state ELSE 'waiting'
    END,
    message = excluded.message,
    asked_at = CASE WHEN $7 AND known.attempt = $3 - 1 THEN known.asked_at ELSE now() END,
    expires_at = CASE
        WHEN $7 AND known.attempt = $3 - 1 AND NOT (known.state = 'approved' AND known.needed < excluded.needed)
        THEN known.expires_at ELSE excluded.expires_at
    END
WHERE known.attempt < $3
RETURNING attempt, asked_at = now() AS is_new
"""

ANSWERS_FORGET: Final = "DELETE FROM moonyard.approval_answers WHERE job_id = $1 AND stage = $2"

_APPROVALS: Final = """
SELECT approval.job_id, job.number, pipeline.name AS pipeline, approval.stage, approval.attempt, approval.state,
    approval.needed, approval.message, approval.asked_at, approval.expires_at,
    approval.state <> 'waiting' OR approval.expires_at <= now() OR job.state <> 'running'
        OR job.attempt <> approval.attempt AS is_over,
    (
        SELECT json_agg(
            json_build_object(
                'who', given.who, 'is_yes', given.is_yes, 'comment', given.comment, 'answered_at',
                to_char(given.answered_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
            ) ORDER BY given.answered_at
        )
        FROM moonyard.approval_answers AS given
        WHERE given.job_id = approval.job_id AND given.stage = approval.stage
    ) AS answers
FROM moonyard.approvals AS approval
JOIN moonyard.jobs AS job ON job.id = approval.job_id
JOIN moonyard.pipelines AS pipeline ON pipeline.id = job.pipeline_id
"""

# $1 job, $2 stage
GET: Final = f"{_APPROVALS} WHERE approval.job_id = $1 AND approval.stage = $2"

OF_JOB: Final = f"{_APPROVALS} WHERE approval.job_id = $1 ORDER BY approval.asked_at"

# $1 and $2 the patterns of pipelines that may be seen
WAITING: Final = f"""
{_APPROVALS}
WHERE approval.state = 'waiting' AND approval.expires_at > now() AND job.state = 'running'
    AND job.attempt = approval.attempt AND moonyard.names_fit(pipeline.name, $1::text[], $2::text[])
ORDER BY approval.asked_at
LIMIT 1000
"""  # all of it stands here

# $1 job, $2 stage or NULL, $3 who, $4 yes or no, $5 comment
ANSWER: Final = "SELECT moonyard.approval_answer($1, $2, $3, $4, $5)"

# $1 job, $2 the stage's names, $3 stage, $4 attempt: whether a stage that waits for an approval has not got it
IS_MISSING: Final = """
SELECT EXISTS (SELECT FROM moonyard.stage_approvals($1, $2::text[])) AND NOT EXISTS (
    SELECT FROM moonyard.approvals WHERE job_id = $1 AND stage = $3 AND attempt = $4 AND state = 'approved'
)
"""

PROTECTIONS: Final = """
SELECT id, pipelines, stages, approvals, created_at, created_by FROM moonyard.protections
WHERE ($1::uuid IS NULL OR id = $1) AND moonyard.names_fit(pipelines, $2::text[], $3::text[])
ORDER BY pipelines, stages
LIMIT 10000
"""

# $1 id, $2 pipelines, $3 stages, $4 approvals, $5 who wants it
PROTECT: Final = """
WITH made AS (
    INSERT INTO moonyard.protections (id, pipelines, stages, approvals, created_by) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (pipelines, stages) DO UPDATE SET
        approvals = excluded.approvals, created_at = now(), created_by = excluded.created_by
    RETURNING id, pipelines, stages, approvals, created_at, created_by
)
SELECT made.*, moonyard.note(
    $5, 'protect', 'pipeline ' || pipelines, jsonb_build_object('stages', stages, 'approvals', approvals)
)
FROM made
"""

# $1 id, $2 who wants it
UNPROTECT: Final = """
WITH gone AS (DELETE FROM moonyard.protections WHERE id = $1 RETURNING pipelines, stages)
SELECT moonyard.note($2, 'unprotect', 'pipeline ' || pipelines, jsonb_build_object('stages', stages)) FROM gone
"""
