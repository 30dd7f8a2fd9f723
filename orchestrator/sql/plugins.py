"""Statements about plugins: those that were pushed, and the contents that versions of pipelines are locked with."""

from __future__ import annotations

from typing import Final

# $1 hash, $2 name, $3 version, $4 files, $5 bytes
CONTENTS_STORE: Final = """
INSERT INTO moonyard.plugin_contents (sha256, name, version, files, size_bytes) VALUES ($1, $2, $3, $4::json, $5)
ON CONFLICT (sha256) DO NOTHING
"""

CONTENTS_GET: Final = "SELECT name, version, files FROM moonyard.plugin_contents WHERE sha256 = $1"

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
