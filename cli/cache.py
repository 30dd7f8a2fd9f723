"""``moonyard cache``: list and remove what jobs keep for later jobs."""

from __future__ import annotations

import click
import msgspec

from cli import connection, settings
from cli.tables import age, print_json, print_table
from schema.client import Client
from schema.sizes import size_text
from schema.wire import CacheList, CachesForget, CachesForgotten


@click.group()
def cache() -> None:
    """List and remove the caches of pipelines."""


@cache.command("list", short_help="List the caches, of a pipeline or all.")
@click.argument("pipeline", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def list_caches(pipeline: str | None, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """List up to 1,000 caches, of the pipeline PIPELINE or all, what was used last first."""

    async def ask(client: Client) -> CacheList:
        return await client.get("/v1/caches", CacheList, query=None if pipeline is None else {"pipeline": pipeline})

    found = connection.ask(orchestrator, ask).caches
    if as_json:
        print_json(found)
        return
    print_table(
        ["pipeline", "scope", "key", "size", "saved (UTC)", "by job", "used (UTC)", "hits"],
        [
            [
                row.pipeline,
                row.scope,
                row.key,
                size_text(row.size_bytes),
                age(row.created_at),
                "" if row.job is None else str(row.job),
                age(row.used_at),
                str(row.hits),
            ]
            for row in found
        ],
        "no caches",
    )


@cache.command(short_help="Remove caches of a pipeline.")
@click.argument("pipeline")
@click.argument("key", required=False)
@click.option("--scope", help="Only in this scope.")
@click.option("--all", "everything", is_flag=True, help="Remove all, whatever their keys.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def remove(
    pipeline: str,
    key: str | None,
    *,
    scope: str | None,
    everything: bool,
    as_json: bool,
    orchestrator: tuple[str, ...],
) -> None:
    """Remove what the key KEY of the pipeline PIPELINE names, or all of it with --all: later jobs make it anew."""
    if (key is None) != everything:
        raise click.UsageError("give a KEY or --all")
    body = CachesForget(pipeline=pipeline, key=key, scope=scope)
    done = connection.ask(orchestrator, lambda client: client.post("/v1/caches/forget", CachesForgotten, body))
    if as_json:
        click.echo(msgspec.json.encode(done).decode())
    else:
        click.echo(f"{done.forgotten} {'cache' if done.forgotten == 1 else 'caches'} of pipeline {pipeline} removed")
