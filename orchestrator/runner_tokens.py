"""Runners' tokens: how one takes the place of another, and how all of a runner are refused.

A runner asks for a new token with the one it has, writes it down, and uses it. Its first use replaces the old one,
which is good for another minute, for requests that are under way. So a runner that is killed at any point finds a
valid token in its file: the old one, for nobody used another, or the new one. A token that is used after that minute
was copied by somebody, or is an old copy of the runner's own: it is refused, and that is written down (`reuse replaced
token` in the audit, `reused_at` of the runner).

A revoked runner's tokens are refused in the moment in which it is revoked: whatever it holds is taken from it in the
same transaction, and its claims and heartbeats ask the database. What a replica remembers of a token lasts two seconds.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from orchestrator.database import Database, Row
from orchestrator.problems import Unauthenticated
from orchestrator.sql import runners as sql
from schema import times
from schema.ids import uuid7

REVOKED: Final = "runner_revoked"
_REGISTER: Final = "`moonyard token create --kind registration --name NAME`, then `moonyard runner register`"


async def add(database: Database, runner: UUID, token: UUID, made_hash: bytes) -> None:
    """Store a new token of a runner, for the one that asks with ``token``.

    :raises Unauthenticated: when that is replaced, or the runner revoked.
    """
    if not await database.value(sql.CREDENTIAL_ADD, runner, token, uuid7(), made_hash):
        await check(database, runner)
        raise await _replaced(database, token)


async def settle(database: Database, row: Row) -> None:
    """See to a runner's token that is not simply valid: take note of its first use, or refuse it.

    :raises Unauthenticated: when it is refused.
    """
    match row["state"]:
        case "new":
            if not await database.value(sql.CREDENTIAL_USE, row["id"]):
                await check(database, row["runner_id"])  # it may have been revoked meanwhile: that says more
                raise await _replaced(database, row["id"])
        case "runner revoked":
            await check(database, row["runner_id"])
        case "replaced":
            await database.rows(sql.CREDENTIAL_REUSED, row["id"])
            raise await _replaced(database, row["id"])
        case _:
            pass


async def check(database: Database, runner: UUID) -> Row:
    """Give what a runner has to hear.

    :raises Unauthenticated: when it was revoked.
    """
    news = await database.row(sql.NEWS, runner)
    assert news is not None, "a runner's token goes with its runner"
    if news["revoked_at"] is not None:
        raise Unauthenticated(
            f"runner `{news['name']}` was revoked by {news['revoked_by']} at {times.rfc3339(news['revoked_at'])}",
            code=REVOKED,
            hint=f"If it is to run jobs again, register it anew: {_REGISTER}.",
        )
    return news


async def _replaced(database: Database, token: UUID) -> Unauthenticated:
    row = await database.row(sql.CREDENTIAL_GET, token)
    if row is None or row["replaced_at"] is None:
        return Unauthenticated("this token of a runner is not valid any more", code="runner_token_replaced")
    return Unauthenticated(
        f"this token of runner `{row['name']}` was replaced at {times.rfc3339(row['replaced_at'])}, and is used again: "
        "somebody has a copy of it",
        code="runner_token_replaced",
        hint=f"It is in the audit. If that was not an old copy of the runner's own file, revoke the runner "
        f"(`moonyard runner revoke {row['name']}`), and register it anew: {_REGISTER}.",
    )
