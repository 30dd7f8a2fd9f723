"""Buildbot: a master with SQLite and one worker, as processes of their own; builds are forced by its HTTP API."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from bench.peers import installed
from bench.peers.installed import PeerMissing

VERSION: Final = "4.3.0"
START_SECONDS: Final = 60.0
BUILD_SECONDS_MAXIMUM: Final = 300.0
POLL_SECONDS_ONE: Final = 0.005
POLL_SECONDS_MANY: Final = 0.1
"""The master answers polls with the one core that it builds with: for throughput they are few."""
CONFIGURATION: Final = """
from buildbot.plugins import schedulers, steps, util, worker

factory = util.BuildFactory([steps.ShellCommand(command=["/bin/true"])])
BuildmasterConfig = {{
    "workers": [worker.Worker("bench", "bench", max_builds={builds})],
    "protocols": {{"pb": {{"port": "tcp:{worker_port}:interface=127.0.0.1"}}}},
    "schedulers": [schedulers.ForceScheduler(name="force", builderNames=["only"])],
    "builders": [util.BuilderConfig(name="only", workernames=["bench"], factory=factory, collapseRequests=False)],
    "www": {{"port": "tcp:{port}:interface=127.0.0.1", "plugins": {{}}}},
    "db": {{"db_url": "sqlite:///state.sqlite"}},
    "buildbotURL": "http://127.0.0.1:{port}/",
    "buildbotNetUsageData": None,
}}
"""


class Master:
    """A running master with its worker."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}/api/v2"
        self.version = VERSION

    def run_one(self) -> float:
        """Force one build and wait for its end; give the milliseconds."""
        started = time.perf_counter()
        self._wait_for([self._force()], POLL_SECONDS_ONE)
        return (time.perf_counter() - started) * 1000

    def run_many(self, builds: int) -> float:
        """Force builds at once and wait for all; give builds per second."""
        started = time.perf_counter()
        self._wait_for([self._force() for _ in range(builds)], POLL_SECONDS_MANY)
        return builds / (time.perf_counter() - started)

    def ready(self) -> bool:
        """Whether the worker is connected."""
        try:
            workers = self._ask("/workers")["workers"]
        except (OSError, urllib.error.URLError):
            return False
        return bool(workers) and bool(workers[0]["connected_to"])

    def _force(self) -> int:
        """Force a build; give the number of its request's set."""
        call = {"jsonrpc": "2.0", "id": 1, "method": "force", "params": {"builderid": "1", "owner": "bench"}}
        return self._ask("/forceschedulers/force", call)["result"][0]

    def _wait_for(self, sets: list[int], poll_seconds: float) -> None:
        deadline = time.monotonic() + BUILD_SECONDS_MAXIMUM
        for buildset in sets:
            while not (state := self._ask(f"/buildsets/{buildset}")["buildsets"][0])["complete"]:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"buildbot: buildset {buildset} did not end")
                time.sleep(poll_seconds)
            if state["results"] != 0:
                raise RuntimeError(f"buildbot: a build did not succeed: {state}")

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310  # our own master on loopback
            self._address + path, data=data, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)


@contextmanager
def running() -> Generator[Master]:
    """Have a master and its worker for the span of a block.

    :raises PeerMissing: when they cannot be had, or do not start.
    """
    builds = len(os.sched_getaffinity(0))
    packages = {"buildbot": VERSION, "buildbot-worker": VERSION, "buildbot-www": VERSION}
    programs = installed.pip(packages, "buildbot").parent
    with tempfile.TemporaryDirectory(prefix="moonyard-bench-") as name:
        folder = Path(name)
        port, worker_port = _free_port(), _free_port()
        _run([str(programs / "buildbot"), "create-master", "--db", "sqlite:///state.sqlite", "master"], folder)
        configuration = CONFIGURATION.format(port=port, worker_port=worker_port, builds=builds)
        (folder / "master" / "master.cfg").write_text(configuration, encoding="utf-8")
        worker = ["create-worker", "worker", f"127.0.0.1:{worker_port}", "bench", "bench"]
        _run([str(programs / "buildbot-worker"), *worker], folder)
        with (folder / "log").open("wb") as log:
            processes = [
                subprocess.Popen(
                    [str(programs / "twistd"), "--nodaemon", "--no_save", "-y", "buildbot.tac"],
                    cwd=folder / part,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                for part in ("master", "worker")
            ]
        try:
            master = Master(port)
            deadline = time.monotonic() + START_SECONDS
            while not master.ready():
                if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
                    raise PeerMissing(f"buildbot did not start: {(folder / 'log').read_text()[-300:]}")
                time.sleep(0.1)
            master.run_one()
            yield master
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(20)
                process.kill()
                process.wait()


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PeerMissing(f"`{' '.join(command)}` failed: {done.stderr.strip()[-300:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
