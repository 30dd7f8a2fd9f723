"""Logins: by password, by a browser for a command line (RFC 8628), by a setup token or an invitation.

Each gives a session: a token that stands for the account until it expires or until the logout. A try is counted before
the password is looked at, by account and by address; after some that failed, the next has to wait (see
``moonyard.login_wait``). Whether an account exists is told by no answer, and by no time that one takes.
"""

from __future__ import annotations

import logging
import secrets
from typing import Final
from uuid import UUID

from orchestrator import accounts, addresses, passwords
from orchestrator.authentication import Identity, hashed, new_secret
from orchestrator.database import Database, Row
from orchestrator.problems import Conflict, RequestInvalid, TooMany, Unauthenticated
from orchestrator.sql import accounts as sql
from orchestrator.sql import tokens as tokens_sql
from orchestrator.tokens import moment
from schema import times
from schema.accounts import (
    DeviceLogin,
    DeviceLoginBegun,
    FirstAccount,
    Held,
    InvitationAccepted,
    Login,
    PasswordChange,
    Session,
    WhoAmI,
)
from schema.ids import uuid7

log: Final = logging.getLogger(__name__)

DEVICE_SECONDS: Final = 600.0
DEVICE_INTERVAL_SECONDS: Final = 2.0
DEVICES_MAXIMUM: Final = 1000
"""That wait at once: each is a row that anybody can make."""
DEVICES_MAXIMUM_EACH: Final = 50
"""Of one address: so nobody takes the place of all others."""
DEVICE_PATH: Final = "/login/device"
_CODE_LETTERS: Final = "BCDFGHJKLMNPQRSTVWXZ"
"""Those of RFC 8628, section 6.1: no vowels, so that no words come of them."""
CODE_LENGTH: Final = 8
CLIENT_LENGTH_MAXIMUM: Final = 100


async def by_password(database: Database, message: Login, address: str, session_seconds: float) -> Session:
    """Log an account in.

    :raises TooMany: when it has to wait, after tries that failed.
    :raises Unauthenticated: when name or password are wrong, or the account is disabled.
    """
    # It goes into the log and the audit, whoever sent it.
    name = "".join(letter if letter.isprintable() else "?" for letter in message.name[:100].lower())
    client = _client(message.client)
    row, password_hash = await checked(database, name, message.password, address)
    return await session(database, row["id"], client, session_seconds, password_hash)


async def checked(database: Database, name: str, password: str, address: str) -> tuple[Row, str]:
    """Compare a password, and give its account, and the hash that is stored of it.

    :raises TooMany: when it has to wait, after tries that failed.
    :raises Unauthenticated: when name or password are wrong, or the account is disabled.
    """
    by_account, by_address = f"account:{name}", _by_address(address)
    seconds = await database.value(sql.LOGIN_TRY, [by_address, by_account])
    if seconds is not None:
        raise _throttled(float(seconds)).audited(f"account {name}")
    row = await database.row(sql.ACCOUNT_BY_NAME, name)
    stored: str | None = None if row is None else row["password_hash"]
    if not await passwords.are_same(stored, password) or row is None or stored is None:
        log.warning("a login as `%s` from %s failed", name, address)
        raise _wrong().audited(f"account {name}")
    if row["disabled_at"] is not None:
        raise Unauthenticated(f"account `{row['name']}` is disabled", code="account_disabled")
    await database.rows(sql.LOGIN_WENT_WELL, by_account, by_address)
    if passwords.is_outdated(stored):
        old, stored = stored, await passwords.hashed(password)
        await database.rows(sql.HASH_RENEW, row["id"], stored, old)
    return row, stored


async def session(
    database: Database, account: UUID, client: str, seconds: float, password_hash: str | None = None
) -> Session:
    """Make a session of an account that has shown who it is.

    :param password_hash: what is stored of the password by which it did, if by one.
    :raises Unauthenticated: when the account is disabled, or has another password by now.
    """
    secret, actor = new_secret("session"), await _actor(database, account)
    row = await database.row(
        sql.SESSION_CREATE, uuid7(), hashed(secret), account, client, seconds, actor, password_hash
    )
    if row is None:
        raise _wrong().audited(actor)
    return Session(token=secret, account=row["name"], expires_at=times.rfc3339(row["expires_at"]))


