"""Pipelines, jobs, events, artifacts, tokens, runners, and the views that operators read."""

from __future__ import annotations

from schema.migrations.statements import execute

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute("0001_state.sql")
    execute("0001_inspect.sql")


def downgrade() -> None:
    execute("0001_down.sql")
