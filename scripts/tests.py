"""Runs all tests: those that hardly need the container engine in a process of their own, beside the others.

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
BESIDE: Final = (
    "tests/orchestrator",
    "tests/sandbox",
    "tests/plugins",
    "tests/runner",
    *(
        f"tests/cli/test_{name}.py"
        for name in (
            "audit",
            "check",
            "doctor_database",
            "doctor_keys",
            "doctor_orchestrators",
            "editor",
            "entry",
            "help",
            "init",
            "login",
            "reference",
            "secret",
            "test",
            "tls",
        )
    ),
    "tests/test_documentation.py",
    "tests/test_supply_chain.py",
)


def main() -> int:
    command = [sys.executable, "-m", "pytest", "--durations=10", "--durations-min=5"]
    others = [f"--ignore={path}" for path in BESIDE]
    with tempfile.TemporaryFile() as said:
        beside = subprocess.Popen([*command, *BESIDE], cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
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
