"""``moonyard group``: accounts that hold roles together."""

from __future__ import annotations

import click

from cli import connection, settings
from cli.tables import age, print_json, print_table
from schema.accounts import Group, GroupCreate, GroupList, Member
from schema.client import Client


@click.group(short_help="Put accounts together, that hold roles together.")
def group() -> None:
    """Put accounts together, that hold roles together: `moonyard role grant --group NAME`."""


@group.command(short_help="Make a group.")
@click.argument("name")
@settings.setting("orchestrator")
def create(name: str, *, orchestrator: tuple[str, ...]) -> None:
    """Make the group NAME, without members."""
    connection.ask(orchestrator, lambda client: client.post("/v1/groups", Group, GroupCreate(name=name)))
    click.echo(f"group {name} created")


@group.command("list", short_help="List groups with their members.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def list_groups(*, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """List the groups with their members."""
    found = connection.ask(orchestrator, lambda client: client.get("/v1/groups", GroupList)).groups
    if as_json:
        print_json(found)
        return
    print_table(
        ["name", "members", "created (UTC)", "by"],
        [[row.name, " ".join(row.members), age(row.created_at), row.created_by] for row in found],
        "no groups: `moonyard group create NAME` makes one",
    )


@group.command(short_help="Put accounts into a group.")
@click.argument("name")
@click.argument("accounts", nargs=-1, required=True)
@settings.setting("orchestrator")
def add(name: str, accounts: tuple[str, ...], *, orchestrator: tuple[str, ...]) -> None:
    """Put ACCOUNTS into the group NAME."""
    path = f"/v1/groups/{connection.in_path('group', name)}/members"

    async def send(client: Client) -> None:
        for account in accounts:
            await client.post(path, Group, Member(account=account))

    connection.ask(orchestrator, send)
    click.echo(f"{' '.join(accounts)} added to group {name}")


@group.command(short_help="Take accounts out of a group.")
@click.argument("name")
@click.argument("accounts", nargs=-1, required=True)
@settings.setting("orchestrator")
def remove(name: str, accounts: tuple[str, ...], *, orchestrator: tuple[str, ...]) -> None:
    """Take ACCOUNTS out of the group NAME."""
    path = f"/v1/groups/{connection.in_path('group', name)}/members"

    async def send(client: Client) -> None:
        for account in accounts:
            await client.delete(f"{path}/{connection.in_path('account', account)}", Group)

    connection.ask(orchestrator, send)
    click.echo(f"{' '.join(accounts)} removed from group {name}")


@group.command(short_help="Remove a group.")
@click.argument("name")
@settings.setting("orchestrator")
def delete(name: str, *, orchestrator: tuple[str, ...]) -> None:
    """Remove the group NAME; what its members held by it, they hold no more."""
    path = f"/v1/groups/{connection.in_path('group', name)}"
    connection.ask(orchestrator, lambda client: client.delete(path, Group))
    click.echo(f"group {name} deleted")
