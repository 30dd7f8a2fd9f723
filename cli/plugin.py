"""``moonyard plugin``: make, look at, test and push plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import anyio
import click
import msgspec

from cli import connection, plugin_sync, settings
from cli import test as test_command
from cli.tables import age, print_json, print_table
from plugins import folders, sources
from plugins.resolution import Installed, Place, Shipped
from schema.errors import MoonyardError
from schema.plugins import PluginDescription, PluginReference, ValueSpec, is_name
from schema.wire import PluginList, PluginPush, PluginShown, PluginVersion

_SKELETON: Final = Path(__file__).with_name("plugin_skeleton")
_PLACEHOLDER: Final = "NAME"


@click.group(short_help="Make, look at, test and push plugins.")
def plugin() -> None:
    """Make plugins, look at them, test them, and push them to an orchestrator."""


@plugin.command(short_help="Make a plugin's folder to begin with.")
@click.argument("name")
def new(name: str) -> None:
    """Make the folder NAME with a plugin of that name, which passes its own tests."""
    if not is_name(name):
        raise click.UsageError(
            f"`{name}` cannot be a plugin's name: up to 50 small letters, digits and `_`, a letter first, and no word "
            "of Lua's own"
        )
    if name in folders.shipped():
        raise click.UsageError(f"plugin `{name}` comes with Moonyard: give yours another name")
    folder = Path(name)
    if folder.exists():
        raise MoonyardError(f"`{folder}` is there already", code="file_exists", hint="Give the plugin another name.")
    (folder / "tests").mkdir(parents=True)
    for source in sorted(_SKELETON.iterdir()):
        place = folder / "tests" if source.stem.endswith("_test") else folder
        text = source.read_text(encoding="utf-8").replace(_PLACEHOLDER, name)
        (place / source.name.replace(_PLACEHOLDER, name)).write_text(text, encoding="utf-8")
    click.echo(f"plugin {name} is in {folder}/: `moonyard plugin test {name}` runs its tests")


@plugin.command("list", short_help="List the plugins that pipelines can name.")
@click.option("--local", is_flag=True, help="Of this machine, without an orchestrator.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
@settings.setting("plugin_folder")
def list_plugins(*, local: bool, as_json: bool, orchestrator: tuple[str, ...], plugin_folder: Path | None) -> None:
    """List the plugins that pipelines can name: of an orchestrator, or, with --local, of `moonyard run` here."""
    if local:
        found = anyio.run(_local_list, plugin_folder)
    else:
        found = connection.ask(orchestrator, lambda client: client.get("/v1/plugins", PluginList)).plugins
    if as_json:
        print_json(found)
        return
    print_table(
        ["plugin", "version", "hash", "from", "pushed (UTC)", "by"],
        [
            [row.name, row.version, row.sha256[:12], row.origin, age(row.pushed_at), row.pushed_by or ""]
            for row in found
        ],
        "no plugins",
    )


@plugin.command(short_help="Show a plugin: what it needs, and its operations.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
@settings.setting("plugin_folder")
def show(name: str, *, as_json: bool, orchestrator: tuple[str, ...], plugin_folder: Path | None) -> None:
    """Show the plugin NAME: its manifest, and its operations with their arguments, as its code declares them.

    NAME is a folder, or a plugin as pipelines name it: git, git@1.2. One that is not on this machine is asked of the
    orchestrator.
    """
    shown = anyio.run(_local_description, name, plugin_folder)
    if shown is None:
        plain, at, wanted = name.partition("@")
        query: dict[str, str | int] | None = {"version": wanted} if at else None
        path = f"/v1/plugins/{connection.in_path('plugin', plain)}"
        shown = connection.ask(orchestrator, lambda client: client.get(path, PluginShown, query=query))
    if as_json:
        click.echo(msgspec.json.encode(shown).decode())
        return
    _print(shown)


@plugin.command("test", short_help="Run a plugin's tests.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--filter", "wanted", metavar="TEXT", help="Run only tests that have TEXT in their names.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of text.")
@click.option("-v", "--verbose", is_flag=True, help="Show the log of each test too.")
@click.pass_context
def run_tests(ctx: click.Context, folder: Path, *, wanted: str | None, as_json: bool, verbose: bool) -> int:
    """Run the tests of the plugin in FOLDER, as `moonyard test FOLDER` does; exit code 1 says that some failed."""
    folders.read(folder)
    return ctx.invoke(test_command.test, paths=(folder,), wanted=wanted, as_json=as_json, verbose=verbose)


@plugin.command(short_help="Push a plugin to an orchestrator.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def push(folder: Path, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Push the plugin in FOLDER: it is checked, and its version names these very files from then on."""
    found = folders.read(folder)
    message = PluginPush(files=dict(found.files))
    pushed = connection.ask(orchestrator, lambda client: client.post("/v1/plugins", PluginVersion, message))
    if as_json:
        click.echo(msgspec.json.encode(pushed).decode())
    else:
        what = "unchanged" if pushed.unchanged else "pushed"
        click.echo(f"{what} {pushed.name} {pushed.version}  hash {pushed.sha256[:12]}")


