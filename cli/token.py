"""``moonyard token``: create, list, revoke."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import anyio
import click
import msgspec
from click.core import ParameterSource

from cli import connection, settings
from cli.tables import age, print_json, print_table
from schema.client import Client
from schema.wire import Token, TokenCreate, TokenList


@click.group()
def token() -> None:
    """Create, list and revoke tokens."""


@token.command(short_help="Create a token and show it, once.")
@click.option(
    "--kind",
    type=click.Choice(["user", "admin", "registration", "setup"]),
    help="`user` stands for your account; `admin` may do everything; `registration` lets runners register; `setup` "
    "makes the first administrator's account, once. By default `user`, with --database-url `admin`.",
)
@click.option("--name", required=True, help="What the token is for: it is listed by this name.")
@click.option("--uses", type=click.IntRange(1), help="How often a registration token may be used; by default once.")
@click.option("--expires-in", type=click.FloatRange(1), help="Seconds until it expires; by default never.")
@click.option("--permission", "permissions", multiple=True, help="Narrow a user token to this; may be repeated.")
@click.option(
    "--pipeline",
    "pipelines",
    multiple=True,
    help="Narrow a user token to the pipelines of this name or pattern; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("database_url")
@settings.setting("orchestrator")
def create(
    *,
    kind: Literal["user", "admin", "registration", "setup"] | None,
    name: str,
    uses: int | None,
    expires_in: float | None,
    permissions: tuple[str, ...],
    pipelines: tuple[str, ...],
    as_json: bool,
    database_url: str | None,
    orchestrator: tuple[str, ...],
) -> None:
    """Create a token and show it, once: only a hash of it is stored.

    With --database-url the token is made on the database itself: so the first admin token comes to be.
    """
    source = click.get_current_context().get_parameter_source("database_url")
    # What is said here and now counts more than where orchestrators are by default.
    on_database = database_url if not orchestrator or source is ParameterSource.COMMANDLINE else None
    chosen = kind or ("user" if on_database is None else "admin")
    message = TokenCreate(
        kind=chosen,
        name=name,
        uses=uses or (1 if chosen == "registration" else None),
        expires_in=expires_in,
        permissions=list(permissions) or None,
        pipelines=list(pipelines) or None,
    )
    if on_database is not None:
        from orchestrator import tokens

        made = anyio.run(tokens.create_on_database, on_database, message)
    else:
        made = connection.ask(orchestrator, lambda client: client.post("/v1/tokens", Token, message))
    if as_json:
        click.echo(msgspec.json.encode(made).decode())
    else:
        click.echo(f"{made.kind} token `{made.name}`; it is shown this once:", err=True)
        click.echo(made.secret)


@token.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def list_tokens(*, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """List the tokens, without the tokens themselves."""
    found = connection.ask(orchestrator, lambda client: client.get("/v1/tokens", TokenList)).tokens
    if as_json:
        print_json(found)
        return
    print_table(
        ["id", "kind", "name", "account", "created (UTC)", "last used (UTC)", "uses left", "state"],
        [
            [
                row.id,
                row.kind,
                row.name,
                row.account or "",
                age(row.created_at),
                age(row.last_used_at),
                "" if row.uses_left is None else str(row.uses_left),
                _state(row),
            ]
            for row in found
        ],
        "no tokens",
    )


def _state(row: Token) -> str:
    if row.revoked_at is not None:
        return "revoked"
    if row.uses_left == 0:
        return "used up"
    # By this machine's clock: it is the orchestrator's that counts.
    if row.expires_at is not None and datetime.fromisoformat(row.expires_at) <= datetime.now(UTC):
        return "expired"
    narrowed = [*(row.permissions or ()), *(f"for {pattern}" for pattern in row.pipelines or ())]
    return f"narrowed: {' '.join(narrowed)}" if narrowed else ""


@token.command()
@click.argument("token_id", metavar="ID")
@settings.setting("orchestrator")
def revoke(token_id: str, *, orchestrator: tuple[str, ...]) -> None:
    """Revoke the token ID: it is refused from now on."""

    path = f"/v1/tokens/{connection.in_path('token', token_id)}"

    async def send(client: Client) -> None:
        await client.delete(path, object)

    connection.ask(orchestrator, send)
    click.echo(f"token {token_id} revoked")
