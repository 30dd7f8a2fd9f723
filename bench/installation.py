"""A whole installation of its own for one benchmark: `moonyard up` in a folder that is thrown away afterwards."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from cli.settings import Credentials

START_SECONDS: Final = 120.0
STOP_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.05
REPLICAS: Final = 2


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    addresses: list[str]
    token: str
    pid: int
    """Of `moonyard up`, which started all the others."""


@contextmanager
def running(capacity: int, replicas: int = REPLICAS, more: str = "") -> Generator[Installation]:
    """Have an installation for the span of a block.

    :param more: what stands in its settings file.
    :raises SystemExit: when it does not start, with what it said.
    """
    with tempfile.TemporaryDirectory(prefix="moonyard-bench-") as folder:
        state = Path(folder)
        log = state / "up.log"
        (state / "moonyard.toml").write_text(more, encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MOONYARD_")}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "cli.main", "up", "--state-folder", folder),
                    *("--port", str(_free_ports(replicas)), "--replicas", str(replicas), "--capacity", str(capacity)),
                ],
                cwd=state,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        try:
            _wait_until_up(process, log)
            credentials = Credentials.of(state)
            assert credentials.token is not None, "`moonyard up` leaves the token that it made"
            yield Installation(addresses=credentials.addresses, token=credentials.token, pid=process.pid)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_up(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while "Moonyard is up" not in (said := log.read_text(encoding="utf-8", errors="replace")):
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"`moonyard up` did not start:\n{said}")
        time.sleep(POLL_SECONDS)


def _free_ports(count: int) -> int:
    """Find free ports next to each other; give the first."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first: int = probe.getsockname()[1]
            try:
                for port in range(first + 1, first + count):
                    with socket.socket() as neighbour:
                        neighbour.bind(("127.0.0.1", port))
            except OSError:
                continue
        return first
