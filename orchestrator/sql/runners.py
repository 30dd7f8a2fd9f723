"""Statements about runners' credentials, and what operators do with runners."""

from __future__ import annotations

from typing import Final

# $1 runner, $2 the token that asks, $3 id and $4 hash of the new one
CREDENTIAL_ADD: Final = "SELECT moonyard.runner_token_make($1, $2, $3, $4)"

# $1 token
CREDENTIAL_USE: Final = "SELECT moonyard.runner_token_use($1)"
CREDENTIAL_REUSED: Final = "SELECT moonyard.runner_token_reused($1)"
CREDENTIAL_GET: Final = "SELECT name, created_at, replaced_at FROM moonyard.tokens WHERE id = $1"

# $1 runner: what it has to hear, whatever it holds.
NEWS: Final = """
SELECT name, revoked_at, revoked_by, rotation_wanted_at IS NOT NULL AS rotate FROM moonyard.runners WHERE id = $1
"""

# $1 runner's name or id, $2 who wants it
ROTATE: Final = "SELECT moonyard.runner_rotate($1, $2) AS id"

# $1 runner's name or id, $2 who wants it, $3 whether it is listed no more
REVOKE: Final = "SELECT moonyard.runner_revoke($1, $2, $3) AS id"
