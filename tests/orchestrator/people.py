"""People for tests: accounts with roles, and clients that speak for them."""

from __future__ import annotations

import functools

from argon2 import PasswordHasher, profiles

from orchestrator import accounts, logins
from orchestrator.sql import accounts as sql
from schema.accounts import BindingCreate, Session
from schema.client import Client
from schema.ids import uuid7
from tests.orchestrator.installation import Installation

PASSWORD = "correct horse battery staple"


@functools.cache
def password_hash() -> str:
    """Hash the password once: it is made to take its time."""
    return PasswordHasher.from_parameters(profiles.RFC_9106_LOW_MEMORY).hash(PASSWORD)


async def account(installation: Installation, name: str, *roles: tuple[str, str]) -> Client:
    """Make an account that holds roles, each for a pattern of pipelines, and speak for it."""
    return await installation.client((await session(installation, name, *roles)).token)


async def session(installation: Installation, name: str, *roles: tuple[str, str]) -> Session:
    """Make an account that holds roles, each for a pattern of pipelines, and log it in."""
    database, made = installation.database, uuid7()
    await database.rows(sql.ACCOUNT_CREATE, made, name, password_hash(), "test")
    for role, pipelines in roles:
        await accounts.bind(database, BindingCreate(role=role, account=name, pipelines=pipelines), "test")
    return await logins.session(database, made, "test", 3600.0)
