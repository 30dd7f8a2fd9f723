"""The messages about webhooks, and what a hook's rules say.

``POST /v1/hooks/{id}`` is for whoever has one of the hook's secrets and no token: what comes there is answered by a
``HookAnswer``, or refused with one of these codes:

    hook_unverified          no such hook, or not signed with a secret of its: the answer is the same for both
    hook_delivery_expired    signed, and more than five minutes ago, or for a time to come
    hook_delivery_invalid    signed, and not what a delivery of the hook's kind is
    hook_refused_too_often   this address has sent so much to it that was not signed that it has to wait
    inputs_invalid           what it says does not make inputs of the pipeline
    body_too_large, body_late
"""

from __future__ import annotations

from typing import Final, Literal

from schema.definition import InputValue
from schema.errors import ErrorInfo
from schema.wire import Answer, Message

HookKind = Literal["github", "gitlab", "gitea", "generic"]
HookForks = Literal["refuse", "allow"]
DeliveryResult = Literal["submitted", "skipped", "failed", "answered"]

PUSH: Final = "push"
PULL_REQUEST: Final = "pull_request"
FACTS: Final = (
    "ref",
    "branch",
    "tag",
    "commit",
    "before",
    "author",
    "message",
    "repository",
    "repository_url",
    "pull_request",
    "base",
    "title",
)
"""What is read of a delivery of any kind; an input of one of these names gets it, unless the hook says otherwise."""


class HookRules(Message, frozen=True, kw_only=True):
    """Which deliveries start a job, and what its inputs are."""

    events: list[str] = []
    """By default pushes; of kind generic, anything."""
    branches: list[str] = []
    """Patterns, in which ``*`` stands for any text. Of a pull request it is the branch that it is to go into. By
    default any, unless there are patterns of tags."""
    tags: list[str] = []
    """Patterns of tags; by default none is one. Of kind generic, anything is where neither is given."""
    drafts: bool = False
    """Whether pull requests start a job that say they are not ready."""
    forks: HookForks = "refuse"
    """Whether pull requests start a job whose commits are of another repository: of anybody, that is."""
    inputs: dict[str, str] = {}
    """Where inputs are in what is delivered: names with dots, and numbers of a list's items in brackets (JMESPath)."""
    constants: dict[str, InputValue] = {}
    """Inputs that are always the same."""


class HookCreate(HookRules, frozen=True, kw_only=True):
    name: str
    pipeline: str
    kind: HookKind


class HookSecret(Answer, frozen=True, kw_only=True):
    number: int
    created_at: str
    created_by: str
    expires_at: str | None = None
    """Until when it holds beside the one that took its place."""


class HookDelivery(Answer, frozen=True, kw_only=True):
    """What was delivered, as it came last."""

    delivery: str
    event: str
    sender: str | None
    received_at: str
    received: int
    """How often the same came."""
    result: DeliveryResult
    reason: str | None = None
    """Why it started no job, though nothing is wrong with it."""
    error: ErrorInfo | None = None
    """Why its job could not be submitted."""
    job: int | None = None


class HookDeliveryList(Answer, frozen=True, kw_only=True):
    deliveries: list[HookDelivery]
    """The newest first."""


class Hook(Answer, frozen=True, kw_only=True):
    id: str
    name: str
    pipeline: str
    kind: HookKind
    path: str
    """Where it is delivered to, below an orchestrator's address."""
    events: list[str]
    branches: list[str]
    tags: list[str]
    drafts: bool
    forks: HookForks
    inputs: dict[str, str]
    constants: dict[str, InputValue]
    created_at: str
    created_by: str
    paused_by: str | None = None
    secrets: list[HookSecret] = []
    """Those that hold, the newest first."""
    refused: int = 0
    """How many requests were not signed with any of them, at least."""
    refused_at: str | None = None
    refused_why: str | None = None
    """What was wrong with the last of those."""
    last: HookDelivery | None = None
    secret: str | None = None
    """The newest secret itself: in the answer to its making, and never again."""
    warning: str | None = None
    """What to think about, of one that was just made."""


class HookList(Answer, frozen=True, kw_only=True):
    hooks: list[Hook]


class HookRotate(Message, frozen=True, kw_only=True):
    overlap: float = 86400.0
    """Seconds for which the secrets of before hold on."""


class HookTest(Message, frozen=True, kw_only=True):
    """Has a delivery come as if from the forge: a sample, or one that is given; signed as the hook's kind signs."""

    event: str = PUSH
    branch: str = "main"
    payload: str | None = None
    """The JSON of a delivery, instead of a sample for event and branch."""
    submit: bool = False
    """Whether its job is really submitted."""


class HookTested(Answer, frozen=True, kw_only=True):
    event: str
    facts: dict[str, InputValue]
    """What was read of it."""
    skipped: str | None = None
    inputs: dict[str, InputValue] = {}
    """Those that the job has, or would have."""
    job: int | None = None


class HookAnswer(Answer, frozen=True, kw_only=True, omit_defaults=True):
    """What a sender is told: of one of these, something."""

    job: int | None = None
    id: str | None = None
    again: bool = False
    """The job is that of an earlier delivery of the same."""
    skipped: str | None = None
    """Why no job was submitted."""
    pong: bool = False
    """A ping was answered."""
