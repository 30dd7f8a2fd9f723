"""Statements about the limits of requests that all runners share."""

from __future__ import annotations

from typing import Final

# $1 host, $2 rate, $3 burst or NULL, $4 who wants it
HTTP_LIMIT_SET: Final = "SELECT * FROM moonyard.http_limit_set($1, $2, $3, $4)"

# $1 host, $2 who wants it
HTTP_LIMIT_REMOVE: Final = "SELECT moonyard.http_limit_remove($1, $2)"

HTTP_LIMITS_LIST: Final = "SELECT host, rate, burst, permits, set_by, set_at FROM moonyard.http_limits ORDER BY host"

HTTP_LIMITS_KNOWN: Final = "SELECT host, rate FROM moonyard.http_limits ORDER BY host LIMIT 1000"

# $1 host as it is stored, $2 how many are wanted, $3 how many at most. Not more than come in a second, so that runners
# take turns: whoever asks next gets the time behind that of this one. What nobody asked for in time is not saved up
# beyond the burst.
HTTP_PERMITS_TAKE: Final = """
UPDATE moonyard.http_limits AS known
SET next_at = greatest(known.next_at, now()) + make_interval(secs => batch.size * known.interval_seconds),
    permits = known.permits + batch.size,
    asked_at = now()
FROM (
    SELECT host, greatest(1, least($2, $3, floor(1 / interval_seconds)::integer)) AS size
    FROM moonyard.http_limits WHERE host = $1
) AS batch
WHERE known.host = batch.host
RETURNING
    batch.size, known.rate, known.interval_seconds,
    extract(epoch FROM known.next_at - now())::double precision
        - (batch.size + known.burst - 1) * known.interval_seconds AS delay
"""
