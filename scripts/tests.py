"""Runs all tests: those that need no container engine in a process of their own, beside the others.

Each test waits most of its time, for Postgres or for the engine; the two kinds share nothing but the machine. The one
kind's words are shown live, the other's when both are done.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parent.parent
WITHOUT_ENGINE: Final = ("tests/orchestrator", "tests/sandbox")


def main() -> int:
    command = [sys.executable, "-m", "pytest", "--durations=10", "--durations-min=5"]
    others = [f"--ignore={folder}" for folder in WITHOUT_ENGINE]
    with tempfile.TemporaryFile() as said:
        beside = subprocess.Popen(
            [*command, *WITHOUT_ENGINE], cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
        try:
            code = subprocess.run([*command, *others], cwd=CHECKOUT, check=False).returncode
        finally:
            # After Ctrl-C it has heard that too, and ends.
            code_beside = beside.wait()
            said.seek(0)
            sys.stdout.write(said.read().decode(errors="replace"))
            sys.stdout.flush()
    return code or code_beside


if __name__ == "__main__":
    sys.exit(main())
