"""The states that jobs and stages go through, and the log's levels and sources."""

from __future__ import annotations

from typing import Final, Literal

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled", "lost"]
StageState = Literal["running", "succeeded", "failed", "cancelled", "skipped"]
Level = Literal["debug", "info", "warn", "error"]
LogLevel = Literal["debug", "info", "warn", "error", "off"]
Source = Literal["stdout", "stderr", "lua", "system", "service"]

FINAL_JOB_STATES: Final[frozenset[JobState]] = frozenset({"succeeded", "failed", "cancelled", "lost"})
LOG_LEVELS: Final[tuple[LogLevel, ...]] = ("debug", "info", "warn", "error", "off")
