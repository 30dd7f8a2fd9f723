"""Stores, lists and removes secrets, and puts them under another master key. ``orchestrator.sealing`` encrypts."""

from __future__ import annotations

import logging
from typing import Any, Final
from uuid import UUID

import msgspec

from orchestrator.database import Database, Row
from orchestrator.hooks import keys as hook_keys
from orchestrator.master_keys import MasterKeys
from orchestrator.problems import NotFound, RequestInvalid, TooLarge
from orchestrator.rights import ALL, Visible
from orchestrator.sealing import Sealed, Subject, Wrapped, rewrap, seal
from orchestrator.sql import secrets as sql
from schema import secrets, times
from schema.definition import NAME_PATTERN as PIPELINE_PATTERN
from schema.ids import uuid7
from schema.secrets import Secret, SecretList, SecretRemoved, SecretSet, SecretsRewrapped, SecretVersion
from schema.sizes import size_text

log: Final = logging.getLogger(__name__)

REWRAP_STEP: Final = 100
"""In one transaction."""


async def store(database: Database, keys: MasterKeys, message: SecretSet, actor: str) -> Secret:
    """Store a value as a secret's newest version.

    :raises RequestInvalid: when name or value cannot be one.
    :raises SecretsUnavailable: when there is no master key.
    """
    scope, name = split(message.secret)
    _check_value(message.value)
    keys.current  # noqa: B018  # no number is taken where nothing can be stored
    async with database.transaction() as connection:
        if scope:
            await connection.execute(sql.PIPELINE_EXISTS, scope)
        row = await connection.fetchrow(sql.VERSION_TAKE, uuid7(), scope, name, actor)
        assert row is not None, "the statement gives the row, whether it was there or not"
        readable = message.readable if message.readable is not None else row["before"] is not False
        subject = Subject(secret=row["id"], scope=scope, name=name, version=row["version"], readable=readable)
        sealed = seal(subject, message.value, keys)
        await connection.execute(
            sql.VERSION_STORE,
            uuid7(),
            subject.secret,
            subject.version,
            readable,
            sealed.nonce,
            sealed.ciphertext,
            sealed.key_id,
            sealed.wrapped_nonce,
            sealed.wrapped_key,
            actor,
        )
        detail = {"version": subject.version, "readable": readable, "key": sealed.key_id}
        await connection.execute(sql.NOTE, actor, "set secret", f"secret {subject.reference}", as_json(detail))
        listed = await connection.fetchrow(sql.SECRETS_LIST, subject.secret, [ALL], None)
    assert listed is not None, "it was stored"
    return msgspec.structs.replace(_secret(listed), warning=secrets.weakness(message.value))


async def listed(database: Database, visible: Visible) -> SecretList:
    """List the secrets that may be managed, never their values."""
    rows = await database.rows(sql.SECRETS_LIST, None, visible.held, visible.within)
    return SecretList(secrets=[_secret(row) for row in rows])


async def shown(database: Database, secret: str) -> Secret:
    """Give a secret with its versions.

    :raises NotFound: when there is none of that name.
    """
    row = await database.row(sql.SECRETS_LIST, await find(database, secret), [ALL], None)
    if row is None:  # somebody removed it just now
        raise unknown(secret)
    versions = [
        SecretVersion(
            number=version["number"],
            readable=version["readable"],
            key=version["key_id"],
            created_at=times.rfc3339(version["created_at"]),
            created_by=version["created_by"],
        )
        for version in await database.rows(sql.VERSIONS_LIST, row["id"])
    ]
    return msgspec.structs.replace(_secret(row), versions=versions)


async def find(database: Database, secret: str) -> UUID:
    """Find a secret, by its name or by PIPELINE/NAME.

    :raises NotFound: when there is none of that name.
    """
    split(secret)
    found: UUID = await database.value(sql.NAMED_FIND, secret)
    return found


async def remove(database: Database, secret: str, version: int | None, actor: str) -> SecretRemoved:
    """Remove a secret with its grants, or one version of it: then the one before is the newest.

    :raises NotFound: when there is none of that name, or no such version.
    """
    split(secret)
    row = await database.row(sql.NAMED_REMOVE, secret, actor, version)
    assert row is not None, "the function gives a row, or refuses"
    return SecretRemoved(versions=row["versions"], grants=row["grants"])


