"""``moonyard grant``: let pipelines have secrets."""

from __future__ import annotations

import click
import msgspec

from cli import connection, settings
from cli.tables import age, print_json, print_table
from schema.client import Client
from schema.secrets import Grant, GrantCreate, GrantList, GrantsConfirm, GrantsConfirmed


@click.group()
def grant() -> None:
    """Let pipelines have secrets.

    Without a grant that fits, a job has none.
    """


@grant.command(short_help="Let a pipeline's jobs have a secret.")
@click.argument("secret")
@click.argument("pipeline")
@click.option("--stage", "stages", multiple=True, help="Only in this stage; may be repeated.")
@click.option("--input", "inputs", multiple=True, metavar="NAME=VALUE", help="Only with this input; may be repeated.")
@click.option("--runner", "runners", multiple=True, help="Only at the runners of this name or id; may be repeated.")
@click.option(
    "--follow/--confirm",
    "follows",
    default=None,
    help="Whether versions that are pushed later have it too, or each has to be confirmed; by default as the "
    "orchestrator's `grant_versions` says.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def add(
    secret: str,
    pipeline: str,
    *,
    stages: tuple[str, ...],
    inputs: tuple[str, ...],
    runners: tuple[str, ...],
    follows: bool | None,
    as_json: bool,
    orchestrator: tuple[str, ...],
) -> None:
    """Let the jobs of the pipeline PIPELINE have the secret SECRET.

    In PIPELINE, stages and values, `*` stands for any text. An input that is given twice may have either value; of
    different inputs, all have to fit.

    \b
    moonyard grant add DEPLOY_TOKEN website --stage deploy --input ref=main --input 'ref=release/*'
    """
    message = GrantCreate(
        secret=secret,
        pipeline=pipeline,
        stages=list(stages),
        inputs=_inputs(inputs),
        runners=list(runners),
        follows=follows,
    )
    made = connection.ask(orchestrator, lambda client: client.post("/v1/grants", Grant, message))
    if as_json:
        click.echo(msgspec.json.encode(made).decode())
    else:
        click.echo(f"granted {made.secret} to {made.pipeline}  {_narrowed(made)}".rstrip())
        how = (
            "versions that are pushed later have it too"
            if made.follows
            else "a version that is pushed later has to be confirmed"
        )
        click.echo(f"{how}  grant {made.id}")


@grant.command("list", short_help="List the grants, of a secret or pipeline or all.")
@click.option("--secret", help="Only of this secret.")
@click.option("--pipeline", help="Only those that are for this pipeline.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def list_grants(*, secret: str | None, pipeline: str | None, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """List up to 1,000 grants: who may have which secret."""
    query = {name: value for name, value in (("secret", secret), ("pipeline", pipeline)) if value is not None}

    async def ask(client: Client) -> GrantList:
        return await client.get("/v1/grants", GrantList, query=query)

    found = connection.ask(orchestrator, ask).grants
    if as_json:
        print_json(found)
        return
    print_table(
        ["id", "secret", "pipeline", "only", "later versions", "granted (UTC)", "by"],
        [
            [row.id, row.secret, row.pipeline, _narrowed(row), _later(row), age(row.created_at), row.created_by]
            for row in found
        ],
        "no grants: `moonyard grant add SECRET PIPELINE` makes one",
    )


@grant.command(short_help="End a grant.")
@click.argument("grant_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def remove(grant_id: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """End the grant ID: from now on nothing is delivered by it. What was delivered is not taken back."""
    path = f"/v1/grants/{connection.in_path('grant', grant_id)}"
    gone = connection.ask(orchestrator, lambda client: client.delete(path, Grant))
    if as_json:
        click.echo(msgspec.json.encode(gone).decode())
    else:
        click.echo(f"{gone.secret} is granted to {gone.pipeline} no longer")


@grant.command(short_help="Let a pipeline's newest version have what it was granted.")
@click.argument("pipeline")
@click.option("--version", help="This version, by its SHA-256; by default the newest.")
@click.option("--grant", "grant_id", metavar="ID", help="Only by this grant; by default by all of the pipeline.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def confirm(
    pipeline: str, *, version: str | None, grant_id: str | None, as_json: bool, orchestrator: tuple[str, ...]
) -> None:
    """Let the newest version of the pipeline PIPELINE have the secrets that the pipeline was granted.

    Look at it first: `moonyard pipeline show PIPELINE --source`. Whoever pushes a pipeline decides what is done with
    its secrets.
    """
    message = GrantsConfirm(pipeline=pipeline, version=version, grant=grant_id)
    done = connection.ask(orchestrator, lambda client: client.post("/v1/grants/confirm", GrantsConfirmed, message))
    if as_json:
        click.echo(msgspec.json.encode(done).decode())
    else:
        what = ", ".join(done.secrets) or "nothing waited for it"
        click.echo(f"{done.pipeline}  version {done.version[:12]}  {what}")


def _inputs(given: tuple[str, ...]) -> dict[str, list[str]]:
    inputs: dict[str, list[str]] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise click.UsageError(f"--input `{text}` is not NAME=VALUE")
        inputs.setdefault(name, []).append(value)
    return inputs


def _narrowed(row: Grant) -> str:
    parts = [f"stage {stage}" for stage in row.stages]
    parts += [f"{name}={value}" for name, values in row.inputs.items() for value in values]
    parts += [f"runner {runner}" for runner in row.runners]
    return ", ".join(parts)


def _later(row: Grant) -> str:
    if row.follows:
        return "have it"
    return f"to confirm: {', '.join(row.waits_for)}" if row.waits_for else "are confirmed"
