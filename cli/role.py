"""``moonyard role``: who may do what."""

from __future__ import annotations

import click
import msgspec

from cli import connection, settings
from cli.tables import age, print_json, print_table
from schema.accounts import Binding, BindingCreate, BindingList, RoleCreate, RoleList, RoleShown
from schema.client import Client
from schema.errors import MoonyardError
from schema.permissions import MEANINGS


@click.group(short_help="Say who may do what.")
def role() -> None:
    """Say who may do what: give roles to accounts and groups, for all pipelines or for those of a pattern."""


@role.command(short_help="Give a role to an account or a group.")
@click.argument("name", metavar="ROLE")
@click.option("--account", help="The account that gets it.")
@click.option("--group", help="The group that gets it.")
@click.option(
    "--pipeline",
    "pipelines",
    multiple=True,
    required=True,
    help="For the pipeline of this name, or those of a pattern in which * stands for any text; may be repeated.",
)
@settings.setting("orchestrator")
def grant(
    name: str, *, account: str | None, group: str | None, pipelines: tuple[str, ...], orchestrator: tuple[str, ...]
) -> None:
    """Give ROLE to an account or a group, for some pipelines.

    What is for the whole installation (runners, accounts, the audit) comes with a role for `*` alone.

    \b
    moonyard role grant developer --account ada --pipeline 'web-*'
    moonyard role grant admin --group operators --pipeline '*'
    """
    if (account is None) == (group is None):
        raise click.UsageError("name one of the two: --account or --group")

    async def send(client: Client) -> None:
        for pattern in pipelines:
            message = BindingCreate(role=name, account=account, group=group, pipelines=pattern)
            await client.post("/v1/role-bindings", Binding, message)

    connection.ask(orchestrator, send)
    click.echo(f"{account or f'group {group}'} holds role {name} for {' '.join(pipelines)}")


@role.command(short_help="Take a role away.")
@click.argument("name", metavar="ROLE")
@click.option("--account", help="The account that loses it.")
@click.option("--group", help="The group that loses it.")
@click.option("--pipeline", "pipelines", help="As it was given; by default for whatever it is held.")
@settings.setting("orchestrator")
def revoke(
    name: str, *, account: str | None, group: str | None, pipelines: str | None, orchestrator: tuple[str, ...]
) -> None:
    """Take ROLE away from an account or a group; it counts within seconds."""
    if (account is None) == (group is None):
        raise click.UsageError("name one of the two: --account or --group")
    query = {"account": account} if account is not None else {"group": group or ""}

    async def send(client: Client) -> list[Binding]:
        held = (await client.get("/v1/role-bindings", BindingList, query=query)).bindings
        taken = [row for row in held if row.role == name and pipelines in {None, row.pipelines}]
        for row in taken:
            await client.delete(f"/v1/role-bindings/{row.id}", Binding)
        return taken

    taken = connection.ask(orchestrator, send)
    if not taken:
        where = "" if pipelines is None else f" for {pipelines}"
        raise MoonyardError(
            f"{account or f'group {group}'} does not hold role `{name}`{where}",
            code="binding_unknown",
            hint="`moonyard role holders` lists who holds which role; a role of a group is taken from the group.",
        )
    for row in taken:
        click.echo(f"{account or f'group {group}'} no longer holds role {name} for {row.pipelines}")


@role.command(short_help="List who holds which role.")
@click.option("--account", help="Only of this account.")
@click.option("--group", help="Only of this group.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def holders(*, account: str | None, group: str | None, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """List who holds which role for which pipelines."""
    query = {key: value for key, value in (("account", account), ("group", group)) if value is not None}
    found = connection.ask(
        orchestrator, lambda client: client.get("/v1/role-bindings", BindingList, query=query)
    ).bindings
    if as_json:
        print_json(found)
        return
    print_table(
        ["holder", "role", "for pipelines", "since (UTC)", "by"],
        [
            [row.account or f"group {row.group}", row.role, row.pipelines, age(row.created_at), row.created_by]
            for row in found
        ],
        "nobody holds a role: `moonyard role grant` gives one",
    )


@role.command("list", short_help="List roles with their permissions.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def list_roles(*, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """List the roles, those that come along first, with their permissions."""
    found = connection.ask(orchestrator, lambda client: client.get("/v1/roles", RoleList)).roles
    if as_json:
        print_json(found)
        return
    print_table(
        ["role", "permissions"],
        [[row.name, " ".join(row.permissions)] for row in found],
        "no roles",
    )


@role.command(short_help="Make a role of your own.")
@click.argument("name", metavar="ROLE")
@click.option("--permission", "permissions", multiple=True, required=True, help="May be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def create(name: str, *, permissions: tuple[str, ...], as_json: bool, orchestrator: tuple[str, ...]) -> None:
    made = connection.ask(
        orchestrator,
        lambda client: client.post("/v1/roles", RoleShown, RoleCreate(name=name, permissions=list(permissions))),
    )
    click.echo(
        msgspec.json.encode(made).decode() if as_json else f"role {made.name} permits {' '.join(made.permissions)}"
    )


create.help = "Make ROLE, with permissions of your choice. There are:\n\n\b\n" + "\n".join(
    f"{permission:<22}{meaning}" for permission, meaning in MEANINGS.items()
)


@role.command(short_help="Remove a role of your own.")
@click.argument("name", metavar="ROLE")
@settings.setting("orchestrator")
def delete(name: str, *, orchestrator: tuple[str, ...]) -> None:
    """Remove ROLE, which has to be one of your own; nobody holds it any more."""
    path = f"/v1/roles/{connection.in_path('role', name)}"
    connection.ask(orchestrator, lambda client: client.delete(path, RoleShown))
    click.echo(f"role {name} deleted")
