"""Messages about accounts, groups, roles and logins, between people's clients and orchestrators."""

from __future__ import annotations

from typing import Final

from schema.wire import Answer, Message

PASSWORD_LENGTH_MINIMUM: Final = 12
PASSWORD_LENGTH_MAXIMUM: Final = 1000


class Login(Message, frozen=True, kw_only=True):
    name: str
    password: str
    client: str = ""
    """What logs in, for the list of sessions: `moonyard on build-1`."""


class Session(Answer, frozen=True, kw_only=True):
    """What a login gives: a token that stands for the account until it expires, or until the logout."""

    token: str
    account: str
    expires_at: str


class SessionPending(Answer, frozen=True, kw_only=True):
    """Nobody has answered the login yet: ask again after ``interval`` seconds."""

    interval: float


class LoggedOut(Answer, frozen=True, kw_only=True):
    ended: bool
    """Whether there was a session to end: an API token is revoked instead."""


class FirstAccount(Message, frozen=True, kw_only=True):
    """Sent with a setup token: makes the account of the first administrator."""

    name: str
    password: str
    client: str = ""


class InvitationAccepted(Message, frozen=True, kw_only=True):
    """Sent with an invitation: sets the password of its account."""

    password: str
    client: str = ""


class PasswordChange(Message, frozen=True, kw_only=True):
    current: str
    new: str


class PasswordChanged(Answer, frozen=True, kw_only=True):
    account: str


class DeviceLogin(Message, frozen=True, kw_only=True):
    """Begins a login by a browser, as RFC 8628 has it."""

    client: str = ""


class DeviceLoginBegun(Answer, frozen=True, kw_only=True):
    device_code: str
    user_code: str
    verification_path: str
    """Where the orchestrator asks for the user code, after its address."""
    interval: float
    """Seconds between two questions whether it was answered."""
    expires_in: float


class DeviceLoginAsk(Message, frozen=True, kw_only=True):
    device_code: str


class Held(Answer, frozen=True, kw_only=True):
    """A role that an account holds, itself or as a member of a group."""

    role: str
    pipelines: str
    group: str | None = None


class WhoAmI(Answer, frozen=True, kw_only=True):
    account: str | None
    """None for a token that is of no account: an admin token."""
    kind: str
    token: str
    expires_at: str | None = None
    roles: list[Held] = []
    permissions: dict[str, list[str]] = {}
    """What may be done, by the patterns of pipelines that roles are held for."""


class AccountCreate(Message, frozen=True, kw_only=True):
    name: str


class Account(Answer, frozen=True, kw_only=True):
    name: str
    created_at: str
    created_by: str
    last_login_at: str | None = None
    disabled_at: str | None = None
    has_password: bool = False
    groups: list[str] = []
    invitation: str | None = None
    """A token by which its owner sets a password, once: in the answer to its creation, and never again."""


class AccountList(Answer, frozen=True, kw_only=True):
    accounts: list[Account]


class GroupCreate(Message, frozen=True, kw_only=True):
    name: str


class Group(Answer, frozen=True, kw_only=True):
    name: str
    created_at: str
    created_by: str
    members: list[str] = []


class GroupList(Answer, frozen=True, kw_only=True):
    groups: list[Group]


class Member(Message, frozen=True, kw_only=True):
    account: str


class RoleCreate(Message, frozen=True, kw_only=True):
    name: str
    permissions: list[str]


class RoleShown(Answer, frozen=True, kw_only=True):
    name: str
    permissions: list[str]
    is_own: bool
    """Whether it is this installation's own, and not one that comes along."""


class RoleList(Answer, frozen=True, kw_only=True):
    roles: list[RoleShown]


class BindingCreate(Message, frozen=True, kw_only=True):
    """Gives a role to an account or a group: one of the two."""

    role: str
    account: str | None = None
    group: str | None = None
    pipelines: str = "*"
    """A name, or a pattern in which * stands for any text."""


class Binding(Answer, frozen=True, kw_only=True):
    id: str
    role: str
    account: str | None
    group: str | None
    pipelines: str
    created_at: str
    created_by: str


class BindingList(Answer, frozen=True, kw_only=True):
    bindings: list[Binding]
