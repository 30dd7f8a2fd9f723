"""``moonyard account``: who can log in."""

from __future__ import annotations

import click
import msgspec

from cli import connection, settings
from cli.tables import age, print_json, print_table
from schema.accounts import Account, AccountCreate, AccountList, BindingList


@click.group(short_help="Say who can log in.")
def account() -> None:
    """Say who can log in. What an account may do, its roles say: `moonyard role`."""


@account.command(short_help="Make an account, and show an invitation for its owner, once.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def create(name: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Make the account NAME, and show an invitation: with it, its owner chooses a password within seven days.

    The account may do nothing yet: `moonyard role grant` gives it roles.
    """
    made = connection.ask(orchestrator, lambda client: client.post("/v1/accounts", Account, AccountCreate(name=name)))
    _show_invitation(made, as_json=as_json)


@account.command(short_help="Let an account's owner choose a new password.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def invite(name: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Show a new invitation for the account NAME, once; those before it end. When it is taken up, all sessions end."""
    path = f"/v1/accounts/{connection.in_path('account', name)}/invite"
    _show_invitation(connection.ask(orchestrator, lambda client: client.post(path, Account, None)), as_json=as_json)


@account.command("list", short_help="List accounts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def list_accounts(*, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """List the accounts with their groups."""
    found = connection.ask(orchestrator, lambda client: client.get("/v1/accounts", AccountList)).accounts
    if as_json:
        print_json(found)
        return
    print_table(
        ["name", "groups", "created (UTC)", "by", "last login (UTC)", "state"],
        [
            [
                row.name,
                " ".join(row.groups),
                age(row.created_at),
                row.created_by,
                age(row.last_login_at),
                _state(row),
            ]
            for row in found
        ],
        "no accounts: `moonyard account create NAME` makes one",
    )


@account.command(short_help="Show an account and its roles.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def show(name: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Show the account NAME, and the roles that it holds itself."""
    path = f"/v1/accounts/{connection.in_path('account', name)}"
    found = connection.ask(orchestrator, lambda client: client.get(path, Account))
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
        return
    click.echo(f"{found.name}  {_state(found)}".rstrip())
    click.echo(f"created {age(found.created_at)} (UTC) by {found.created_by}")
    click.echo(f"groups: {' '.join(found.groups) or 'none'}")
    held = connection.ask(
        orchestrator, lambda client: client.get("/v1/role-bindings", BindingList, query={"account": name})
    ).bindings
    print_table(["role", "for pipelines"], [[row.role, row.pipelines] for row in held], "no roles of its own")


@account.command(short_help="Refuse all that an account does.")
@click.argument("name")
@settings.setting("orchestrator")
def disable(name: str, *, orchestrator: tuple[str, ...]) -> None:
    """Refuse all that the account NAME does from now on: its sessions and tokens too."""
    path = f"/v1/accounts/{connection.in_path('account', name)}/disable"
    connection.ask(orchestrator, lambda client: client.post(path, Account, None))
    click.echo(f"account {name} is disabled")


@account.command(short_help="Let a disabled account act again.")
@click.argument("name")
@settings.setting("orchestrator")
def enable(name: str, *, orchestrator: tuple[str, ...]) -> None:
    """Let the account NAME act again, with the roles that it holds."""
    path = f"/v1/accounts/{connection.in_path('account', name)}/enable"
    connection.ask(orchestrator, lambda client: client.post(path, Account, None))
    click.echo(f"account {name} is enabled")


def _show_invitation(made: Account, *, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(made).decode())
        return
    click.echo(
        f"an invitation for account `{made.name}`, for seven days; it is shown this once. Its owner runs "
        "`moonyard login --invitation`:",
        err=True,
    )
    click.echo(made.invitation)


def _state(row: Account) -> str:
    if row.disabled_at is not None:
        return "disabled"
    return "" if row.has_password or row.last_login_at is not None else "invited"
