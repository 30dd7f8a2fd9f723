"""What users expect of a queue: priorities, delays, limits, pauses, tags, retries, schedules; schema `control`."""

from __future__ import annotations

from schema.migrations.statements import execute

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute("0002_queue.sql")
    execute("0002_resume.sql")
    execute("0002_shells.sql")
    execute("0002_control.sql")
    execute("0002_inspect.sql")
    execute("0002_caches.sql")
    execute("0002_plugins.sql")
    execute("0002_secrets.sql")
    execute("0002_modules.sql")
    execute("0002_http_limits.sql")


def downgrade() -> None:
    execute("0002_down.sql")
