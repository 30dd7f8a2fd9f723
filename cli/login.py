"""``moonyard login``, ``logout``, ``whoami`` and ``password``: who speaks to an orchestrator."""

from __future__ import annotations

import getpass
import platform
import sys
from typing import Final
from urllib.parse import urlsplit

import anyio
import click
import msgspec

from cli import connection, saved_login, settings
from cli.tables import age, print_table
from schema.accounts import (
    DeviceLogin,
    DeviceLoginAsk,
    DeviceLoginBegun,
    FirstAccount,
    InvitationAccepted,
    LoggedOut,
    Login,
    PasswordChange,
    PasswordChanged,
    Session,
    WhoAmI,
)
from schema.client import Client
from schema.errors import MoonyardError

LINE_LENGTH_MAXIMUM: Final = 4096


@click.command(short_help="Log in, and stay so for the commands that follow.")
@click.option("--name", help="The account; by default it is asked for.")
@click.option("--browser", is_flag=True, help="Answer in a browser, on any machine: no password is typed here.")
@click.option("--setup", is_flag=True, help="Make the first administrator's account, with a setup token.")
@click.option("--invitation", is_flag=True, help="Take up an invitation: choose the password of its account.")
@settings.setting("orchestrator")
def login(*, name: str | None, browser: bool, setup: bool, invitation: bool, orchestrator: tuple[str, ...]) -> None:
    """Log in, and stay so: the session is kept in a file that only you can read.

    What is secret is asked for, or where stdin is no terminal read from it, a line each: the setup token or the
    invitation first, then the name where none was given, then the password.

    \b
    moonyard login                   # name and password
    moonyard login --browser         # a code, to be typed in where a browser is
    moonyard login --invitation      # the first time, with what an administrator gave you
    """
    if setup + invitation + browser > 1:
        raise click.UsageError("--setup, --invitation and --browser are different ways: choose one")
    addresses = connection.addresses(orchestrator)
    _warn_of_open_ways(addresses)
    client_name = f"moonyard of {getpass.getuser()} on {platform.node()}"[:100]
    session: Session
    if browser:
        session = connection.ask_as(addresses, None, lambda client: _by_browser(client, addresses, client_name))
    elif setup:
        token = _secret("setup token")
        message = FirstAccount(name=name or _line("name"), password=_new_password(), client=client_name)
        session = connection.ask_as(addresses, token, lambda client: client.post("/v1/setup", Session, message))
    elif invitation:
        token = _secret("invitation")
        accepted = InvitationAccepted(password=_new_password(), client=client_name)
        session = connection.ask_as(
            addresses, token, lambda client: client.post("/v1/invitation/accept", Session, accepted)
        )
    else:
        given = Login(name=name or _line("name"), password=_secret("password"), client=client_name)
        session = connection.ask_as(addresses, None, lambda client: client.post("/v1/login", Session, given))
    saved = saved_login.SavedLogin(orchestrator=addresses, account=session.account, token=session.token)
    file = saved_login.save(saved)
    click.echo(f"logged in as {session.account} until {age(session.expires_at)} (UTC)")
    click.echo(f"the session is kept in {file}", err=True)
    if named := settings.named_token():
        click.echo(f"warning: commands go on with the token from {named.origin}, which goes before a login", err=True)


@click.command(short_help="End the session that `moonyard login` began.")
def logout() -> None:
    """End the session that `moonyard login` began, here and at the orchestrators."""
    saved = saved_login.read()
    if saved is None:
        click.echo("you are not logged in", err=True)
        return
    try:
        connection.ask_as(saved.orchestrator, saved.token, lambda client: client.post("/v1/logout", LoggedOut, None))
    except MoonyardError as error:
        if error.code != "token_invalid":
            raise
        # It has ended already: only the file is left.
    saved_login.forget()
    click.echo(f"{saved.account} is logged out")


@click.command(short_help="Show whom you speak for, and what that one may do.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def whoami(*, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Show which account or token the commands here speak with, its roles, and what they permit."""
    found = connection.ask(orchestrator, lambda client: client.get("/v1/whoami", WhoAmI))
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
        return
    until = "" if found.expires_at is None else f", until {age(found.expires_at)} (UTC)"
    click.echo(f"{found.account or 'no account'}, by {found.kind} token `{found.token}`{until}")
    if found.account is not None:
        print_table(
            ["role", "for pipelines", "by group"],
            [[held.role, held.pipelines, held.group or ""] for held in found.roles],
            "no roles: those who manage accounts give them, with `moonyard role grant`",
        )
    print_table(
        ["pipelines", "permissions"],
        [[pattern, " ".join(permissions)] for pattern, permissions in found.permissions.items()],
        "nothing is permitted",
    )


@click.command(short_help="Change your password.")
@settings.setting("orchestrator")
def password(*, orchestrator: tuple[str, ...]) -> None:
    """Change the password of the account that is logged in; its other sessions end.

    Where stdin is no terminal, the current and the new password are read from it, a line each.
    """
    message = PasswordChange(current=_secret("current password"), new=_new_password())
    changed = connection.ask(orchestrator, lambda client: client.post("/v1/password", PasswordChanged, message))
    click.echo(f"the password of {changed.account} is changed, and its other sessions have ended")


class _Answer(msgspec.Struct):
    """A session, or that nobody has answered yet."""

    token: str | None = None
    account: str = ""
    expires_at: str = ""
    interval: float = 2.0


async def _by_browser(client: Client, addresses: list[str], client_name: str) -> Session:
    begun = await client.post("/v1/login/device", DeviceLoginBegun, DeviceLogin(client=client_name))
    click.echo(f"Open {addresses[0].rstrip('/')}{begun.verification_path} in a browser, and type in:", err=True)
    click.echo(begun.user_code)
    click.echo(f"(waiting for up to {begun.expires_in / 60:.0f} minutes)", err=True)
    ask = DeviceLoginAsk(device_code=begun.device_code)
    interval = begun.interval
    with anyio.move_on_after(begun.expires_in):
        while True:
            await anyio.sleep(interval)
            answer = await client.post("/v1/login/device/token", _Answer, ask)
            if answer.token is not None:
                return Session(token=answer.token, account=answer.account, expires_at=answer.expires_at)
            interval = answer.interval
    raise MoonyardError("the login was not answered in time", code="login_expired", hint="Begin another.")


def _warn_of_open_ways(addresses: list[str]) -> None:
    for address in addresses:
        host = urlsplit(address).hostname or ""
        if address.startswith("http://") and not (host == "localhost" or host.startswith("127.") or host == "::1"):
            click.echo(f"warning: {address} is no https address: whoever is on the way reads what is sent", err=True)


def _line(what: str) -> str:
    if sys.stdin.isatty():
        typed: str = click.prompt(what, err=True)
        return typed
    return _from_stdin(what)


def _secret(what: str) -> str:
    if sys.stdin.isatty():
        typed: str = click.prompt(what, hide_input=True, err=True)
        return typed.strip() if what in {"setup token", "invitation"} else typed
    return _from_stdin(what)


def _new_password() -> str:
    if sys.stdin.isatty():
        typed: str = click.prompt("new password", hide_input=True, confirmation_prompt=True, err=True)
        return typed
    return _from_stdin("new password")


def _from_stdin(what: str) -> str:
    line = sys.stdin.readline(LINE_LENGTH_MAXIMUM).removesuffix("\n").removesuffix("\r")
    if not line:
        raise MoonyardError(
            f"stdin holds no {what}", code="input_missing", hint="It is read from stdin, a line each, or typed in."
        )
    return line
