"""Statements about jobs as users see them."""

from __future__ import annotations

from typing import Final

JOB_BY_NUMBER: Final = "SELECT id FROM moonyard.jobs WHERE number = $1"

# $1 a list of what jobs_submit takes. All jobs with their first events are there, or none is.
JOBS_SUBMIT: Final = "SELECT place, id, number, created_at, fresh FROM moonyard.jobs_submit($1::json)"

JOB_GET: Final = """
SELECT
    job.id, job.number, pipeline.name AS pipeline, version.sha256 AS version, job.inputs, job.state, job.attempt,
    job.created_at, job.started_at, job.finished_at, job.cancel_requested_at, job.error, runner.name AS runner,
    job.priority, job.not_before, job.concurrency_group
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
    job.created_at, job.started_at, job.finished_at, job.cancel_requested_at, job.error, runner.name AS runner,
    job.priority, job.not_before, job.concurrency_group
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
    job.created_at, job.started_at, job.finished_at, job.cancel_requested_at, job.error, runner.name AS runner,
    job.priority, job.not_before, job.concurrency_group
FROM moonyard.jobs AS job
JOIN moonyard.pipelines AS pipeline ON pipeline.id = job.pipeline_id
JOIN moonyard.pipeline_versions AS version ON version.id = job.version_id
LEFT JOIN moonyard.attempts AS attempt ON attempt.job_id = job.id AND attempt.number = job.attempt
LEFT JOIN moonyard.runners AS runner ON runner.id = attempt.runner_id
WHERE ($1::text IS NULL OR pipeline.name = $1) AND job.number < $2 AND job.state = 'queued'
    -- Always so; it is the condition of the index that is for this list alone.
    AND job.number > 0
ORDER BY job.number DESC
LIMIT $3
"""

# Running jobs, from the small index of running attempts.
JOBS_LIST_RUNNING: Final = """
SELECT
    job.id, job.number, pipeline.name AS pipeline, version.sha256 AS version, job.inputs, job.state, job.attempt,
    job.created_at, job.started_at, job.finished_at, job.cancel_requested_at, job.error, runner.name AS runner,
    job.priority, job.not_before, job.concurrency_group
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

JOB_WAITS_FOR: Final = "SELECT why FROM moonyard.waits WHERE job_id = $1"

# $1 job, $2 who wants it: the state it is in then, and the runner to call.
JOB_CANCEL: Final = "SELECT state, runner FROM moonyard.job_cancel($1, $2)"
JOBS_CANCEL_QUEUED: Final = "SELECT moonyard.jobs_cancel_queued($1, $2) AS id"
JOB_RETRY: Final = "SELECT moonyard.job_retry($1, $2)"
