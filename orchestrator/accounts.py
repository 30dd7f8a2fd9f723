"""Accounts, groups, roles of this installation's own, and who holds which role for which pipelines."""

from __future__ import annotations

import re
from typing import Final, get_args
from uuid import UUID

from orchestrator import rights
from orchestrator.authentication import hashed, new_secret
from orchestrator.database import Database, Row
from orchestrator.problems import Conflict, NotFound, RequestInvalid
from orchestrator.sql import accounts as sql
from orchestrator.tokens import moment
from schema import times
from schema.accounts import (
    Account,
    AccountList,
    Binding,
    BindingCreate,
    BindingList,
    Group,
    GroupList,
    RoleCreate,
    RoleList,
    RoleShown,
)
from schema.ids import uuid7
from schema.permissions import PERMISSIONS, ROLES, Role

INVITATION_SECONDS: Final = 7 * 86400.0
_ACCOUNT_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,99}")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


async def create(database: Database, name: str, actor: str) -> Account:
    """Make an account that holds no role yet, and an invitation by which its owner sets a password.

    :raises RequestInvalid: when the name cannot be one.
    :raises Conflict: when it is taken.
    """
    check_account_name(name)
    account = uuid7()
    if await database.value(sql.ACCOUNT_CREATE, account, name, None, actor) is None:
        raise Conflict(
            f"there is an account `{name}` already",
            code="account_exists",
            hint=f"`moonyard account invite {name}` lets its owner set a new password.",
        )
    return await _invited(database, name, account, actor)


async def invite(database: Database, name: str, actor: str) -> Account:
    """Make a new invitation for an account: by it, its owner sets a new password. Those before it end.

    :raises NotFound: when there is no such account.
    """
    return await _invited(database, name, UUID(str((await _find(database, name))["id"])), actor)


async def listed(database: Database) -> AccountList:
    return AccountList(accounts=[_account(row) for row in await database.rows(sql.ACCOUNTS_LIST, None)])


async def shown(database: Database, name: str) -> Account:
    """Give an account.

    :raises NotFound: when there is none of that name.
    """
    return _account(await _find(database, name))


async def disable(database: Database, name: str, actor: str, *, is_disabled: bool) -> Account:
    """Refuse all that an account does from now on, or no longer.

    :raises NotFound: when there is none of that name.
    """
    await _find(database, name)
    await database.rows(sql.ACCOUNT_DISABLE, name, is_disabled, actor)
    return await shown(database, name)


async def group_create(database: Database, name: str, actor: str) -> Group:
    """Make a group without members.

    :raises Conflict: when the name is taken.
    """
    _check_name("group", name, code="group_name_invalid")
    if await database.value(sql.GROUP_CREATE, uuid7(), name, actor) is None:
        raise Conflict(f"there is a group `{name}` already", code="group_exists")
    return await _group(database, name)


async def groups_listed(database: Database) -> GroupList:
    return GroupList(groups=[_shown_group(row) for row in await database.rows(sql.GROUPS_LIST, None)])


async def group_delete(database: Database, name: str, actor: str) -> Group:
    """Remove a group; what its members held by it, they hold no more.

    :raises NotFound: when there is none of that name.
    """
    group = await _group(database, name)
    await database.rows(sql.GROUP_DELETE, name, actor)
    return group


async def member_add(database: Database, group: str, account: str, actor: str) -> Group:
    """Put an account into a group.

    :raises NotFound: when there is no such group or account.
    """
    await _group(database, group)
    await _find(database, account)
    await database.rows(sql.MEMBER_ADD, group, account, actor)
    return await _group(database, group)


async def member_remove(database: Database, group: str, account: str, actor: str) -> Group:
    """Take an account out of a group.

    :raises NotFound: when there is no such group or account.
    """
    await _group(database, group)
    await _find(database, account)
    await database.rows(sql.MEMBER_REMOVE, group, account, actor)
    return await _group(database, group)


async def roles_listed(database: Database) -> RoleList:
    """List the roles that come along, and those of this installation's own."""
    roles = [
        RoleShown(name=name, permissions=[known for known in PERMISSIONS if known in held], is_own=False)
        for name, held in ROLES.items()
    ]
    roles += [
        RoleShown(name=row["name"], permissions=row["permissions"], is_own=True)
        for row in await database.rows(sql.ROLES_LIST)
    ]
    return RoleList(roles=roles)


async def role_create(database: Database, message: RoleCreate, actor: str) -> RoleShown:
    """Make a role of this installation's own.

    :raises RequestInvalid: for a permission that there is not.
    :raises Conflict: when the name is taken, also by a role that comes along.
    """
    _check_name("role", message.name, code="role_name_invalid")
    permissions = rights.check_permissions(message.permissions)
    if not permissions:
        raise RequestInvalid("a role has at least one permission", code="role_invalid")
    is_taken = message.name in get_args(Role)
    if is_taken or await database.value(sql.ROLE_CREATE, message.name, permissions, actor) is None:
        raise Conflict(f"there is a role `{message.name}` already", code="role_exists")
    return RoleShown(name=message.name, permissions=permissions, is_own=True)


async def role_delete(database: Database, name: str, actor: str) -> RoleShown:
    """Remove a role of this installation's own; nobody holds it any more.

    :raises NotFound: when there is none of that name.
    :raises Conflict: when it is one that comes along.
    """
    if name in get_args(Role):
        raise Conflict(f"role `{name}` comes along with Moonyard, and stays", code="role_fixed")
    found = next((role for role in (await roles_listed(database)).roles if role.name == name), None)
    if found is None:
        raise _unknown_role(name)
    await database.rows(sql.ROLE_DELETE, name, actor)
    return found


