"""Statements about the limits of requests that all runners share."""

from __future__ import annotations

from typing import Final

# $1 host, $2 rate, $3 burst or NULL, $4 who wants it
HTTP_LIMIT_SET: Final = "SELECT * FROM moonyard.http_limit_set($1, $2, $3, $4)"

# $1 host, $2 who wants it
HTTP_LIMIT_REMOVE: Final = "SELECT moonyard.http_limit_remove($1, $2)"

HTTP_LIMITS_LIST: Final = "SELECT host, rate, burst, permits, set_by, set_at FROM moonyard.http_limits ORDER BY host"

HTTP_LIMITS_KNOWN: Final = "SELECT host, rate FROM moonyard.http_limits ORDER BY host LIMIT 1000"

# $1 host as it is stored, $2 runner, $3 how many are wanted, $4 how many at most
HTTP_PERMITS_TAKE: Final = "SELECT size, delay, interval_seconds, rate FROM moonyard.http_permits_take($1, $2, $3, $4)"
