"""Everything is killed, cut off and started again for a minute; then every promise is asked after."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.cli.command import ROOT, environment

SECONDS = 60
SEED = 1
KINDS_AT_LEAST = 18
"""Some kinds need something to be there at their moment, such as a Lua process."""
COUNTED = (
    *("submitted", "acknowledged", "final", "lost", "ran_twice_at_once", "stale_accepted", "log_lines_missing"),
    *("log_lines_doubled", "leftovers"),
)


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
    found = json.loads(done.stdout)
    assert (found["broken"], done.returncode) == ([], 0), found["details"]
    assert {type(found[name]) for name in COUNTED} == {int}
    assert found["final"] == found["acknowledged"] == found["submitted"] > SECONDS
    assert len(found["kills"]) >= KINDS_AT_LEAST
    assert found["recovery_seconds"].keys() <= found["kills"].keys()
    assert {name: size["end_bytes"] > 0 for name, size in found["tables"].items()}["jobs"]
    # It was not idle: attempts were lost, their stale words refused, logs and artifacts compared.
    for name in ("attempts_lost", "stale_tried", "log_lines", "artifacts", "followed", "answers", "looks"):
        assert found[name] > 0, name
