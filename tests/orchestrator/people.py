"""People for tests: accounts with roles, and clients that speak for them."""

from __future__ import annotations

from schema.accounts import Account, AccountCreate, Binding, BindingCreate, InvitationAccepted, Session
from schema.client import Client
from tests.orchestrator.installation import Installation

PASSWORD = "correct horse battery staple"


async def account(installation: Installation, name: str, *roles: tuple[str, str]) -> Client:
    """Make an account that holds roles, each for a pattern of pipelines, and speak for it."""
    return await installation.client((await session(installation, name, *roles)).token)


async def session(installation: Installation, name: str, *roles: tuple[str, str]) -> Session:
    """Make an account that holds roles, each for a pattern of pipelines, and log it in."""
    admin = await installation.client()
    made = await admin.post("/v1/accounts", Account, AccountCreate(name=name))
    for role, pipelines in roles:
        await admin.post("/v1/role-bindings", Binding, BindingCreate(role=role, account=name, pipelines=pipelines))
    invited = await installation.client(made.invitation)
    return await invited.post("/v1/invitation/accept", Session, InvitationAccepted(password=PASSWORD, client="test"))