async def first_account(database: Database, setup: Identity, message: FirstAccount, session_seconds: float) -> Session:
    """Use a setup token: make an account with the role admin for everything, and log it in.

    :raises RequestInvalid: when name or password cannot be one; the token can be used again then.
    :raises Conflict: when the name is taken.
    """
    accounts.check_account_name(message.name)
    passwords.check(message.password, message.name)
    client = _client(message.client)
    password_hash, account, actor = await passwords.hashed(message.password), uuid7(), f"token {setup.name}"
    async with database.transaction() as connection:
        if await connection.fetchrow(tokens_sql.USE, setup.token) is None:
            raise Unauthenticated("the setup token is used up, revoked or has expired")
        if await connection.fetchval(sql.ACCOUNT_CREATE, account, message.name, password_hash, actor) is None:
            raise Conflict(f"there is an account `{message.name}` already", code="account_exists")
        await connection.execute(sql.BINDING_CREATE, uuid7(), message.name, None, "admin", "*", actor)
    return await session(database, account, client, session_seconds)


async def accept(
    database: Database, invitation: Identity, message: InvitationAccepted, session_seconds: float
) -> Session:
    """Use an invitation: set the password of its account, and log it in.

    :raises RequestInvalid: when the password cannot be one; the invitation can be used again then.
    """
    assert invitation.account is not None, "a constraint says so"
    assert invitation.account_name is not None, "an account has a name"
    passwords.check(message.password, invitation.account_name)
    client = _client(message.client)
    password_hash = await passwords.hashed(message.password)
    async with database.transaction() as connection:
        if await connection.fetchrow(tokens_sql.USE, invitation.token) is None:
            raise Unauthenticated("the invitation is used up, revoked or has expired")
        await connection.execute(sql.ACCOUNT_HOLD, invitation.account)
        await connection.execute(
            sql.HASH_SET, invitation.account, password_hash, f"account {invitation.account_name}", None
        )
    return await session(database, invitation.account, client, session_seconds)


async def change_password(database: Database, identity: Identity, message: PasswordChange, address: str) -> None:
    """Set another password; sessions but this one end.

    :raises Unauthenticated: when the current one is wrong.
    :raises RequestInvalid: when the new one cannot be one.
    """
    if identity.account is None or identity.account_name is None or identity.kind != "session":
        raise Conflict("a password is changed by the session of its account", code="session_missing")
    passwords.check(message.new, identity.account_name)
    await checked(database, identity.account_name, message.current, address)
    password_hash = await passwords.hashed(message.new)
    async with database.transaction() as connection:
        await connection.execute(sql.ACCOUNT_HOLD, identity.account)
        await connection.execute(sql.HASH_SET, identity.account, password_hash, identity.actor, identity.token)


async def device_begin(database: Database, message: DeviceLogin, address: str) -> DeviceLoginBegun:
    """Begin a login that a browser answers.

    :raises TooMany: when too many wait.
    """
    share = addresses.share(address)
    waiting = await database.row(sql.DEVICES_WAITING, share)
    assert waiting is not None, "counts are always there"
    if waiting["all"] >= DEVICES_MAXIMUM or waiting["own"] >= DEVICES_MAXIMUM_EACH:
        raise TooMany("too many logins wait for a browser", code="login_throttled", seconds=DEVICE_SECONDS)
    client = _client(message.client)
    device_code = secrets.token_hex(32)
    while True:
        letters = "".join(secrets.choice(_CODE_LETTERS) for _ in range(CODE_LENGTH))
        user_code = f"{letters[:4]}-{letters[4:]}"
        if await database.value(
            sql.DEVICE_BEGIN, uuid7(), hashed(device_code), user_code, DEVICE_SECONDS, address, client, share
        ):
            break
    return DeviceLoginBegun(
        device_code=device_code,
        user_code=user_code,
        verification_path=DEVICE_PATH,
        interval=DEVICE_INTERVAL_SECONDS,
        expires_in=DEVICE_SECONDS,
    )


