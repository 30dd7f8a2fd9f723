"""Every attack that there is, on the real parts, all at the same time: none gets through."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.cli.command import ROOT, environment

TRIED_AT_LEAST = {
    "lua": 60,
    "native": 50,
    "frames": 50,
    "container": 120,
    "workspace": 150,
    "secret": 35,
    "access": 200,
}
"""What cannot be tried on every machine is beyond it."""


@pytest.mark.timeout(600)
def test_no_attack_gets_through(image_map: dict[str, str]) -> None:
    assert image_map, "images are there"
    done = subprocess.run(
        [sys.executable, "-m", "tests.attack", "--json"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.stdout.count("\n") == 1, done.stderr[-5000:]
    found = json.loads(done.stdout)
    assert (found["got_through"], done.returncode) == ([], 0)
    assert found["classes"].keys() == TRIED_AT_LEAST.keys()
    for name, wanted in TRIED_AT_LEAST.items():
        of_class = found["classes"][name]
        assert of_class["tried"] == of_class["stopped"] >= wanted, (name, of_class)
    assert found["tried"] == sum(of_class["tried"] for of_class in found["classes"].values())
