"""Statements of ``orchestrator.notifications``."""

from __future__ import annotations

from typing import Final

NOTIFY: Final = (
    "SELECT pg_notify(told.channel, told.payload) FROM unnest($1::text[], $2::text[]) AS told (channel, payload)"
)

# $1 runners. Those that may have something to hear since a moment ago: told once too often, they only ask once more.
RUNNERS_CALLED: Final = """
SELECT id FROM moonyard.runners
WHERE id = ANY ($1::uuid[])
    AND greatest(drained_at, revoked_at, rotation_wanted_at) > now() - interval '5 seconds'
UNION
SELECT attempt.runner_id
FROM moonyard.attempts AS attempt JOIN moonyard.jobs AS job ON job.id = attempt.job_id
WHERE attempt.state = 'running' AND attempt.runner_id = ANY ($1::uuid[])
    AND job.cancel_requested_at > now() - interval '5 seconds'
UNION
SELECT runner_id FROM moonyard.shells WHERE state = 'wanted' AND runner_id = ANY ($1::uuid[])
UNION
SELECT runner_id FROM moonyard.kept_containers
WHERE released_at > now() - interval '5 seconds' AND runner_id = ANY ($1::uuid[])
"""

CHECK: Final = "SELECT 1"
