"""Statements about pipelines and their versions."""

from __future__ import annotations

from typing import Final

# The update that changes nothing locks the row: two pushes of one pipeline come one after the other.
PIPELINE_LOCK: Final = """
INSERT INTO moonyard.pipelines (id, name) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET name = excluded.name
RETURNING id, version_id
"""

VERSION_STORE: Final = """
INSERT INTO moonyard.pipeline_versions (id, pipeline_id, sha256, filename, source, definition, rules, plugins)
VALUES ($1, $2, $3, $4, $5, $6::json, moonyard.queue_rules($6::json), $7::jsonb)
ON CONFLICT (pipeline_id, sha256) DO NOTHING
"""

# $1 pipeline, $2 the version's SHA-256, $3 who wants it
VERSION_POINT: Final = """
WITH pointed AS (
    UPDATE moonyard.pipelines AS pipeline SET version_id = version.id
    FROM moonyard.pipeline_versions AS version, moonyard.pipelines AS before
    WHERE pipeline.id = $1 AND before.id = $1 AND version.pipeline_id = $1 AND version.sha256 = $2
    RETURNING pipeline.name, version.id, version.filename, version.created_at, before.version_id AS before
)
SELECT id, filename, created_at,
    -- The same file once more changes nothing.
    CASE WHEN id IS DISTINCT FROM before THEN
        moonyard.note($3, 'push', 'pipeline ' || name, jsonb_build_object('version', $2::text))
    END
FROM pointed
"""

# $1 and $2 the patterns of pipelines that may be seen
PIPELINES_LIST: Final = """
SELECT pipeline.name, version.sha256, version.filename, version.created_at, version.definition,
    version.plugins
FROM moonyard.pipelines AS pipeline JOIN moonyard.pipeline_versions AS version ON version.id = pipeline.version_id
WHERE moonyard.names_fit(pipeline.name, $1::text[], $2::text[])
ORDER BY pipeline.name
LIMIT 1000
"""

# $1 names: the newest versions of these pipelines.
PIPELINES_NEWEST: Final = """
SELECT name, id AS pipeline_id, version_id FROM moonyard.pipelines WHERE name = ANY ($1::text[])
    AND version_id IS NOT NULL
"""

PIPELINE_GET: Final = """
SELECT pipeline.id AS pipeline_id, version.id AS version_id, pipeline.name, version.sha256, version.filename,
    version.created_at, version.definition, version.source, version.plugins
FROM moonyard.pipelines AS pipeline JOIN moonyard.pipeline_versions AS version ON version.id = pipeline.version_id
WHERE pipeline.name = $1
"""

VERSION_OF_PIPELINE: Final = """
SELECT pipeline.id AS pipeline_id, version.id AS version_id, pipeline.name, version.sha256, version.filename,
    version.created_at, version.definition, version.source, version.plugins
FROM moonyard.pipelines AS pipeline JOIN moonyard.pipeline_versions AS version ON version.pipeline_id = pipeline.id
WHERE pipeline.name = $1 AND version.sha256 = $2
"""

VERSION_GET: Final = """
SELECT pipeline.name, version.sha256, version.filename, version.source, version.definition,
    version.plugins
FROM moonyard.pipeline_versions AS version JOIN moonyard.pipelines AS pipeline ON pipeline.id = version.pipeline_id
WHERE version.id = $1
"""

# $1 and $2 the patterns of pipelines that may be seen
PIPELINE_NAMES: Final = """
SELECT name FROM moonyard.pipelines WHERE moonyard.names_fit(name, $1::text[], $2::text[]) ORDER BY name LIMIT 1000
"""
