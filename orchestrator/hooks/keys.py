"""The secrets of hooks: made here, shown once, and stored as values of secrets are (``orchestrator.sealing``).

A hook has one secret; while it is rotated, the ones of before hold on for a time, so that whoever sends can be told the
new one in between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec

from orchestrator.database import Connection, Database, Row
from orchestrator.hooks import signatures
from orchestrator.master_keys import MasterKeys
from orchestrator.problems import RequestInvalid
from orchestrator.sealing import Sealed, Subject, Wrapped, open_sealed, rewrap, seal
from orchestrator.sql import hooks as sql

OVERLAP_MAXIMUM: Final = 90 * 86400.0
REWRAP_STEP: Final = 100
"""In one transaction."""


async def make(connection: Connection, keys: MasterKeys, hook: UUID, name: str, actor: str, overlap: float) -> str:
    """Make a hook's newest secret and give it; those before it hold on for ``overlap`` seconds.

    :raises SecretsUnavailable: when there is no master key.
    :raises RequestInvalid: when the time is none.
    """
    if not (math.isfinite(overlap) and 0 <= overlap <= OVERLAP_MAXIMUM):
        raise RequestInvalid(f"`overlap` is {overlap}: expected seconds, from 0 to 90 days")
    number: int = await connection.fetchval(sql.NEWEST_TAKE, hook)
    secret = signatures.new_secret()
    sealed = seal(_subject(hook, name, number), secret.encode(), keys)
    await connection.execute(sql.SECRETS_EXPIRE, hook, number, overlap)
    await connection.execute(
        sql.NEWEST_STORE,
        hook,
        number,
        sealed.nonce,
        sealed.ciphertext,
        sealed.key_id,
        sealed.wrapped_nonce,
        sealed.wrapped_key,
        actor,
    )
    return secret


def opened(keys: MasterKeys, hook: UUID, name: str, rows: Sequence[Row]) -> list[str]:
    """Give a hook's secrets.

    :raises SecretsUnavailable: when the master key of one is not here.
    :raises SecretDamaged: when one is not what was stored.
    """
    return [open_sealed(_subject(hook, name, row["number"]), _sealed(row), keys).decode() for row in rows]


async def rewrap_all(database: Database, keys: MasterKeys, actor: str) -> int:
    """Put all secrets of hooks under the master key in use, and give how many there were.

    :raises SecretsUnavailable: when there is no master key.
    :raises SecretDamaged: when one is not what was stored; those before it are rewrapped.
    """
    current, done = keys.current.id, 0
    while True:
        async with database.transaction() as connection:
            rows = await connection.fetch(sql.SECRETS_TO_REWRAP, current, keys.ids, REWRAP_STEP)
            for row in rows:
                new = rewrap(_subject(row["hook_id"], row["name"], row["number"]), _wrapped(row), keys)
                await connection.execute(
                    sql.REWRAP, row["hook_id"], row["number"], new.key_id, new.wrapped_nonce, new.wrapped_key
                )
            if rows:
                detail = msgspec.json.encode({"key": current, "secrets": len(rows)}).decode()
                await connection.execute(sql.NOTE, actor, "rewrap secrets", "hooks", detail)
        done += len(rows)
        if not rows:
            return done


def _subject(hook: UUID, name: str, number: int) -> Subject:
    """Say what a secret is the secret of. No pipeline's secret has a hook's id, so none opens in another's place."""
    return Subject(secret=hook, scope="hook", name=name, version=number, readable=False)


def _wrapped(row: Row) -> Wrapped:
    return Wrapped(key_id=row["key_id"], wrapped_nonce=row["wrapped_nonce"], wrapped_key=row["wrapped_key"])


def _sealed(row: Row) -> Sealed:
    return Sealed(
        key_id=row["key_id"],
        wrapped_nonce=row["wrapped_nonce"],
        wrapped_key=row["wrapped_key"],
        nonce=row["nonce"],
        ciphertext=row["ciphertext"],
    )
