"""``moonyard hook``: webhooks, by which a push starts a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from cli import connection, settings
from cli.duration import Duration
from cli.run import parse_inputs
from cli.tables import age, print_json, print_table
from schema.client import Client
from schema.errors import MoonyardError
from schema.hooks import (
    PUSH,
    Hook,
    HookCreate,
    HookDelivery,
    HookDeliveryList,
    HookForks,
    HookKind,
    HookList,
    HookRotate,
    HookRules,
    HookTest,
    HookTested,
)

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

SHOWN_MAXIMUM: Final = 10
"""Of deliveries, by `show`."""
_WHERE: Final[dict[HookKind, str]] = {
    "github": "Settings, Webhooks, Add webhook: Payload URL, Content type `application/json`, Secret",
    "gitlab": "Settings, Webhooks, Add new webhook: URL, Signing token (or Secret token, where there is no other)",
    "gitea": "Settings, Webhooks, Add Webhook, Gitea or Forgejo: Target URL, Secret",
    "generic": "whoever sends signs as Standard Webhooks says: docs/webhooks.md has a script",
}


def _rules(command: Decorated) -> Decorated:
    """Declare the options that say what starts a job, and what its inputs are."""
    for option in reversed(
        [
            click.option(
                "--event",
                "events",
                multiple=True,
                help="An event that starts a job, such as push; may be repeated. [default: push]",
            ),
            click.option(
                "--branch",
                "branches",
                multiple=True,
                help="A branch, or a pattern such as 'release/*'; may be repeated.",
            ),
            click.option("--tag", "tags", multiple=True, help="A tag, or a pattern such as 'v*'; may be repeated."),
            click.option(
                "--input",
                "inputs",
                multiple=True,
                metavar="NAME=PATH",
                help="Where an input is in what is sent, such as ref=pull_request.head.ref; may be repeated.",
            ),
            click.option(
                "--constant",
                "constants",
                multiple=True,
                metavar="NAME=VALUE",
                help="An input's value; may be repeated.",
            ),
            click.option(
                "--drafts/--no-drafts",
                default=None,
                help="Whether pull requests that are drafts start jobs. [default: no]",
            ),
            click.option(
                "--forks",
                type=click.Choice(["refuse", "allow"]),
                help="Whether pull requests of other repositories start jobs: anybody's commands, then. "
                "[default: refuse]",
            ),
        ]
    ):
        command = option(command)
    return command


@click.group()
def hook() -> None:
    """Let a forge start pipelines: webhooks.

    A hook starts jobs of one pipeline, for what is signed with its secret.
    """


@hook.command(short_help="Make a hook; its secret is shown once.")
@click.argument("name")
@click.option("--pipeline", required=True, help="The pipeline whose jobs it starts.")
@click.option(
    "--kind", type=click.Choice(["github", "gitlab", "gitea", "generic"]), required=True, help="Who sends, and how."
)
@_rules
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def create(
    name: str,
    *,
    pipeline: str,
    kind: HookKind,
    events: tuple[str, ...],
    branches: tuple[str, ...],
    tags: tuple[str, ...],
    inputs: tuple[str, ...],
    constants: tuple[str, ...],
    drafts: bool | None,
    forks: HookForks | None,
    as_json: bool,
    orchestrator: tuple[str, ...],
) -> None:
    """Make the hook NAME. Its secret is shown now and never again.

    Inputs that are named ref, branch, tag, commit, before, author, message, repository, repository_url, pull_request,
    base or title get what is meant by that, unless --input or --constant says otherwise.

    \b
    moonyard hook create build-push --pipeline build --kind github --branch main --branch 'release/*'
    """
    message = HookCreate(
        name=name,
        pipeline=pipeline,
        kind=kind,
        events=list(events),
        branches=list(branches),
        tags=list(tags),
        drafts=bool(drafts),
        forks=forks or "refuse",
        inputs=parse_inputs(inputs),
        constants=dict(parse_inputs(constants)),
    )

    async def ask(client: Client) -> tuple[Hook, str]:
        return await client.post("/v1/hooks", Hook, message), client.address

    made, address = connection.ask(orchestrator, ask)
    _warn(made)
    if as_json:
        click.echo(msgspec.json.encode(made).decode())
        return
    click.echo(f"hook {click.style(made.name, bold=True)}  starts {made.pipeline}")
    click.echo(f"url     {address}{made.path}")
    click.echo(f"secret  {made.secret}")
    click.echo(f"hint: at the forge: {_WHERE[kind]}", err=True)
    click.echo("hint: The secret is shown once. The URL is as this command reaches the orchestrator.", err=True)


@hook.command(short_help="Give a hook other rules.")
@click.argument("name")
@_rules
@click.option(
    "--clear",
    multiple=True,
    type=click.Choice(["events", "branches", "tags", "inputs", "constants"]),
    help="Take away all of these that it has; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def change(
    name: str,
    *,
    events: tuple[str, ...],
    branches: tuple[str, ...],
    tags: tuple[str, ...],
    inputs: tuple[str, ...],
    constants: tuple[str, ...],
    drafts: bool | None,
    forks: HookForks | None,
    clear: tuple[str, ...],
    as_json: bool,
    orchestrator: tuple[str, ...],
) -> None:
    """Change what starts a job by the hook NAME, or its inputs; its URL and secret stay.

    What is given takes the place of all that the hook has of that kind; of the other kinds it keeps what it has.
    """

    async def ask(client: Client) -> Hook:
        found = await client.get(_path(name), Hook)
        message = HookRules(
            events=list(events) or ([] if "events" in clear else found.events),
            branches=list(branches) or ([] if "branches" in clear else found.branches),
            tags=list(tags) or ([] if "tags" in clear else found.tags),
            drafts=found.drafts if drafts is None else drafts,
            forks=forks or found.forks,
            inputs=parse_inputs(inputs) or ({} if "inputs" in clear else found.inputs),
            constants=dict(parse_inputs(constants)) or ({} if "constants" in clear else found.constants),
        )
        return await client.post(f"{_path(name)}/change", Hook, message)

    changed = connection.ask(orchestrator, ask)
    _warn(changed)
    _say(changed, f"hook {name} is changed", as_json=as_json)


@hook.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def list_hooks(*, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """List the hooks, and what became of the newest delivery of each."""
    found = connection.ask(orchestrator, lambda client: client.get("/v1/hooks", HookList)).hooks
    if as_json:
        print_json(found)
        return
    print_table(
        ["hook", "pipeline", "kind", "state", "last (UTC)", "result", "job", "refused"],
        [
            [
                row.name,
                row.pipeline,
                row.kind,
                _state(row),
                age(row.last.received_at) if row.last else "",
                row.last.result if row.last else "",
                str(row.last.job) if row.last and row.last.job else "",
                str(row.refused),
            ]
            for row in found
        ],
        "no hooks yet: `moonyard hook create NAME --pipeline PIPELINE --kind github` makes one",
    )


@hook.command(short_help="Show a hook, its rules and its newest deliveries.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def show(name: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Show the hook NAME: where it is delivered to, what starts a job, and what was delivered; never its secret."""

    async def ask(client: Client) -> tuple[Hook, list[HookDelivery], str]:
        found = await client.get(_path(name), Hook)
        listed = (await client.get(f"{_path(name)}/deliveries", HookDeliveryList)).deliveries
        return found, listed, client.address

    found, listed, address = connection.ask(orchestrator, ask)
    if as_json:
        click.echo(msgspec.json.encode(msgspec.to_builtins(found) | {"deliveries": listed}).decode())
        return
    click.echo(f"{click.style(found.name, bold=True)}  {found.kind}  starts {found.pipeline}  {_state(found)}")
    click.echo(f"url       {address}{found.path}")
    default = "any" if found.kind == "generic" else PUSH
    click.echo(f"events    {', '.join(found.events) or default}")
    if found.branches:
        click.echo(f"branches  {', '.join(found.branches)}")
    if found.tags:
        click.echo(f"tags      {', '.join(found.tags)}")
    click.echo(f"forks     {found.forks}")
    for input_name, path in found.inputs.items():
        click.echo(f"input     {input_name} from {path}")
    for input_name, value in found.constants.items():
        click.echo(f"input     {input_name} is {value}")
    for held in found.secrets:
        until = f", holds until {age(held.expires_at)} UTC" if held.expires_at else ""
        click.echo(f"secret    {held.number}, made {age(held.created_at)} UTC by {held.created_by}{until}")
    if found.refused:
        click.echo(f"refused   {found.refused}, the last {age(found.refused_at)} UTC: {found.refused_why}")
    click.echo("")
    _print_deliveries(listed[:SHOWN_MAXIMUM])


