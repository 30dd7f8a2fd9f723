"""Statements about plugins: those that were pushed, and the contents that versions of pipelines are locked with."""

from __future__ import annotations

from typing import Final

# $1 hash, $2 name, $3 version, $4 files, $5 bytes. Contents that are there are new again: whoever stores them is about
# to name them, and until that is done no sweep may take them. (A row that is not changed is locked all the same.)
CONTENTS_STORE: Final = """
INSERT INTO moonyard.plugin_contents (sha256, name, version, files, size_bytes) VALUES ($1, $2, $3, $4::json, $5)
ON CONFLICT (sha256) DO UPDATE SET created_at = now()
WHERE plugin_contents.created_at < now() - interval '1 hour'
"""

# $1 how old contents may be that no pushed plugin and no version of a pipeline names, in seconds (more than the hour
# above), $2 how many. What is being stored is locked, and is left; what was stored since it was looked at is new.
# The versions are read once for all contents: one look at each of them would be one for each of the contents.
CONTENTS_SWEEP: Final = """
WITH locked AS MATERIALIZED (
    SELECT DISTINCT locked ->> 'sha256' AS sha256
    FROM moonyard.pipeline_versions AS version CROSS JOIN LATERAL jsonb_array_elements(version.plugins) AS locked
),
unnamed AS MATERIALIZED (
    SELECT content.sha256 FROM moonyard.plugin_contents AS content
    WHERE content.created_at < now() - make_interval(secs => $1)
        AND NOT EXISTS (SELECT FROM moonyard.plugins WHERE plugins.sha256 = content.sha256)
        AND NOT EXISTS (SELECT FROM locked WHERE locked.sha256 = content.sha256)
    LIMIT $2
    FOR UPDATE OF content SKIP LOCKED
)
DELETE FROM moonyard.plugin_contents WHERE sha256 = ANY (ARRAY(SELECT sha256 FROM unnamed)) RETURNING sha256
"""

# $1 hash, $2 runner: what the version of a job that it holds is locked with.
CONTENTS_GET: Final = """
SELECT content.files FROM moonyard.plugin_contents AS content
WHERE content.sha256 = $1 AND EXISTS (
    SELECT FROM moonyard.attempts AS held
    JOIN moonyard.jobs AS job ON job.id = held.job_id
    JOIN moonyard.pipeline_versions AS version ON version.id = job.version_id
    WHERE held.runner_id = $2 AND held.state = 'running'
        AND version.plugins @> jsonb_build_array(jsonb_build_object('sha256', $1::text))
)
"""

# $1 name, $2 version, $3 hash, $4 who. Gives nothing where the version is there already.
PLUGIN_PUSH: Final = """
WITH pushed AS (
    INSERT INTO moonyard.plugins (name, version, sha256, pushed_by) VALUES ($1, $2, $3, $4)
    ON CONFLICT (name, version) DO NOTHING
    RETURNING pushed_at
)
SELECT pushed_at,
    moonyard.note($4, 'push plugin', 'plugin ' || $1 || ' ' || $2, jsonb_build_object('sha256', $3::text))
FROM pushed
"""

PLUGIN_GET: Final = "SELECT sha256, pushed_by, pushed_at FROM moonyard.plugins WHERE name = $1 AND version = $2"

PLUGIN_NAMES: Final = "SELECT DISTINCT name FROM moonyard.plugins ORDER BY name LIMIT 1000"

PLUGIN_VERSIONS: Final = "SELECT version FROM moonyard.plugins WHERE name = $1"

PLUGIN_CONTENTS: Final = """
SELECT content.files
FROM moonyard.plugins AS plugin JOIN moonyard.plugin_contents AS content ON content.sha256 = plugin.sha256
WHERE plugin.name = $1 AND plugin.version = $2
"""

PLUGINS_LIST: Final = """
SELECT name, version, sha256, pushed_by, pushed_at FROM moonyard.plugins
ORDER BY name, pushed_at DESC, version
LIMIT 1000
"""