plugin.add_command(plugin_sync.sync)


async def _local_list(plugin_folder: Path | None) -> list[PluginVersion]:
    found: list[PluginVersion] = []
    installed: list[Place] = [] if plugin_folder is None else [Installed(plugin_folder)]
    for place in [Shipped(), *installed]:
        for name in await place.names():
            one = await place.load(name, "")
            found.append(
                PluginVersion(
                    name=one.name,
                    version=one.version,
                    sha256=one.sha256,
                    origin=place.origin,
                    description=one.manifest.description,
                )
            )
    return found


async def _local_description(name: str, plugin_folder: Path | None) -> PluginShown | None:
    """Describe a plugin of this machine; None where it has none of that name."""
    from sandbox import loading, references
    from sandbox.parent import WarmParent
    from schema.plugins import PluginUnknown

    catalogue = sources.here(plugin_folder, Path())
    path = Path(name)
    if (path / folders.MANIFEST).is_file():
        found, origin = folders.read(path), str(path)
    else:
        try:
            reference: PluginReference = references.of_text(name)
        except ValueError as error:
            raise MoonyardError(
                f"there is no plugin `{name}`: {error}", code="plugin_unknown", hint="NAME is a name, or a folder."
            ) from error
        try:
            one = await catalogue.find(reference)
        except PluginUnknown:
            return None
        found, origin = one.plugin, one.origin
    async with WarmParent.start() as parent:
        description = await loading.describe_with_needs(parent, found, catalogue)
    return PluginShown(origin=origin, description=description)


def _print(shown: PluginShown) -> None:
    description: PluginDescription = shown.description
    manifest = description.manifest
    click.echo(
        f"{click.style(manifest.name, bold=True)} {manifest.version}  ({shown.origin}, {description.sha256[:12]})"
    )
    click.echo(manifest.description)
    for what, names in (
        ("modules", manifest.modules),
        ("images", manifest.images),
        ("hosts", manifest.hosts),
        ("secrets", manifest.secrets),
        ("plugins", manifest.plugins),
    ):
        if names:
            click.echo(f"  {what}: {', '.join(names)}")
    for name, operation in description.operations.items():
        click.echo(f"\n{click.style(f'{manifest.name}.{name}', bold=True)}({', '.join(operation.positional)})")
        click.echo(f"  {operation.description}")
        for argument, spec in operation.ordered_arguments:
            click.echo(f"    {argument}  {_told(spec)}")
        if operation.gives:
            click.echo("  gives:")
            for field, spec in sorted(operation.gives.items()):
                click.echo(f"    {field}  {_told(spec)}")
        for code, meaning in sorted(operation.errors.items()):
            click.echo(f"  raises {manifest.name}_{code}: {meaning}")


def _told(spec: ValueSpec) -> str:
    parts = [" or ".join(spec.types)]
    if spec.required:
        parts.append("required")
    elif spec.default is not None:
        parts.append(f"default {msgspec.json.encode(spec.default).decode()}")
    if spec.choices:
        parts.append("one of " + ", ".join(str(choice) for choice in spec.choices))
    return f"{', '.join(parts)}  {spec.description}".rstrip()
