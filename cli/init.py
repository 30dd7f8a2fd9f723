"""``moonyard init`` and ``moonyard stubs``: a project that an editor knows."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import click

from cli import connection, settings
from schema.client import Client, OrchestratorRefused
from schema.errors import MoonyardError
from schema.plugins import PluginReference
from schema.wire import PluginShown

if TYPE_CHECKING:
    from runner.reference.description import Module

PIPELINE: Final = "pipeline.lua"
EDITOR_SETTINGS: Final = ".luarc.json"
IGNORED: Final = ".gitignore"
OWN_PLUGINS: Final = "plugins"
"""The folder of a project with the folders of its own plugins."""
NOT_FOUND: Final = 404
IGNORED_LINES: Final = (".moonyard/",)
_TEMPLATE: Final = Path(__file__).with_name("first_pipeline.lua")


class ProjectRefused(MoonyardError):
    """A folder that no project can be made in."""

    code = "project_refused"


@click.command("init", short_help="Make a project: a first pipeline, and what an editor needs.")
@click.argument("folder", default=".", type=click.Path(path_type=Path))
@click.option(
    "--plugins",
    multiple=True,
    metavar="NAME,...",
    help="The plugins that the pipeline names; may be repeated.",
)
@settings.setting("orchestrator")
@settings.setting("plugin_folder")
def init(folder: Path, plugins: tuple[str, ...], orchestrator: tuple[str, ...], plugin_folder: Path | None) -> None:
    """Make a project in FOLDER, or here: a pipeline that runs, settings and stubs for the Lua language server.

    What is there already is left as it is, but for the stubs, which are written anew. A plugin that is not on this
    machine is asked for at the orchestrator.

    \b
    Examples:
      moonyard init && moonyard run pipeline.lua
      moonyard init build --plugins git
    """
    from runner.reference import stubs

    known = anyio.run(descriptions, plugin_folder, folder)
    names = [name.strip() for text in plugins for name in text.split(",") if name.strip()]
    known += _from_orchestrator(orchestrator, [name for name in names if name not in {one.name for one in known}])
    named = _named(names, [plugin.name for plugin in known])
    _make(folder)
    _put(folder / PIPELINE, first_pipeline(folder, named))
    _put(folder / EDITOR_SETTINGS, stubs.settings_text())
    _ignore(folder / IGNORED)
    written = write_stubs(folder, known)
    click.echo(f"wrote {written} stubs to {folder / stubs.FOLDER}")
    inside = "" if folder.resolve() == Path.cwd() else f"cd {folder} && "
    click.echo(f"\nnext:\n  {inside}moonyard run {PIPELINE}\n  {inside}moonyard check {PIPELINE}")


@click.command("stubs", short_help="Write the stubs anew that an editor reads.")
@click.argument("folder", default=".", type=click.Path(path_type=Path))
@settings.setting("plugin_folder")
def stubs(folder: Path, *, plugin_folder: Path | None) -> None:
    """Write the stubs of all modules and plugins into FOLDER/.moonyard/stubs, where a project's .luarc.json looks.

    Plugins are those that ship, those in `plugin_folder` and those in FOLDER/plugins; `moonyard plugin sync` also asks
    an orchestrator for those that pipelines use. An upgrade of Moonyard, or a new version of a plugin, makes stubs new.
    """
    from runner.reference import stubs as reference

    if not folder.is_dir():
        raise ProjectRefused(f"`{folder}` is no folder", hint="`moonyard init FOLDER` makes one.")
    known = anyio.run(descriptions, plugin_folder, folder)
    click.echo(f"wrote {write_stubs(folder, known)} stubs to {folder / reference.FOLDER}")
    if not (folder / EDITOR_SETTINGS).is_file():
        click.echo(f"there is no {EDITOR_SETTINGS} in {folder}: `moonyard init {folder}` writes one", err=True)


def write_stubs(folder: Path, plugins: Sequence[Module]) -> int:
    """Write the stubs into a project's folder; give how many.

    :raises ProjectRefused: when they cannot be written.
    """
    from runner.reference import stubs as reference

    files = reference.files(plugins)
    target = folder / reference.FOLDER
    try:
        for path in target.rglob("*.lua") if target.is_dir() else ():
            path.unlink()
        for name, text in files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritable(target, error) from error
    return len(files)


def first_pipeline(folder: Path, plugins: Sequence[str]) -> str:
    """Write the first pipeline of a project, under its folder's name."""
    name = re.sub(r"[^a-z0-9._-]+", "-", folder.resolve().name.lower()).strip("-._")[:100] or "first"
    lines = ""
    if plugins:
        words = ", ".join(f'"{plugin}"' for plugin in plugins)
        uses = "".join(f'  --   local {plugin} = require("{plugin}")\n' for plugin in plugins)
        lines = f"\n  -- At the top of the file, or in a script:\n{uses}  plugins = {{ {words} }},\n"
    return _TEMPLATE.read_text(encoding="utf-8").replace("@NAME@", name).replace("  -- @PLUGINS@\n", f"{lines}\n")


