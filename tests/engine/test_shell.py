"""The command server's program, run by the shells of this machine."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.engine import shell

SECONDS = 20.0


class Server:
    """A server whose request is a named pipe, so that a test sees how far it has been read."""

    def __init__(self, interpreter: list[str], folder: Path) -> None:
        program = folder / "program"
        program.write_text(shell.PROGRAM, encoding="utf-8")
        for name in ("control", "status", "request", "stdout", "stderr"):
            os.mkfifo(folder / name)
        self.folder = folder
        self._control = os.open(folder / "control", os.O_RDWR)
        self._status = os.open(folder / "status", os.O_RDWR | os.O_NONBLOCK)
        self.outputs = [os.open(folder / name, os.O_RDWR) for name in ("stdout", "stderr")]
        self._process = subprocess.Popen([*interpreter, program, folder])

    def start(self, number: int, argv: list[str]) -> int:
        """Tell of a command, and give the pipe's end from which its request is read, still open."""
        os.write(self._control, b"%d\n" % number)
        request = os.open(self.folder / "request", os.O_WRONLY)  # waits for the reader
        os.write(request, shell.request(number, str(self.folder), argv, {"A": "b"}, "/", has_stdin=False))
        return request

    def says(self, seconds: float = SECONDS) -> str:
        if not select.select([self._status], [], [], seconds)[0]:
            return ""
        return os.read(self._status, 4096).decode()

    def end(self) -> None:
        self._process.kill()
        self._process.wait(SECONDS)
        for descriptor in (self._control, self._status, *self.outputs):
            os.close(descriptor)


# Bash reads a whole file before it runs the first line of it; these read as they go.
@pytest.fixture(params=["dash", "busybox sh"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    started = Server(request.param.split(), tmp_path)
    yield started
    started.end()


def test_a_command_is_over_only_when_its_request_was_read_to_the_end(server: Server) -> None:
    assert server.says() == "ready\n"
    first = server.start(1, ["sh", "-c", "echo said; exit 3"])
    assert os.read(server.outputs[0], 4096) == b"said\n"
    # The command has run. Were it told, the next request would be written under the hands of a shell that still reads.
    assert server.says(0.1) == ""
    os.close(first)
    assert server.says() == "1 end 3\n"
    os.close(server.start(2, ["true"]))
    assert server.says() == "2 end 0\n"


@pytest.mark.parametrize("interpreter", ["dash", "busybox sh"])
def test_a_shell_tells_which_interpreter_a_script_wants(interpreter: str, tmp_path: Path) -> None:
    files = {
        "script": b"#!/no/such/program -x\necho said\n",
        "windows": b"#!/bin/sh\r\nexit 3\r\n",
        "hostile": b"#!" + b"\\n2 end 0 " + b"x" * 5000 + b"\n",
        "said": b"#!/bin/sh\nexit 127\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_bytes(text)
        (tmp_path / name).chmod(0o755)
    folder = tmp_path / "server"
    folder.mkdir()
    started = Server(interpreter.split(), folder)
    try:
        assert started.says() == "ready\n"
        said: list[str] = []
        for number, name in enumerate(files, 1):
            os.close(started.start(number, [str(tmp_path / name)]))
            text = ""
            while f"\n{number} end " not in f"\n{text}":
                more = started.says()
                assert more, text
                text += more
            said.append(text)
    finally:
        started.end()
    assert said[0] == "1 not-started #!/no/such/program -x\n1 end 127\n"
    assert said[1] == "2 not-started #!/bin/sh\r\n2 end 127\n"
    assert said[2].startswith("3 not-started #!\\n2 end 0 xx")
    assert len(said[2]) < 300
    assert said[2].endswith("\n3 end 127\n")
    assert said[3] == "4 end 127\n"
