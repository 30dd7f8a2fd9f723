"""A real PgBouncer in transaction mode before a Postgres of the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from psycopg import conninfo

CONNECTIONS = 2
"""Few, so that one after the other statement of a client meets another connection."""
STOP_SECONDS = 30.0


@contextmanager
def before(url: str) -> Generator[str]:
    """Have a pooler before a database for the span of a block; give the URL that leads through it."""
    to = conninfo.conninfo_to_dict(url)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="moonyard-pgbouncer-"))
    try:
        folder.chmod(0o755)
        file = folder / "pgbouncer.ini"
        file.write_text(
            f"[databases]\n* = host={to['host']} user={to['user']}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = transaction\ndefault_pool_size = {CONNECTIONS}\n",
            encoding="utf-8",
        )
        with subprocess.Popen(
            ["pgbouncer", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # It does not run as root; and the folder of Postgres' socket is for whoever Postgres runs as.
            user=Path(str(to["host"])).stat().st_uid if os.geteuid() == 0 else None,
        ) as process:
            try:
                assert process.stderr is not None
                said = ""
                while "process up" not in said:
                    line = process.stderr.readline()
                    assert line, said
                    said += line
                yield f"postgresql://somebody@127.0.0.1:{port}/{to['dbname']}"
            finally:
                process.terminate()
                process.communicate(timeout=STOP_SECONDS)
    finally:
        shutil.rmtree(folder)