async def descriptions(plugin_folder: Path | None, folder: Path) -> list[Module]:
    """Find out what the plugins of this machine declare: those that ship, of the setting, and of the project."""
    from plugins import folders, sources
    from runner.reference import plugin as reference
    from sandbox import loading
    from sandbox.parent import WarmParent

    catalogue = sources.here(plugin_folder, folder)
    found = {name: (await catalogue.find(PluginReference(name=name))).plugin for name in await catalogue.names()}
    own = folder / OWN_PLUGINS
    if own.is_dir():
        found |= {plugin.name: plugin for plugin in map(folders.read, folders.installed(own).values())}
    async with WarmParent.start() as parent:
        return [
            reference.module(await loading.describe_with_needs(parent, plugin, catalogue)) for plugin in found.values()
        ]


async def pushed(client: Client, wanted: Mapping[str, str | None]) -> dict[str, Module]:
    """Ask an orchestrator what plugins declare, each in the newest version of a range; give those that it has."""
    from runner.reference import plugin as reference

    found: dict[str, Module] = {}
    for name, version in wanted.items():
        query = {} if version is None else {"version": version}
        try:
            path = f"/v1/plugins/{connection.in_path('plugin', name)}"
            found[name] = reference.module((await client.get(path, PluginShown, query=query)).description)
        except OrchestratorRefused as refusal:
            if refusal.status != NOT_FOUND:
                raise
    return found


def _from_orchestrator(orchestrator: tuple[str, ...], names: Sequence[str]) -> list[Module]:
    """Ask the user's orchestrator, if there is one, for plugins that this machine has not."""
    if not names:
        return []
    try:
        found = connection.ask(orchestrator, lambda client: pushed(client, dict.fromkeys(names)))
    except MoonyardError as error:
        click.echo(f"no orchestrator could be asked for {', '.join(names)}: {error.message}", err=True)
        return []
    return list(found.values())


def _named(names: Sequence[str], known: Sequence[str]) -> list[str]:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            question = f"; did you mean `{near[0]}`?" if near else ""
            raise click.UsageError(f"there is no plugin `{name}`{question} (plugins: {', '.join(known)})")
    return list(dict.fromkeys(names))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ProjectRefused(f"`{folder}` is a file, and a project is a folder") from error
    except OSError as error:
        raise _unwritable(folder, error) from error


def _put(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        click.echo(f"left {path} as it is")
    except OSError as error:
        raise _unwritable(path, error) from error
    else:
        click.echo(f"wrote {path}")


def _ignore(path: Path) -> None:
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        lines = [line for line in IGNORED_LINES if line not in before.splitlines()]
        if lines:
            separator = "" if not before or before.endswith("\n") else "\n"
            path.write_text(before + separator + "".join(f"{line}\n" for line in lines), encoding="utf-8")
            click.echo(f"{'added to' if before else 'wrote'} {path}: {' '.join(lines)}")
    except (OSError, UnicodeDecodeError) as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: Exception) -> ProjectRefused:
    why = (error.strerror or type(error).__name__).lower() if isinstance(error, OSError) else "it is no text"
    return ProjectRefused(f"`{path}` cannot be written: {why}", hint="Name a folder that you may write to.")
