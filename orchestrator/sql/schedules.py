"""Statements about schedules."""

from __future__ import annotations

from typing import Final

NOW: Final = "SELECT now()"

CREATE: Final = """
WITH made AS (
    INSERT INTO moonyard.schedules (
        id, name, pipeline_id, cron, time_zone, inputs, priority, catch_up, next_at, created_by
    )
    VALUES ($1, $2, $3, $4, $5, $6::json, $7, $8, $9, $10)
    ON CONFLICT (name) DO NOTHING
    RETURNING id, name
)
SELECT id, moonyard.note($10, 'create', 'schedule ' || name) FROM made
"""

# $1 a name, or NULL for all; $2 and $3 the patterns of pipelines that may be seen
LIST: Final = """
SELECT
    schedule.name, pipeline.name AS pipeline, schedule.cron, schedule.time_zone, schedule.inputs, schedule.priority,
    schedule.catch_up, schedule.created_at, schedule.next_at, schedule.last_at, job.number AS last_job,
    schedule.paused_by, schedule.error
FROM moonyard.schedules AS schedule
JOIN moonyard.pipelines AS pipeline ON pipeline.id = schedule.pipeline_id
LEFT JOIN moonyard.jobs AS job ON job.id = schedule.last_job_id
WHERE ($1::text IS NULL OR schedule.name = $1) AND moonyard.names_fit(pipeline.name, $2::text[], $3::text[])
ORDER BY schedule.name
LIMIT 1000
"""

# $1 name, $2 who wants it
DELETE: Final = """
WITH deleted AS (DELETE FROM moonyard.schedules WHERE name = $1 RETURNING id, name)
SELECT id, moonyard.note($2, 'delete', 'schedule ' || name) FROM deleted
"""

# $1 name, $2 who wants it
PAUSE: Final = """
WITH paused AS (
    UPDATE moonyard.schedules SET paused_at = coalesce(paused_at, now()), paused_by = coalesce(paused_by, $2)
    WHERE name = $1
    RETURNING id, name
)
SELECT id, moonyard.note($2, 'pause', 'schedule ' || name) FROM paused
"""

# $1 name, $2 who wants it, $3 the next time: what was missed during a pause was not missed, it was not wanted
RESUME: Final = """
WITH resumed AS (
    UPDATE moonyard.schedules SET paused_at = NULL, paused_by = NULL, next_at = $3 WHERE name = $1 RETURNING id, name
)
SELECT id, moonyard.note($2, 'resume', 'schedule ' || name) FROM resumed
"""

# Whoever locks a due row fires it; another replica passes it over, and finds it moved on at its next look.
DUE: Final = """
SELECT
    schedule.id, schedule.name, pipeline.name AS pipeline, schedule.cron, schedule.time_zone, schedule.inputs,
    schedule.priority, schedule.catch_up, schedule.next_at, coalesce($1::timestamptz, now()) AS now
FROM moonyard.schedules AS schedule JOIN moonyard.pipelines AS pipeline ON pipeline.id = schedule.pipeline_id
WHERE schedule.paused_at IS NULL AND schedule.next_at <= coalesce($1::timestamptz, now())
ORDER BY schedule.next_at
LIMIT 1
FOR UPDATE OF schedule SKIP LOCKED
"""

FIRED: Final = """
UPDATE moonyard.schedules
SET next_at = $2, last_at = coalesce($3, last_at), last_job_id = coalesce($4, last_job_id), error = $5::jsonb
WHERE id = $1
"""
