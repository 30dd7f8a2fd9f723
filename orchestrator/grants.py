"""Grants: what lets the jobs of a pipeline have a secret. Without one that fits, there is none."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import msgspec

from orchestrator.database import Database, Row
from orchestrator.pipelines import searchable
from orchestrator.problems import NotFound, RequestInvalid
from orchestrator.rights import ALL, Visible
from orchestrator.secrets import as_json, find, split
from orchestrator.sql import secrets as sql
from schema import times
from schema.secrets import Grant, GrantCreate, GrantList, GrantsConfirm, GrantsConfirmed

TEXTS_MAXIMUM: Final = 100
TEXT_LENGTH_MAXIMUM: Final = 1000


async def add(database: Database, message: GrantCreate, *, follows: bool, actor: str) -> Grant:
    """Let a pipeline's jobs have a secret.

    :param follows: where the message does not say whether it holds for versions that are pushed later.
    :raises RequestInvalid: when it says something that no grant can.
    :raises NotFound: when there is no such secret, pipeline or runner.
    """
    split(message.secret)
    texts = [message.pipeline, *message.stages, *message.runners, *message.inputs]
    texts += [value for values in message.inputs.values() for value in values]
    if len(texts) > 10 * TEXTS_MAXIMUM or len(message.runners) > TEXTS_MAXIMUM or len(message.inputs) > TEXTS_MAXIMUM:
        raise RequestInvalid("the grant says more than a grant can", code="grant_invalid")
    if any("\0" in text or len(text) > TEXT_LENGTH_MAXIMUM for text in texts):
        raise RequestInvalid(
            f"a grant's texts have up to {TEXT_LENGTH_MAXIMUM} characters, none of them NUL", code="grant_invalid"
        )
    made: UUID = await database.value(
        sql.GRANT_ADD,
        message.secret,
        message.pipeline,
        message.stages,
        as_json(message.inputs),
        message.runners,
        follows if message.follows is None else message.follows,
        actor,
    )
    return await get(database, made)


async def listed(database: Database, visible: Visible, *, secret: str | None, pipeline: str | None) -> GrantList:
    """List grants for pipelines whose secrets may be managed, of a secret or a pipeline or all."""
    only = None if secret is None else await find(database, secret)
    named = None if pipeline is None else searchable(pipeline)
    rows = await database.rows(sql.GRANTS_LIST, None, only, named, visible.held, visible.within)
    return GrantList(grants=[_grant(row) for row in rows])


async def get(database: Database, grant: UUID) -> Grant:
    """Give a grant.

    :raises NotFound: when there is none of that id.
    """
    row = await database.row(sql.GRANTS_LIST, grant, None, None, [ALL], None)
    if row is None:
        raise unknown(str(grant))
    return _grant(row)


async def remove(database: Database, grant: UUID, actor: str) -> Grant:
    """End a grant: what was delivered already is not taken back.

    :raises NotFound: when there is none of that id.
    """
    held = await get(database, grant)
    await database.rows(sql.GRANT_REMOVE, grant, actor)
    return held


async def confirm(database: Database, message: GrantsConfirm, actor: str) -> GrantsConfirmed:
    """Let a version of a pipeline, by default the newest, have what the pipeline was granted.

    :raises NotFound: when there is no such pipeline, version or grant.
    """
    grant = None if message.grant is None else identified(message.grant)
    version = None if message.version is None else searchable(message.version)
    row = await database.row(sql.GRANTS_CONFIRM, searchable(message.pipeline), actor, version, grant)
    assert row is not None, "the function gives a row, or refuses"
    return GrantsConfirmed(pipeline=message.pipeline, version=row["sha256"], secrets=row["secrets"])


def identified(text: str) -> UUID:
    """Read a grant's id.

    :raises NotFound: when it is none.
    """
    try:
        return UUID(text)
    except ValueError:
        raise unknown(text) from None


def unknown(text: str) -> NotFound:
    return NotFound(
        f"there is no grant `{text[:60]}`",
        code="grant_unknown",
        hint="`moonyard grant list` lists them with their ids.",
    )


def _grant(row: Row) -> Grant:
    inputs = row["inputs"]
    return Grant(
        id=str(row["id"]),
        secret=row["secret"],
        pipeline=row["pipeline"],
        stages=row["stages"] or [],
        inputs={} if inputs is None else msgspec.json.decode(inputs, type=dict[str, list[str]]),
        runners=row["runners"],
        follows=row["follows"],
        created_at=times.rfc3339(row["created_at"]),
        created_by=row["created_by"],
        waits_for=row["waits_for"],
    )
