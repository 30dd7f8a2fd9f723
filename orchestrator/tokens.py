"""Creates, lists and revokes tokens, and registers runners with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import anyio.to_thread

from orchestrator import rights
from orchestrator.authentication import Identity, hashed, new_secret
from orchestrator.database import Database, Row
from orchestrator.problems import NotFound, RequestInvalid, Unauthenticated
from orchestrator.sql import tokens as sql
from schema import database as schema_database
from schema import times
from schema.definition import TAG_PATTERN, TAGS_MAXIMUM
from schema.ids import uuid7
from schema.wire import RunnerRegistered, Token, TokenCreate

EXPIRES_IN_MAXIMUM: Final = 10 * 366 * 86400.0
NAME_LENGTH_MAXIMUM: Final = 200
SETUP_SECONDS: Final = 86400.0
PATTERNS_MAXIMUM: Final = 100


async def create(database: Database, message: TokenCreate, actor: str | None, *, account: UUID | None = None) -> Token:
    """Create a token: the answer holds it, and nothing else ever will.

    :param actor: who wants it, for the audit; by default the database's user.
    :param account: whose a user token is.
    :raises RequestInvalid: when what is asked for makes no sense.
    """
    check_name("token", message.name)
    permissions, pipelines = _scope(message)
    if message.kind == "user" and account is None:
        raise RequestInvalid(
            "a user token stands for the account that makes it, and an admin token is of none",
            hint="`moonyard login` as the account, or make a token of kind admin.",
        )
    expires_in = message.expires_in
    if expires_in is not None and not (math.isfinite(expires_in) and 0 < expires_in <= EXPIRES_IN_MAXIMUM):
        raise RequestInvalid(f"`expires_in` is {expires_in}: expected seconds from now, more than 0, at most ten years")
    if message.uses is not None and (message.kind != "registration" or not 0 < message.uses <= 1_000_000):
        raise RequestInvalid(f"`uses` is {message.uses}: only registration tokens have uses, from 1 to 1,000,000")
    uses = 1 if message.kind == "setup" else message.uses
    if message.kind == "setup" and expires_in is None:
        expires_in = SETUP_SECONDS
    secret = new_secret(message.kind)
    row = await database.row(
        sql.CREATE,
        uuid7(),
        message.kind,
        message.name,
        hashed(secret),
        uses,
        expires_in,
        actor,
        account if message.kind == "user" else None,
        permissions,
        pipelines,
    )
    assert row is not None, "an insert gives its row"
    return _token(row, secret)


async def create_on_database(url: str, message: TokenCreate) -> Token:
    """Create a token on a database itself, without an orchestrator: so the first admin token comes to be.

    :raises MoonyardError: when the database cannot be reached or has another schema version.
    """
    current, head = await anyio.to_thread.run_sync(schema_database.check, url)
    if current != head:
        raise schema_database.schema_version_wrong(url, current, head)
    async with Database.open(url, connections_maximum=1) as database:
        return await create(database, message, None)


async def listed(database: Database, identity: Identity) -> list[Token]:
    """List the tokens that somebody may see: the own ones, those of runners or of all where they may be managed."""
    return [_token(row) for row in await database.rows(sql.LIST, *_reach(identity))]


async def revoke(database: Database, token: UUID, identity: Identity) -> Token:
    """Refuse a token from now on.

    :raises NotFound: when there is none of that id, or none that may be seen by who wants it.
    """
    row = await database.row(sql.REVOKE, token, identity.actor, *_reach(identity))
    if row is None:
        raise NotFound(f"there is no token {token}", code="token_unknown", hint="`moonyard token list` lists them.")
    return _token(row)


async def register(database: Database, identity: Identity, name: str, tags: Sequence[str] = ()) -> RunnerRegistered:
    """Use a registration token once: make a runner, and the runner's own token.

    :raises Unauthenticated: when somebody else had the last use.
    """
    check_name("runner", name)
    if len(tags) > TAGS_MAXIMUM or not all(TAG_PATTERN.fullmatch(tag) for tag in tags):
        raise RequestInvalid(
            f"{list(tags)!r:.80} cannot be the tags of a runner: up to {TAGS_MAXIMUM}, each of up to 50 lower-case "
            "letters, digits, `.`, `_`, `-`"
        )
    runner = uuid7()
    secret = new_secret("runner")
    async with database.transaction() as connection:
        if await connection.fetchrow(sql.USE, identity.token) is None:
            raise Unauthenticated(
                "the registration token is used up, revoked or has expired",
                hint="`moonyard token create --kind registration --name NAME` makes a new one.",
            )
        await connection.execute(sql.RUNNER_CREATE, runner, name, sorted(set(tags)), f"token {identity.name}")
        await connection.execute(sql.CREATE_FOR_RUNNER, uuid7(), name, hashed(secret), runner)
    return RunnerRegistered(id=str(runner), name=name, token=secret)


def check_name(what: str, name: str) -> None:
    """Refuse a name that cannot be shown on a line.

    :raises RequestInvalid: saying what a name is.
    """
    if not 0 < len(name) <= NAME_LENGTH_MAXIMUM or not name.isprintable() or name.isspace():
        raise RequestInvalid(
            f"{name[:40]!r} cannot be the name of a {what}: a name has 1 to {NAME_LENGTH_MAXIMUM} printable characters"
        )


def _reach(identity: Identity) -> tuple[UUID | None, bool, bool]:
    # What is narrowed is given away: it is not to end its account's logins, nor to say what there is.
    account = None if identity.rights.is_narrowed else identity.account
    return account, identity.rights.may("manage-runners"), identity.rights.may("manage-accounts")


def _scope(message: TokenCreate) -> tuple[list[str] | None, list[str] | None]:
    """Read what a token is narrowed to.

    :raises RequestInvalid: when that is nothing at all, or it is of a kind that cannot be narrowed.
    """
    if message.permissions is None and message.pipelines is None:
        return None, None
    if message.kind != "user":
        raise RequestInvalid(f"a token of kind {message.kind} cannot be narrowed to permissions or pipelines")
    if message.permissions == [] or message.pipelines == [] or len(message.pipelines or ()) > PATTERNS_MAXIMUM:
        raise RequestInvalid(
            f"a narrowed token has at least one permission, and 1 to {PATTERNS_MAXIMUM} names or patterns of pipelines"
        )
    for pattern in message.pipelines or ():
        rights.check_pattern(pattern)
    permissions = None if message.permissions is None else rights.check_permissions(message.permissions)
    return permissions, message.pipelines


def _token(row: Row, secret: str | None = None) -> Token:
    return Token(
        id=str(row["id"]),
        kind=row["kind"],
        name=row["name"],
        created_at=times.rfc3339(row["created_at"]),
        expires_at=moment(row["expires_at"]),
        revoked_at=moment(row["revoked_at"]),
        last_used_at=moment(row["last_used_at"]),
        uses_left=row["uses_left"],
        account=row["account"],
        permissions=row["permissions"],
        pipelines=row["pipelines"],
        secret=secret,
    )


def moment(value: datetime | None) -> str | None:
    return None if value is None else times.rfc3339(value)
