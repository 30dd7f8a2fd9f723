"""Everything is killed, cut off and started again for a minute; then every promise is asked after."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.cli.command import ROOT, environment

SECONDS = 60
SEED = 1
KINDS_AT_LEAST = 15
"""Some kinds need something to be there at their moment, such as a Lua process."""


@pytest.mark.timeout(300)
def test_no_promise_is_broken_whatever_dies(image_map: dict[str, str]) -> None:
    assert image_map, "images are there"
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--seconds", str(SECONDS), "--seed", str(SEED), "--json"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.stdout.count("\n") == 1, done.stderr[-5000:]
    result = json.loads(done.stdout)
    figures = result["figures"]
    assert (result["broken"], result["stubborn"], done.returncode) == ([], [], 0), figures["details"]
    assert figures["final"] == figures["acknowledged"] == figures["submitted"] > SECONDS
    assert len(figures["kills"]) >= KINDS_AT_LEAST
    # It was not idle: attempts were lost, their stale words refused, logs and artifacts compared.
    for name in ("attempts_lost", "stale_tried", "log_lines", "artifacts", "followed"):
        assert figures[name] > 0, name
