"""Runs the real command line as a process, and reads what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream

from schema.errors import ErrorInfo, chain

ROOT = Path(__file__).parents[2]
SECONDS = 90.0
Line = dict[str, Any]


class Printed(msgspec.Struct, frozen=True):
    """What a command left: its exit code and both streams."""

    code: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[Line]:
        """Every line of stdout, each of which has to be a JSON object."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def job(self) -> Line:
        """The last line, which is the job's."""
        last = self.lines[-1]
        assert last["type"] == "job", last
        return last

    @property
    def errors(self) -> list[ErrorInfo]:
        """The job's error and its causes."""
        assert self.job["error"] is not None, self.stdout[-2000:]
        return chain(msgspec.convert(self.job["error"], ErrorInfo))

    def texts(self, **wanted: str) -> list[str]:
        """The texts of log lines with these values."""
        return [
            line["text"]
            for line in self.lines
            if line["type"] == "log" and all(line[name] == value for name, value in wanted.items())
        ]

    def commands(self) -> list[Line]:
        return [line for line in self.lines if line["type"] == "command"]


def argv(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cli.main", *arguments]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOONYARD_")}
    return {**kept, "NO_COLOR": "1", "PYTHONPATH": str(ROOT), **more}


async def moonyard(*arguments: str, cwd: Path, **more: str) -> Printed:
    """Run a command to its end."""
    with anyio.fail_after(SECONDS):
        done = await anyio.run_process(argv(*arguments), input=b"", cwd=cwd, env=environment(**more), check=False)
    return Printed(done.returncode, done.stdout.decode(), done.stderr.decode())


class Running:
    """A command under way, whose lines are read as they come."""

    def __init__(self, process: anyio.abc.Process) -> None:
        assert process.stdout is not None
        self.process = process
        self._stdout = BufferedByteReceiveStream(process.stdout)
        self.lines: list[Line] = []

    async def next_line(self) -> Line:
        line = json.loads(await self._stdout.receive_until(b"\n", 16 * 1024 * 1024))
        self.lines.append(line)
        return line

    async def until(self, **wanted: str) -> Line:
        """Read lines until one has these values."""
        with anyio.fail_after(SECONDS):
            while True:
                line = await self.next_line()
                if all(line.get(name) == value for name, value in wanted.items()):
                    return line

    async def rest(self) -> int:
        """Read to the end; give the exit code."""
        with anyio.fail_after(SECONDS):
            try:
                while True:
                    await self.next_line()
            except anyio.IncompleteRead:
                return await self.process.wait()


@asynccontextmanager
async def started(*arguments: str, cwd: Path, **more: str) -> AsyncGenerator[Running]:
    """Start a command; whatever is left of it is killed when the block ends."""
    async with await anyio.open_process(
        argv(*arguments), cwd=cwd, env=environment(**more), stdin=subprocess.DEVNULL, stderr=None
    ) as process:
        try:
            yield Running(process)
        finally:
            if process.returncode is None:
                process.kill()
