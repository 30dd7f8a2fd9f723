"""What a replica tells Prometheus at ``/metrics``: its requests, its process, and the state of the queue.

Counters and times are of this replica alone, to be summed over all; the queue's figures come from the database at each
scrape and are the same from every replica. Routes stand by their pattern, so that ids do not make series.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from orchestrator.database import Database
from orchestrator.sql import metrics as sql

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_WAITING_ROUTES: Final = ("/v1/runner/claim", "/v1/runner/heartbeat", "/v1/jobs/{job}/events")
"""Where a request may wait for something to happen: how long says nothing of how the replica does."""


class Metrics:
    """The figures of one replica."""

    def __init__(self, waiting_runners: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "moonyard_http_requests",
            "Requests answered, by route and status.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "moonyard_http_request_seconds",
            "Time from a request's arrival to its answer; routes that wait for something are left out.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        waiting = Gauge(
            "moonyard_claims_waiting", "Runners that wait for a job at this replica.", registry=self._registry
        )
        waiting.set_function(waiting_runners)
        self._jobs = Gauge("moonyard_jobs", "Jobs that have not ended, by state.", ["state"], registry=self._registry)
        self._oldest = Gauge(
            "moonyard_queue_oldest_seconds",
            "How long the oldest queued job has waited.",
            registry=self._registry,
        )
        self._runners = Gauge("moonyard_runners", "Registered runners, by state.", ["state"], registry=self._registry)

        self._deliveries = Counter(
            "moonyard_hook_deliveries",
            "What came to webhooks of this replica, by what became of it.",
            ["result"],
            registry=self._registry,
        )

    async def text(self, database: Database) -> bytes:
        """Give all figures in Prometheus' text format.

        :raises DatabaseUnavailable: when the queue cannot be looked at.
        """
        row = await database.row(sql.QUEUE_FIGURES)
        assert row is not None, "a statement of aggregates gives one row"
        for state in ("queued", "running"):
            self._jobs.labels(state).set(row[state])
        self._oldest.set(row["oldest_seconds"])
        for state in ("online", "draining", "offline"):
            self._runners.labels(state).set(row[state])
        return generate_latest(self._registry)

    def note_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request, and its time. A status of 0 is one whose client went away before its answer."""
        self._requests.labels(method, route, str(status or "broken off")).inc()
        if not route.startswith(_WAITING_ROUTES):
            self._seconds.labels(route).observe(seconds)

    def note_delivery(self, result: str) -> None:
        """Count what came to a webhook: `submitted`, `again`, `skipped`, `failed`, `answered`, or `refused`."""
        self._deliveries.labels(result).inc()
