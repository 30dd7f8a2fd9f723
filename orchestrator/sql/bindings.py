"""Statements about which pipelines' jobs go to which runners."""

from __future__ import annotations

from typing import Final

# $1 runner's name or id, $2 patterns, $3 who wants it
BIND: Final = "SELECT id, is_meant FROM moonyard.runner_bind($1, $2, $3)"

# $1 pattern, $2 whether it is reserved, $3 who wants it
RESERVE: Final = "SELECT moonyard.reserve($1, $2, $3) AS id"

RESERVATIONS_LIST: Final = """
SELECT
    reserved.pipelines, reserved.reserved_by, reserved.reserved_at,
    ARRAY(
        SELECT DISTINCT runner.name
        FROM moonyard.runner_bindings AS bound JOIN moonyard.runners AS runner ON runner.id = bound.runner_id
        WHERE bound.pipelines = reserved.pipelines AND runner.revoked_at IS NULL
        ORDER BY runner.name
    ) AS runners
FROM moonyard.reservations AS reserved
ORDER BY reserved.pipelines
LIMIT 1000
"""
