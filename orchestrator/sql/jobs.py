"""Statements about jobs as users see them."""

from __future__ import annotations

from typing import Final

JOB_BY_NUMBER: Final = "SELECT id FROM moonyard.jobs WHERE number = $1"

# $1 id, $2 pipeline, $3 version, $4 inputs, $5 idempotency key. The job and its first event are there, or neither is.
JOB_SUBMIT: Final = """
WITH made AS (
    INSERT INTO moonyard.jobs (id, pipeline_id, version_id, inputs, idempotency_key) VALUES ($1, $2, $3, $4::json, $5)
    ON CONFLICT (pipeline_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING id, number, created_at
),
line AS (
    SELECT id, moonyard.job_line(id, number, 0, 1, 'queued') AS text FROM made
),
told AS (
    INSERT INTO moonyard.event_batches (job_id, attempt, first_seq, next_seq, size_bytes, lines)
    SELECT id, 0, 1, 2, octet_length(text), text FROM line
)
SELECT number, created_at FROM made
"""

JOB_OF_KEY: Final = "SELECT id FROM moonyard.jobs WHERE pipeline_id = $1 AND idempotency_key = $2"

JOB_GET: Final = """
SELECT
    job.id, job.number, pipeline.name AS pipeline, version.sha256 AS version, job.inputs, job.state, job.attempt,
    job.created_at, job.started_at, job.finished_at, job.cancel_requested_at, job.error, runner.name AS runner
FROM moonyard.jobs AS job
JOIN moonyard.pipelines AS pipeline ON pipeline.id = job.pipeline_id
JOIN moonyard.pipeline_versions AS version ON version.id = job.version_id
LEFT JOIN moonyard.attempts AS attempt ON attempt.job_id = job.id AND attempt.number = job.attempt
LEFT JOIN moonyard.runners AS runner ON runner.id = attempt.runner_id
WHERE job.id = $1
"""

STAGES_OF_JOB: Final = """
SELECT stage.name, stage.state, stage.container, stage.started_at, stage.finished_at, stage.error
FROM moonyard.stages AS stage JOIN moonyard.jobs AS job ON job.id = stage.job_id AND job.attempt = stage.attempt
WHERE job.id = $1
ORDER BY stage.first_seq
"""

# $1 pipeline or NULL, $2 below which number, $3 how many
JOBS_LIST: Final = """
SELECT
    job.id, job.number, pipeline.name AS pipeline, version.sha256 AS version, job.inputs, job.state, job.attempt,
    job.created_at, job.started_at, job.finished_at, job.cancel_requested_at, job.error, runner.name AS runner
FROM moonyard.jobs AS job
JOIN moonyard.pipelines AS pipeline ON pipeline.id = job.pipeline_id
JOIN moonyard.pipeline_versions AS version ON version.id = job.version_id
LEFT JOIN moonyard.attempts AS attempt ON attempt.job_id = job.id AND attempt.number = job.attempt
LEFT JOIN moonyard.runners AS runner ON runner.id = attempt.runner_id
WHERE ($1::text IS NULL OR pipeline.name = $1) AND job.number < $2 AND ($4::text IS NULL OR job.state = $4)
ORDER BY job.number DESC
LIMIT $3
"""

# Queued jobs, by their own small index, whatever else there is.
JOBS_LIST_QUEUED: Final = """
SELECT
    job.id, job.number, pipeline.name AS pipeline, version.sha256 AS version, job.inputs, job.state, job.attempt,
    job.created_at, job.started_at, job.finished_at, job.cancel_requested_at, job.error, runner.name AS runner
FROM moonyard.jobs AS job
JOIN moonyard.pipelines AS pipeline ON pipeline.id = job.pipeline_id
JOIN moonyard.pipeline_versions AS version ON version.id = job.version_id
LEFT JOIN moonyard.attempts AS attempt ON attempt.job_id = job.id AND attempt.number = job.attempt
LEFT JOIN moonyard.runners AS runner ON runner.id = attempt.runner_id
WHERE ($1::text IS NULL OR pipeline.name = $1) AND job.number < $2 AND job.state = 'queued'
ORDER BY job.number DESC
LIMIT $3
"""

# Running jobs, from the small index of running attempts.
JOBS_LIST_RUNNING: Final = """
SELECT
    job.id, job.number, pipeline.name AS pipeline, version.sha256 AS version, job.inputs, job.state, job.attempt,
    job.created_at, job.started_at, job.finished_at, job.cancel_requested_at, job.error, runner.name AS runner
FROM moonyard.attempts AS attempt
JOIN moonyard.jobs AS job ON job.id = attempt.job_id AND job.attempt = attempt.number
JOIN moonyard.pipelines AS pipeline ON pipeline.id = job.pipeline_id
JOIN moonyard.pipeline_versions AS version ON version.id = job.version_id
JOIN moonyard.runners AS runner ON runner.id = attempt.runner_id
WHERE ($1::text IS NULL OR pipeline.name = $1) AND job.number < $2 AND attempt.state = 'running'
    AND job.state = 'running'
ORDER BY job.number DESC
LIMIT $3
"""

# A job that waits ends at once, with the last line of its record. A record goes on after the newest attempt's events.
JOB_CANCEL_QUEUED: Final = """
WITH cancelled AS (
    UPDATE moonyard.jobs
    SET state = 'cancelled', finished_at = now(), cancel_requested_at = coalesce(cancel_requested_at, now())
    WHERE id = $1 AND state = 'queued'
    RETURNING id, number, attempt
),
line AS (
    SELECT id, attempt, seq, moonyard.job_line(id, number, attempt, seq, 'cancelled') AS text
    FROM cancelled CROSS JOIN LATERAL (
        SELECT coalesce(max(next_seq), 1) AS seq FROM moonyard.event_batches
        WHERE job_id = cancelled.id AND attempt = cancelled.attempt
    ) AS last
)
INSERT INTO moonyard.event_batches (job_id, attempt, first_seq, next_seq, size_bytes, lines)
SELECT id, attempt, seq, seq + 1, octet_length(text), text FROM line
RETURNING job_id
"""

JOB_CANCEL_RUNNING: Final = """
UPDATE moonyard.jobs AS job SET cancel_requested_at = coalesce(job.cancel_requested_at, now())
FROM moonyard.attempts AS attempt
WHERE job.id = $1 AND job.state = 'running' AND attempt.job_id = job.id AND attempt.number = job.attempt
RETURNING attempt.runner_id
"""
