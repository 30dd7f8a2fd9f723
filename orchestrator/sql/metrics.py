"""What is asked of the database at each scrape of a replica's metrics."""

from __future__ import annotations

from typing import Final

# Each part is an index walk over what is live: queued and running jobs, and the few runners. What ended long ago is in
# none of it.
QUEUE_FIGURES: Final = """
SELECT
    (SELECT count(*) FROM moonyard.jobs WHERE state = 'queued') AS queued,
    (SELECT count(*) FROM moonyard.attempts WHERE state = 'running') AS running,
    coalesce(
        (SELECT extract(epoch FROM now() - min(created_at)) FROM moonyard.jobs WHERE state = 'queued'), 0
    )::double precision AS oldest_seconds,
    count(*) FILTER (WHERE state = 'online') AS online,
    count(*) FILTER (WHERE state = 'draining') AS draining,
    count(*) FILTER (WHERE state = 'offline') AS offline
FROM inspect.runners
"""
