"""``moonyard pause`` and ``moonyard resume``: hold jobs back, of a pipeline or all."""

from __future__ import annotations

import click
import msgspec

from cli import connection, settings
from schema.wire import Pause, Paused


@click.command(short_help="Let the jobs of a pipeline wait, or all.")
@click.argument("pipeline", required=False)
@click.option("--all", "everything", is_flag=True, help="Pause everything.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def pause(pipeline: str | None, *, everything: bool, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Let the jobs of the pipeline PIPELINE wait, or all with --all. What runs goes on; jobs can be submitted."""
    done = _ask("pause", pipeline, orchestrator, everything=everything)
    what = "everything" if done.pipeline is None else f"pipeline {done.pipeline}"
    click.echo(msgspec.json.encode(done).decode() if as_json else f"{what} is paused")


@click.command(short_help="End a pause.")
@click.argument("pipeline", required=False)
@click.option("--all", "everything", is_flag=True, help="End the pause of everything; paused pipelines stay paused.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def resume(pipeline: str | None, *, everything: bool, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Let the jobs of the pipeline PIPELINE start again, or all with --all."""
    done = _ask("resume", pipeline, orchestrator, everything=everything)
    what = "everything" if done.pipeline is None else f"pipeline {done.pipeline}"
    click.echo(msgspec.json.encode(done).decode() if as_json else f"{what} goes on")


def _ask(act: str, pipeline: str | None, orchestrator: tuple[str, ...], *, everything: bool) -> Paused:
    if (pipeline is None) != everything:
        raise click.UsageError("give a PIPELINE or --all")
    body = Pause(pipeline=pipeline)
    return connection.ask(orchestrator, lambda client: client.post(f"/v1/queue/{act}", Paused, body, seconds=300.0))
