"""What operators do with runners: drain, bind, get new tokens, revoke, remove; which pipelines are for bound ones."""

from __future__ import annotations

from typing import Final

import click
import msgspec

from cli import connection, settings
from cli.tables import print_json, print_table
from schema.errors import MoonyardError
from schema.wire import ReservationList, ReservationSet, RunnerBind, RunnersChanged, RunnersDrained


@click.command(short_help="Let no more jobs go to a runner.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def drain(name: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Let no more jobs go to the runners with the name or id NAME; what runs there goes on."""
    _drain(name, "drain", "takes no more jobs", orchestrator, as_json=as_json)


@click.command(short_help="Let jobs go to a drained runner again.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def undrain(name: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Let jobs go to the runners with the name or id NAME again."""
    _drain(name, "undrain", "takes jobs again", orchestrator, as_json=as_json)


@click.command(short_help="Have a runner get a new token.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def rotate(name: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Have the running runners with the name or id NAME get a new token; what runs there goes on.

    A runner does so by itself, too, when its token is as old as runner_token_days says.
    """
    _change(name, "rotate", "gets a new token as soon as it hears of it", orchestrator, as_json=as_json)


@click.command(short_help="Refuse a runner's token.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def revoke(name: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Refuse the tokens of the runners with the name or id NAME from now on, for ever.

    What they ran is queued again at once; a runner that still runs stops its jobs, and ends.
    """
    _change(name, "revoke", "is revoked; what it ran is queued again", orchestrator, as_json=as_json)


@click.command(short_help="Revoke a runner, and list it no more.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def remove(name: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Revoke the runners with the name or id NAME, and list them no more: for those that are gone for good."""
    _change(name, "remove", "is removed", orchestrator, as_json=as_json)


@click.command(short_help="Let a runner take jobs of some pipelines only.")
@click.argument("name")
@click.option(
    "--pipeline", "pipelines", multiple=True, required=True, help="A pipeline, by name or pattern; may be repeated."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def bind(name: str, pipelines: tuple[str, ...], *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Let the runners with the name or id NAME take jobs of these pipelines, and of no others; what runs there goes on.

    It takes the place of what they were bound to before. `moonyard runner reserve` keeps other runners away.
    """
    message = RunnerBind(pipelines=list(pipelines))
    _change(name, "bind", f"takes jobs of {', '.join(pipelines)} only", orchestrator, as_json=as_json, body=message)


@click.command(short_help="Let a bound runner take jobs of all pipelines again.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def unbind(name: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Let the runners with the name or id NAME take jobs of any pipeline again, but for reserved ones."""
    message = RunnerBind(pipelines=[])
    _change(name, "bind", "takes jobs of any pipeline", orchestrator, as_json=as_json, body=message)


@click.command(short_help="Keep pipelines for runners that are bound to them.")
@click.argument("pipelines")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def reserve(pipelines: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Let jobs of PIPELINES, a name or pattern, go to no runner that is not bound to them."""
    _reserve(pipelines, "go only to runners that are bound to them", orchestrator, reserved=True, as_json=as_json)


@click.command(short_help="End a reservation.")
@click.argument("pipelines")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def unreserve(pipelines: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Let jobs of PIPELINES, a name or pattern as it was reserved, go to any runner again."""
    _reserve(pipelines, "go to any runner", orchestrator, reserved=False, as_json=as_json)


@click.command(short_help="List the pipelines that are kept for bound runners.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def reserved(*, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """List the pipelines whose jobs go only to runners that are bound to them."""
    found = connection.ask(orchestrator, lambda client: client.get("/v1/reservations", ReservationList)).reservations
    if as_json:
        print_json(found)
        return
    print_table(
        ["pipelines", "runners bound to just that", "reserved by"],
        [[row.pipelines, " ".join(row.runners), row.reserved_by] for row in found],
        "no pipelines are reserved: `moonyard runner reserve PIPELINES` does that",
    )


def _reserve(pipelines: str, said: str, orchestrator: tuple[str, ...], *, reserved: bool, as_json: bool) -> None:
    message = ReservationSet(pipelines=pipelines, reserved=reserved)
    done = connection.ask(orchestrator, lambda client: client.post("/v1/reservations", ReservationSet, message))
    click.echo(msgspec.json.encode(done).decode() if as_json else f"jobs of {pipelines} {said}")


def _change(
    name: str,
    act: str,
    said: str,
    orchestrator: tuple[str, ...],
    *,
    as_json: bool,
    body: msgspec.Struct | None = None,
) -> None:
    changed = connection.ask(orchestrator, lambda client: client.post(_path(name, act), RunnersChanged, body))
    click.echo(msgspec.json.encode(changed).decode() if as_json else f"runner {name} {said}")


def _path(name: str, act: str) -> str:
    if "/" in name:
        raise MoonyardError(f"there is no runner `{name}`", code="runner_unknown")
    return f"/v1/runners/{connection.in_path('runner', name)}/{act}"


def _drain(name: str, act: str, said: str, orchestrator: tuple[str, ...], *, as_json: bool) -> None:
    done = connection.ask(orchestrator, lambda client: client.post(_path(name, act), RunnersDrained))
    click.echo(msgspec.json.encode(done).decode() if as_json else f"runner {name} {said}")


COMMANDS: Final = (drain, undrain, bind, unbind, reserve, unreserve, reserved, rotate, revoke, remove)
