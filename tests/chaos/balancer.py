"""HAProxy before several replicas, with the configuration that compose.yaml gives it."""

from __future__ import annotations

import os
import random
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from tests.cli.command import ROOT

CONFIG = ROOT / "containers" / "haproxy.cfg"
PORT = 8400
PORTS = range(20000, 32000)
"""Below those that the kernel gives to outgoing connections: a part that is away for a moment finds its own again."""


def write_config(folder: Path, port: int, replicas: Sequence[int]) -> list[str]:
    """Write the configuration with other addresses, and with a socket for questions; give the command that runs it."""
    text = CONFIG.read_text(encoding="utf-8")
    changes = {
        f"bind :{PORT}": f"bind 127.0.0.1:{port}",
        "global\n": f"global\n    stats socket {folder / 'haproxy.sock'} mode 600\n",
        **{f"orchestrator-{index}:{PORT}": f"127.0.0.1:{replica}" for index, replica in enumerate(replicas, 1)},
    }
    for old, new in changes.items():
        assert old in text, f"{CONFIG} does not say `{old}`"
        text = text.replace(old, new)
    path = folder / "haproxy.cfg"
    path.write_text(text, encoding="utf-8")
    return [program(), "-db", "-f", str(path)]


def program() -> str:
    found = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")
    assert found is not None, "`make test` installs haproxy"
    return found


def is_up(folder: Path, index: int) -> bool:
    """Ask the balancer whether it sends requests to a replica."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(folder / "haproxy.sock"))
        asking.sendall(b"show stat\n")
        answer = b"".join(iter(lambda: asking.recv(65536), b"")).decode()
    head, *rows = (line.split(",") for line in answer.removeprefix("# ").splitlines() if line)
    [status] = [row[head.index("status")] for row in rows if row[1] == f"orchestrator-{index}"]
    return status.startswith("UP")


def free_ports(count: int) -> list[int]:
    """Find ports of this machine on which nobody listens."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise AssertionError(f"no {count} free ports")
