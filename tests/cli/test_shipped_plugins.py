"""The Lua tests of the plugins that ship pass, and each has some."""

from __future__ import annotations

import pytest

import plugins
from tests.cli.command import ROOT, moonyard


@pytest.mark.parametrize("name", sorted(plugins.shipped()))
async def test_a_shipped_plugin_passes_its_own_tests(name: str) -> None:
    printed = await moonyard("plugin", "test", f"plugins/{name}", "--json", cwd=ROOT)
    assert printed.code == 0, printed.stdout + printed.stderr
    assert printed.lines[-1]["passed"] > 0