async def device_take(database: Database, device_code: str, session_seconds: float) -> Session | None:
    """Give the session of a login that was answered with a yes; None while it waits.

    :raises Unauthenticated: when the answer was a no, or it took too long.
    """
    row = await database.row(sql.DEVICE_TAKE, hashed(device_code))
    if row is None:
        raise Unauthenticated("the login was not answered in time", code="login_expired", hint="Begin another.")
    if not row["answered"]:
        return None
    if row["account_id"] is None:
        raise Unauthenticated("the login was refused in the browser", code="login_refused")
    return await session(database, row["account_id"], row["client"], session_seconds)


async def device_answer(database: Database, user_code: str, identity: Identity, *, is_yes: bool) -> bool:
    """Let a command line act as an account, or refuse it; false where it has its answer already, or waits no longer."""
    account = identity.account if is_yes else None
    answered = await database.rows(sql.DEVICE_ANSWER, user_code, account, identity.actor)
    if answered and not is_yes:
        log.warning("account `%s` refused a login of a command line", identity.account_name)
    return bool(answered)


async def count_guess(database: Database, address: str) -> None:
    """Count a code that is typed in, as a login that may go wrong.

    :raises TooMany: when the address has to wait, after some that were wrong.
    """
    seconds = await database.value(sql.LOGIN_TRY, [_by_address(address)])
    if seconds is not None:
        raise _throttled(float(seconds))


async def guess_was_right(database: Database, address: str) -> None:
    """Take back what was counted."""
    await database.rows(sql.LOGIN_WENT_WELL, "", _by_address(address))


async def who_am_i(database: Database, identity: Identity) -> WhoAmI:
    """Say who a token stands for, and what it may do."""
    expires_at = await database.value(tokens_sql.EXPIRES_AT, identity.token)
    roles: list[Held] = []
    if identity.account is not None:
        roles = [
            Held(role=row["role"], pipelines=row["pipelines"], group=row["group"])
            for row in await database.rows(sql.HOLDINGS, identity.account)
        ]
    patterns = dict.fromkeys(
        [*(holding.pipelines for holding in identity.rights.holdings), *(identity.rights.within or ())]
    )
    permitted = {pattern: list[str](identity.rights.of(pattern)) for pattern in patterns}
    return WhoAmI(
        account=identity.account_name,
        kind=identity.kind,
        token=identity.name,
        expires_at=moment(expires_at),
        roles=roles,
        permissions={pattern: permissions for pattern, permissions in permitted.items() if permissions},
    )


async def forget_old(database: Database) -> None:
    """Remove what logins left: failures of more than an hour ago, sessions and questions that expired."""
    for statement in (sql.LOGIN_FAILURES_FORGET, sql.DEVICE_LOGINS_FORGET, sql.SESSIONS_REMOVE):
        await database.rows(statement)


def _by_address(address: str) -> str:
    return f"address:{addresses.share(address)}"


def _throttled(seconds: float) -> TooMany:
    return TooMany(
        f"too many logins failed: the next is looked at in {max(1, round(seconds))} s",
        code="login_throttled",
        hint="Whoever forgot a password gets an invitation from those who manage accounts.",
        seconds=seconds,
    )


def _wrong() -> Unauthenticated:
    return Unauthenticated(
        "there is no account with this name and password",
        code="login_failed",
        hint="Names are in lower case. Whoever forgot a password gets an invitation from those who manage accounts.",
    )


def _client(text: str) -> str:
    if len(text) > CLIENT_LENGTH_MAXIMUM or not text.isprintable():
        raise RequestInvalid(f"`client` has up to {CLIENT_LENGTH_MAXIMUM} printable characters")
    return text or "a client without a name"


async def _actor(database: Database, account: UUID) -> str:
    row = await database.row(sql.ACCOUNT_BY_ID, account)
    assert row is not None, "accounts are not removed"
    if row["disabled_at"] is not None:
        raise Unauthenticated(f"account `{row['name']}` is disabled", code="account_disabled")
    return f"account {row['name']}"
