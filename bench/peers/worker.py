"""Another queue's worker as a process in a virtual environment of its own: told how many jobs, it answers how long.

Its program enqueues so many no-op jobs, which is not timed, and then works them off. The clock runs from the first
job's start to the last one's, so what a worker does when it starts and stops does not count against it. Between lots it
waits for the next word, so that several workers can take turns on one Postgres.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from bench.peers.installed import PeerMissing


class Worker:
    """A running worker."""

    def __init__(self, name: str, version: str, process: subprocess.Popen[str], said: Path) -> None:
        self.version = version
        self._name = name
        self._process = process
        self._said = said

    def work_off(self, jobs: int) -> float:
        """Enqueue jobs and work them off; give the seconds of the second.

        :raises PeerMissing: when it died of that.
        """
        with suppress(BrokenPipeError):
            _pipe(self._process.stdin).write(f"{jobs}\n")
            _pipe(self._process.stdin).flush()
        return float(self.answer())

    def answer(self) -> str:
        line = _pipe(self._process.stdout).readline()
        if not line:
            said = self._said.read_text(encoding="utf-8", errors="replace").strip()
            raise PeerMissing(f"{self._name} ended: {said[-300:]}")
        return line.strip()


@contextmanager
def running(name: str, version: str, command: list[str]) -> Generator[Worker]:
    """Have a worker for the span of a block.

    :raises PeerMissing: when it does not start, with what it said.
    """
    with tempfile.TemporaryDirectory(prefix="moonyard-bench-") as folder:
        said = Path(folder) / "said"
        with said.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=folder,
                start_new_session=True,
            )
        try:
            worker = Worker(name, version, process, said)
            worker.answer()  # it is ready
            yield worker
        finally:
            with suppress(BrokenPipeError):
                _pipe(process.stdin).close()  # it ends by itself
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _pipe(process.stdout).close()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None, "it was started with pipes"
    return pipe
