"""A git daemon on an address that need not be there yet.

Podman's bridge gets its address when the first container joins it, and loses it with the last. `git daemon` cannot
listen on an address that no interface has; a socket of our own can (IP_FREEBIND), and hands each connection to a
`git daemon --inetd`.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Final

IP_FREEBIND: Final = 15
"""From linux/in.h; Python has no name for it before 3.12."""
BACKLOG: Final = 16
STOP_SECONDS: Final = 5.0


class GitServer:
    """Serves the repositories below a folder, for reading, at ``url``, while it is open."""

    def __init__(self, folder: Path, address: str) -> None:
        self._folder = folder
        self._address = address
        self._socket = socket.socket()
        self._thread = threading.Thread(target=self._accept, name="git server", daemon=True)
        self._daemons: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return f"git://{self._address}:{self._socket.getsockname()[1]}"

    def __enter__(self) -> GitServer:
        self._socket.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
        self._socket.bind((self._address, 0))
        self._socket.listen(BACKLOG)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._socket.close()
        self._thread.join(STOP_SECONDS)
        for daemon in self._daemons:
            daemon.terminate()
            daemon.wait()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._daemons = [daemon for daemon in self._daemons if daemon.poll() is None]
            with connection:
                self._daemons.append(
                    subprocess.Popen(
                        [
                            *(
                                "git",
                                "-c",
                                "safe.directory=*",
                                "daemon",
                                "--inetd",
                                "--export-all",
                                "--informative-errors",
                            ),
                            f"--base-path={self._folder}",
                        ],
                        stdin=connection.fileno(),
                        stdout=connection.fileno(),
                        stderr=subprocess.DEVNULL,
                        start_new_session=True,
                    )
                )
