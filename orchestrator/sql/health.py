"""Statements of the health route."""

from __future__ import annotations

from typing import Final

SCHEMA_VERSION: Final = "SELECT version_num FROM moonyard.schema_version"
