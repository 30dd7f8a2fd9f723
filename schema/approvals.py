"""Messages about stages that wait for an approval."""

from __future__ import annotations

from typing import Final, Literal

from schema.wire import Answer, Message

WAIT_SECONDS: Final = 20.0
"""The longest that a runner's question is held open."""

ApprovalState = Literal["waiting", "approved", "refused"]


class ApprovalAsk(Message, frozen=True, kw_only=True):
    """A runner asks whether a stage of its attempt may begin."""

    stage: str
    wait: float = WAIT_SECONDS


class ApprovalGiven(Answer, frozen=True, kw_only=True):
    """Somebody's answer."""

    who: str
    is_yes: bool
    comment: str | None = None
    answered_at: str


class Approval(Answer, frozen=True, kw_only=True):
    """A stage that waits for an approval, or waited for one."""

    job: int
    pipeline: str
    stage: str
    attempt: int
    state: ApprovalState
    needed: int
    message: str | None = None
    asked_at: str
    expires_at: str
    is_over: bool
    """Nobody's answer changes it any more."""
    answers: list[ApprovalGiven] = []


class ApprovalAnswered(Answer, frozen=True, kw_only=True):
    """What a runner is told; `is_needed` is false for a stage that needs none."""

    is_needed: bool
    approval: Approval | None = None


class ApprovalList(Answer, frozen=True, kw_only=True):
    approvals: list[Approval]


class ApprovalAnswer(Message, frozen=True, kw_only=True):
    """Says yes or no to a stage that waits."""

    is_yes: bool
    stage: str | None = None
    """By default the one that has waited longest."""
    comment: str | None = None


class ProtectionCreate(Message, frozen=True, kw_only=True):
    """Has stages wait for approvals, whatever their pipeline's file says. In names, `*` stands for any text."""

    pipelines: str
    stages: str = "*"
    approvals: int = 1


class Protection(Answer, frozen=True, kw_only=True):
    id: str
    pipelines: str
    stages: str
    approvals: int
    created_at: str
    created_by: str


class ProtectionList(Answer, frozen=True, kw_only=True):
    protections: list[Protection]
