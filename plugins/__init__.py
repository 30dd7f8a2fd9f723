"""The plugins that ship: each a folder with its Lua code."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import msgspec


class Plugin(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin's Lua code, as it is handed to a sandbox."""

    name: str
    source: str


@functools.cache
def shipped() -> Mapping[str, Plugin]:
    """Read the plugins that come with Moonyard, by name."""
    folders = sorted(path.parent for path in Path(__file__).parent.glob("*/init.lua"))
    return {
        folder.name: Plugin(name=folder.name, source=(folder / "init.lua").read_text(encoding="utf-8"))
        for folder in folders
    }
