"""The messages about the audit: who did what, on what, from where and when, or was refused it."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

from schema.wire import Answer

AuditResult = Literal["done", "refused"]
AuditState = Literal["whole", "broken"]

PAGE_MAXIMUM: Final = 1000
HEAD_PATTERN: Final = re.compile(r"[0-9]{1,18}:[0-9a-f]{64}")
"""A block's number and its hash: of the newest block, the head of the chain."""


class AuditEntry(Answer, frozen=True, kw_only=True):
    id: int
    at: str
    actor: str
    address: str | None
    """The client's, for the API; in psql, the session's with its application. None in old rows."""
    action: str
    subject: str
    result: AuditResult
    detail: dict[str, Any] | None
    block: int | None = None
    """Of the chain: only where rows are read in its order."""


class AuditPage(Answer, frozen=True, kw_only=True):
    entries: list[AuditEntry]


class AuditHead(Answer, frozen=True, kw_only=True):
    head: str | None
    """The newest block's number and hash; None while there is no block."""


class AuditVerified(Answer, frozen=True, kw_only=True):
    state: AuditState
    blocks: int
    entries: int
    """Rows in blocks, up to the first break."""
    unsealed: int
    """Rows of the last moments, which are in no block yet."""
    head: str | None
    detail: str | None
    """The first break."""
