"""What a plugin is, as plain data: its manifest, the operations that it declares, and how pipelines name and lock it.

One declaration of an operation serves the checks of its arguments (``sandbox/lua/specs.lua``), the stubs for editors
and the reference pages, so that they cannot drift. Whoever needs declarations asks ``sandbox.loading.describe``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from schema.errors import MoonyardError

NAME_PATTERN: Final = re.compile(r"[a-z][a-z0-9_]{0,49}")
"""Of plugins, operations and arguments: names of Lua, which stand in paths and URLs as they are."""
LUA_WORDS: Final = frozenset(
    ("and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in", "local", "nil",
     "not", "or", "repeat", "return", "then", "true", "until", "while")
)  # fmt: skip
BYTES_MAXIMUM: Final = 1024 * 1024
"""Of all files of a plugin together."""
FILES_MAXIMUM: Final = 200
PLUGINS_MAXIMUM: Final = 50
"""How many plugins a job has, those that its plugins need included."""

ValueType = Literal["string", "integer", "number", "boolean", "list", "table", "function", "secret", "any"]


class PluginInvalid(MoonyardError):
    """A plugin that cannot be used as it is."""

    code = "plugin_invalid"


class PluginUnknown(MoonyardError):
    """A plugin, or a version of one, that is nowhere to be found."""

    code = "plugin_unknown"


class PluginNotFetched(PluginUnknown):
    """A plugin of a repository, where repositories are not asked and it was not fetched before."""

    code = "plugin_not_fetched"


class PluginConflict(MoonyardError):
    """Plugins that cannot be in one job together."""

    code = "plugin_conflict"


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """``plugin.toml``."""

    name: str
    version: str
    """As semver has it."""
    description: str
    license: str | None = None
    modules: list[str] = []
    """The core modules that its code gets; it gets no others."""
    images: list[str] = []
    """The images that it runs containers of: names or patterns, as with `images_allowed`."""
    secrets: list[str] = []
    """The secrets that it asks for by name. What the pipeline hands it as an argument needs no line here."""
    hosts: list[str] = []
    """Where its `http` connects to: host names, with `*` or without, each with a port or without."""
    plugins: list[str] = []
    """Other plugins that its code uses, as pipelines name them: `git`, `git@1.2`."""


class ValueSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a value has to be: an argument, a field of one, an entry of a list, or a field of a result."""

    type: ValueType | list[ValueType]
    """Or which types do."""
    description: str = ""
    """What it means."""
    required: bool = False
    """Whether it has to be given."""
    default: Any = None
    """What it is otherwise."""
    choices: list[str | int | float] = []
    """What is accepted at all."""
    minimum: int | float | None = None
    """Of a number."""
    maximum: int | float | None = None
    """Of a number."""
    pattern: str | None = None
    """A pattern of Lua's, which all of a string has to match."""
    length_minimum: int | None = None
    """Of a string in bytes, or of a list in entries."""
    length_maximum: int | None = None
    """Of a string in bytes, or of a list in entries."""
    fields: dict[str, ValueSpec] = {}
    """Of a table: those that it may have, and no other."""
    values: ValueSpec | None = None
    """Of a table: what stands under each of its names, whatever these are."""
    items: ValueSpec | None = None
    """Of a list: each of its entries."""

    @property
    def types(self) -> list[ValueType]:
        return self.type if isinstance(self.type, list) else [self.type]


class Operation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A function that a plugin gives to pipelines: ``git.clone``."""

    description: str
    """A sentence or a few."""
    arguments: dict[str, ValueSpec] = {}
    """By name. Lua tables have no order: those in `positional` come first, then what is required, then by name."""
    positional: list[str] = []
    """Which arguments may be given in order, before the table of the others."""
    gives: dict[str, ValueSpec] = {}
    """The fields of its result, which is a table; empty where it gives nothing."""
    errors: dict[str, str] = {}
    """The codes of its own errors, without the plugin's name before them, and what each means."""
    example: str | None = None
    """A few lines of Lua."""

    @property
    def ordered_arguments(self) -> list[tuple[str, ValueSpec]]:
        """List the arguments as people read them."""

        def rank(item: tuple[str, ValueSpec]) -> tuple[int, bool, str]:
            name, spec = item
            place = self.positional.index(name) if name in self.positional else len(self.positional)
            return place, not spec.required, name

        return sorted(self.arguments.items(), key=rank)


class PluginDescription(msgspec.Struct, frozen=True, kw_only=True):
    """All that a plugin says of itself."""

    manifest: Manifest
    sha256: str
    """Of its files: see ``plugins.folders.tree_hash``."""
    operations: dict[str, Operation]
    """By name, in the order of their names."""
    has_setup: bool = False
    has_teardown: bool = False
    readme: str | None = None


class LockedPlugin(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin that a version of a pipeline runs with, for ever the same."""

    name: str
    version: str
    sha256: str
    origin: str
    """Where it came from: `shipped`, `folder`, `pushed`, `pipeline folder`, or a git URL with the commit."""


class PluginReference(msgspec.Struct, frozen=True, kw_only=True):
    """How a pipeline, or a plugin, names a plugin."""

    name: str
    range: str | None = None
    """`1`, `1.2` or `1.2.3`; None for the newest."""
    folder: str | None = None
    """Where it is, relative to the pipeline's file."""
    git: str | None = None
    commit: str | None = None

    @property
    def has_source(self) -> bool:
        """Whether it says where the plugin is, rather than leave it to who looks for it."""
        return self.folder is not None or self.git is not None

    def __str__(self) -> str:
        return self.name if self.range is None else f"{self.name}@{self.range}"


def is_name(text: str) -> bool:
    """Tell whether a plugin, an operation or an argument can have a name."""
    return NAME_PATTERN.fullmatch(text) is not None and text not in LUA_WORDS


def version_hash(source: str, lock: Sequence[LockedPlugin]) -> str:
    """Name a version of a pipeline: by its source, and the plugins that it runs with, if there are any.

    Where those came from is no part of it: the same file with the same plugins is the same version.
    """
    digest = hashlib.sha256(source.encode())
    for locked in sorted(lock, key=lambda locked: locked.name):
        digest.update(f"\0{locked.name} {locked.version} {locked.sha256}".encode())
    return digest.hexdigest()
