"""Statements of ``orchestrator.notifications``."""

from __future__ import annotations

from typing import Final

NOTIFY: Final = (
    "SELECT pg_notify(told.channel, told.payload) FROM unnest($1::text[], $2::text[]) AS told (channel, payload)"
)

CHECK: Final = "SELECT 1"
