"""What may not be for a moment, and what outlives its owner."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import msgspec
from pyroute2 import IPRoute

from runner.engine import bridge_devices
from schema.ids import uuid7
from tests.chaos import leftovers, processes
from tests.chaos.figures import Figures
from tests.chaos.pipelines import LIMIT
from tests.chaos.watch import Watch
from tests.chaos_checks.ran import broken, ran
from tests.orchestrator.installation import DEFINITION, Installation
from tests.postgres import psql

WITH_A_CHILD = """
import subprocess, sys
subprocess.Popen(["sh", "-c", "echo $$; sleep 1000; :"], start_new_session=True)
sys.stdin.read()
"""


async def test_two_live_attempts_and_too_many_of_a_limit_are_seen(installation: Installation, tmp_path: Path) -> None:
    await ran(installation)
    await installation.push(msgspec.structs.replace(DEFINITION, name="limited"))
    for _ in range(LIMIT + 1):
        await installation.submit(pipeline="limited")
    figures = Figures()
    watch = Watch(installation.url, {"runner": tmp_path}, figures)
    await watch.look()
    assert broken(figures) == set()
    psql(installation.url, "UPDATE moonyard.attempts SET state = 'running', finished_at = NULL")
    await watch.look()
    assert broken(figures) == {"ran_twice_at_once"}
    psql(installation.url, "UPDATE moonyard.jobs SET state = 'running', attempt = 1 WHERE state = 'queued'")
    await watch.look()
    assert broken(figures) == {"ran_twice_at_once", "over_limit"}
    assert figures.ran_twice_at_once == 1, "each job is counted once"


async def test_what_is_there_of_an_attempt_whose_end_was_told_is_seen(
    installation: Installation, tmp_path: Path, image_map: dict[str, str]
) -> None:
    job = await ran(installation)
    workspaces = tmp_path / "owners" / "an owner" / "workspaces"
    lost, last = (workspaces / f"{job.job.id}-{attempt}" for attempt in (1, 2))
    lost.mkdir(parents=True)
    figures = Figures()
    watch = Watch(installation.url, {"runner": tmp_path}, figures)
    # Of one that was lost, somebody else said so: its runner may not know yet.
    await watch.look()
    await watch.look_at_containers()
    assert broken(figures) == set()
    last.mkdir()
    await watch.look()
    assert broken(figures) == {"ended_early"}
    assert leftovers.workspaces(tmp_path) == [(job.job.id, 1), (job.job.id, 2)]

    seen = Figures()
    facts = {"owner": "test", "job": job.job.id, "attempt": "2"}
    labels = [word for name, fact in facts.items() for word in ("--label", f"moonyard.{name}={fact}")]
    image = image_map["docker.io/library/alpine:latest"]
    made = await anyio.run_process(["podman", "create", "--network=none", *labels, image, "true"])
    try:
        await Watch(installation.url, {}, seen).look_at_containers()
    finally:
        await anyio.run_process(["podman", "rm", "--force", made.stdout.decode().strip()])
    assert broken(seen) == {"ended_early"}


async def test_containers_and_networks_that_are_left_are_found_by_owner_and_by_job(image_map: dict[str, str]) -> None:
    owner, job = secrets.token_hex(16), str(uuid7())
    network = f"moonyard-{owner}"
    labels = ["--label", f"moonyard.owner={owner}", "--label", f"moonyard.job={job}", "--label", "moonyard.attempt=1"]
    image = image_map["docker.io/library/alpine:latest"]
    assert leftovers.with_the_engine([owner], [job]) == []
    await anyio.run_process(["podman", "network", "create", *labels, network])
    try:
        assert leftovers.with_the_engine([owner]) == leftovers.with_the_engine([], [job]) == [f"network {network}"]
        made = await anyio.run_process(["podman", "create", "--network", network, *labels, image, "true"])
        for found in (leftovers.with_the_engine([owner]), leftovers.with_the_engine([], [job])):
            assert [text.split()[0] for text in found] == ["container", "network"]
        await anyio.run_process(["podman", "rm", "--force", made.stdout.decode().strip()])
    finally:
        await anyio.run_process(["podman", "network", "rm", "--force", network])
    assert leftovers.with_the_engine([owner], [job]) == []


def test_a_bridge_that_an_engine_left_behind_is_found_by_its_owner() -> None:
    owner = secrets.token_hex(16)
    name = bridge_devices.new_name(owner)
    opened: Any = IPRoute()  # the library has no types
    with opened as route:
        route.link("add", ifname=name, kind="bridge")
        try:
            assert leftovers.with_the_engine([owner]) == [f"bridge {name}"]
            assert leftovers.with_the_engine([secrets.token_hex(16)]) == []
        finally:
            [index] = route.link_lookup(ifname=name)
            route.link("del", index=index)


def test_a_process_that_outlives_its_runner_is_a_stray() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WITH_A_CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as runner:
        assert runner.stdout is not None
        pid = int(runner.stdout.readline())
        known = processes.known(pid)
        assert known is not None
        try:
            assert leftovers.strays([known], [runner.pid]) == []
            runner.kill()
            runner.wait()
            [stray] = leftovers.strays([known], [])
            assert stray.startswith(f"process {pid} sh -c echo")
        finally:
            os.killpg(pid, signal.SIGKILL)
