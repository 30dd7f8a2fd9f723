"""The tests that plugins which ship bring themselves, as their users run them."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins import folders
from tests.cli.command import ROOT, moonyard


@pytest.mark.parametrize("name", sorted(folders.shipped()))
async def test_a_plugin_that_ships_passes_its_own_tests(name: str, tmp_path: Path):
    tested = await moonyard("plugin", "test", str(ROOT / "plugins" / name), "--json", cwd=tmp_path)
    assert tested.code == 0, tested.stdout + tested.stderr
    assert tested.lines[-1]["passed"] > 0
