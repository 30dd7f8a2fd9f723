"""Routes for accounts, groups and roles: for those who say who may do what."""

from __future__ import annotations

from typing import Any, Final, TypeVar

from litestar import Request, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, JSONBody
from litestar.response import Response

from orchestrator import accounts, parts
from orchestrator.access import PEOPLE, needs
from schema.accounts import (
    Account,
    AccountCreate,
    AccountList,
    Binding,
    BindingCreate,
    BindingList,
    Group,
    GroupCreate,
    GroupList,
    Member,
    RoleCreate,
    RoleList,
    RoleShown,
)

AnyRequest = Request[Any, Any, Any]
MANAGES: Final = needs("manage-accounts")
Changed = TypeVar("Changed")
UNKEPT: Final = {"Cache-Control": "no-store"}


@post("/v1/accounts", opt=MANAGES, tags=["accounts"], status_code=201)
async def account_create(request: AnyRequest, data: JSONBody[AccountCreate]) -> Response[Account]:
    """Make an account, and an invitation by which its owner sets a password."""
    made = await accounts.create(parts.of(request).database, data.name, parts.actor(request))
    return Response(made, headers=UNKEPT)


@get("/v1/accounts", opt=MANAGES, tags=["accounts"])
async def account_list(request: AnyRequest) -> AccountList:
    """List accounts."""
    return await accounts.listed(parts.of(request).database)


@get("/v1/accounts/{name:str}", opt=MANAGES, tags=["accounts"])
async def account_show(request: AnyRequest, name: FromPath[str]) -> Account:
    """Show an account."""
    return await accounts.shown(parts.of(request).database, name)


@post("/v1/accounts/{name:str}/invite", opt=MANAGES, tags=["accounts"], status_code=200)
async def account_invite(request: AnyRequest, name: FromPath[str]) -> Response[Account]:
    """Make a new invitation, by which an account's owner sets a new password."""
    here = parts.of(request)
    invited = await accounts.invite(here.database, name, parts.actor(request))
    here.authentication.forget()
    return Response(invited, headers=UNKEPT)


@post("/v1/accounts/{name:str}/disable", opt=MANAGES, tags=["accounts"], status_code=200)
async def account_disable(request: AnyRequest, name: FromPath[str]) -> Account:
    """Refuse all that an account does from now on."""
    return await _disable(request, name, is_disabled=True)


@post("/v1/accounts/{name:str}/enable", opt=MANAGES, tags=["accounts"], status_code=200)
async def account_enable(request: AnyRequest, name: FromPath[str]) -> Account:
    """Let an account act again."""
    return await _disable(request, name, is_disabled=False)


@post("/v1/groups", opt=MANAGES, tags=["accounts"], status_code=201)
async def group_create(request: AnyRequest, data: JSONBody[GroupCreate]) -> Group:
    """Make a group."""
    return await accounts.group_create(parts.of(request).database, data.name, parts.actor(request))


@get("/v1/groups", opt=MANAGES, tags=["accounts"])
async def group_list(request: AnyRequest) -> GroupList:
    """List groups with their members."""
    return await accounts.groups_listed(parts.of(request).database)


@delete("/v1/groups/{name:str}", opt=MANAGES, tags=["accounts"], status_code=200)
async def group_delete(request: AnyRequest, name: FromPath[str]) -> Group:
    """Remove a group; what its members held by it, they hold no more."""
    return _forgotten(request, await accounts.group_delete(parts.of(request).database, name, parts.actor(request)))


@post("/v1/groups/{name:str}/members", opt=MANAGES, tags=["accounts"], status_code=200)
async def member_add(request: AnyRequest, name: FromPath[str], data: JSONBody[Member]) -> Group:
    """Put an account into a group."""
    here = parts.of(request).database
    return _forgotten(request, await accounts.member_add(here, name, data.account, parts.actor(request)))


@delete("/v1/groups/{name:str}/members/{account:str}", opt=MANAGES, tags=["accounts"], status_code=200)
async def member_remove(request: AnyRequest, name: FromPath[str], account: FromPath[str]) -> Group:
    """Take an account out of a group."""
    here = parts.of(request).database
    return _forgotten(request, await accounts.member_remove(here, name, account, parts.actor(request)))


@get("/v1/roles", opt=PEOPLE, tags=["accounts"])
async def role_list(request: AnyRequest) -> RoleList:
    """List roles with their permissions."""
    return await accounts.roles_listed(parts.of(request).database)


@post("/v1/roles", opt=MANAGES, tags=["accounts"], status_code=201)
async def role_create(request: AnyRequest, data: JSONBody[RoleCreate]) -> RoleShown:
    """Make a role of this installation's own."""
    return await accounts.role_create(parts.of(request).database, data, parts.actor(request))


@delete("/v1/roles/{name:str}", opt=MANAGES, tags=["accounts"], status_code=200)
async def role_delete(request: AnyRequest, name: FromPath[str]) -> RoleShown:
    """Remove a role of this installation's own; nobody holds it any more."""
    return _forgotten(request, await accounts.role_delete(parts.of(request).database, name, parts.actor(request)))


@post("/v1/role-bindings", opt=MANAGES, tags=["accounts"], status_code=201)
async def role_bind(request: AnyRequest, data: JSONBody[BindingCreate]) -> Binding:
    """Give a role to an account or a group, for the pipelines of a name or pattern."""
    return _forgotten(request, await accounts.bind(parts.of(request).database, data, parts.actor(request)))


@get("/v1/role-bindings", opt=MANAGES, tags=["accounts"])
async def binding_list(
    request: AnyRequest, account: FromQuery[str | None] = None, group: FromQuery[str | None] = None
) -> BindingList:
    """List who holds which role for which pipelines."""
    return await accounts.bindings_listed(parts.of(request).database, account=account, group=group)


@delete("/v1/role-bindings/{binding:str}", opt=MANAGES, tags=["accounts"], status_code=200)
async def role_unbind(request: AnyRequest, binding: FromPath[str]) -> Binding:
    """Take a role away."""
    return _forgotten(request, await accounts.unbind(parts.of(request).database, binding, parts.actor(request)))


async def _disable(request: AnyRequest, name: str, *, is_disabled: bool) -> Account:
    here = parts.of(request).database
    return _forgotten(request, await accounts.disable(here, name, parts.actor(request), is_disabled=is_disabled))


def _forgotten(request: AnyRequest, changed: Changed) -> Changed:
    """Have this replica look up again at once what tokens may do; the others do so within seconds."""
    parts.of(request).authentication.forget()
    return changed


HANDLERS: Final[list[HTTPRouteHandler]] = [
    account_create,
    account_list,
    account_show,
    account_invite,
    account_disable,
    account_enable,
    group_create,
    group_list,
    group_delete,
    member_add,
    member_remove,
    role_list,
    role_create,
    role_delete,
    role_bind,
    binding_list,
    role_unbind,
]
