"""Makes, lists, rotates and removes hooks, for people."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import msgspec

from orchestrator import pipelines, tokens
from orchestrator.database import Database, Row
from orchestrator.hooks import keys, rules
from orchestrator.master_keys import MasterKeys
from orchestrator.problems import Conflict, NotFound, RequestInvalid
from orchestrator.rights import ALL, Visible
from orchestrator.sql import hooks as sql
from orchestrator.versions import decode_definition
from schema import times
from schema.errors import ErrorInfo
from schema.hooks import (
    Hook,
    HookCreate,
    HookDelivery,
    HookDeliveryList,
    HookList,
    HookRotate,
    HookRules,
    HookSecret,
)
from schema.ids import uuid7

DELIVERIES_LISTED: Final = 100


async def create(database: Database, master_keys: MasterKeys, message: HookCreate, actor: str) -> Hook:
    """Make a hook: the answer holds its secret, and nothing else ever will.

    :raises RequestInvalid: when what is asked for makes no sense.
    :raises NotFound: when there is no such pipeline.
    :raises Conflict: when the name is taken, or there is no master key.
    """
    tokens.check_name("hook", message.name)
    if "/" in message.name:
        raise RequestInvalid(f"`{message.name[:40]}` cannot be the name of a hook: it holds a slash")
    pipeline = await pipelines.find(database, message.pipeline, None)
    rules.check(message, decode_definition(pipeline["definition"]))
    hook = uuid7()
    stored = {name: getattr(message, name) for name in HookRules.__struct_fields__}
    async with database.transaction() as connection:
        made = await connection.fetchval(
            sql.CREATE, hook, message.name, pipeline["pipeline_id"], message.kind, _json(stored), actor
        )
        if made is None:
            raise Conflict(
                f"there is a hook `{message.name}` already",
                code="hook_exists",
                hint="Hooks of all pipelines have their names together; `moonyard hook remove` makes room.",
            )
        secret = await keys.make(connection, master_keys, hook, message.name, actor, 0.0)
        detail = _json({"pipeline": message.pipeline, "kind": message.kind})
        await connection.execute(sql.NOTE, actor, "create hook", f"hook {message.name}", detail)
    warning = await _warning(database, message, message.pipeline)
    return msgspec.structs.replace(await get(database, message.name), secret=secret, warning=warning)


async def change(database: Database, name: str, message: HookRules, actor: str) -> Hook:
    """Give a hook other rules, instead of all that it has; its URL and secrets stay.

    :raises RequestInvalid: when what is asked for makes no sense.
    :raises NotFound: when there is none of that name.
    """
    hook = await get(database, name)
    pipeline = await pipelines.find(database, hook.pipeline, None)
    rules.check(message, decode_definition(pipeline["definition"]))
    await database.rows(sql.CHANGE, name, _json(message), actor)
    return msgspec.structs.replace(await get(database, name), warning=await _warning(database, message, hook.pipeline))


async def listed(database: Database, visible: Visible) -> HookList:
    """List the hooks of pipelines that may be seen."""
    rows = await database.rows(sql.LIST, None, visible.held, visible.within)
    return HookList(hooks=[_hook(row, []) for row in rows])


async def get(database: Database, name: str) -> Hook:
    """Give a hook.

    :raises NotFound: when there is none of that name.
    """
    row = await database.row(sql.LIST, _searchable(name), [ALL], None)
    if row is None:
        raise unknown(name)
    return _hook(row, await database.rows(sql.SECRETS_HELD, row["id"]))


async def deliveries(database: Database, name: str) -> HookDeliveryList:
    """List the newest deliveries of a hook.

    :raises NotFound: when there is none of that name.
    """
    hook = await get(database, name)
    rows = await database.rows(sql.DELIVERIES, UUID(hook.id), DELIVERIES_LISTED)
    return HookDeliveryList(deliveries=[_delivery(row) for row in rows])


async def remove(database: Database, name: str, actor: str) -> Hook:
    """Remove a hook with its secrets and deliveries; its jobs stay.

    :raises NotFound: when there is none of that name.
    """
    hook = await get(database, name)
    await database.rows(sql.REMOVE, name, actor)
    return hook


async def pause(database: Database, name: str, actor: str) -> Hook:
    """Let a hook rest: what is delivered is remembered, and starts nothing.

    :raises NotFound: when there is none of that name.
    """
    await database.rows(sql.PAUSE, _searchable(name), actor)
    return await get(database, name)


async def resume(database: Database, name: str, actor: str) -> Hook:
    """Let a hook go on.

    :raises NotFound: when there is none of that name.
    """
    await database.rows(sql.RESUME, _searchable(name), actor)
    return await get(database, name)


async def rotate(database: Database, master_keys: MasterKeys, name: str, message: HookRotate, actor: str) -> Hook:
    """Make a new secret, which the answer holds; those of before hold on for a while.

    :raises NotFound: when there is none of that name.
    :raises SecretsUnavailable: when there is no master key.
    """
    hook = await get(database, name)
    async with database.transaction() as connection:
        secret = await keys.make(connection, master_keys, UUID(hook.id), name, actor, message.overlap)
        detail = _json({"pipeline": hook.pipeline, "overlap": message.overlap})
        await connection.execute(sql.NOTE, actor, "rotate hook", f"hook {name}", detail)
    return msgspec.structs.replace(await get(database, name), secret=secret)


async def _warning(database: Database, message: HookRules, pipeline: str) -> str | None:
    if message.forks != "allow" or not await database.value(sql.PIPELINE_HAS_GRANTS, pipeline):
        return None
    return (
        f"pipeline `{pipeline}` was granted secrets, and this hook runs it for pull requests of forks: "
        "whoever opens one has commands of theirs run beside those secrets"
    )


def unknown(name: str) -> NotFound:
    """Say that there is no such hook."""
    return NotFound(f"there is no hook `{name[:60]}`", code="hook_unknown", hint="`moonyard hook list` lists them.")


def _searchable(name: str) -> str:
    return name.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _hook(row: Row, secrets: list[Row]) -> Hook:
    stored = msgspec.json.decode(row["rules"], type=HookRules)
    return Hook(
        id=str(row["id"]),
        name=row["name"],
        pipeline=row["pipeline"],
        kind=row["kind"],
        path=f"/v1/hooks/{row['id']}",
        events=stored.events,
        branches=stored.branches,
        tags=stored.tags,
        drafts=stored.drafts,
        forks=stored.forks,
        inputs=stored.inputs,
        constants=stored.constants,
        created_at=times.rfc3339(row["created_at"]),
        created_by=row["created_by"],
        paused_by=row["paused_by"],
        secrets=[
            HookSecret(
                number=secret["number"],
                created_at=times.rfc3339(secret["created_at"]),
                created_by=secret["created_by"],
                expires_at=tokens.moment(secret["expires_at"]),
            )
            for secret in secrets
        ],
        refused=row["refused"],
        refused_at=tokens.moment(row["refused_at"]),
        refused_why=row["refused_why"],
        last=None if row["result"] is None else _delivery(row),
    )


def _delivery(row: Row) -> HookDelivery:
    return HookDelivery(
        delivery=row["delivery"],
        event=row["event"],
        sender=row["sender"],
        received_at=times.rfc3339(row["received_at"]),
        received=row["received"],
        result=row["result"],
        reason=row["reason"],
        error=None if row["error"] is None else msgspec.json.decode(row["error"], type=ErrorInfo),
        job=row["job"],
    )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
