"""Checks how a pipeline names its plugins: ``"git"``, ``"git@1.2"``, or a table that says where one is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from plugins import versions
from sandbox.frames import lua_type
from sandbox.locations import Path, Telling
from schema.plugins import PLUGINS_MAXIMUM, PluginReference, is_name

REFERENCE_FIELDS: Final = ("name", "version", "folder", "git", "commit")
EXAMPLE: Final = 'Write `plugins = { "git" }`, `{ "git@1.2" }` or `{ { name = "mine", folder = "plugins/mine" } }`.'
COMMIT_HINT: Final = "A branch or tag may change what it names; a commit's full SHA never does."
_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_URL: Final = re.compile(r"(?:https|ssh|git|file)://[^\s\x00-\x1f]{1,500}")


def of_text(text: str) -> PluginReference:
    """Read ``name`` or ``name@range``.

    :raises ValueError: when it is neither; the message says why.
    """
    name, at, wanted = text.partition("@")
    if not is_name(name):
        raise ValueError(f"`{name[:60]}` cannot be a plugin's name")
    if at and not versions.is_range(wanted):
        raise ValueError(f"`{wanted[:60]}` is no version of plugin `{name}`: write `1`, `1.2` or `1.2.3`")
    return PluginReference(name=name, range=wanted if at else None)


def read(value: object, problem: Telling) -> Iterator[tuple[Path, PluginReference]]:
    """Read the field ``plugins``, entry by entry: what is named well, with its place; tell what is not."""
    if value is None or value == {}:
        return
    if not isinstance(value, list):
        problem(("plugins",), f"`plugins` must be a list of names, got {lua_type(value)}", EXAMPLE)
        return
    entries: list[object] = value  # pyright: ignore[reportUnknownVariableType]  # looked at one by one
    if len(entries) > PLUGINS_MAXIMUM:
        problem(("plugins",), f"a pipeline has at most {PLUGINS_MAXIMUM} plugins, got {len(entries)}")
        return
    names: set[str] = set()
    for index, entry in enumerate(entries, 1):
        path: Path = ("plugins", index)
        reference = _read_one(path, entry, problem)
        if reference is None:
            continue
        if reference.name in names:
            problem(path, f"plugin `{reference.name}` is named twice")
            continue
        names.add(reference.name)
        yield path, reference


def _read_one(path: Path, entry: object, problem: Telling) -> PluginReference | None:
    if isinstance(entry, str):
        try:
            return of_text(entry)
        except ValueError as error:
            problem(path, str(error), EXAMPLE)
            return None
    if not isinstance(entry, dict):
        problem(path, f"`plugins[{path[-1]}]` must be a plugin's name, or a table, got {lua_type(entry)}", EXAMPLE)
        return None
    table: dict[Any, object] = entry  # pyright: ignore[reportUnknownVariableType]  # keys are looked at here
    return _read_table(path, table, problem)


def _read_table(path: Path, table: Mapping[Any, object], problem: Telling) -> PluginReference | None:
    wrong = [str(key) for key in table if key not in REFERENCE_FIELDS]
    if wrong:
        problem(path, f"`{wrong[0][:60]}` is no field of a plugin (fields: {', '.join(REFERENCE_FIELDS)})", EXAMPLE)
        return None
    fields: dict[str, str] = {}
    for key, value in table.items():
        if not isinstance(value, str) or not value or not value.isprintable():
            problem((*path, key), f"`{key}` of a plugin must be text, got {lua_type(value)}", EXAMPLE)
            return None
        fields[key] = value
    name, wanted = fields.get("name", ""), fields.get("version")
    folder, git, commit = fields.get("folder"), fields.get("git"), fields.get("commit")
    if not is_name(name):
        problem(path, f"`{name[:60]}` cannot be a plugin's name" if name else "a plugin has no `name`", EXAMPLE)
    elif wanted is not None and not versions.is_range(wanted):
        problem((*path, "version"), f"`{wanted[:60]}` is no version: write `1`, `1.2` or `1.2.3`")
    elif git is not None and folder is not None and ({"", ".", ".."} & {*folder.split("/")}):
        problem((*path, "folder"), f"`folder` of plugin `{name}` is no folder of its repository: `{folder[:60]}`")
    elif git is not None and not _URL.fullmatch(git):
        problem((*path, "git"), f"`git` of plugin `{name}` is no URL that git takes: https, ssh, git or file")
    elif git is not None and commit is None:
        problem(path, f"plugin `{name}` has no `commit`", COMMIT_HINT)
    elif commit is not None and git is None:
        problem((*path, "commit"), f"plugin `{name}` has a `commit` and no `git` to take it from")
    elif commit is not None and not _COMMIT.fullmatch(commit):
        problem((*path, "commit"), f"`commit` of plugin `{name}` is no commit's full SHA: `{commit[:60]}`", COMMIT_HINT)
    else:
        return PluginReference(name=name, range=wanted, folder=folder, git=git, commit=commit)
    return None
