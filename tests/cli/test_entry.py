"""What a Ctrl-C does to a command that has hardly begun."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import SECONDS, environment

ENTRY = [sys.executable, "-X", "importtime", "-m", "cli.entry"]


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Let commands be interrupted, also where the tests themselves run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "module", ["difflib", "click.globals", "schema.errors", "cli.settings", "anyio", "aiohttp.abc"]
)
def test_a_ctrl_c_while_modules_are_imported_ends_a_command_without_a_word(tmp_path: Path, module: str):
    # Nobody answers there: what is past its imports waits for a connection, or says that it is stopped.
    more = {"MOONYARD_TOKEN": "moonyard_admin_x", "MOONYARD_ORCHESTRATOR": "http://127.0.0.1:1"}
    with subprocess.Popen(
        [*ENTRY, "jobs"],
        cwd=tmp_path,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        # Python says which modules it has imported, one a line.
        for line in process.stderr:
            if line.endswith(f" {module}\n"):
                process.send_signal(signal.SIGINT)
                break
        stdout, rest = process.communicate(timeout=SECONDS)
    said = [line for line in rest.splitlines() if not line.startswith("import time:")]
    assert process.returncode in {-signal.SIGINT, 130}
    assert "".join(said) in {"", "stopped"}
    assert stdout == ""


def test_a_ctrl_c_that_is_not_for_a_command_stays_so(tmp_path: Path):
    ignoring = (
        "import signal, sys, os; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", ignoring, *ENTRY, "--version"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.endswith(" click.globals\n"):
                process.send_signal(signal.SIGINT)
                break
        stdout, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert stdout.startswith("moonyard ")