@hook.command(short_help="List what was delivered to a hook.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def deliveries(name: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """List the newest 100 deliveries to the hook NAME, and the job of each, or why there is none."""
    path = f"{_path(name)}/deliveries"
    found = connection.ask(orchestrator, lambda client: client.get(path, HookDeliveryList)).deliveries
    if as_json:
        print_json(found)
        return
    _print_deliveries(found)


@hook.command(short_help="Try a hook without its forge.")
@click.argument("name")
@click.option("--event", default=PUSH, show_default=True, help="Of the sample: push or pull_request.")
@click.option("--branch", default="main", show_default=True, help="Of the sample.")
@click.option(
    "--payload",
    type=click.Path(path_type=Path, dir_okay=False, exists=True, allow_dash=True),
    help="A file with the JSON of a delivery, instead of a sample; - for stdin.",
)
@click.option("--submit", is_flag=True, help="Submit its job, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def test(
    name: str,
    *,
    event: str,
    branch: str,
    payload: Path | None,
    submit: bool,
    as_json: bool,
    orchestrator: tuple[str, ...],
) -> None:
    """Have the orchestrator sign a delivery to the hook NAME, take it, and say what becomes of it.

    Without --submit nothing is changed: it shows which inputs the job would have, or why there would be none.
    """
    text = None if payload is None else _text(payload)
    message = HookTest(event=event, branch=branch, payload=text, submit=submit)
    path = f"{_path(name)}/test"
    tested = connection.ask(orchestrator, lambda client: client.post(path, HookTested, message))
    if as_json:
        click.echo(msgspec.json.encode(tested).decode())
        return
    for fact, value in tested.facts.items():
        click.echo(f"{fact}  {value}")
    if tested.skipped is not None:
        click.echo(f"\nskipped: {tested.skipped}")
        return
    click.echo("\ninputs:" if tested.inputs else "\nno inputs")
    for input_name, value in tested.inputs.items():
        click.echo(f"  {input_name} = {value}")
    click.echo("a job would be submitted" if tested.job is None else f"job {tested.job} was submitted")


@hook.command(short_help="Make a new secret for a hook.")
@click.argument("name")
@click.option(
    "--overlap",
    type=Duration(),
    default="24h",
    show_default=True,
    help="How long the secrets of before hold on: time to tell the forge.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def rotate(name: str, *, overlap: float, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Make a new secret for the hook NAME, which is shown now and never again."""
    path = f"{_path(name)}/rotate"
    made = connection.ask(orchestrator, lambda client: client.post(path, Hook, HookRotate(overlap=overlap)))
    if as_json:
        click.echo(msgspec.json.encode(made).decode())
        return
    click.echo(f"secret  {made.secret}")
    ending = [held for held in made.secrets if held.expires_at is not None]
    if ending:
        click.echo(f"hint: The secret of before holds on until {age(ending[0].expires_at)} UTC.", err=True)


@hook.command(short_help="Let a hook rest.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def pause(name: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Let the hook NAME rest: what is delivered is remembered, and starts nothing."""
    path = f"{_path(name)}/pause"
    _say(
        connection.ask(orchestrator, lambda client: client.post(path, Hook)), f"hook {name} is paused", as_json=as_json
    )


@hook.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def resume(name: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Let the hook NAME go on."""
    path = f"{_path(name)}/resume"
    _say(connection.ask(orchestrator, lambda client: client.post(path, Hook)), f"hook {name} goes on", as_json=as_json)


@hook.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def remove(name: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Remove the hook NAME; its jobs stay."""
    gone = connection.ask(orchestrator, lambda client: client.delete(_path(name), Hook))
    _say(gone, f"hook {name} is removed", as_json=as_json)


def _print_deliveries(found: list[HookDelivery]) -> None:
    print_table(
        ["at (UTC)", "event", "sender", "result", "job", "came", "why"],
        [
            [
                age(row.received_at),
                row.event,
                row.sender or "",
                row.result,
                "" if row.job is None else str(row.job),
                str(row.received),
                row.reason or (row.error.message if row.error else ""),
            ]
            for row in found
        ],
        "nothing was delivered yet",
    )


def _text(payload: Path) -> str:
    try:
        with click.open_file(str(payload), "rb") as file:
            return file.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror or "").lower() if isinstance(error, OSError) else "it is not UTF-8"
        raise MoonyardError(f"the payload {payload} cannot be read: {why}", code="file_unreadable") from error


def _state(found: Hook) -> str:
    return "active" if found.paused_by is None else f"paused by {found.paused_by}"


def _path(name: str) -> str:
    return f"/v1/hooks/{connection.in_path('hook', name)}"


def _warn(found: Hook) -> None:
    if found.warning is not None:
        click.echo(f"warning: {found.warning}", err=True)


def _say(found: Hook, text: str, *, as_json: bool) -> None:
    click.echo(msgspec.json.encode(found).decode() if as_json else text)
