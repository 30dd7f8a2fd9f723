"""A disk that is full, and a clock that jumps, for those that they are meant for alone."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.clock import Clock
from tests.chaos.disk import Disk
from tests.cli.command import environment
from tests.orchestrator.installation import DEADLINE_SECONDS


def test_a_full_disk_takes_not_a_byte_until_it_is_freed(tmp_path: Path) -> None:
    disk = Disk.mount(tmp_path / "disk")
    assert (disk is None) == (os.geteuid() != 0), "only root can mount"
    if disk is None:
        return
    try:
        disk.fill()
        with pytest.raises(OSError, match="No space left") as raised:
            (tmp_path / "disk" / "file").write_bytes(b"x")
        assert raised.value.errno == errno.ENOSPC
        disk.free()
        (tmp_path / "disk" / "file").write_bytes(b"x")
    finally:
        disk.unmount()


def test_a_clock_jumps_for_one_process_and_deadlines_do_not(tmp_path: Path) -> None:
    clock = Clock.make(tmp_path / "clock")
    assert clock is not None, "`make test` installs faketime"
    script = """
import os, sys, time, asyncio, subprocess
print(time.time(), flush=True)
for line in sys.stdin:
    begin = time.monotonic()
    time.sleep(0.01)
    asyncio.run(asyncio.sleep(0.01))
    child = float(subprocess.run([sys.executable, "-c", "import time; print(time.time())"], capture_output=True).stdout)
    print(time.time(), time.monotonic() - begin < 60, child, flush=True)
"""
    python = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment() | clock.environment(environment()["PYTHONPATH"]),
        text=True,
    )
    with python:
        assert python.stdin is not None
        assert python.stdout is not None
        assert abs(float(python.stdout.readline()) - time.time()) < 60

        def asked(offset: float) -> None:
            deadline = time.monotonic() + DEADLINE_SECONDS
            while time.monotonic() < deadline:
                python.stdin.write("\n")  # pyright: ignore[reportOptionalMemberAccess]
                python.stdin.flush()  # pyright: ignore[reportOptionalMemberAccess]
                now, in_time, child = python.stdout.readline().split()  # pyright: ignore[reportOptionalMemberAccess]
                assert in_time == "True"
                assert abs(float(child) - time.time()) < 60, "what it starts has the right time"
                if abs(float(now) - time.time() - offset) < 60:
                    return
            raise AssertionError(f"the clock did not jump by {offset}")

        for offset in (3600, -3600, 0):
            clock.jump(offset)
            asked(offset)
        python.stdin.close()
    assert python.returncode == 0
