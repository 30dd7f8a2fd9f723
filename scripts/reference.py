"""Writes ``docs/reference.md`` from the descriptions in ``runner/reference``, and from what plugins that ship declare:
``python -m scripts.reference``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import anyio

import plugins
from plugins.resolution import Catalogue, NoSources, Shipped
from runner.reference import page
from runner.reference import plugin as plugin_reference
from sandbox import loading
from sandbox.parent import WarmParent

PATH: Final = Path(__file__).parent.parent / "docs" / "reference.md"


async def text() -> str:
    """Write the page; plugins are asked in the sandbox for what they declare."""
    catalogue = Catalogue([Shipped()], NoSources())
    async with WarmParent.start() as parent:
        told = [
            plugin_reference.module(await loading.describe_with_needs(parent, plugin, catalogue))
            for plugin in plugins.shipped().values()
        ]
    return page.text(told)


def main() -> None:
    """Write the page anew."""
    PATH.write_text(anyio.run(text), encoding="utf-8")


if __name__ == "__main__":
    main()