async def bind(database: Database, message: BindingCreate, actor: str) -> Binding:
    """Give a role to an account or a group, for the pipelines of a name or pattern.

    :raises RequestInvalid: when it names not exactly one of the two, or no pattern.
    :raises NotFound: when there is no such account, group or role.
    :raises Conflict: when it is held already.
    """
    if (message.account is None) == (message.group is None):
        raise RequestInvalid("a role is given to an account or to a group: name one of the two", code="binding_invalid")
    rights.check_pattern(message.pipelines)
    if message.role not in get_args(Role) and not await database.value(sql.ROLE_EXISTS, _searchable(message.role)):
        raise _unknown_role(message.role)
    if message.account is not None:
        await _find(database, message.account)
    if message.group is not None:
        await _group(database, message.group)
    binding = uuid7()
    made = await database.value(
        sql.BINDING_CREATE, binding, message.account, message.group, message.role, message.pipelines, actor
    )
    if made is None:
        raise Conflict(
            f"{message.account or message.group} holds role `{message.role}` for `{message.pipelines}` already",
            code="binding_exists",
        )
    [row] = await database.rows(sql.BINDINGS_LIST, binding, None, None)
    return _binding(row)


async def bindings_listed(database: Database, *, account: str | None, group: str | None) -> BindingList:
    """List who holds which role, of an account, of a group, or of all."""
    rows = await database.rows(
        sql.BINDINGS_LIST,
        None,
        None if account is None else _searchable(account),
        None if group is None else _searchable(group),
    )
    return BindingList(bindings=[_binding(row) for row in rows])


async def unbind(database: Database, binding: str, actor: str) -> Binding:
    """Take a role away.

    :raises NotFound: when there is no such binding.
    """
    try:
        found = UUID(binding)
    except ValueError:
        raise _unknown_binding(binding) from None
    row = await database.row(sql.BINDINGS_LIST, found, None, None)
    if row is None:
        raise _unknown_binding(binding)
    await database.rows(sql.BINDING_DELETE, found, actor)
    return _binding(row)


def check_account_name(name: str) -> None:
    """Refuse what is no name of an account.

    :raises RequestInvalid: saying what one is.
    """
    if not _ACCOUNT_NAME.fullmatch(name):
        raise RequestInvalid(
            f"{name[:40]!r} cannot be the name of an account",
            code="account_name_invalid",
            hint="It has up to 100 lower-case letters, digits, `.`, `_`, `@`, `+` and `-`, and begins with one of the "
            "first two: an e-mail address is good.",
        )


async def _invited(database: Database, name: str, account: UUID, actor: str) -> Account:
    secret = new_secret("invitation")
    await database.rows(sql.INVITATION_CREATE, uuid7(), hashed(secret), account, INVITATION_SECONDS, actor)
    return _account(await _find(database, name), invitation=secret)


async def _find(database: Database, name: str) -> Row:
    row = await database.row(sql.ACCOUNTS_LIST, _searchable(name))
    if row is None:
        raise NotFound(
            f"there is no account `{name[:100]}`", code="account_unknown", hint="`moonyard account list` lists them."
        )
    return row


async def _group(database: Database, name: str) -> Group:
    row = await database.row(sql.GROUPS_LIST, _searchable(name))
    if row is None:
        raise NotFound(
            f"there is no group `{name[:100]}`", code="group_unknown", hint="`moonyard group list` lists them."
        )
    return _shown_group(row)


def _check_name(what: str, name: str, *, code: str) -> None:
    if not _NAME.fullmatch(name):
        raise RequestInvalid(
            f"{name[:40]!r} cannot be the name of a {what}",
            code=code,
            hint="It has up to 100 lower-case letters, digits, `.`, `_` and `-`, and begins with one of the first two.",
        )


def _unknown_role(name: str) -> NotFound:
    return NotFound(f"there is no role `{name[:100]}`", code="role_unknown", hint="`moonyard role list` lists them.")


def _unknown_binding(text: str) -> NotFound:
    return NotFound(
        f"nobody holds a role by the id `{text[:60]}`",
        code="binding_unknown",
        hint="`moonyard role holders` lists who holds which role, with ids.",
    )


def _searchable(text: str) -> str:
    # Postgres takes no NUL, and no name has one.
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _account(row: Row, invitation: str | None = None) -> Account:
    return Account(
        name=row["name"],
        created_at=times.rfc3339(row["created_at"]),
        created_by=row["created_by"],
        last_login_at=moment(row["last_login_at"]),
        disabled_at=moment(row["disabled_at"]),
        has_password=row["has_password"],
        groups=row["groups"],
        invitation=invitation,
    )


def _shown_group(row: Row) -> Group:
    return Group(
        name=row["name"],
        created_at=times.rfc3339(row["created_at"]),
        created_by=row["created_by"],
        members=row["members"],
    )


def _binding(row: Row) -> Binding:
    return Binding(
        id=str(row["id"]),
        role=row["role"],
        account=row["account"],
        group=row["group"],
        pipelines=row["pipelines"],
        created_at=times.rfc3339(row["created_at"]),
        created_by=row["created_by"],
    )
