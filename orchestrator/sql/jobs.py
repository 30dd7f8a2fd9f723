"""Statements about jobs as users see them."""

from __future__ import annotations

import functools
from typing import Final

from schema.states import JobState

JOB_BY_NUMBER: Final = "SELECT id FROM moonyard.jobs WHERE number = $1"

PIPELINE_OF_JOB: Final = """
SELECT pipeline.name FROM moonyard.jobs AS job JOIN moonyard.pipelines AS pipeline ON pipeline.id = job.pipeline_id
WHERE job.id = $1
"""

# $1 a list of what jobs_submit takes. All jobs with their first events are there, or none is.
JOBS_SUBMIT: Final = "SELECT place, id, number, created_at, queue_place, fresh FROM moonyard.jobs_submit($1::json)"

_JOBS: Final = """
SELECT
    job.id, job.number, pipeline.name AS pipeline, version.sha256 AS version, job.inputs, job.state, job.attempt,
    job.created_at, job.started_at, job.finished_at, job.cancel_requested_at, job.error, runner.name AS runner,
    job.priority, job.not_before, job.concurrency_group, job.resume, job.trigger
FROM moonyard.jobs AS job
JOIN moonyard.pipelines AS pipeline ON pipeline.id = job.pipeline_id
JOIN moonyard.pipeline_versions AS version ON version.id = job.version_id
LEFT JOIN moonyard.attempts AS attempt ON attempt.job_id = job.id AND attempt.number = job.attempt
LEFT JOIN moonyard.runners AS runner ON runner.id = attempt.runner_id
"""

JOB_GET: Final = f"{_JOBS} WHERE job.id = $1"

STAGES_OF_JOB: Final = """
SELECT stage.name, stage.state, stage.container, stage.started_at, stage.finished_at, stage.error
FROM moonyard.stages AS stage JOIN moonyard.jobs AS job ON job.id = stage.job_id AND job.attempt = stage.attempt
WHERE job.id = $1
ORDER BY stage.first_seq
"""

# What each stage told when it last ended well: of an attempt before, where it was not run again since.
OUTPUTS_OF_JOB: Final = """
SELECT name, outputs
FROM (
    SELECT DISTINCT ON (stage.name) stage.name, stage.outputs, stage.attempt, stage.first_seq
    FROM moonyard.stages AS stage
    WHERE stage.job_id = $1 AND stage.state <> 'skipped'
    ORDER BY stage.name, stage.attempt DESC
) AS newest
WHERE outputs IS NOT NULL
ORDER BY attempt, first_seq
"""

_CONDITIONS: Final[dict[JobState, str]] = {
    # By a small index of their own, whose odd condition is always so: this list alone is to use it.
    "queued": "job.state = 'queued' AND job.number > 0",
    # By the small index of running attempts.
    "running": "job.state = 'running' AND attempt.state = 'running'",
}


@functools.cache
def jobs_list(state: JobState | None, *, of_pipeline: bool) -> str:
    """Give the statement that lists jobs: $1 below which number, $2 how many, $3 the name of a pipeline, if of one."""
    condition = "true" if state is None else _CONDITIONS.get(state, f"job.state = '{state}'")
    if of_pipeline:
        condition += " AND job.pipeline_id = (SELECT id FROM moonyard.pipelines WHERE name = $3)"
    return f"{_JOBS} WHERE job.number < $1 AND {condition} ORDER BY job.number DESC LIMIT $2"


@functools.cache
def jobs_list_visible(state: JobState | None, *, of_pipeline: bool) -> str:
    """Give the statement that lists jobs of some pipelines.

    $1 below which number, $2 how many, $3 and $4 the patterns of the pipelines, $5 the name of a single one, if of one.
    """
    named = " AND pipeline.name = $5" if of_pipeline else ""
    fits = f"moonyard.names_fit(pipeline.name, $3::text[], $4::text[]){named}"
    if state in _CONDITIONS:
        condition = _CONDITIONS[state]
        return f"{_JOBS} WHERE job.number < $1 AND {condition} AND {fits} ORDER BY job.number DESC LIMIT $2"
    # Of each pipeline by its own index: a walk over all jobs would be long for who may see one pipeline of many.
    condition = "true" if state is None else f"job.state = '{state}'"
    return f"""
WITH newest AS (
    SELECT job.id
    FROM moonyard.pipelines AS pipeline
    CROSS JOIN LATERAL (
        SELECT job.id, job.number FROM moonyard.jobs AS job
        WHERE job.pipeline_id = pipeline.id AND job.number < $1 AND {condition}
        ORDER BY job.number DESC LIMIT $2
    ) AS job
    WHERE {fits}
    ORDER BY job.number DESC LIMIT $2
)
{_JOBS} JOIN newest ON newest.id = job.id ORDER BY job.number DESC
"""  # noqa: S608  # all of it stands here


JOB_WAITS_FOR: Final = "SELECT why FROM moonyard.waits WHERE job_id = $1"

# $1 job: what its attempt asks people for
JOB_WAITS_FOR_APPROVAL: Final = """
SELECT string_agg(
    format(
        '%s of stage `%s`', CASE approval.needed WHEN 1 THEN 'an approval' ELSE approval.needed || ' approvals' END,
        approval.stage
    ), ', ' ORDER BY approval.asked_at
) || ': moonyard approve ' || job.number
FROM moonyard.approvals AS approval JOIN moonyard.jobs AS job ON job.id = approval.job_id
WHERE approval.job_id = $1 AND approval.state = 'waiting' AND approval.expires_at > now()
    AND job.state = 'running' AND job.attempt = approval.attempt
GROUP BY job.number
"""

# $1 job, $2 who wants it, $3 whether at once: the state it is in then, and the runner to call.
JOB_CANCEL: Final = "SELECT state, runner FROM moonyard.job_cancel($1, $2, $3)"
# $1 pipeline or NULL, $2 how many, $3 who wants it, told with the first step
JOBS_CANCEL_QUEUED: Final = "SELECT moonyard.jobs_cancel_queued($1, $2, $3) AS id"
# Both give the place in the queue.
JOB_RETRY: Final = "SELECT moonyard.job_retry($1, $2)"
# $1 job, $2 who wants it, $3 the stage to begin with, $4 whether an empty workspace will do
JOB_RESUME: Final = "SELECT moonyard.job_resume($1, $2, $3, $4)"
