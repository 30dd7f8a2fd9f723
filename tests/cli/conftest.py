"""Runs pipelines with the real command, one state folder for all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import Printed, moonyard


@pytest.fixture(scope="session")
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One state folder for all runs, so that the engine is looked at once."""
    return tmp_path_factory.mktemp("state")


class Runner:
    def __init__(self, folder: Path, state_folder: Path) -> None:
        self.folder = folder
        self.state_folder = state_folder

    async def __call__(self, source: str, *options: str) -> Printed:
        return await moonyard(*self.arguments(source), *options, cwd=self.folder)

    def arguments(self, source: str) -> list[str]:
        path = self.folder / "try.lua"
        path.write_text(source, encoding="utf-8")
        return ["run", "try.lua", "--json", "--state-folder", str(self.state_folder)]

    async def script(self, body: str, **stage: str) -> Printed:
        fields = "".join(f", {name} = {value}" for name, value in stage.items())
        return await self(
            f'return {{ name = "try", stages = {{ {{ name = "s"{fields}, script = function(job)\n{body}\nend }} }} }}'
        )


@pytest.fixture
def run(tmp_path: Path, state_folder: Path, image_map: dict[str, str]) -> Runner:
    assert image_map, "images are there"
    return Runner(tmp_path, state_folder)
