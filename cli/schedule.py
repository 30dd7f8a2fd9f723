"""``moonyard schedule``: jobs by the clock."""

from __future__ import annotations

import click
import msgspec

from cli import connection, settings
from cli.run import parse_inputs
from cli.tables import age, print_json, print_table
from schema.wire import CatchUp, Schedule, ScheduleCreate, ScheduleList


@click.group()
def schedule() -> None:
    """Submit jobs by the clock."""


@schedule.command(short_help="Create a schedule.")
@click.argument("name")
@click.argument("pipeline")
@click.argument("cron")
@click.option("--time-zone", default="UTC", show_default=True, help="The zone of CRON's times, such as Europe/Berlin.")
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=VALUE", help="An input of the pipeline; may be repeated."
)
@click.option("--priority", type=click.IntRange(-100, 100), help="The jobs' priority; by default the pipeline's.")
@click.option(
    "--catch-up",
    type=click.Choice(["skip", "once", "all"]),
    default="once",
    show_default=True,
    help="What to do about times that were missed: nothing, one job for the last, or one for each (up to 100).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def create(
    name: str,
    pipeline: str,
    cron: str,
    time_zone: str,
    inputs: tuple[str, ...],
    priority: int | None,
    catch_up: CatchUp,
    *,
    as_json: bool,
    orchestrator: tuple[str, ...],
) -> None:
    """Create the schedule NAME, which submits a job of PIPELINE at the times that CRON says.

    CRON has five fields: minute, hour, day of month, month, day of week: '30 6 * * MON-FRI'.
    """
    body = ScheduleCreate(
        name=name,
        pipeline=pipeline,
        cron=cron,
        time_zone=time_zone,
        inputs=dict(parse_inputs(inputs)),
        priority=priority,
        catch_up=catch_up,
    )
    made = connection.ask(orchestrator, lambda client: client.post("/v1/schedules", Schedule, body))
    _say(made, f"schedule {made.name} is created; its first job comes at {made.next_at}", as_json=as_json)


@schedule.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def list_schedules(*, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """List the schedules."""
    found = connection.ask(orchestrator, lambda client: client.get("/v1/schedules", ScheduleList)).schedules
    if as_json:
        print_json(found)
        return
    print_table(
        ["schedule", "pipeline", "cron", "time zone", "next (UTC)", "last job", "error"],
        [
            [
                row.name,
                row.pipeline,
                row.cron,
                row.time_zone,
                f"paused by {row.paused_by}" if row.paused_by else age(row.next_at),
                "" if row.last_job is None else str(row.last_job),
                row.error.message[:80] if row.error else "",
            ]
            for row in found
        ],
        "no schedules yet: `moonyard schedule create NAME PIPELINE CRON` makes one",
    )


@schedule.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def delete(name: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Delete the schedule NAME; its jobs stay."""
    path = _path(name)
    gone = connection.ask(orchestrator, lambda client: client.delete(path, Schedule))
    _say(gone, f"schedule {name} is deleted", as_json=as_json)


@schedule.command(short_help="Let a schedule rest.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def pause(name: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Let the schedule NAME rest: times that pass meanwhile count as not wanted, and are not made up for."""
    path = f"{_path(name)}/pause"
    paused = connection.ask(orchestrator, lambda client: client.post(path, Schedule))
    _say(paused, f"schedule {name} is paused", as_json=as_json)


@schedule.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def resume(name: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Let the schedule NAME go on."""
    path = f"{_path(name)}/resume"
    resumed = connection.ask(orchestrator, lambda client: client.post(path, Schedule))
    _say(resumed, f"schedule {name} goes on; its next job comes at {resumed.next_at}", as_json=as_json)


def _path(name: str) -> str:
    return f"/v1/schedules/{connection.in_path('schedule', name)}"


def _say(found: Schedule, text: str, *, as_json: bool) -> None:
    click.echo(msgspec.json.encode(found).decode() if as_json else text)
