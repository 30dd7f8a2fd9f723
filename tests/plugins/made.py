"""Plugins for tests, made of a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tomli_w

from plugins import Plugin, folders

OPERATION = 'plugin.operation("run", {{ description = "Runs." {more} }}, function(arguments) {body} end)'


def files(
    name: str = "mine",
    init: str = "",
    version: str = "1.0.0",
    more: Mapping[str, str] | None = None,
    **manifest: object,
) -> dict[str, str]:
    """Write a plugin's files; ``manifest`` has further fields of its plugin.toml."""
    fields = {"name": name, "version": version, "description": "For a test.", **manifest}
    return {"plugin.toml": tomli_w.dumps(fields), "init.lua": init, **(more or {})}


def plugin(
    name: str = "mine",
    init: str = "",
    version: str = "1.0.0",
    more: Mapping[str, str] | None = None,
    **manifest: object,
) -> Plugin:
    return folders.from_files(files(name, init, version, more, **manifest))


def operation(body: str, more: str = "") -> str:
    """Write an ``init.lua`` with the operation ``run``."""
    return OPERATION.format(body=body, more=more and f", {more}")


def write(folder: Path, contents: Mapping[str, str]) -> Path:
    """Write files into a folder."""
    for path, text in contents.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    return folder


class Shelf:
    """Plugins at hand."""

    def __init__(self, *plugins: Plugin, origin: str = "shelf") -> None:
        self.origin = origin
        self._plugins = plugins

    async def names(self) -> list[str]:
        return sorted({one.name for one in self._plugins})

    async def versions(self, name: str) -> list[str]:
        return [one.version for one in self._plugins if one.name == name]

    async def load(self, name: str, version: str) -> Plugin:
        return next(one for one in self._plugins if (one.name, one.version) == (name, version))
