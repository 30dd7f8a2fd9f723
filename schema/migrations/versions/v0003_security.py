"""Who may do what: accounts, roles, approvals, webhooks, runners' credentials, the audit's chain, database roles."""

from __future__ import annotations

from typing import Final

from schema.migrations.statements import execute

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

PARTS: Final[tuple[str, ...]] = ("accounts", "audit", "hooks", "runners", "approvals", "database_roles")
"""In the order in which they are made; each has a file that makes it and one that takes it back. The last one grants
roles of the database what they need of all that the others made."""


def upgrade() -> None:
    for part in PARTS:
        execute(f"0003_{part}.sql")


def downgrade() -> None:
    for part in reversed(PARTS):
        execute(f"0003_{part}_down.sql")
