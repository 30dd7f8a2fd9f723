"""Ids: UUIDv7, which sort by the time they were made at, so that an index on them grows at one end."""

from __future__ import annotations

import secrets
import time
import uuid


def uuid7() -> uuid.UUID:
    """Make a UUIDv7 (RFC 9562, section 5.7); Python's own comes with 3.14, Postgres' with 18."""
    milliseconds = time.time_ns() // 1_000_000
    return uuid.UUID(
        int=(milliseconds & (2**48 - 1)) << 80
        | 0x7 << 76
        | secrets.randbits(12) << 64
        | 0b10 << 62
        | secrets.randbits(62)
    )