async def rewrap_all(database: Database, keys: MasterKeys, actor: str) -> SecretsRewrapped:
    """Put all versions, and the secrets of hooks, under the master key in use, a few at a time: whoever reads them
    meanwhile finds either.

    :raises SecretsUnavailable: when there is no master key.
    :raises SecretDamaged: when one is not what was stored; those before it are rewrapped.
    """
    current, done = keys.current.id, 0
    while True:
        async with database.transaction() as connection:
            rows = await connection.fetch(sql.VERSIONS_TO_REWRAP, current, keys.ids, REWRAP_STEP)
            for row in rows:
                new = rewrap(subject(row), wrapped(row), keys)
                await connection.execute(sql.VERSION_REWRAP, row["id"], new.key_id, new.wrapped_nonce, new.wrapped_key)
            if rows:
                detail = as_json({"key": current, "versions": len(rows)})
                await connection.execute(sql.NOTE, actor, "rewrap secrets", "secrets", detail)
        done += len(rows)
        if not rows:
            break
    done += await hook_keys.rewrap_all(database, keys, actor)
    left = sum(row["versions"] for row in await database.rows(sql.VERSIONS_OF_OTHER_KEYS, keys.ids))
    return SecretsRewrapped(key=current, rewrapped=done, left=left)


async def warn_of_missing_keys(database: Database, keys: MasterKeys) -> None:
    """Say in the log which values this replica cannot read."""
    for row in await database.rows(sql.VERSIONS_OF_OTHER_KEYS, keys.ids):
        log.warning(
            "%d versions of secrets were stored under the master key %s, which this orchestrator does not have: give "
            "all orchestrators the same keys",
            row["versions"],
            row["key_id"],
        )


def split(reference: str) -> tuple[str, str]:
    """Read ``TOKEN`` or ``build/TOKEN``: give the scope, which may be empty, and the name.

    :raises RequestInvalid: when it is neither.
    """
    scope, slash, name = reference.rpartition("/")
    if not secrets.NAME_PATTERN.fullmatch(name) or (slash and not PIPELINE_PATTERN.fullmatch(scope)):
        raise RequestInvalid(
            f"{reference[:100]!r} is no name of a secret",
            code="secret_name_invalid",
            hint="A secret is named as a variable is, by letters, digits and `_`, 100 at most: DEPLOY_TOKEN. One that "
            "is a pipeline's alone is named PIPELINE/NAME: build/DEPLOY_TOKEN.",
        )
    return scope, name


def unknown(secret: str) -> NotFound:
    """Say that there is no such secret, as `moonyard.secret_of` does."""
    return NotFound(
        f"there is no secret `{secret[:200]}`",
        code="secret_unknown",
        hint="inspect.secrets and `moonyard secret list` show which there are; one that is a pipeline's alone is named "
        "PIPELINE/NAME.",
    )


def subject(row: Row) -> Subject:
    """Say what a stored version is the value of."""
    return Subject(
        secret=row["secret_id"],
        scope=row["scope"],
        name=row["name"],
        version=row["number"],
        readable=row["readable"],
    )


def wrapped(row: Row) -> Wrapped:
    return Wrapped(key_id=row["key_id"], wrapped_nonce=row["wrapped_nonce"], wrapped_key=row["wrapped_key"])


def sealed(row: Row) -> Sealed:
    return Sealed(
        key_id=row["key_id"],
        wrapped_nonce=row["wrapped_nonce"],
        wrapped_key=row["wrapped_key"],
        nonce=row["nonce"],
        ciphertext=row["ciphertext"],
    )


def as_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _check_value(value: bytes) -> None:
    if not value:
        raise RequestInvalid("the value is empty", code="secret_value_invalid")
    if b"\0" in value:
        raise RequestInvalid(
            "the value holds a NUL byte, which no environment can hold",
            code="secret_value_invalid",
            hint="Store it as base64, and decode it where it is used.",
        )
    if len(value) > secrets.VALUE_BYTES_MAXIMUM:
        raise TooLarge(
            f"the value has {size_text(len(value))}, and {size_text(secrets.VALUE_BYTES_MAXIMUM)} are the most",
            code="secret_too_large",
            hint="Store a key here, and what it opens elsewhere.",
        )


def _secret(row: Row) -> Secret:
    scope, name = row["scope"], row["name"]
    return Secret(
        secret=f"{scope}/{name}" if scope else name,
        name=name,
        scope=scope,
        version=row["version"],
        readable=row["readable"],
        key=row["key_id"],
        created_at=times.rfc3339(row["created_at"]),
        changed_at=times.rfc3339(row["changed_at"]),
        changed_by=row["changed_by"],
        grants=row["grants"],
    )
