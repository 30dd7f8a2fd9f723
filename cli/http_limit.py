"""``moonyard http-limit``: how often all runners together may ask a host."""

from __future__ import annotations

import click
import msgspec

from cli import connection, settings
from cli.tables import age, print_json, print_table
from schema.wire import HttpLimit, HttpLimitList, HttpLimitRemove, HttpLimitRemoved, HttpLimitSet


@click.group("http-limit")
def http_limit() -> None:
    """Limit how often all runners together ask a host by `http`."""


@http_limit.command("set", short_help="Limit how often a host is asked.")
@click.argument("host")
@click.argument("rate")
@click.option("--burst", type=int, help="How many requests at once; by default what comes in a second.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def set_limit(host: str, rate: str, *, burst: int | None, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Let the jobs of all runners together ask HOST no more often than RATE, such as 50/s, 30/m or 1000/h.

    HOST is as URLs name it, or a pattern with `*`, whose hosts share the limit. Of several that fit, the one that says
    most counts.
    """
    body = HttpLimitSet(host=host, rate=rate, burst=burst)
    done = connection.ask(orchestrator, lambda client: client.post("/v1/http-limits", HttpLimit, body))
    if as_json:
        click.echo(msgspec.json.encode(done).decode())
    else:
        click.echo(f"all runners together ask {done.host} at most {done.rate}, {done.burst} at once")


@http_limit.command("list", short_help="List the limits.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def list_limits(*, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """List the limits, and how many requests were permitted under each."""
    found = connection.ask(orchestrator, lambda client: client.get("/v1/http-limits", HttpLimitList)).limits
    if as_json:
        print_json(found)
        return
    print_table(
        ["host", "rate", "at once", "permits", "set (UTC)", "by"],
        [[row.host, row.rate, str(row.burst), str(row.permits), age(row.set_at), row.set_by] for row in found],
        "no limits",
    )


@http_limit.command(short_help="Remove a limit.")
@click.argument("host")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def remove(host: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Remove the limit of HOST, as `list` shows it."""
    body = HttpLimitRemove(host=host)
    done = connection.ask(orchestrator, lambda client: client.post("/v1/http-limits/remove", HttpLimitRemoved, body))
    if as_json:
        click.echo(msgspec.json.encode(done).decode())
    else:
        click.echo(f"the limit of {done.host} is removed")
