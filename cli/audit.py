"""``moonyard audit``: who did what, on what, from where, when, and with which result."""

from __future__ import annotations

from typing import Any, Final

import anyio
import click
import msgspec

from cli import connection, settings
from cli.tables import age, print_json, print_table
from schema.audit import PAGE_MAXIMUM, AuditEntry, AuditHead, AuditPage, AuditVerified
from schema.client import Client, OrchestratorUnreachable

EXIT_BROKEN: Final = 1
VERIFY_SECONDS: Final = 600.0
RECONNECT_SECONDS: Final = 1.0
_COLUMNS: Final = ["at (UTC)", "actor", "from", "action", "subject", "result", "detail"]


@click.group()
def audit() -> None:
    """Show who did what, and verify that nobody changed that."""


@audit.command("list", short_help="Show who did what, also live.")
@click.option("--since", help="From this time on: 2026-11-24T18:00:00Z.")
@click.option("--until", help="Up to this time.")
@click.option("--actor", help="Of this actor: `account ada`, `token ci`; `*` stands for any text.")
@click.option("--action", help="Of this action: `submit`, `* secret`; `*` stands for any text.")
@click.option("--refused", is_flag=True, help="Only what was refused.")
@click.option("--limit", type=click.IntRange(1), help="The newest so many rows; by default 50, with --json all.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, in the order of the chain.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def list_entries(
    *,
    since: str | None,
    until: str | None,
    actor: str | None,
    action: str | None,
    refused: bool,
    limit: int | None,
    follow: bool,
    as_json: bool,
    orchestrator: tuple[str, ...],
) -> None:
    """Show who did what, on what, from where, when, and with which result; the oldest first."""
    given = {"since": since, "until": until, "actor": actor, "action": action, "result": "refused" if refused else None}
    wanted = {name: value for name, value in given.items() if value is not None}
    if follow:
        if limit is not None:
            raise click.UsageError("--limit goes without --follow")
        connection.ask(orchestrator, lambda client: _follow(client, wanted, as_json=as_json))
        return
    if as_json and limit is None:
        connection.ask(orchestrator, lambda client: _export(client, wanted))
        return
    found = connection.ask(orchestrator, lambda client: _newest(client, wanted, limit or 50))
    if as_json:
        print_json(found)
    else:
        print_table(_COLUMNS, [_row(entry) for entry in found], "nothing is in the audit of that")


@audit.command(short_help="Verify that no row was changed, removed or put in.")
@click.option("--head", help="A block's number and hash, as orchestrators wrote it in their log once: 17:0f3a...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def verify(*, head: str | None, as_json: bool, orchestrator: tuple[str, ...]) -> int:
    """Verify the chain of the whole audit, and say its first break.

    With --head, also that the chain still has a block that was noted once: whoever may write to the database could have
    written a whole chain anew, or cut its end. Exit code 0: it is whole, 1: it is broken.
    """
    query = {} if head is None else {"head": head}
    found = connection.ask(
        orchestrator,
        lambda client: client.get("/v1/audit/verify", AuditVerified, query=query, seconds=VERIFY_SECONDS),
    )
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    elif found.state == "whole":
        click.echo(
            f"the audit is whole: {found.entries} rows in {found.blocks} blocks, {found.unsealed} not sealed yet"
        )
        click.echo(f"head {found.head or 'none'}")
    else:
        click.echo(f"the audit is broken: {found.detail}", err=True)
    return 0 if found.state == "whole" else EXIT_BROKEN


async def _newest(client: Client, wanted: dict[str, Any], limit: int) -> list[AuditEntry]:
    found: list[AuditEntry] = []
    while len(found) < limit:
        query = wanted | {"limit": min(PAGE_MAXIMUM, limit - len(found))}
        if found:
            query["before"] = found[-1].id
        entries = (await client.get("/v1/audit", AuditPage, query=query)).entries
        found += entries
        if len(entries) < query["limit"]:
            break
    return found[::-1]


async def _export(client: Client, wanted: dict[str, Any]) -> None:
    after = 0
    while True:
        query = wanted | {"limit": PAGE_MAXIMUM, "after": after}
        entries = (await client.get("/v1/audit", AuditPage, query=query)).entries
        print_json(entries)
        if len(entries) < PAGE_MAXIMUM:
            return
        after = entries[-1].id


async def _follow(client: Client, wanted: dict[str, Any], *, as_json: bool) -> None:
    """Show rows as they are sealed, and take a broken stream up again where it ended."""
    block = 0 if "since" in wanted else await _last_block(client)
    shown: set[int] = set()
    while True:
        # What of the last block was not shown yet comes again with the rest of it.
        query = wanted | {"after": block - 1 if shown else block, "follow": "true"}
        try:
            async with client.stream("/v1/audit/stream", query=query) as stream:
                async for line in stream.lines():
                    entry = msgspec.json.decode(line, type=AuditEntry)
                    assert entry.block is not None, "the stream is in the chain's order"
                    if entry.block != block:
                        block = entry.block
                        shown.clear()
                    if entry.id not in shown:
                        shown.add(entry.id)
                        click.echo(line.decode() if as_json else "  ".join(_row(entry)))
        except OrchestratorUnreachable as error:
            click.echo(f"{error.message}; going on when one answers", err=True)
        # A replica that drains ends its streams: another one goes on.
        await anyio.sleep(RECONNECT_SECONDS)


async def _last_block(client: Client) -> int:
    head = (await client.get("/v1/audit/head", AuditHead)).head
    return 0 if head is None else int(head.partition(":")[0])


def _row(entry: AuditEntry) -> list[str]:
    detail = "" if entry.detail is None else msgspec.json.encode(entry.detail).decode()
    return [age(entry.at), entry.actor, entry.address or "", entry.action, entry.subject, entry.result, detail]
