"""One replica as a process of its own, on a Postgres of its own, for one benchmark."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import anyio
import msgspec

from orchestrator import tokens
from schema.wire import TokenCreate

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.02
_LISTENS: Final = "orchestrator listens on "


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    address: str
    token: str
    """An admin's."""
    pid: int


@contextmanager
def running(url: str, folder: Path) -> Generator[Replica]:
    """Have a replica on a migrated database for the span of a block.

    :param folder: for what it says.
    :raises SystemExit: when it does not start, with what it said.
    """
    log = folder / "replica.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MOONYARD_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "orchestrator", "--host", "127.0.0.1", "--port", "0"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # What is measured is how much it can take, so no token of its own is held back.
            env={**environment, "MOONYARD_DATABASE_URL": url, "MOONYARD_REQUEST_RATE": "0", "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
    try:
        address = _wait_for_address(process, log)
        token = anyio.run(tokens.create_on_database, url, TokenCreate(kind="admin", name="bench"))
        assert token.secret is not None, "a token is shown when it is made"
        yield Replica(address=address, token=token.secret, pid=process.pid)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while True:
        said = log.read_text(encoding="utf-8", errors="replace")
        for line in said.splitlines(keepends=True):
            if line.startswith(_LISTENS) and line.endswith("\n"):
                return line.removeprefix(_LISTENS).strip()
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"`moonyard orchestrator` did not start:\n{said}")
        time.sleep(POLL_SECONDS)
