"""Statements about pauses."""

from __future__ import annotations

from typing import Final

# $1 pipeline or NULL for everything, $2 who wants it
PAUSE: Final = "SELECT moonyard.pause($1, $2)"
RESUME: Final = "SELECT moonyard.resume($1, $2)"
