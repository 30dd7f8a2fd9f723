"""What a container is not to reach: listeners of the machine's own, another job's, and a cloud's metadata service.

The last is a stand-in for the real one, in a network namespace beside the machine: at the clouds' address, and once
more at an address that containers may ask, which shows that only the address makes the difference.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager

METADATA = "169.254.169.254"
ASKED = "203.0.113.9"
PORT = 80
SERVE = """
import socket, sys
listener = socket.create_server(("0.0.0.0", 80))
print("listening", flush=True)
while True:
    accepted, _ = listener.accept()
    accepted.sendall(sys.argv[1][::-1].encode())
    accepted.close()
"""


@contextmanager
def greeting(host: str, word: str) -> Generator[int]:
    """Listen at an address of this machine's, and greet with a word; gives the port."""
    listener = socket.create_server((host, 0))

    def serve() -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            with accepted:
                accepted.sendall(word.encode())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def is_greeted(host: str, port: int, word: str) -> bool:
    """Whether this machine itself is greeted there."""
    try:
        with socket.create_connection((host, port), 2) as connection:
            return connection.recv(100).decode() == word
    except OSError:
        return False


@contextmanager
def metadata(word: str) -> Generator[str | None]:
    """Have a stand-in for a cloud's metadata service; gives why there is none, if so."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        yield "a stand-in for it takes root and iproute2"
        return
    name = f"ma{secrets.token_hex(4)}"
    try:
        _ip("netns", "add", name)
        _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", name, "up")
        for words in (
            ("link", "set", "lo", "up"),
            ("link", "set", "eth0", "up"),
            ("route", "add", "default", "dev", "eth0"),
        ):
            _ip("-n", name, *words)
        for address in (METADATA, ASKED):
            _ip("-n", name, "addr", "add", f"{address}/32", "dev", "eth0")
            _ip("route", "add", f"{address}/32", "dev", name)
        server = subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, "-c", SERVE, word[::-1]], stdout=subprocess.PIPE
        )
        try:
            assert server.stdout is not None
            server.stdout.readline()
            yield None if is_greeted(METADATA, PORT, word) else "the stand-in for it is not reached"
        finally:
            server.kill()
            server.communicate()
    except subprocess.CalledProcessError as error:
        yield f"a stand-in for it cannot be made: {error.stderr.decode(errors='replace').strip()}"
    finally:
        for words in (("link", "del", name), ("netns", "del", name)):
            subprocess.run(["ip", *words], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], capture_output=True, check=True)
