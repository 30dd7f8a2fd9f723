"""``moonyard pipeline``: push, list, show."""

from __future__ import annotations

import contextlib
from pathlib import Path

import anyio
import click
import msgspec

from cli import connection, settings
from cli.run import read_pipeline
from cli.tables import age, print_json, print_table
from schema.client import Client
from schema.definition import PipelineDefinition, PipelineInvalid
from schema.secrets import GrantList
from schema.wire import PipelineList, PipelinePush, PipelineVersion


@click.group()
def pipeline() -> None:
    """Push pipelines to an orchestrator and look at them."""


@pipeline.command(short_help="Check pipeline files and push them.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of text.")
@settings.setting("orchestrator")
def push(files: tuple[Path, ...], *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Push pipeline FILES: each is checked, and what is wrong with it is told with file and line.

    A version is known by the SHA-256 of its source, and of the plugins that it is locked with: pushing the same file
    twice changes nothing. Plugins of which the file says where they are (a folder, a commit of a git repository) are
    read here and sent along.
    """
    sources = [anyio.run(_message, file) for file in files]

    async def send(client: Client) -> None:
        for message in sources:
            version = await client.post("/v1/pipelines", PipelineVersion, message)
            if as_json:
                print_json([version])
            else:
                what = "unchanged" if version.unchanged else "pushed"
                plugins = "".join(f"  {plugin.name} {plugin.version}" for plugin in version.plugins)
                click.echo(f"{what} {version.name}  version {version.version[:12]}{plugins}")
                await _tell_waiting(client, version.name)

    connection.ask(orchestrator, send)


async def _message(file: Path) -> PipelinePush:
    """Read a pipeline file, and the plugins of which it says where they are.

    :raises MoonyardError: when it, or one of them, cannot be read.
    """
    source = read_pipeline(file)
    sent: dict[str, dict[str, str]] = {}
    if "plugins" in source:  # else it names none, and no sandbox need be started
        from plugins.fetched import FetchedPlugins
        from plugins.sources import LocalSources
        from sandbox.parent import WarmParent

        local = LocalSources(file.parent, fetched=FetchedPlugins(settings.fetched_plugins()))
        with contextlib.suppress(PipelineInvalid):  # what is wrong with it, the orchestrator tells
            async with WarmParent.start() as parent, parent.fork() as sandbox:
                draft = await sandbox.draft(file.name, source)
            sent = {named.name: dict((await local.load(named)).files) for named in draft.references if named.has_source}
    return PipelinePush(filename=file.name, source=source, plugins=sent)


@pipeline.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def list_pipelines(*, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """List the pipelines with their newest versions."""
    found = connection.ask(orchestrator, lambda client: client.get("/v1/pipelines", PipelineList)).pipelines
    if as_json:
        print_json(found)
        return
    print_table(
        ["pipeline", "version", "stages", "pushed (UTC)"],
        [
            [version.name, version.version[:12], ", ".join(_stages(version.definition)), age(version.created_at)]
            for version in found
        ],
        "no pipelines yet: `moonyard pipeline push FILE` brings one",
    )


@pipeline.command(short_help="Show a pipeline: inputs, stages, source.")
@click.argument("name")
@click.option("--source", is_flag=True, help="Print the Lua source alone.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def show(name: str, *, source: bool, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Show the newest version of the pipeline NAME: its inputs, stages and source."""
    path = f"/v1/pipelines/{connection.in_path('pipeline', name)}"
    version = connection.ask(orchestrator, lambda client: client.get(path, PipelineVersion))
    if as_json:
        click.echo(msgspec.json.encode(version).decode())
        return
    if source:
        click.echo(version.source, nl=False)
        return
    definition = version.definition
    click.echo(f"{click.style(version.name, bold=True)}  version {version.version}  ({version.filename})")
    if definition.description:
        click.echo(definition.description)
    click.echo("\ninputs:" if definition.inputs else "\nno inputs")
    for input_name, declared in definition.inputs.items():
        default = "required" if declared.required else f"default {declared.default!r}"
        click.echo(f"  {input_name}  {declared.type}, {default}  {declared.description or ''}".rstrip())
    if version.plugins:
        click.echo("\nplugins:")
    for plugin in version.plugins:
        click.echo(f"  {plugin.name} {plugin.version}  {plugin.sha256[:12]}  {plugin.origin}")
    click.echo("\nstages:")
    for stage in definition.stages:
        needs = "" if stage.needs is None else f"  needs {', '.join(stage.needs) or 'no other'}"
        when = "" if stage.when == "on_success" else f"  when {stage.when.replace('_', ' ')}"
        click.echo(f"  {stage.name}  in {stage.container or 'the default container'}{needs}{when}")


async def _tell_waiting(client: Client, pipeline: str) -> None:
    """Say which secrets the pushed version gets only once somebody confirms it."""
    grants = (await client.get("/v1/grants", GrantList, query={"pipeline": pipeline})).grants
    waiting = sorted({held.secret for held in grants if pipeline in held.waits_for})
    if waiting:
        click.echo(
            f"hint: this version does not have the pipeline's secrets yet ({', '.join(waiting)}): "
            f"moonyard grant confirm {pipeline}",
            err=True,
        )


def _stages(definition: PipelineDefinition) -> list[str]:
    return [stage.name for stage in definition.stages]
