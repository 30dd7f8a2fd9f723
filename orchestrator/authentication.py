"""Who speaks: verifies bearer tokens, and remembers for a moment which were valid.

A token is ``moonyard_<kind>_<64 hex digits><8 hex digits>``: 256 random bits, and a checksum by which a torn or
mistyped one is told without a look at the database. Only its SHA-256 is stored.

A verified token is remembered for two seconds with what its account may do, so that the hot routes need no look-up a
request. A revoked one is therefore refused at once by the replica that revoked it, and by the others within two
seconds.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
import zlib
from typing import Final, get_args
from uuid import UUID

import msgspec

from orchestrator import rights, runner_tokens
from orchestrator.database import Database, Row
from orchestrator.problems import Unauthenticated
from orchestrator.rights import Rights
from orchestrator.sql import accounts as accounts_sql
from orchestrator.sql import tokens as sql
from schema import times
from schema.permissions import PERMISSIONS
from schema.wire import TokenKind

REMEMBER_SECONDS: Final = 2.0
REMEMBERED_MAXIMUM: Final = 10_000
_TOKEN: Final = re.compile(rf"moonyard_(?:{'|'.join(get_args(TokenKind))})_[0-9a-f]{{72}}")
_HINT: Final = "Send it as `Authorization: Bearer TOKEN`; `moonyard login` or `moonyard token create` gets one."


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What a valid token says about who sent it."""

    token: UUID
    kind: TokenKind
    name: str
    runner: UUID | None = None
    account: UUID | None = None
    account_name: str | None = None
    rights: Rights = rights.NOTHING
    """What it may do beyond what its kind is for."""

    @property
    def actor(self) -> str:
        """Its name in the audit."""
        match self.kind:
            case "session":
                return f"account {self.account_name}"
            case "user":
                return f"account {self.account_name} (token {self.name})"
            case _:
                return f"token {self.name}"


def new_secret(kind: TokenKind) -> str:
    """Make a token's text."""
    body = f"moonyard_{kind}_{secrets.token_hex(32)}"
    return body + _checksum(body)


def hashed(secret: str) -> bytes:
    """Give what is stored of a token."""
    return hashlib.sha256(secret.encode()).digest()


class Authentication:
    """Verifies tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._remembered: dict[bytes, tuple[Identity, float]] = {}
        self._used: set[UUID] = set()

    async def verify(self, authorization: str | None) -> Identity:
        """Find who sent a request, by its ``Authorization`` header.

        :raises Unauthenticated: when there is no valid token.
        """
        if authorization is None:
            raise Unauthenticated("this route needs a token, and none was sent", code="token_missing", hint=_HINT)
        scheme, _, secret = authorization.partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not _TOKEN.fullmatch(secret) or _checksum(secret[:-8]) != secret[-8:]:
            raise Unauthenticated("what was sent as token is none of Moonyard's, or only a part of one", hint=_HINT)
        key = hashed(secret)
        now = time.monotonic()
        remembered = self._remembered.get(key)
        if remembered is not None and remembered[1] > now:
            return remembered[0]
        row = await self._database.row(sql.FIND, key)
        if row is not None and row["runner_id"] is not None:
            await runner_tokens.settle(self._database, row)
        if row is None or row["state"] not in {"valid", "new"}:
            self._remembered.pop(key, None)
            raise Unauthenticated(_why_not(row), hint="`moonyard token create` makes a new one.")
        identity = Identity(
            token=row["id"],
            kind=row["kind"],
            name=row["name"],
            runner=row["runner_id"],
            account=row["account_id"],
            account_name=row["account"],
            rights=await self._rights(row),
        )
        if len(self._remembered) >= REMEMBERED_MAXIMUM:
            self._remembered.clear()
        self._remembered[key] = (identity, now + REMEMBER_SECONDS)
        self._used.add(identity.token)
        return identity

    async def _rights(self, row: Row) -> Rights:
        match row["kind"]:
            case "admin":
                return rights.EVERYTHING
            case "user" | "session":
                return await rights_of(self._database, row["account_id"], row["permissions"], row["pipelines"])
            case _:
                return rights.NOTHING

    def forget(self) -> None:
        """Look every token up again at its next use."""
        self._remembered.clear()

    async def note_uses(self) -> None:
        """Store which tokens were used since the last call: now and then, not with every request."""
        used, self._used = self._used, set()
        if used:
            await self._database.rows(sql.TOUCH, list(used))


async def rights_of(
    database: Database, account: UUID, permissions: list[str] | None = None, pipelines: list[str] | None = None
) -> Rights:
    """Give what an account may do, by its own roles and those of its groups.

    :param permissions: what a token of it is narrowed to; None for all.
    :param pipelines: patterns of the pipelines that a token of it is for; None for all.
    """
    rows = await database.rows(accounts_sql.HOLDINGS, account)
    return Rights(
        tuple(rights.holding(row["role"], row["permissions"], row["pipelines"]) for row in rows),
        None if permissions is None else frozenset(known for known in PERMISSIONS if known in permissions),
        None if pipelines is None else tuple(pipelines),
    )


def _why_not(row: Row | None) -> str:
    if row is None:
        return "this installation has no such token: it was made by another one, or on another database"
    named = f"the {row['kind']} token `{row['name']}`"
    match row["state"]:
        case "revoked":
            return f"{named} was revoked at {times.rfc3339(row['revoked_at'])}"
        case "disabled":
            return f"account `{row['account']}` is disabled"
        case "expired":
            return f"{named} expired at {times.rfc3339(row['expires_at'])}"
        case _:
            return f"{named} is used up: it could be used a limited number of times"


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
